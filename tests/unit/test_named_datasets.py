"""Public question sets, in the shapes in which they are published and in those of `datasets`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from jointrag.config import FlashRagDataset, NamedDataset
from jointrag.datasets import prepare
from jointrag.datasets.published import SETS
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Passage, Question

CONTEXT = [["Faust", ["Faust is a play.", " Goethe wrote it."]], ["Oslo", ["Oslo is in Norway."]], ["Goethe", ["…"]]]
HOTPOT: dict[str, Any] = {
    "_id": "h1",
    "question": "Who wrote Faust?",
    "answer": "Goethe",
    "type": "bridge",
    "level": "easy",
    "supporting_facts": [["Faust", 1], ["Faust", 0], ["Goethe", 0]],
    "context": CONTEXT,
}
FACTS = [["Faust", "author", "Goethe"], ["Goethe", "place of birth", "Frankfurt"]]


def by_hub(row: dict[str, Any]) -> dict[str, Any]:
    """HotpotQA as `datasets` has it."""
    titles, sentences = zip(*row["context"], strict=True)
    facts, places = zip(*row["supporting_facts"], strict=True)
    return {
        **{name: value for name, value in row.items() if name != "_id"},
        "id": row["_id"],
        "context": {"title": list(titles), "sentences": list(sentences)},
        "supporting_facts": {"title": list(facts), "sent_id": list(places)},
    }


@pytest.mark.parametrize("row", [HOTPOT, by_hub(HOTPOT)])
def test_hotpotqa(row: dict[str, Any]) -> None:
    parsed = SETS["hotpotqa"].read(row)
    faust, oslo, goethe = parsed.passages
    assert (faust.title, faust.text) == ("Faust", "Faust is a play. Goethe wrote it.")
    assert len({faust.id, oslo.id, goethe.id}) == 3
    assert parsed.question == Question("h1", "Who wrote Faust?", ("Goethe",), "bridge", (faust.id, goethe.id))


@pytest.mark.parametrize("as_text", [False, True])
def test_two_wiki_asks_for_its_facts(as_text: bool) -> None:
    row = HOTPOT | {"evidences": FACTS}
    if as_text:
        row |= {name: json.dumps(row[name]) for name in ("evidences", "context", "supporting_facts")}
    parsed = SETS["2wikimultihopqa"].read(row)
    assert parsed.question.sub_questions == ("What is the author of Faust?", "What is the place of birth of Goethe?")
    assert len(parsed.question.gold_passages) == 2


def test_musique_resolves_what_its_steps_refer_to() -> None:
    row = {
        "id": "3hop1__1_2_3",
        "question": "In which country was the author of Faust born?",
        "answer": "Germany",
        "answer_aliases": ["FRG", "Germany"],
        "question_decomposition": [
            {"question": "Faust >> author", "answer": "Goethe", "paragraph_support_idx": 1},
            {"question": "Where was #1 born?", "answer": "Frankfurt", "paragraph_support_idx": 0},
            {"question": "#2 >> country", "answer": "Germany", "paragraph_support_idx": None},
        ],
        "paragraphs": [
            {"idx": 0, "title": "Goethe", "paragraph_text": "He was born in Frankfurt. ", "is_supporting": True},
            {"idx": 1, "title": "Oslo", "paragraph_text": "In Norway.", "is_supporting": False},
        ],
    }
    parsed = SETS["musique"].read(row)
    assert parsed.question.sub_questions == (
        "What is the author of Faust?", "Where was Goethe born?", "What is the country of Frankfurt?",
    )  # fmt: skip
    assert parsed.question.answers == ("Germany", "FRG")
    assert parsed.question.type == "3 hops"
    assert parsed.question.gold_passages == (parsed.passages[0].id,)


READINGS = [{"question": "Which film?", "answer": ["A", "B"]}, {"question": "Which play?", "answer": ["C", "A"]}]
AMBIG = [
    [{"type": "multipleQAs", "qaPairs": READINGS}, {"type": "singleAnswer", "answer": ["D"]}],
    {
        "type": ["multipleQAs", "singleAnswer"],
        "answer": [[], ["D"]],
        "qaPairs": [
            {"question": ["Which film?", "Which play?"], "answer": [["A", "B"], ["C", "A"]]},
            {"question": [], "answer": []},
        ],
    },
]


@pytest.mark.parametrize("annotations", AMBIG)
def test_ambigqa_takes_the_answers_to_all_readings(annotations: Any) -> None:
    question = SETS["ambigqa"].read({"id": "-7", "question": "Who?", "annotations": annotations}).question
    assert sorted(question.answers) == ["A", "B", "C", "D"]
    assert question.id == "-7"


@pytest.mark.parametrize(
    "name, row, answers, kind",
    [
        ("nq", {"question": "?", "answer": ["1999", "in 1999"]}, ("1999", "in 1999"), ""),
        ("triviaqa", {"question": "?", "answer": {"value": "X", "aliases": ["Y", "X"]}}, ("X", "Y"), ""),
        ("triviaqa", {"Question": "?", "QuestionId": "t", "Answer": {"Value": "X", "Aliases": ["Y"]}}, ("X", "Y"), ""),
        ("popqa", {"id": 7, "question": "?", "possible_answers": '["x", "y"]', "prop": "city"}, ("x", "y"), "city"),
        ("flashrag", {"id": "f", "question": "?", "golden_answers": ["x"], "metadata": {"type": "t"}}, ("x",), "t"),
        ("flashrag", {"id": "f", "question": "?", "golden_answers": ["x"]}, ("x",), ""),
    ],
)  # fmt: skip
def test_questions_alone(name: str, row: dict[str, Any], answers: tuple[str, ...], kind: str) -> None:
    parsed = SETS[name].read(row)
    assert parsed.question.answers == answers
    assert parsed.question.type == kind
    assert not parsed.passages


# ---- a whole set -----------------------------------------------------------------------------------------------------


def hotpot_rows(count: int, prefix: str) -> list[dict[str, Any]]:
    return [HOTPOT | {"_id": f"{prefix}{i}", "question": f"Who wrote {prefix} number {i}?"} for i in range(count)]


def questions(out: Path, split: str) -> list[Question]:
    return list(read_jsonl(out / "questions" / f"{split}.jsonl", Question))


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_published_files_become_a_data_set(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "hotpot"
    folder.mkdir()
    for name, rows in {"hotpot_train_v1.1": hotpot_rows(20, "a"), "hotpot_dev_v1": hotpot_rows(6, "b")}.items():
        path = folder / f"{name}.{ending}"
        if ending == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist([by_hub(row) for row in rows]), path)
        elif ending == "json":
            path.write_text(json.dumps(rows))
        else:
            write_jsonl(path, rows)
    config = NamedDataset(name="hotpotqa", path=folder, num_dev_questions=4, num_train_questions=10)
    metrics = prepare(config, seed=1, out=tmp_path / "out")
    train, dev, test = (questions(tmp_path / "out", split) for split in ("train", "dev", "test"))
    assert [len(train), len(dev), len(test)] == [10, 4, 6]
    assert {q.id[0] for q in train + dev} == {"a"}
    assert {q.id[0] for q in test} == {"b"}
    assert len({q.id for q in train + dev + test}) == 20
    assert questions(tmp_path / "out", "source") == train
    corpus = {passage.id for passage in read_jsonl(tmp_path / "out" / "corpus.jsonl", Passage)}
    assert len(corpus) == metrics["prepare/passages"] == 3
    assert all(set(q.gold_passages) <= corpus for q in train + dev + test)
    assert metrics["prepare/near_duplicates"] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["corpus.jsonl", "questions"]


def test_one_published_split_is_shared_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = hotpot_rows(30, "a")
    for i in (3, 5, 7):  # the words of another question
        rows[i] |= {"question": f"Who, a number {i + 6}, wrote?"}
    rows[0] |= {"answer": ""}
    write_jsonl(tmp_path / "train.jsonl", rows)
    config = NamedDataset(name="hotpotqa", path=tmp_path, num_dev_questions=5, num_test_questions=20)
    metrics = prepare(config, seed=0, out=tmp_path / "out")
    sizes = [metrics[f"prepare/{split}_questions"] for split in ("train", "dev", "test")]
    assert sizes == [4, 5, 20]
    assert 1 <= metrics["prepare/near_duplicates"] <= 3
    assert "in another split too, word for word or nearly" in caplog.text
    assert "1 of 30 questions of train have no answer" in caplog.text
    with pytest.raises(ValueError, match="29 questions are too few for 9 of dev and 20 of test; lower"):
        prepare(config.model_copy(update={"num_dev_questions": 10}), seed=0, out=tmp_path / "again")


def test_a_flashrag_set_over_a_corpus_of_ones_own(tmp_path: Path) -> None:
    rows = [{"id": f"t{i}", "question": f"{i}?", "golden_answers": ["answer"]} for i in range(9)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [{"id": "x", "question": "x?", "golden_answers": ["b", "The"]}])
    write_jsonl(tmp_path / "wiki.jsonl", [{"id": "0", "contents": '"Title"\nText.'}, {"id": "0", "contents": "again"}])
    config = FlashRagDataset(
        name="flashrag", subset="nq", path=tmp_path, corpus=tmp_path / "wiki.jsonl", on_bad_line="skip",
        num_dev_questions=2,
    )  # fmt: skip
    metrics = prepare(config, seed=0, out=tmp_path / "out")
    assert questions(tmp_path / "out", "test") == [Question("x", "x?", ("b",))]
    assert list(read_jsonl(tmp_path / "out" / "corpus.jsonl", Passage)) == [Passage("0", "Title", "Text.")]
    assert metrics["prepare/left_out"] == 1
    assert metrics["prepare/train_questions"] == 7


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "no file of a split"),
        ({"a_train.json": "[]", "b_train.json": "[]"}, "a_train.json and b_train.json are both its train split"),
        ({"train.json": "[{]"}, r"train\.json: not JSON"),
        ({"train.json": '[{"question": "?"}]'}, "row 1: not a question of hotpotqa .KeyError: 'context'"),
        ({"train.json": "[3]"}, r"train\.json, row 1: expected an object, found int"),
        ({"train.jsonl": "{}\n{"}, r"train\.jsonl, line 1: not a question of hotpotqa"),
    ],
)  # fmt: skip
def test_files_that_are_no_such_set(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(NamedDataset(name="hotpotqa", path=tmp_path), seed=0, out=tmp_path / "out")


def test_a_set_without_passages_needs_a_corpus() -> None:
    with pytest.raises(ValueError, match="nq brings no passages; set corpus to psgs_w100, wiki18 or a file"):
        NamedDataset(name="nq")


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"(?s)hotpotqa/hotpot_qa \(distractor\) is not in .*set dataset\.path"):
        prepare(NamedDataset(name="hotpotqa", downloads=tmp_path), seed=0, out=tmp_path / "out")
