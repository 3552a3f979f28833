"""Corpora in every format that is read, good and broken."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from jointrag.corpus_files import copy, find
from jointrag.jsonl import read_jsonl
from jointrag.types import Passage

PASSAGES = [
    Passage("1", "Aaron", 'Aaron is a "prophet", high priest'),
    Passage("2", "Ärger", "zweite\tSpalte"),
    Passage("3", "", "第三段"),
]


def written(path: Path, text: str | bytes) -> Path:
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def copied(source: Path) -> list[Passage]:
    out = source.parent / "out.jsonl"
    copy(source, out)
    return list(read_jsonl(out, Passage))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_with_text_or_contents(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "1", "title": "Aaron", "text": PASSAGES[0].text, "metadata": {"url": "…"}},
        {"_id": "2", "contents": '"Ärger"\nzweite\tSpalte'},
        {"id": "3", "contents": "第三段"},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert copied(written(tmp_path / name, text)) == PASSAGES


@pytest.mark.parametrize("name", ["psgs_w100.tsv", "psgs_w100.tsv.gz"])
def test_tab_separated_passages_as_dpr_publishes_them(tmp_path: Path, name: str) -> None:
    text = 'id\ttext\ttitle\n1\t"Aaron is a ""prophet"", high priest"\tAaron\n2\t"zweite\tSpalte"\tÄrger\n3\t第三段\t\n'
    assert copied(written(tmp_path / name, text)) == PASSAGES


def test_parquet_with_ids_as_numbers(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2, 3],
        "text": [passage.text for passage in PASSAGES],
        "title": ["Aaron", "Ärger", None],
        "vector": [[0.5]] * 3,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert copied(tmp_path / "a.parquet") == PASSAGES


BROKEN = b"\n".join(
    [
        b'{"id": "a", "text": "first"}',
        b"{not json",
        b'{"id": "b", "text": "\xff"}',
        b'{"id": "b", "text": " "}',
        b'{"id": "b", "title": "no text"}',
        b'{"id": "a", "text": "again"}',
        b'{"id": "c", "text": "last"}',
        b'{"id": "a", "text": "and again"}',
    ]
)


def test_all_problems_are_counted_with_their_lines(tmp_path: Path) -> None:
    source = written(tmp_path / "corpus.jsonl", BROKEN)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        copy(source, tmp_path / "out.jsonl")
    message = str(error.value)
    assert message.startswith(f"{source}, line 2: not a JSON object")
    assert "6 lines cannot be used: 2 with an id used before (lines 6, 8), 1 not a JSON object (line 2)" in message
    assert "1 not in UTF-8 (line 3)" in message
    assert "1 without text (line 4)" in message
    assert "1 without the fields of a passage (line 5)" in message
    assert "on_bad_line=skip" in message
    assert list(tmp_path.iterdir()) == [source]


def test_what_cannot_be_used_is_left_out_on_request(tmp_path: Path) -> None:
    result = copy(written(tmp_path / "corpus.jsonl", BROKEN), tmp_path / "out.jsonl", "skip", wanted={"c", "b"})
    assert result.num_passages == 2
    assert result.problems.counts.total() == 6
    assert result.found == {"c"}
    assert [passage.text for passage in read_jsonl(tmp_path / "out.jsonl", Passage)] == ["first", "last"]
    assert len(list(tmp_path.iterdir())) == 2


def test_broken_rows_of_a_table(tmp_path: Path) -> None:
    rows = b"id\ttext\ttitle\n1\tone\tA\n2\ttwo\n3\t\xff\tC\n4\tfour\tD\n4\tagain\tD\n"
    result = copy(written(tmp_path / "a.tsv", rows), tmp_path / "out.jsonl", "skip")
    assert [passage.id for passage in read_jsonl(tmp_path / "out.jsonl", Passage)] == ["1", "4"]
    assert dict(result.problems.lines) == {
        "not a row of tab-separated values": [3],
        "not in UTF-8": [4],
        "with an id used before": [6],
    }


def test_a_quote_that_is_not_closed_costs_its_own_line_only(tmp_path: Path) -> None:
    lines = [
        "id\ttext\ttitle",
        '1\t"opened\tA',
        '2\t"whole\nin two lines"\tB',
        '3\t"opened\tC',
        '4\t"closes what another line opened"\tD',
        '5\t"A quote" at the beginning\tE',
        *(f"{i}\ta {i}-inch disk\tF" for i in range(6, 500)),
        '500\t"opened\tG',
    ]
    result = copy(written(tmp_path / "a.tsv", "\n".join(lines)), tmp_path / "out.jsonl", "skip")
    found = list(read_jsonl(tmp_path / "out.jsonl", Passage))
    assert [passage.id for passage in found] == ["2", "4", *map(str, range(6, 500))]
    assert found[0] == Passage("2", "B", "whole\nin two lines")
    assert result.problems.counts == {"not a row of tab-separated values": 4}
    assert result.problems.lines["not a row of tab-separated values"] == [2, 5, 7, 502]


def test_broken_rows_of_parquet(tmp_path: Path) -> None:
    ends, letters = np.array([0, 1, 2, 3, 4], dtype=np.int32), b"a\xffcd"
    text = pyarrow.Array.from_buffers(pyarrow.string(), 4, [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(letters)])
    parquet.write_table(pyarrow.table({"id": ["1", "2", None, "4"], "text": text}), tmp_path / "a.parquet")
    result = copy(tmp_path / "a.parquet", tmp_path / "out.jsonl", "skip")
    assert [passage.id for passage in read_jsonl(tmp_path / "out.jsonl", Passage)] == ["1", "4"]
    assert dict(result.problems.lines) == {"not in UTF-8": [2], "without the fields of a passage": [3]}


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(20_000)]
    parquet.write_table(pyarrow.table({"id": texts, "text": texts}), tmp_path / "a.parquet")
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[len(whole) // 3 : len(whole) // 3 + 2000] = b"\xaa" * 2000
    (tmp_path / "a.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=r"a\.parquet: damaged"):
        copy(tmp_path / "a.parquet", tmp_path / "out.jsonl", "skip")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "id,text", "not a format that is read; give one of .jsonl"),
        ("a.tsv", "1\tone\tA\n", "line 1: expected the names of the columns, id, text and title"),
        ("a.tsv", "", "line 1: expected the names of the columns"),
        ("a.tsv", "id\ttext\r1\tone\r", "a.tsv, line 1: not a row of tab-separated values"),
        ("a.parquet", "PAR", "damaged, or not a Parquet file"),
        ("a.jsonl", "\n", "no passages; write one JSON object per line"),
        ("a.jsonl", '{"id": "1", "text": "a", "contents": "b"}', "has both text and contents; keep one"),
        ("a.jsonl", '{"id": "1", "text": "\\ud83d"}', "line 1: not a JSON object"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        copy(written(tmp_path / name, content), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.jsonl.gz", '{"id": "1", "text": "a"}\n' * 10_000).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: damaged .*download or pack it again"):
        copy(tmp_path / "a.jsonl.gz", tmp_path / "out.jsonl", "skip")


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(30_000):
            file.write(json.dumps({"id": f"passage {i}", "text": "word " * 100}) + "\n")
    tracemalloc.start()
    copy(tmp_path / "a.jsonl", tmp_path / "out.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "a.jsonl").stat().st_size / 4


def test_a_folder_has_one_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus\.jsonl: no such file"):
        find(tmp_path)
    written(tmp_path / "corpus.tsv", "")
    assert find(tmp_path).name == "corpus.tsv"
    written(tmp_path / "corpus.jsonl", "")
    with pytest.raises(ValueError, match=r"corpus\.jsonl and corpus\.tsv are there; keep the one that counts"):
        find(tmp_path)
