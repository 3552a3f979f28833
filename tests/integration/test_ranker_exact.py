"""Every family of local rankers against a straight line: one pair at a time, ids put together by the published formula,
a plain forward without padding. Tiny random models of the real architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from jointrag import Reranker
from jointrag.rankers.local import LocalRanker
from jointrag.rankers.writing import Limits
from tests import ranker_models as tiny
from tests.ranker_models import LONG, PAIRS

TOLERANCE = 1e-4
GEMMA = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
QWEN3_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
MXBAI = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:"
)
Parts = tuple[list[int], list[int], list[int], int]  # before the document, the document, after it, not counted
Tokenizer = Any


@dataclass(frozen=True)
class Family:
    build: Callable[[Path], Path]
    parts: Callable[[Tokenizer, str, str, int], Parts]
    value: Callable[[Any, Tokenizer, list[int], int], torch.Tensor]  # of ids, the first `num` before the document
    load: str = "AutoModelForCausalLM"
    options: dict[str, Any] = field(default_factory=dict)
    max_length: int = 96


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


# ---- formulas --------------------------------------------------------------------------------------------------------


def xlm_roberta(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    return [0, *ids(tokenizer, query)[:limit], 2, 2], ids(tokenizer, document), [2], 0


def bert(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [cls, *ids(tokenizer, query)[:limit], sep], ids(tokenizer, document), [sep], 0


def joined(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    return ids(tokenizer, query)[:limit], ids(tokenizer, document), [], 0


def bge(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    newline = ids(tokenizer, "\n")
    query_ids, passage = ids(tokenizer, f"A: {query}")[:limit], ids(tokenizer, f"B: {document}")
    prefix = next((i for i in range(len(passage)) if passage[: i + 1] != ids(tokenizer, "B: ")[: i + 1]), len(passage))
    tail = [*newline, *ids(tokenizer, GEMMA)]
    return [tokenizer.bos_token_id, *query_ids, *newline, *passage[:prefix]], passage[prefix:], tail, len(tail)


def qwen3(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    opening = f"<Instruct>: {QWEN3_TASK}\n<Query>: {query}\n<Document>: "
    head, tail = (
        ids(tokenizer, QWEN3_HEAD),
        ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    )
    before, after = split(tokenizer, opening, document)
    return [*head, *before], after, tail, 0


def chat(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    opening = f"<|im_start|>user\nQuery: {query}\n\nDocument: "
    closing = (
        "\n\nDoes the document help to answer the query? Answer Yes or No.<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    )
    return *split(tokenizer, opening, document), ids(tokenizer, closing), 0


def split(tokenizer: Tokenizer, opening: str, document: str) -> tuple[list[int], list[int]]:
    """Tokens of the whole, before and from the first that has a character of the document."""
    found = tokenizer(opening + document, add_special_tokens=False, return_offsets_mapping=True)
    num = sum(end <= len(opening) for _, end in found.offset_mapping)
    return found.input_ids[:num], found.input_ids[num:]


def mxbai(tokenizer: Tokenizer, query: str, document: str, limit: int) -> Parts:
    newline = ids(tokenizer, "\n")
    head = ids(
        tokenizer,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
    )
    tail = [*newline, *ids(tokenizer, MXBAI), *ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")]
    before, after = split(tokenizer, "document: ", document)
    query_ids = ids(tokenizer, f"query: {query}")[:limit]
    return [*head, *query_ids, *newline, *before], after, tail, len(head) + len(tail)


def one_logit(model: Any, tokenizer: Tokenizer, ids: list[int], num: int) -> torch.Tensor:
    return model(input_ids=torch.tensor([ids])).logits[0, 0]


def typed(model: Any, tokenizer: Tokenizer, ids: list[int], num: int) -> torch.Tensor:
    types = torch.tensor([[0] * num + [1] * (len(ids) - num)])
    return model(input_ids=torch.tensor([ids]), token_type_ids=types).logits[0, 0]


def typed_difference(model: Any, tokenizer: Tokenizer, ids: list[int], num: int) -> torch.Tensor:
    types = torch.tensor([[0] * num + [1] * (len(ids) - num)])
    no, yes = model(input_ids=torch.tensor([ids]), token_type_ids=types).logits[0]
    return yes - no


def word(yes: str, no: str | None = None) -> Callable[[Any, Tokenizer, list[int], int], torch.Tensor]:
    def value(model: Any, tokenizer: Tokenizer, given: list[int], num: int) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([given])).logits[0, -1]
        return logits[ids(tokenizer, yes)[0]] - (0 if no is None else logits[ids(tokenizer, no)[0]])

    return value


def at_layer(layer: int) -> Callable[[Any, Tokenizer, list[int], int], torch.Tensor]:
    return lambda model, tokenizer, ids, num: model(
        input_ids=torch.tensor([ids]), cutoff_layers=[layer], return_dict=True
    ).logits[0][0, -1]


def classifier(kind: str, labels: int = 1) -> Callable[[Path], Path]:
    return lambda folder: tiny.classifier(kind, folder, labels=labels)


def decoder(kind: str) -> Callable[[Path], Path]:
    return lambda folder: tiny.decoder(kind, folder)


CLASSIFIER = "AutoModelForSequenceClassification"
BGE, CODE = {"kind": "decoder", "prompt": "bge"}, {"trust_remote_code": True}
FAMILIES = {
    "xlm-roberta": Family(classifier("xlm-roberta"), xlm_roberta, one_logit, CLASSIFIER),
    "bert": Family(classifier("bert"), bert, typed, CLASSIFIER),
    "bert of two": Family(classifier("bert", 2), bert, typed_difference, CLASSIFIER),
    "modernbert": Family(classifier("modernbert"), bert, one_logit, CLASSIFIER),
    "deberta": Family(classifier("deberta"), bert, typed, CLASSIFIER),
    "qwen2 classifier": Family(classifier("qwen2"), joined, one_logit, CLASSIFIER),
    "gemma classifier": Family(classifier("gemma"), joined, one_logit, CLASSIFIER),
    "gemma": Family(decoder("gemma"), bge, word("Yes"), options=BGE),
    "llama": Family(decoder("llama"), bge, word("Yes"), options=BGE),
    "qwen3": Family(
        decoder("qwen3"), qwen3, word("yes", "no"), options={"kind": "decoder", "prompt": "qwen3"}, max_length=900
    ),
    "mxbai": Family(decoder("qwen3"), mxbai, word("1", "0"), options={"kind": "decoder", "prompt": "mxbai"}),
    "chat": Family(decoder("qwen3"), chat, word("Yes", "No"), options={"kind": "chat"}, max_length=700),
    "layerwise": Family(tiny.layerwise, bge, at_layer(4), options=CODE),
    "layerwise at 2": Family(tiny.layerwise, bge, at_layer(2), options=CODE | {"cutoff_layers": 2}),
}


@dataclass(frozen=True)
class Made:
    family: Family
    folder: Path
    model: Any
    tokenizer: Tokenizer

    def reranker(self, **settings: Any) -> Reranker:
        return Reranker(str(self.folder), max_length=self.family.max_length, **self.family.options, **settings)

    def straight(self, query: str, document: str, window: tuple[int, int] | None = None) -> float:
        """The score of what fits of a document, or of a window."""
        length = self.family.max_length
        before, tokens, after, free = self.family.parts(self.tokenizer, query, document, length * 3 // 4)
        start, end = window or (0, length + free - len(before) - len(after))
        with torch.no_grad():
            read = [*before, *tokens[start:end], *after]
            return self.family.value(self.model, self.tokenizer, read, len(before)).item()


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    import transformers as hf

    family = FAMILIES[request.param]
    folder = family.build(tmp_path_factory.mktemp("model"))
    code = {"trust_remote_code": "trust_remote_code" in family.options}
    model = getattr(hf, family.load).from_pretrained(folder, **code).eval()
    return Made(family, folder, model, hf.AutoTokenizer.from_pretrained(folder))


# ---- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_a_straight_line(made: Made, side: str, tmp_path: Path) -> None:
    made.tokenizer.padding_side = side
    made.tokenizer.save_pretrained(made.folder)
    reranker = made.reranker()
    expected = [made.straight(*pair) for pair in PAIRS]
    assert max(expected) - min(expected) > 0.1  # they can be told apart
    assert reranker.score(PAIRS) == pytest.approx(expected, abs=TOLERANCE)
    for pair, value in zip(PAIRS[:4], expected, strict=False):
        assert reranker.score([pair]) == pytest.approx([value], abs=TOLERANCE)
    assert reranker.score(PAIRS[::-1] * 3) == pytest.approx(expected[::-1] * 3, abs=TOLERANCE)


def test_each_window_is_scored_as_the_straight_line_scores_its_ids(made: Made) -> None:
    ranker = made.reranker().ranker
    document = LONG * 6 + " 浮士德是歌德写的。" * 60
    pairs = [("who wrote Faust?", document), ("capital?", "Oslo."), ("capital?", "")]
    found = ranker.score(pairs, Limits(made.family.max_length, windows=True, overlap=7))
    assert len(found[0]) > 3 and [len(scores) for scores in found[1:]] == [1, 1]
    _, tokens, _, _ = made.family.parts(made.tokenizer, *pairs[0], made.family.max_length)
    windows = [score.window for score in found[0] if score.window]
    assert windows[0].start_token == windows[0].start == 0
    assert windows[-1].end_token == len(tokens) and windows[-1].end == len(document.rstrip())
    for earlier, later in pairwise(windows):
        assert earlier.end_token - later.start_token == 7 and later.start < earlier.end
    for pair, scores in zip(pairs, found, strict=True):
        for score in scores:
            assert score.window is not None
            expected = made.straight(*pair, (score.window.start_token, score.window.end_token))
            assert score.value == pytest.approx(expected, abs=TOLERANCE)


def test_a_batch_does_not_change_a_score(made: Made) -> None:
    one_by_one, together = made.reranker(tokens_per_forward=1), made.reranker(tokens_per_forward=100_000)
    assert one_by_one.score(PAIRS) == pytest.approx(together.score(PAIRS), abs=TOLERANCE)


def test_out_of_memory_halves_the_budget_and_goes_on(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    reranker = made.reranker(tokens_per_forward=100_000)
    ranker = reranker.ranker
    assert isinstance(ranker, LocalRanker)
    expected = reranker.score(PAIRS)
    before, forward, failures = ranker.tokens_per_forward, ranker.forward, [True]

    def once(*given: Any) -> torch.Tensor:
        if failures and len(given[0]) > 1:
            failures.pop()
            raise torch.OutOfMemoryError
        return forward(*given)

    ranker.forward = once  # type: ignore[method-assign]
    assert reranker.score(PAIRS) == pytest.approx(expected, abs=TOLERANCE)
    if before > 1:  # a classifier without a padding token reads one pair at a time
        assert not failures and ranker.tokens_per_forward == before // 2 and "out of memory" in caplog.text


def test_out_of_memory_with_a_single_pair_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker(str(tiny.classifier("bert", tmp_path)))

    def never(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(reranker.ranker, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        reranker.score(PAIRS[:3])


def test_pairs_are_tokenised_as_the_tokenizer_itself_does(made: Made) -> None:
    if made.family.load != CLASSIFIER:
        pytest.skip("decoders have prompts")
    ranker = made.reranker().ranker
    assert isinstance(ranker, LocalRanker)
    for query, document in PAIRS[:5]:
        (written,) = ranker.writing.write([query], [document], Limits(256))
        ((piece,), unread) = written.pieces(Limits(256))
        assert piece.ids == made.tokenizer([query], [document]).input_ids[0] and unread == 0
