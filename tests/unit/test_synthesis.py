"""Questions that a language model writes: scripted replies, every reason to drop one, splits, resuming."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jointrag import datasets
from jointrag.bm25 import BM25
from jointrag.config import FilesDataset, ServedConfig, SynthesisConfig
from jointrag.datasets.synthesis import Writer, Yield, _share_out
from jointrag.datasets.synthesis_prompts import prompt, read
from jointrag.generation import Completion, Sampling
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.presets import ConfigError, resolve
from jointrag.types import Passage, Prompt, Question
from tests.answering import Asked, Said, answering

FILM = Passage("film", "Silent Harbor", "Silent Harbor is a film of 1931 directed by Anna Berg.")
ANNA = Passage("anna", "Anna Berg", "Anna Berg was a director born in Port Hale.")
OTHERS = [Passage(f"o{i}", f"Town {i}", f"Town {i} has {1000 + i} inhabitants and a market.") for i in range(20)]
CORPUS = [FILM, ANNA, *OTHERS]
SERVED = ServedConfig(base_url="http://127.0.0.1:1/v1", name="writer")
TWO_HOP = """Here it is:
**Question:** Where was the director of Silent Harbor born?
**Answer:** "Port Hale."
First: Who directed Silent Harbor?
Second: Where was Anna Berg born?"""


class Scripted:
    def __init__(self, reply: Callable[[Prompt], str]) -> None:
        self.reply = reply

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        return [Completion(self.reply(prompt)) for prompt in prompts]


def settings(**changes: object) -> SynthesisConfig:
    given = {"num_train_questions": 100, "num_dev_questions": 1, "num_test_questions": 1, "top_k": 3} | changes
    return SynthesisConfig.model_validate({"served": SERVED, **given})


def about_the_film(reply: str) -> Scripted:
    """Says `reply` where the film's passage is the first, and nothing of use elsewhere."""
    return Scripted(lambda prompt: reply if FILM.text in prompt.passages[0] else "?")


def written(tmp_path: Path, config: SynthesisConfig, corpus: list[Passage], reply: str) -> tuple[list[Question], Yield]:
    bm25 = BM25.build((p.contents for p in corpus), scratch=tmp_path)
    writer = Writer(config, corpus, bm25, about_the_film(reply), seed=0)
    questions = [question for split in config.counts for question in writer.write(split, 100)]
    return questions, writer.result


