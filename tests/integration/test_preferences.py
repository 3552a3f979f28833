"""Scores of passages by the model that reads them: a tiny model that was taught to read, in this process and behind a
real HTTP server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jointrag.config import AgentsConfig, PreferencesConfig, PretrainedLM, ScratchLM, ServedReader
from jointrag.generation import LocalLM, TokenCount
from jointrag.jsonl import write_jsonl
from jointrag.likelihood import response_logprobs
from jointrag.types import Passage, Question, Turn
from tests.answering import Asked, Said, answering
from tests.tiny import PASSAGES, QUESTIONS, TINY, chain, teach_to_read, tiny_lm
from trainers import gains, preferences
from trainers.command_line import main
from trainers.gains import Shown, score_passages
from trainers.preferences import FILE, score, score_questions
from trainers.readers import Reader, open_reader
from trainers.retrieval.records import open_records

GENERATOR = chain().agents[-1]
CONFIG = PreferencesConfig(num_candidates=3, questions_per_block=2)


class InMemory:
    """A reader whose model is there already."""

    name = "tiny"
    max_length = TINY.max_length

    def __init__(self, lm: LocalLM) -> None:
        self.lm, self.tokenizer, self.count = lm, lm.tokenizer, TokenCount()
        self.asked: list[int] = []

    def logprobs(self, turns: Any) -> list[torch.Tensor]:
        self.asked.append(len(turns))
        return response_logprobs(self.lm, turns)


@pytest.fixture(scope="module")
def taught() -> LocalLM:
    lm = tiny_lm()
    teach_to_read(lm)
    return lm


@pytest.fixture(scope="module")
def folder(taught: LocalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught model as a stage's output; do not change it."""
    out = tmp_path_factory.mktemp("taught")
    taught.model.save_pretrained(out / "model")
    taught.tokenizer.save_pretrained(out / "model")
    return out


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    pytest.importorskip("bm25s", reason="BM25 needs bm25s and PyStemmer")
    write_jsonl(tmp_path / "prepared" / "corpus.jsonl", PASSAGES)
    write_jsonl(tmp_path / "prepared" / "questions" / "source.jsonl", QUESTIONS)
    return tmp_path / "prepared"


