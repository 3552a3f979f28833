"""Questions for a corpus that has none: a language model writes them, and only those that hold up are kept.

One-hop questions come from one passage. Two-hop questions come from two: one whose text names the title of the other,
or, where titles lead nowhere, one that shares its words. A question is kept if its answer is in the passage it should
be in, the question does not name it, and a keyword search finds every passage it needs among the first `top_k` (there
is no trained retriever yet). Passages are shared out over the splits first, so that none is asked about in two of them.

Replies are kept: after an interruption, and when documents are added, the model is asked about what is new alone.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from jointrag.bm25 import BM25
from jointrag.config import SynthesisConfig
from jointrag.corpus import Corpus, build
from jointrag.datasets.synthesis_prompts import MAX_NEW_TOKENS, Written, prompt, read
from jointrag.generation import GREEDY, LanguageModel
from jointrag.jsonl import write_atomically, write_jsonl
from jointrag.kept_replies import AT_ONCE, KeptReplies
from jointrag.lengths import num_words
from jointrag.matching import holds_answer
from jointrag.metrics import normalize
from jointrag.progress import progress
from jointrag.types import Passage, Question

logger = logging.getLogger(__name__)
MAX_TITLE_WORDS = 6
ENOUGH_DOCUMENTS = 10  # for splits of whole documents


@dataclass
class Yield:
    """What became of the questions that were written."""

    num_written: int = 0
    num_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    num_asked_now: int = 0  # replies that were not kept from an earlier time
    words_read: int = 0  # of all prompts; words and marks, near to tokens
    words_written: int = 0

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        share = self.num_kept / self.num_written if self.num_written else 0.0
        return (
            f"{self.num_kept} of {self.num_written} questions kept ({share:.0%})"
            f"{'; dropped: ' + reasons if reasons else ''}; the model was asked {self.num_asked_now} times now, "
            f"about {self.words_read:,} tokens read and {self.words_written:,} written in all"
        )


def synthesise(
    config: SynthesisConfig, corpus: Path, *, seed: int, out: Path, device: str = "auto"
) -> dict[str, float]:
    """Write {train,dev,test}.jsonl and synthesis.json into `out`. `corpus`: the prepared corpus.jsonl.

    Raises ValueError where not a single question of train, dev or test was kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    replies = config.replies / "replies.jsonl"
    lm = KeptReplies(open_writer(config, device), config.model_name, replies)
    metrics: dict[str, float] = {}
    with TemporaryDirectory(dir=out) as scratch:
        build(corpus, Path(scratch))
        passages = Corpus.open(Path(scratch))
        bm25 = BM25.build((p.contents for p in passages), scratch=Path(scratch), language=config.language)
        writer = Writer(config, passages, bm25, lm, seed)
        for split, count in config.counts.items():
            questions = list(progress(writer.write(split, count), f"writing {split} questions", total=count))
            if not questions:
                raise ValueError(
                    f"no {split} question was kept: {writer.result}. The model's replies are in {replies}; a larger "
                    "model, a larger dataset.synthesis.top_k, or longer passages help"
                )
            if len(questions) < count:
                logger.warning("%d of %d %s questions: no more passages to ask about", len(questions), count, split)
            metrics[f"prepare/{split}_questions"] = float(write_jsonl(out / f"{split}.jsonl", questions))
    result = writer.result
    result.num_asked_now = lm.num_asked
    logger.info("%s", result)
    write_atomically(out / "synthesis.json", json.dumps(vars(result), indent=2) + "\n")
    return metrics | {
        "prepare/questions_written": float(result.num_written),
        "prepare/questions_kept": float(result.num_kept),
    }


def open_writer(config: SynthesisConfig, device: str = "auto") -> LanguageModel:
    """The language model that writes: behind a server, or in this process."""
    if config.served is not None:
        from jointrag.served import ServedLM

        return ServedLM(config.served)
    from jointrag.generation import LocalLM

    assert config.local is not None
    return LocalLM.load(config.local.name, config.local, device)