def test_a_two_hop_question_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    (question,), result = written(tmp_path, settings(two_hop_share=1), CORPUS, TWO_HOP)
    assert question.text == "Where was the director of Silent Harbor born?"
    assert question.answers == ("Port Hale",)
    assert (question.type, question.gold_passages) == ("two-hop", ("film", "anna"))
    assert question.sub_questions == ("Who directed Silent Harbor?", "Where was Anna Berg born?")
    assert (result.num_written, result.num_kept) == (22, 1)
    assert "1 of 22 questions kept (5%); dropped: 21 malformed" in str(result)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Question: Who directed Silent Harbor?\nAnswer: Anna Berg", None),
        ("When was Silent Harbor made? 1931", "malformed"),
        ("Question: Who directed Silent Harbor?\nAnswer: ", "malformed"),
        ("Question: Who directed it?\nAnswer: Olga Holm", "with an answer that is not in the passage"),
        ("Question: Is Anna Berg the director of Silent Harbor?\nAnswer: Anna Berg", "that name their answer"),
        ("Question: Who has a market?\nAnswer: Anna Berg", "that do not find their passage"),
        ("Question: What is it?\nAnswer: Silent Harbor is a film of 1931 directed by Anna Berg", "with a long answer"),
        ("Question: What is Silent Harbor?\nAnswer: ...", "malformed"),
        ("Question: What is Silent Harbor?\nAnswer: the", "with a long answer"),
    ],
)
def test_one_hop_questions_are_kept_if_they_hold_up(tmp_path: Path, reply: str, reason: str | None) -> None:
    questions, result = written(tmp_path, settings(two_hop_share=0, max_answer_words=5), CORPUS, reply)
    assert len(questions) == (reason is None)
    assert result.dropped[reason or "malformed"] == 21 + (reason == "malformed") if reason in (None, "malformed") else 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Port Hale.": "1931"}, "with an answer that is not in the passage"),
        ({"Port Hale.": "Anna Berg"}, "that one passage answers"),
        ({"Second: Where was Anna Berg born?": ""}, "malformed"),
        (
            {
                "Where was the director of Silent Harbor born?": "Which market?",
                "Where was Anna Berg born?": "What has a market?",
            },
            "that do not find their passage",
        ),
    ],
)
def test_two_hop_questions_need_both_passages(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    reply = TWO_HOP
    for old, new in changes.items():
        reply = reply.replace(old, new)
    questions, result = written(tmp_path, settings(two_hop_share=1, top_k=1), CORPUS, reply)
    assert questions == []
    assert result.dropped[reason] == (22 if reason == "malformed" else 1)


def test_without_titles_a_passage_leads_to_one_with_its_words(tmp_path: Path) -> None:
    bare = [Passage(p.id, "", p.text) for p in CORPUS]
    (question,), _ = written(tmp_path, settings(two_hop_share=1), bare, TWO_HOP)
    assert question.gold_passages == ("film", "anna")


def test_chinese(tmp_path: Path) -> None:
    corpus = [Passage("a", "静港", "《静港》是一部1931年的电影,由安娜执导。"), *OTHERS]
    bm25 = BM25.build((p.contents for p in corpus), scratch=tmp_path, language="none")
    reply = "问题如下\nQuestion：《静港》是谁执导的？\nAnswer：安娜"
    writer = Writer(
        settings(two_hop_share=0), corpus, bm25, Scripted(lambda p: reply if "静港" in p.content else ""), 0
    )
    (question,) = [question for split in ("train", "dev", "test") for question in writer.write(split, 9)]
    assert (question.text, question.answers) == ("《静港》是谁执导的？", ("安娜",))


def test_the_prompt_shows_the_passages_and_read_undoes_quotes() -> None:
    assert FILM.contents in prompt((FILM,)).content
    assert "Second:" not in prompt((FILM,)).instructions
    assert f"Second passage: {ANNA.contents}" in prompt((FILM, ANNA)).content
    said = read("1. Question: “Who?”\n2. Answer: `Anna`", 1)
    assert said is not None
    assert (said.question, said.answer) == ("Who?", "Anna")


@pytest.mark.parametrize("num_documents", [1, 12])
def test_every_split_gets_passages_of_its_own(num_documents: int) -> None:
    corpus = [Passage(f"doc{i % num_documents}#{i}", "", f"text {i}") for i in range(60)]
    counts = {"train": 100, "dev": 1, "test": 19}
    shared = _share_out(corpus, counts, seed=1)
    assert sorted(i for places in shared.values() for i in places) == list(range(60))
    assert all(shared.values())
    assert len(shared["train"]) > len(shared["test"]) >= len(shared["dev"])
    documents = {split: {corpus[i].id.split("#")[0] for i in places} for split, places in shared.items()}
    assert bool(documents["train"] & documents["test"]) == (num_documents == 1)
    with pytest.raises(ValueError, match="2 passages are too few"):
        _share_out(corpus[:2], counts, seed=1)


# ---- as the dataset's questions ----


def about_any_town(asked: Asked) -> Said:
    """One-hop questions whose answer is the passage's number."""
    told = asked.body["messages"][-1]["content"]
    town, number = re.search(r"(Town \d+) has (\d+)", told).groups()  # type: ignore[union-attr]
    reply = f"Question: How many inhabitants has {town}?\nAnswer: {number}"
    if town in ("Town 3", "Town 7", "Town 11", "Town 15"):
        reply = "There are many."
    return Said({"choices": [{"message": {"content": reply}}]})


def dataset(tmp_path: Path, url: str) -> FilesDataset:
    if not (tmp_path / "mine").exists():
        write_jsonl(tmp_path / "mine" / "corpus.jsonl", OTHERS)
    counts = {"num_train_questions": 10, "num_dev_questions": 2, "num_test_questions": 3}
    synthesis = counts | {
        "served": {"base_url": url, "name": "writer"},
        "two_hop_share": 0,
        "replies": tmp_path / "kept",
    }
    return FilesDataset.model_validate(
        {"name": "files", "path": tmp_path / "mine", "questions": "synthesise", "synthesis": synthesis}
    )


def test_a_data_set_without_questions_gets_some(tmp_path: Path) -> None:
    num_asked = 0

    def answer(asked: Asked) -> Said:
        nonlocal num_asked
        num_asked += 1
        return about_any_town(asked)

    with answering(answer) as url:
        metrics = datasets.prepare(dataset(tmp_path, f"{url}/v1"), seed=0, out=tmp_path / "out")
        first = num_asked
        again = datasets.prepare(dataset(tmp_path, f"{url}/v1"), seed=0, out=tmp_path / "again")
    asked_about: dict[str, set[str]] = {}
    for split in ("source", "train", "dev", "test"):
        questions = list(read_jsonl(tmp_path / "out/questions" / f"{split}.jsonl", Question))
        assert len(questions) == metrics[f"prepare/{split}_questions"]
        asked_about[split] = {gold for question in questions for gold in question.gold_passages}
    assert asked_about["source"] == asked_about["train"]
    assert not asked_about["train"] & asked_about["test"]
    assert first == 20
    assert num_asked == first  # the second time nobody is asked
    assert again == metrics
    report = json.loads((tmp_path / "out/questions/synthesis.json").read_text())
    assert report["dropped"].keys() == {"malformed"}
    assert report["num_kept"] + report["dropped"]["malformed"] == report["num_written"]
    assert report["num_kept"] == metrics["prepare/questions_kept"] > 8
    assert report["num_asked_now"] == 20
    assert report["words_read"] > report["words_written"] > 100
    assert [path.name for path in (tmp_path / "out/questions").iterdir() if path.is_dir()] == []


def test_a_useless_model_is_an_error_that_says_why(tmp_path: Path) -> None:
    with (
        answering(lambda asked: Said({"choices": [{"message": {"content": "I cannot help."}}]})) as url,
        pytest.raises(ValueError, match=r"no train question was kept: 0 of \d+ .* \d+ malformed.*replies\.jsonl"),
    ):
        datasets.prepare(dataset(tmp_path, f"{url}/v1"), seed=0, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.name=files", "dataset.path=x", "dataset.questions=synthesise"], "needs a model"),
        (["dataset.name=files"], "path has to be set"),
        (["dataset.name=files", "dataset.path=x", "dataset.synthesis.top_k=5"], "set served.base_url"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("smoke", overrides)