def scored(
    prepared: Path, reader: Reader, out: Path, config: PreferencesConfig = CONFIG, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    metrics = score_questions(
        config,
        reader,
        GENERATOR,
        questions=prepared / "questions" / "source.jsonl",
        corpus=prepared / "corpus.jsonl",
        retriever="bm25",
        out=out,
        **settings,
    )
    return [json.loads(line) for line in out.read_text().splitlines()], metrics


def shown(question: Question, *passages: Passage) -> Shown:
    return Shown(question, passages, tuple(passage.id in question.gold_passages for passage in passages))


def test_a_passage_with_the_answer_is_worth_more(taught: LocalLM) -> None:
    def gain_of_gold(lm: LocalLM) -> list[float]:
        """Least lead of each question's gold passage over the others."""
        block = [shown(question, *PASSAGES) for question in QUESTIONS]
        leads = []
        for one, question in zip(score_passages(block, InMemory(lm), GENERATOR), QUESTIONS, strict=True):
            gold = one.gold.index(True)
            assert PASSAGES[gold].id == question.gold_passages[0]
            leads.append(one.scores[gold] - max(s for i, s in enumerate(one.scores) if i != gold))
        return leads

    assert min(gain_of_gold(taught)) > 1.0
    assert max(gain_of_gold(tiny_lm())) < 1.0  # one that cannot read tells nothing apart


def test_scores_by_hand(taught: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean log-probability per token with the passage, minus without; of several answers the best, on either side."""
    question = Question("a", "Where is Anna ?", ("Oslo", "Turku"), gold_passages=("p1",))
    table = {
        (0, "Oslo"): [-4.0, -2.0],
        (0, "Turku"): [-2.0, -2.0],  # alone: -2
        (1, "Oslo"): [-0.5, -0.5],  # with the first passage: -0.5
        (1, "Turku"): [-3.0, -3.0],
        (2, "Oslo"): [-8.0, -4.0],
        (2, "Turku"): [-2.5, -3.5],  # with the second: -3
    }
    reader = InMemory(taught)
    monkeypatch.setattr(reader, "logprobs", lambda turns: [torch.tensor(table[number(t), t.response]) for t in turns])

    def number(turn: Turn) -> int:
        return 0 if "Passage" not in turn.prompt else 1 if "Anna lives" in turn.prompt else 2

    (one,) = score_passages([shown(question, PASSAGES[0], PASSAGES[1])], reader, GENERATOR)
    assert one == gains.Scored(
        "Where is Anna ?", (PASSAGES[0].text, PASSAGES[1].text), (1.5, -1.0), (False, True), too_long=0
    )


def test_what_the_reader_cannot_take_whole_is_left_out(taught: LocalLM) -> None:
    reader = InMemory(taught)
    long = Passage("long", "", "Oslo " * 50)
    block = [shown(QUESTIONS[0], PASSAGES[0], long, PASSAGES[1]), shown(QUESTIONS[1], PASSAGES[0], PASSAGES[1])]
    whole = score_passages(block, reader, GENERATOR)
    assert [len(one.passages) for one in whole] == [3, 2]
    reader.max_length = 40
    one, other = score_passages(block, reader, GENERATOR)
    assert one.passages == (PASSAGES[0].text, PASSAGES[1].text) and one.too_long == 1
    assert one.scores == pytest.approx((whole[0].scores[0], whole[0].scores[2]), abs=1e-4)
    assert other.scores == pytest.approx(whole[1].scores, abs=1e-4) and other.too_long == 0
    reader.max_length = 3  # not even the questions
    assert [one.too_long for one in score_passages(block, reader, GENERATOR)] == [3, 2]


def test_numbers_that_are_none_are_an_error(taught: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemory(taught)
    monkeypatch.setattr(reader, "logprobs", lambda turns: [torch.tensor([float("nan")]) for _ in turns])
    with pytest.raises(ValueError, match=r"question 'q0': .*no numbers; load it in another precision"):
        score_passages([shown(QUESTIONS[0], PASSAGES[0])], reader, GENERATOR)


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_from_questions_to_a_training_file(taught: LocalLM, prepared: Path, tmp_path: Path) -> None:
    rows, metrics = scored(prepared, InMemory(taught), tmp_path / "out.jsonl")
    assert [row["query"] for row in rows] == [question.text for question in QUESTIONS]
    for row, question in zip(rows, QUESTIONS, strict=True):
        gold = next(passage.text for passage in PASSAGES if passage.id in question.gold_passages)
        assert len(set(row["pos"])) == len(row["pos"]) == len(row["scores"]) == 3
        assert row["pos"][row["scores"].index(max(row["scores"]))] == gold
    counts = {name: metrics[f"preferences/{name}"] for name in ("questions", "passages", "too_few", "gold_first")}
    assert counts == {"questions": 5, "passages": 15, "too_few": 0, "gold_first": 1.0}
    assert metrics["preferences/gold_gain"] > metrics["preferences/other_gain"] + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "prepared"]
    records = open_records(tmp_path / "out.jsonl", cache=tmp_path / "cache", needs=frozenset({"scores"}))
    assert records.format == "scored" and records[0].positive_scores == tuple(rows[0]["scores"])


def test_gold_passages_are_among_the_candidates(taught: LocalLM, prepared: Path, tmp_path: Path) -> None:
    hard = [replace(question, text="lives ?") for question in QUESTIONS]  # BM25 finds the first passages for all
    write_jsonl(prepared / "questions" / "source.jsonl", hard)
    rows, _ = scored(prepared, InMemory(taught), tmp_path / "with.jsonl")
    assert all(q.answers[0] in " ".join(row["pos"]) for row, q in zip(rows, QUESTIONS, strict=True))
    assert all(len(row["pos"]) == 3 for row in rows)
    without = CONFIG.model_copy(update={"with_gold": False})
    rows, _ = scored(prepared, InMemory(taught), tmp_path / "without.jsonl", without)
    assert not all(q.answers[0] in " ".join(row["pos"]) for row, q in zip(rows, QUESTIONS, strict=True))


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on(
    taught: LocalLM, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = scored(prepared, InMemory(taught), tmp_path / "whole.jsonl")
    first, second = InMemory(taught), InMemory(taught)
    ask = first.logprobs

    def twice(turns: Any) -> list[torch.Tensor]:
        if len(first.asked) == 2:
            raise Interrupted
        return ask(turns)

    monkeypatch.setattr(first, "logprobs", twice)
    with pytest.raises(Interrupted):
        scored(prepared, first, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    rows, metrics = scored(prepared, second, tmp_path / "out.jsonl")
    assert len(first.asked) == 2 and len(second.asked) == 1  # blocks of 2, 2 and 1 questions
    assert rows == whole
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert metrics["preferences/questions"] == 5  # those of the first try counted


@pytest.mark.parametrize("change", ["settings", "reader", "questions"])
def test_what_was_scored_otherwise_is_not_taken(taught: LocalLM, prepared: Path, tmp_path: Path, change: str) -> None:
    work = tmp_path / "work"
    before = InMemory(taught)
    scored(prepared, before, tmp_path / "out.jsonl", work=work)
    again = InMemory(taught)
    scored(prepared, again, tmp_path / "out.jsonl", work=work)
    assert before.asked and not again.asked
    config, reader = CONFIG, InMemory(taught)
    if change == "settings":
        config = CONFIG.model_copy(update={"num_candidates": 4})
    elif change == "reader":
        reader.name = "another"
    else:
        write_jsonl(prepared / "questions" / "source.jsonl", [replace(q, answers=("Rome",)) for q in QUESTIONS])
    scored(prepared, reader, tmp_path / "out.jsonl", config, work=work)
    assert len(reader.asked) == 3


def test_the_stage(folder: Path, prepared: Path, retriever_dir: Path, tmp_path: Path) -> None:
    """Candidates by a real encoder, a reader from the folder of a stage; interrupted blocks lie in the stage's own."""
    out = tmp_path / "out"
    common: dict[str, Any] = {"prepared": prepared, "retriever": retriever_dir, "seed": 0, "out": out, "device": "cpu"}
    metrics = score(CONFIG, AgentsConfig(), TINY, generator=folder, **common)
    assert metrics["preferences/gold_first"] == 1.0 and metrics["preferences/tokens"] > 0
    assert [path.name for path in out.iterdir()] == [FILE]
    with pytest.raises(ValueError, match=r"from scratch cannot read before it is trained.*preferences\.reader\.type"):
        score(CONFIG, AgentsConfig(), ScratchLM(), **common)
    pretrained = PretrainedLM(name=str(folder / "model"), dtype="float32")
    by_name = CONFIG.model_copy(update={"reader": pretrained})
    again = tmp_path / "again"
    common["out"] = again
    score(by_name, AgentsConfig(), ScratchLM(), **common)
    assert (again / FILE).read_bytes() == (out / FILE).read_bytes()


def test_a_sample_of_the_questions_repeats_with_the_seed(taught: LocalLM, prepared: Path, tmp_path: Path) -> None:
    some = CONFIG.model_copy(update={"num_questions": 2})
    drawn = {
        tuple(row["query"] for row in scored(prepared, InMemory(taught), tmp_path / "out.jsonl", some, seed=seed)[0])
        for seed in (0, 0, 1, 2)
    }
    assert 1 < len(drawn) <= 3 and all(len(queries) == 2 for queries in drawn)


def test_questions_without_answers(taught: LocalLM, prepared: Path, tmp_path: Path) -> None:
    path = prepared / "questions" / "source.jsonl"
    write_jsonl(path, [replace(QUESTIONS[0], answers=()), replace(QUESTIONS[1], answers=(" ",)), QUESTIONS[2]])
    rows, _ = scored(prepared, InMemory(taught), tmp_path / "out.jsonl")
    assert [row["query"] for row in rows] == [QUESTIONS[2].text]
    write_jsonl(path, [replace(QUESTIONS[0], answers=())])
    with pytest.raises(ValueError, match=r"source\.jsonl: no question has an answer"):
        scored(prepared, InMemory(taught), tmp_path / "out.jsonl")


def test_when_nothing_fits(taught: LocalLM, prepared: Path, tmp_path: Path) -> None:
    reader = InMemory(taught)
    reader.max_length = 3
    with pytest.raises(ValueError, match=r"no question has two passages that the reader can take \(3 tokens\)"):
        scored(prepared, reader, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_reader_that_does_not_care_is_reported(
    prepared: Path, tmp_path: Path, taught: LocalLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader = InMemory(taught)
    monkeypatch.setattr(reader, "logprobs", lambda turns: [torch.tensor([-1.0]) for _ in turns])
    with caplog.at_level(logging.WARNING, logger="trainers.gains"):
        _, metrics = scored(prepared, reader, tmp_path / "out.jsonl")
    assert metrics["preferences/spread"] == 0.0 and "gold passages help the reader no more" in caplog.text


def test_the_command_line(folder: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--data={prepared / 'questions/source.jsonl'}", f"--corpus={prepared / 'corpus.jsonl'}"]
    given += [f"--out={tmp_path / 'out.jsonl'}", "--device=cpu", "--set=num_candidates=3"]

    def call(*more: str) -> int:
        functions = (preferences._arguments, preferences._run, preferences._reader_settings)
        return main("trainers.preferences", preferences.__doc__, PreferencesConfig, *functions, given=[*given, *more])

    assert call(f"--reader={folder / 'model'}", "--set=reader.dtype=float32") == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
    assert "preferences/gold_first" in capsys.readouterr().out
    assert call(f"--reader={tmp_path / 'nowhere'}") == 1
    assert "nowhere' cannot be loaded" in capsys.readouterr().err
    assert call("--reader=localhost:8000", "--set=reader.type=served") == 2
    assert "base_url" in capsys.readouterr().err


# ---- behind a server -------------------------------------------------------------------------------------------------

Answer = Callable[[dict[str, Any]], Said]  # of a request's body


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start a server that gives `answer(body)` to requests for completions; returns its address."""
    with ExitStack() as running:

        def start(answer: Answer) -> str:
            def answer_completions(asked: Asked) -> Said:
                return answer(asked.body) if asked.path == "/v1/completions" else Said({"detail": "Not Found"}, 404)

            return running.enter_context(answering(answer_completions)) + "/v1"

        yield start


def echoing(lm: LocalLM) -> Answer:
    """The prompt's log-probabilities as vLLM returns them: null for the first token, one more for what was written."""

    @torch.no_grad()
    def answer(body: dict[str, Any]) -> Said:
        assert body["echo"] and body["logprobs"] == 1 and body["max_tokens"] == 1 and body["model"] == "tiny"
        ids = body["prompt"]
        logprobs = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        values = [None, *(logprobs[i, token].item() for i, token in enumerate(ids[1:])), logprobs[-1].max().item()]
        return Said({"choices": [{"text": "…", "logprobs": {"token_logprobs": values, "tokens": ["x"] * len(values)}}]})

    return answer


def served(url: str, folder: Path) -> ServedReader:
    return ServedReader(base_url=url, name="tiny", tokenizer=str(folder / "model"), num_parallel=3)


def test_a_server_says_what_the_model_says(
    serve: Callable[[Answer], str], taught: LocalLM, folder: Path, prepared: Path, tmp_path: Path
) -> None:
    reader = open_reader(served(serve(echoing(taught)), folder))
    by_server, metrics = scored(prepared, reader, tmp_path / "served.jsonl")
    here, _ = scored(prepared, InMemory(taught), tmp_path / "here.jsonl")
    for one, other in zip(by_server, here, strict=True):
        assert one["pos"] == other["pos"] and one["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert metrics["preferences/tokens"] == reader.count.real > 0


@pytest.mark.parametrize(
    "status, said, message",
    [
        (404, {"detail": "Not Found"}, r"refused a request for model 'tiny': 404: Not Found\. .*vLLM does"),
        (
            400,
            {"detail": "prompt must be a string."},
            r"400: prompt must be a string\.\. .*transformers serve does not",
        ),
        (
            200,
            {"choices": [{"text": "x", "logprobs": None}]},
            r"without the log-probabilities of its prompt.*vLLM does",
        ),
        (
            200,
            {"choices": [{"text": "x", "logprobs": {"token_logprobs": [-0.5]}}]},
            r"without the log-probabilities of its prompt",
        ),
        (
            200,
            {"choices": [{"text": "x", "logprobs": {"token_logprobs": [None, -0.5, -1.0, -1.0, -1.0]}}]},
            r"returned 5 log-probabilities for 2 tokens .*does not read token ids as they are",
        ),
        (200, {"hello": "world"}, r"did not answer as an OpenAI-compatible server"),
    ],
)
def test_a_server_that_cannot_is_told_at_once(
    serve: Callable[[Answer], str], folder: Path, status: int, said: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_reader(served(serve(lambda body: Said(said, status)), folder))


def test_a_served_models_tokenizer_has_to_be_there(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)tokenizer 'nobody/nothing' cannot be loaded.*set reader\.tokenizer"):
        open_reader(ServedReader(base_url="http://127.0.0.1:9/v1", name="nobody/nothing"))
