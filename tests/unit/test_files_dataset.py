"""A folder of one's own: good data goes through, bad data is named by file and line."""

import json
import re

import pytest

from jointrag.config import FilesDataset
from jointrag.datasets import prepare
from jointrag.jsonl import read_jsonl
from jointrag.types import Passage, Question

CORPUS = [{"id": "p1", "title": "Silent Harbor", "text": "A film by Anna Berg."}, {"id": "p2", "text": "No title."}]
QUESTION = {"id": "q1", "text": "Who made Silent Harbor?", "answers": ["Anna Berg", "Berg"], "gold_passages": ["p1"]}


def lines(rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name, rows in {"corpus": CORPUS, "train": [QUESTION], "dev": [QUESTION], "test": [QUESTION]}.items():
        (tmp_path / "in" / f"{name}.jsonl").write_text(lines(rows))
    return tmp_path / "in"


def test_a_good_folder_goes_through(folder, tmp_path):
    out = tmp_path / "out"
    metrics = prepare(FilesDataset(name="files", path=folder), seed=0, out=out)
    assert metrics["prepare/passages"] == 2
    assert [p.title for p in read_jsonl(out / "corpus.jsonl", Passage)] == ["Silent Harbor", ""]
    (question,) = read_jsonl(out / "questions/source.jsonl", Question)  # no source.jsonl: train.jsonl serves
    assert question.answers == ("Anna Berg", "Berg")


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("corpus", [CORPUS[0], "{not json"], "corpus.jsonl, line 2: not a JSON object"),
        ("corpus", ["", CORPUS[0], '["a list"]'], "corpus.jsonl, line 3: expected an object"),
        ("corpus", [CORPUS[0], CORPUS[0]], "line 2: passage id 'p1' was used before"),
        ("corpus", [{"id": "p1", "text": " "}], "line 1: passage 'p1' has no text"),
        (
            "corpus",
            [{"id": "p1", "body": "x"}],
            "line 1: unknown field 'body'; known fields: id, title, text, contents",
        ),
        ("corpus", [{"id": 7, "text": "x"}], "line 1: field 'id' should be a text in quotes, like \"…\", found 7"),
        ("corpus", [], "corpus.jsonl: no passages"),
        ("train", [{**QUESTION, "answers": 7}], "field 'answers' should be a list, like [\"…\"], found 7"),
        ("train", [{**QUESTION, "answers": ["Anna", "The"]}], "question 'q1': nothing of the answer 'The' is left"),
        ("train", ['{"id": "q1", "text": "\\ud83d", "answers": ["a"]}'], "train.jsonl, line 1: not a JSON object"),
        ("train", [], "train.jsonl: no questions"),
        ("test", [{**QUESTION, "answers": []}], "test.jsonl, line 1: question 'q1' has no answer"),
        ("dev", [{**QUESTION, "gold_passages": ["p9"]}], "dev.jsonl, line 1: question 'q1': gold passage 'p9' is not"),
        ("dev", [QUESTION, QUESTION], "dev.jsonl, line 2: question 'q1': this id was used before"),
        ("train", [{"id": "q1", "text": "?"}], "train.jsonl, line 1: field 'answers' is missing"),
    ],
)
def test_bad_input_names_the_file_the_line_and_the_reason(folder, tmp_path, file, rows, message):
    (folder / f"{file}.jsonl").write_text(lines(rows))
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(FilesDataset(name="files", path=folder), seed=0, out=tmp_path / "out")


def test_a_missing_file_is_named(folder, tmp_path):
    (folder / "dev.jsonl").unlink()
    with pytest.raises(ValueError, match=r"dev\.jsonl: no such file"):
        prepare(FilesDataset(name="files", path=folder), seed=0, out=tmp_path / "out")