class Writer:
    """Writes questions about one corpus, and counts what becomes of them in `result`."""

    def __init__(
        self, config: SynthesisConfig, passages: Corpus | Sequence[Passage], bm25: BM25, lm: LanguageModel, seed: int
    ) -> None:
        self._config, self._passages, self._bm25, self._lm = config, passages, bm25, lm
        self._seed = seed
        self._of_split = _share_out(passages, config.counts, seed)
        self._by_title = _titles(passages)
        self._asked: set[str] = set()
        self.result = Yield()

    def write(self, split: str, count: int) -> Iterator[Question]:
        """At most `count` questions about the passages of a split."""
        num_kept = 0
        places = self._of_split[split]
        for start in range(0, len(places), AT_ONCE):
            groups = [self._group(place) for place in places[start : start + AT_ONCE]]
            prompts = [prompt(tuple(self._passages[i] for i in group)) for group in groups]
            replies = self._lm.generate(prompts, MAX_NEW_TOKENS, GREEDY)
            for group, asked, reply in zip(groups, prompts, replies, strict=True):
                self.result.num_written += 1
                self.result.words_read += num_words(f"{asked.instructions} {asked.content}")
                self.result.words_written += num_words(reply.text)
                written = read(reply.text, len(group))
                if reason := self._fault(written, group):
                    self.result.dropped[reason] += 1
                    continue
                assert written is not None
                self.result.num_kept += 1
                num_kept += 1
                yield self._question(f"{split}-{num_kept}", written, group)
                if num_kept == count:
                    return

    def _group(self, place: int) -> tuple[int, ...]:
        """The passage, or it and one that it leads to."""
        rng = random.Random(f"{self._seed} {self._passages[place].id}")
        if rng.random() >= self._config.two_hop_share:
            return (place,)
        other = self._linked(place, rng)
        return (place,) if other is None else (place, other)

    def _linked(self, place: int, rng: random.Random) -> int | None:
        passage = self._passages[place]
        words, own = normalize(passage.text).split(), normalize(passage.title)
        named = {
            title
            for size in range(1, MAX_TITLE_WORDS + 1)
            for i in range(len(words) - size + 1)
            if (title := " ".join(words[i : i + size])) in self._by_title and title != own
        }
        if named:
            longest = max(sorted(named), key=len)
            return rng.choice(self._by_title[longest])
        positions, _ = self._bm25.search([passage.contents], 10)
        others = [int(i) for i in positions[0] if i >= 0 and _document(self._passages[int(i)]) != _document(passage)]
        return others[0] if others else None

    def _fault(self, written: Written | None, group: tuple[int, ...]) -> str | None:
        """Why a question is not kept."""
        if written is None:
            return "malformed"
        *before, last = [self._passages[i] for i in group]
        answer = [written.answer]
        if not normalize(written.answer) or num_words(written.answer) > self._config.max_answer_words:
            return "with a long answer"
        if not holds_answer(last.contents, answer):
            return "with an answer that is not in the passage"
        if holds_answer(written.question, answer):
            return "that name their answer"
        if any(holds_answer(passage.contents, answer) for passage in before):
            return "that one passage answers"
        if normalize(written.question) in self._asked:
            return "asked before"
        searches = [written.question, *written.sub_questions]
        found = {int(i) for row in self._bm25.search(searches, self._config.top_k)[0] for i in row}
        if not found.issuperset(group):
            return "that do not find their passage"
        self._asked.add(normalize(written.question))
        return None

    def _question(self, id: str, written: Written, group: tuple[int, ...]) -> Question:
        gold = tuple(self._passages[i].id for i in group)
        kind = "two-hop" if len(group) == 2 else "one-hop"
        return Question(id, written.question, (written.answer,), kind, gold, written.sub_questions)


def _share_out(passages: Corpus | Sequence[Passage], counts: dict[str, int], seed: int) -> dict[str, list[int]]:
    """Positions of the passages that each split may ask about, in random order. A document belongs to one split, unless
    there are too few of them. Raises ValueError for fewer passages than splits."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i in range(len(passages)):
        places[_document(passages[i])].append(i)
    units = list(places.values()) if len(places) >= ENOUGH_DOCUMENTS else [[i] for i in range(len(passages))]
    if len(units) < len(counts):
        raise ValueError(f"{len(passages)} passages are too few for questions of {', '.join(counts)}; add documents")
    units.sort(key=lambda unit: random.Random(f"{seed} {passages[unit[0]].id}").random())
    shared: dict[str, list[int]] = {}
    start, asked = 0, 0
    for left, (split, count) in zip(reversed(range(len(counts))), counts.items(), strict=True):
        asked += count
        end = min(max(start + 1, round(len(units) * asked / sum(counts.values()))), len(units) - left)
        shared[split] = [i for unit in units[start:end] for i in unit]
        random.Random(seed).shuffle(shared[split])
        start = end
    return shared


def _document(passage: Passage) -> str:
    """The file a passage is from (jointrag.datasets.documents names it in the id), else the passage itself."""
    return passage.id.rpartition("#")[0] or passage.id


def _titles(passages: Corpus | Sequence[Passage]) -> dict[str, list[int]]:
    """Positions by normalised title, of titles that are long enough to mean something."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for i in range(len(passages)):
        title = normalize(passages[i].title)
        if len(title) > 3 and len(title.split()) <= MAX_TITLE_WORDS:
            found[title].append(i)
    return dict(found)
