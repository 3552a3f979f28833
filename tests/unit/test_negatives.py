"""Which passages become hard negatives, and which stay out; whole runs with BM25 over a small corpus."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jointrag.config import NegativesConfig
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage, Question
from trainers import negatives
from trainers.command_line import main
from trainers.negatives import Candidate, Tally, choose, mine
from trainers.retrieval.known import Known, comparable
from trainers.retrieval.records import open_records

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay")


def found(*texts: str, first_score: float = 0.9) -> list[Candidate]:
    """Passages in the order of a search; each scores 0.1 less than the one before."""
    return [Candidate(Passage(str(i), "", text), first_score - 0.1 * i) for i, text in enumerate(texts)]


def chosen(
    candidates: Sequence[Candidate],
    *,
    positives: Sequence[str] = ("the positive",),
    positive_score: float = 1.0,
    answers: tuple[str, ...] = (),
    seed: int = 0,
    tally: Tally | None = None,
    **settings: Any,
) -> list[str] | None:
    config = NegativesConfig(**({"num_negatives": 3, "max_share": None} | settings))
    known = Known("q", "q", tuple(positives), frozenset(map(comparable, positives)), answers)
    tally = tally or Tally(config.num_negatives)
    picked = choose(candidates, known, positive_score, config, random.Random(seed), tally)
    return None if picked is None else [candidate.passage.contents for candidate in picked]


def test_the_best_ranks_come_first() -> None:
    assert chosen(found(*WORDS)) == ["ant", "bee", "cat"]


def test_ranks() -> None:
    assert chosen(found(*WORDS), first_rank=4) == ["dog", "eel", "fox"]
    assert chosen(found(*WORDS), first_rank=2, last_rank=4) == ["bee", "cat", "dog"]
    assert chosen(found(*WORDS), first_rank=9, last_rank=20) == ["ibex", "jay"]  # no more were found


def test_positives_and_repeated_texts_take_no_rank() -> None:
    candidates = found("The positive!", "ant", "the  POSITIVE", "Ant", "bee", "cat", "dog")
    assert chosen(candidates, first_rank=2, last_rank=4) == ["bee", "cat", "dog"]


def test_a_positive_is_known_by_its_text_without_its_title() -> None:
    with_title = Candidate(Passage("0", "Solaris", "a film by Tarkovsky"), 0.9)
    assert chosen([with_title, *found("ant")], positives=["A film by Tarkovsky."]) == ["ant"]
    assert chosen([with_title, *found("ant")], positives=["Solaris a film by Tarkovsky"]) == ["ant"]


def test_what_holds_a_whole_positive_is_none() -> None:
    longer = found("He said that the red fish swims in the blue sea, and left.", "ant")
    assert chosen(longer, positives=["The red fish swims in the blue sea."]) == ["ant"]
    assert chosen(longer, positives=["red fish"]) == [longer[0].passage.text, "ant"]  # a phrase is in many texts


def test_margin() -> None:
    assert chosen(found(*WORDS), positive_score=0.85, margin=0.1) == ["cat", "dog", "eel"]  # 0.7 and less
    assert chosen(found(*WORDS), positive_score=0.85, margin=0.0) == ["bee", "cat", "dog"]


def test_share_of_the_positives_score() -> None:
    assert chosen(found(*WORDS), positive_score=0.8, max_share=0.9) == ["cat", "dog", "eel"]  # 0.72 and less
    below_zero = found(*WORDS, first_score=-0.15)  # 90 % of -0.2 would be above it
    assert chosen(below_zero, positive_score=-0.2, max_share=0.9) == ["bee", "cat", "dog"]
    both = chosen(found(*WORDS), positive_score=0.8, max_share=0.9, margin=0.25)
    assert both == ["eel", "fox", "gnu"]  # the stricter one counts


def test_gold_answers() -> None:
    candidates = found("an Ant", "Anthill", "bee and ANT", "cat", "dog")
    assert chosen(candidates, answers=("ant",)) == ["Anthill", "cat", "dog"]
    assert chosen(candidates, answers=("ant",), leave_out_answers=False) == ["an Ant", "Anthill", "bee and ANT"]
    assert chosen(found("yes", "bee", "cat"), answers=("yes",)) == ["yes", "bee", "cat"]  # says nothing about a text


def test_samples_are_of_what_is_left_and_repeat_with_the_seed() -> None:
    def sampled(seed: int) -> list[str]:
        picked = chosen(found(*WORDS), choose="sample", first_rank=2, answers=("dog",), seed=seed)
        assert picked is not None
        return picked

    drawn = [sampled(seed) for seed in range(40)]
    assert all(len(set(picked)) == 3 and picked == sorted(picked) for picked in drawn)  # still in the order of ranks
    assert {word for picked in drawn for word in picked} == set(WORDS) - {"ant", "dog"}
    assert [sampled(seed) for seed in range(40)] == drawn


def test_questions_with_too_few() -> None:
    tally = Tally(3)
    assert chosen(found("ant", "bee"), tally=tally) == ["ant", "bee"]
    assert chosen(found("ant", "bee"), too_few="drop", tally=tally) is None
    assert chosen(found("ant", "bee", "cat"), answers=("ant", "bee"), tally=tally) == ["cat"]
    assert chosen(found("ant", "bee"), positive_score=0.5, margin=0.0, tally=tally) is None  # none at all
    assert chosen([], tally=tally) is None
    assert (tally.questions, tally.short, tally.dropped, tally.negatives) == (5, 5, 3, 3)
    assert tally.short_for == {
        "no more were found": 3,
        "most held a gold answer": 1,
        "most scored too near the positive": 1,
    }
    assert "5 have fewer than 3 (3 because no more were found, " in str(tally)


def test_ranks_have_to_suffice() -> None:
    with pytest.raises(ValueError, match=r"first_rank=10 to last_rank=12 are 3 ranks, too few for num_negatives=7"):
        NegativesConfig(first_rank=10, last_rank=12)


# ---- whole runs ------------------------------------------------------------------------------------------------------

PASSAGES = [
    Passage("solaris", "Solaris", "Solaris is a film that Andrei Tarkovsky directed in 1972."),
    Passage("stalker", "Stalker", "Stalker is a film that Andrei Tarkovsky directed in 1979."),
    Passage("mirror", "Mirror", "Mirror is a film that some other man than those directed in 1975."),
    Passage("lem", "Stanislaw Lem", "Lem wrote the novel Solaris."),
    Passage("soderbergh", "Steven Soderbergh", "Soderbergh made another Solaris, many years later."),
    Passage("copy", "Solaris", "Solaris is a film, that Andrei Tarkovsky directed in 1972!"),
    Passage("fish", "Fish", "Fish swim."),
]
QUESTION = "Who directed the film Solaris in 1972?"
LOOSE = {"num_negatives": 2, "max_share": None}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    pytest.importorskip("bm25s", reason="BM25 needs bm25s and PyStemmer")
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    return tmp_path / "corpus.jsonl"


def run(
    corpus: Path, rows: Sequence[Any], settings: dict[str, Any] | None = None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    data, out = corpus.with_name("data.jsonl"), corpus.with_name("mined.jsonl")
    write_jsonl(data, rows)
    config = NegativesConfig(**(LOOSE | (settings or {})))
    metrics = mine(config, data=data, corpus=corpus, retriever="bm25", out=out)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()], metrics


def test_a_training_file_gets_negatives(corpus: Path, tmp_path: Path) -> None:
    rows, metrics = run(corpus, [{"query": QUESTION, "pos": [PASSAGES[0].contents]}])
    assert rows == [
        {"query": QUESTION, "pos": [PASSAGES[0].contents], "neg": [PASSAGES[1].contents, PASSAGES[2].contents]}
    ]
    counts = {name: metrics[f"negatives/{name}"] for name in ("questions", "mined", "short", "dropped", "mean_rank")}
    assert counts == {"questions": 1, "mined": 2, "short": 0, "dropped": 0, "mean_rank": 1.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "data.jsonl", "mined.jsonl"]
    records = open_records(tmp_path / "mined.jsonl", cache=tmp_path / "cache", needs=frozenset({"neg"}))
    assert records.format == "triplets" and records[0].negatives == tuple(rows[0]["neg"])


def test_scores_are_written_on_request(corpus: Path, tmp_path: Path) -> None:
    rows, _ = run(corpus, [{"query": QUESTION, "pos": PASSAGES[0].contents}], {"scores": True, "num_negatives": 3})
    (row,) = rows
    assert row["pos_scores"][0] > row["neg_scores"][0] > row["neg_scores"][1] > row["neg_scores"][2] > 0
    assert len(row["pos_scores"]) == 1 and len(row["neg"]) == 3
    records = open_records(tmp_path / "mined.jsonl", cache=tmp_path / "cache")
    assert records.format == "flagembedding" and records[0].negative_scores == tuple(row["neg_scores"])


def test_the_positive_to_compare_with(corpus: Path) -> None:
    data = [{"query": QUESTION, "pos": [PASSAGES[0].contents, PASSAGES[3].contents]}]  # the best, and one far below
    strict = {"max_share": 1.0, "num_negatives": 1}
    rows, _ = run(corpus, data, strict)
    assert rows[0]["neg"] == [PASSAGES[1].contents]
    rows, _ = run(corpus, data, strict | {"compare_with": "worst"})
    assert rows[0]["neg"] == [PASSAGES[4].contents]


def test_positives_of_another_line_with_the_question_are_no_negatives(corpus: Path) -> None:
    rows, _ = run(
        corpus,
        [
            {"query": QUESTION, "pos": [PASSAGES[0].contents], "neg": ["old"]},
            {"query": QUESTION.upper(), "pos": [PASSAGES[1].contents], "neg": ["old"]},
        ],
    )
    assert rows[0]["neg"] == rows[1]["neg"] == [PASSAGES[2].contents, PASSAGES[3].contents]


def test_prompts_stay_and_are_not_searched_for(corpus: Path) -> None:
    prompt = "Fish swim fish swim: "
    rows, _ = run(corpus, [{"query": QUESTION, "pos": [PASSAGES[0].contents], "prompt": prompt}])
    assert rows[0]["query"] == prompt + QUESTION
    assert rows[0]["neg"] == [PASSAGES[1].contents, PASSAGES[2].contents]


def test_prepared_questions(corpus: Path) -> None:
    questions = [
        Question("q1", QUESTION, ("Andrei Tarkovsky", "Tarkovsky"), gold_passages=("solaris",)),
        Question("q2", "Is there no gold passage?", ("yes",)),
    ]
    rows, metrics = run(corpus, questions)
    assert rows == [
        {"query": QUESTION, "pos": [PASSAGES[0].contents], "neg": [PASSAGES[2].contents, PASSAGES[3].contents]}
    ]
    assert metrics["negatives/left_out_answer"] == 1  # Stalker's director is the same


def test_negatives_without_titles_for_positives_without_titles(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = [{"query": QUESTION, "pos": [PASSAGES[0].text]}]
    with caplog.at_level(logging.WARNING, logger="trainers.negatives"):
        rows, _ = run(corpus, data)
        assert "set titles=false" in caplog.text and rows[0]["neg"][0].startswith("Stalker\n")
        caplog.clear()
        rows, _ = run(corpus, data, {"titles": False})
        assert not caplog.text and rows[0]["neg"] == [PASSAGES[1].text, PASSAGES[2].text]
        run(corpus, [{"query": QUESTION, "pos": [PASSAGES[0].contents]}])
        assert not caplog.text


def test_when_not_one_question_is_left_nothing_is_written(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not one question has negatives: .*scored too near.* loosen margin"):
        run(corpus, [{"query": QUESTION, "pos": ["fish"]}], {"max_share": 0.9})
    assert not (tmp_path / "mined.jsonl").exists()


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"query": "q", "pos": ["a", "b"], "scores": [1, 0]},
            r"data\.jsonl: its format is scored, .*no sure positives",
        ),
        ({"query": "q", "pos": ["a", "b"], "pos_scores": [3, 0]}, r"data\.jsonl: its format is graded"),
        ({"query": "q"}, r'data\.jsonl, line 1: no field "pos"'),
        ({"id": "1", "text": "q", "answers": ["a"]}, r"data\.jsonl: no question has gold_passages"),
        (
            {"id": "1", "text": "q", "answers": ["a"], "gold_passages": ["nowhere"]},
            r"data\.jsonl: question '1': no passage 'nowhere' in the corpus",
        ),
    ],
)
def test_data_that_says_nothing_about_positives(corpus: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(corpus, [row])


def test_a_file_that_is_not_there(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl"):
        mine(NegativesConfig(), data=tmp_path / "gone.jsonl", corpus=corpus, retriever="bm25", out=tmp_path / "out")


def test_the_command_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "data.jsonl", [{"query": QUESTION, "pos": [PASSAGES[0].contents]}])
    given = ["--data", str(tmp_path / "data.jsonl"), "--corpus", str(corpus), "--out", str(tmp_path / "out.jsonl")]

    def call(*more: str) -> int:
        arguments = (NegativesConfig, negatives._arguments, negatives._run)
        return main("trainers.negatives", negatives.__doc__, *arguments, given=[*given, *more])

    assert call("--set", "num_negatives=2", "--set", "max_share=null") == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["neg"][0] == PASSAGES[1].contents
    assert "negatives/mined" in capsys.readouterr().out
    assert call("--set", "num_negative=2") == 2
    assert "unknown setting num_negative; there are num_negatives, " in capsys.readouterr().err
    assert call("--set", "num_negatives=0") == 2
    assert "num_negatives should be greater than 0, found 0" in capsys.readouterr().err
    assert call("--retriever", str(tmp_path / "nowhere")) == 1
    assert "nowhere' cannot be loaded" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        call("--list-settings")
    assert stopped.value.code == 0 and "first_rank" in capsys.readouterr().out
