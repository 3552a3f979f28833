"""Training files of retrieval models: formats, complaints, counts, the store on disk."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.retrieval import first_pass, json_file, store
from trainers.retrieval.records import Record, Records, open_records, write_records

PAIR = {"query": "q", "pos": ["p"]}
TRIPLET = {"query": "q", "pos": ["p"], "neg": ["n"]}


def write(path: Path, *rows: Any) -> Path:
    """One line per row: bytes as they are, anything else as JSON."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def opened(folder: Path, *rows: Any, **options: Any) -> Records:
    return open_records(write(folder / "train.jsonl", *rows), cache=folder / "cache", **options)


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, format_, record",
    [
        ({"query": "q", "pos": ["a", "b"]}, "pairs", Record("q", ("a", "b"))),
        ({"query": "q", "pos": "a", "neg": "n"}, "triplets", Record("q", ("a",), ("n",))),
        ({"query": "q", "pos": ["a"], "neg": []}, "triplets", Record("q", ("a",))),
        ({"query": "q", "pos": ["a", "b"], "scores": [0.8, 0.2]}, "scored", Record("q", ("a", "b"), (), (0.8, 0.2))),
        ({"query": "q", "pos": ["a", "b"], "pos_scores": [3, 0]}, "graded", Record("q", ("a", "b"), (), (3.0, 0.0))),
        ({"query": "q", "pos": "a", "pos_scores": 2}, "graded", Record("q", ("a",), (), (2.0,))),
        (
            {"query": "q", "pos": ["a"], "neg": ["n"], "pos_scores": [2]},
            "graded",
            Record("q", ("a",), ("n",), (2.0,)),
        ),
        (
            {"query": "q", "pos": ["a"], "neg": ["n", "m"], "pos_scores": [9.5], "neg_scores": [-1, 2e-3]},
            "flagembedding",
            Record("q", ("a",), ("n", "m"), (9.5,), (-1.0, 0.002)),
        ),
        (
            {"query": "q", "pos": ["a"], "neg": ["n"], "pos_scores": None, "neg_scores": None, "prompt": None},
            "triplets",
            Record("q", ("a",), ("n",)),
        ),
        ({"query": "问", "pos": ["答"], "prompt_for_query": "查询："}, "pairs", Record("查询：问", ("答",))),
        ({"query": "q", "pos": ["a"], "prompt": "Find: ", "type": "normal"}, "pairs", Record("Find: q", ("a",))),
        ({"query": "q", "pos": ["a"], "prompt": "x ", "prompt_for_query": "x "}, "pairs", Record("x q", ("a",))),
        ({"query": " q\u2028", "pos": ["\ta\x00\n"]}, "pairs", Record(" q\u2028", ("\ta\x00\n",))),
        ({"query": "q", "pos": ["\U0001f600"]}, "pairs", Record("q", ("\U0001f600",))),
    ],
)
def test_every_format_is_told_by_its_fields(tmp_path: Path, row: dict[str, Any], format_: str, record: Record) -> None:
    records = opened(tmp_path, row)
    assert records.format == format_
    assert list(records) == [records[0]] == [records[-1]] == [record]


def test_escaped_and_marked_files_read_the_same(tmp_path: Path) -> None:
    row = {"query": "问", "pos": ["\U0001f600 é"]}
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\r\n  \n" + json.dumps(row).encode())
    assert list(open_records(path, cache=tmp_path / "cache")) == [Record("问", ("\U0001f600 é",))] * 2


def test_prompt_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"query": "what?", "pos": ["p"], "prompt": "Find passages."}, {"query": "who?", "pos": ["p"]}
    with caplog.at_level(logging.WARNING):
        assert [record.query for record in opened(tmp_path, *rows)] == ["Find passages.what?", "who?"]
    assert "a prompt runs into its query ('Find passages.what?')" in caplog.text
    caplog.clear()
    records = opened(tmp_path, *rows, prompt_format="Instruct: {prompt}\nQuery: {query}")
    assert [record.query for record in records] == ["Instruct: Find passages.\nQuery: what?", "who?"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.query for record in opened(tmp_path, *rows, prompt_format="{query}")] == ["what?", "who?"]
    for wrong in ("{}{}", "{prompt}", "{prompt}{query}{x}", "{prompt[0]}{query", ""):
        with pytest.raises(ValueError, match=r"has to be like '\{prompt\}\{query\}'"):
            opened(tmp_path, *rows, prompt_format=wrong)


# ---- complaints ------------------------------------------------------------------------------------------------------

BAD_LINES = [
    (b"{broken", 'not JSON .*one object per line, like {"query"'),
    (b'{"query": "q", "pos": ["p"]} {"query": "q"}', "not JSON .*Extra data"),
    (b"query,pos", "not JSON"),
    (b"{", "spreads an object over lines.*jq -c"),
    (b'[{"query": "q", "pos": ["p"]}]', "a list where an object is expected.*jq -c"),
    (b'["q", "p"]', "a list where an object is expected"),
    (b'"text"', "the text 'text' where an object"),
    (b"null", "null where an object"),
    (b"[" * 200_000, "lists in lists without end"),
    ('{"query": "中", "pos": ["国"]}'.encode("gb18030"), "not UTF-8 .byte 0xd6 at position 11.*iconv -f gb18030"),
    (b'{"query": "caf\xe9", "pos": ["p"]}', "not UTF-8 .byte 0xe9"),
    (b'{"query": "q", "pos": ["\xed\xa0\x80"]}', "not UTF-8"),
    (b'{"query": "q", "pos": ["p \\ud83d"]}', r"half a surrogate pair, .ud83d, is no character .*write the file again"),
    (b'{"query": "\\udc00q", "pos": ["p"]}', "half a surrogate pair"),
    (b'{"query": "q", "pos": ["a"], "pos": ["b"]}', "'pos' is there twice"),
    ({"pos": ["p"]}, 'no field "query" among "pos"'),
    ({"query": "q"}, 'no field "pos" among "query"'),
    ({}, r"no field .query. among \(none\)"),
    ({"query": "q", "pos": None}, 'no field "pos"'),
    ({"question": "q", "pos": ["p"]}, "'question' is not known; call it 'query'"),
    ({"query": "q", "positive": ["p"]}, "'positive' is not known; call it 'pos'"),
    ({"query": "q", "pos": ["p"], "Negs": ["n"]}, "'Negs' is not known; call it 'neg'"),
    ({"query": "q", "pos": ["p"], "negatives": ["n"]}, "call it 'neg'"),
    ({"query": "q", "pos": ["p"], "score": [1]}, "call it 'scores'"),
    ({"query": "q", "pos": "p", "label": 1}, "call it 'pos_scores'"),
    ({"text": "t"}, '"text" lines are for a teacher\'s vectors'),
    ({"query": "  \u3000", "pos": ["p"]}, "the query is empty"),
    ({"query": 7, "pos": ["p"]}, '"query" is the number 7 where a text is expected; put it in quotes'),
    ({"query": ["q"], "pos": ["p"]}, '"query" is a list where a text is expected; join'),
    ({"query": "q", "pos": []}, '"pos" is empty'),
    ({"query": "q", "pos": 3.5}, '"pos" is the number 3.5; give a text in quotes, or a list'),
    ({"query": "q", "pos": ["p", 5]}, 'text 2 of "pos" is the number 5 where a text is expected'),
    ({"query": "q", "pos": [True]}, 'text 1 of "pos" is true'),
    ({"query": "q", "pos": [None]}, 'text 1 of "pos" is null where a text is expected; take it out'),
    ({"query": "q", "pos": [{"title": "t", "text": "x"}]}, 'text 1 of "pos" is an object .*join its parts'),
    ({"query": "q", "pos": [["p"]]}, 'text 1 of "pos" is a list'),
    ({"query": "q", "pos": ["p"], "neg": {"n": 1}}, '"neg" is an object'),
    ({"query": "q", "pos": ["p"], "prompt": 3}, '"prompt" is the number 3'),
    ({"query": "q", "pos": ["p"], "prompt": "a", "prompt_for_query": "b"}, '"prompt" and "prompt_for_query" differ'),
    ({"query": "q", "pos": ["p", "r"], "scores": [1]}, '2 texts in "pos" but 1 in "scores"; give one score per text'),
    ({"query": "q", "pos": ["p"], "scores": []}, '1 texts in "pos" but 0 in "scores"'),
    ({"query": "q", "pos": ["p"], "scores": ["0.5"]}, "score 1 of \"scores\" is the text '0.5' where a number"),
    ({"query": "q", "pos": ["p"], "scores": [None]}, 'score 1 of "scores" is null'),
    ({"query": "q", "pos": ["p"], "scores": [True]}, 'score 1 of "scores" is true'),
    (b'{"query": "q", "pos": ["p", "r"], "scores": [1, NaN]}', 'score 2 of "scores" is not a finite number'),
    (b'{"query": "q", "pos": ["p"], "scores": [-Infinity]}', "not a finite number"),
    (b'{"query": "q", "pos": ["p"], "scores": [1e999]}', "not a finite number"),
    (b'{"query": "q", "pos": ["p"], "scores": [' + b"9" * 5000 + b"]}", "not a finite number"),
    (
        {"query": "q", "pos": ["p"], "scores": [1], "pos_scores": [1]},
        '"scores" and "pos_scores": .*keep one of the two',
    ),
    ({"query": "q", "pos": ["p"], "neg": ["n"], "scores": [1]}, '"scores" and "neg": .*call them "pos_scores"'),
    ({"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": [1]}, '"neg_scores" without "pos_scores"'),
    ({"query": "q", "pos": ["p"], "pos_scores": [1], "neg_scores": [1]}, '"neg_scores" without "neg"'),
    (
        {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1], "neg_scores": [1]},
        '2 texts in "neg" but 1 in "neg_scores"',
    ),
]


@pytest.mark.parametrize("bad, message", BAD_LINES)
def test_bad_line_is_named_before_training(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.jsonl, line 4: .*{message}") as raised:
        opened(tmp_path, PAIR, b"", PAIR, bad, PAIR)
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_mixed_formats_name_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train.jsonl, line 3: it has query, pos, neg, and line 1 has query, pos;"):
        opened(tmp_path, PAIR, PAIR, TRIPLET)
    one, two = write(tmp_path / "one.jsonl", b"", TRIPLET), write(tmp_path / "two.jsonl", PAIR)
    with pytest.raises(ValueError, match=r"two.jsonl, line 1: it has query, pos, and \S+one.jsonl, line 2 has"):
        open_records([one, two], cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"\n \n\r\n", "holds blank lines alone"),
        (b"\x1f\x8b\x08\x00", "is compressed .gzip.; unpack it"),
        (b"PK\x03\x04....", "is a zip archive"),
        (b"PAR1....", "is a Parquet file"),
        ('{"query": "q"}\n'.encode("utf-16"), "is UTF-16; convert it"),
        (b'{"query": "q", "pos": ["p"]}\n{"query": "q", "po', "line 2: not JSON .*the file ends within a line"),
        (b'{"query": "q", "pos": [" "]}\n', "all 1 lines have empty texts alone"),
        (b'{\n  "query": "q"\n}\n', "line 1: .*spreads an object over lines"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"train\.jsonl.*{message}"):
        open_records(tmp_path / "train.jsonl", cache=tmp_path / "cache")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.jsonl", PAIR)
    os.mkfifo(tmp_path / "pipe")
    path = write(tmp_path / "a.jsonl", PAIR)
    for given, message in (
        (tmp_path / "none.jsonl", "none.jsonl: no such file"),
        (tmp_path / "folder", r"is a folder; give the files in it \(a.jsonl\)"),
        (tmp_path / "pipe", "is no plain file"),
        ([], "no training file"),
        ([path, path], "is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            open_records(given, cache=tmp_path / "cache")


def test_file_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "_LONGEST", 100)
    with pytest.raises(ValueError, match="line 2: longer than 100 bytes"):
        opened(tmp_path, PAIR, {"query": "q", "pos": ["p" * 100]})


def test_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'line 2: no field "neg", and this training needs negatives'):
        opened(tmp_path, b"", PAIR, needs=frozenset({"neg"}))
    with pytest.raises(ValueError, match=r'line 1: none of the fields "scores" and "pos_scores"'):
        opened(tmp_path, TRIPLET, needs=frozenset({"neg", "scores"}))
    opened(tmp_path, TRIPLET, needs=frozenset({"neg"}))
    opened(tmp_path, {"query": "q", "pos": ["p"], "scores": [1]}, needs=frozenset({"scores"}))


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (
        {"query": "q", "pos": ["a", " ", "b", "a "], "neg": ["n", "", "b", "n", "m"], "id": 3, "pos_id": [1]},
        {"query": "Q ", "pos": ["a"], "neg": ["n"], "id": 4},  # the same question, and (question, a) again
        {"query": "other", "pos": ["", "\n"], "neg": ["n"]},
        {"query": "third", "pos": ["a"], "neg": []},
    )
    with caplog.at_level(logging.INFO):
        records = opened(tmp_path, *rows)
    assert list(records) == [Record("q", ("a", "b"), ("n", "m")), Record("Q ", ("a",), ("n",)), Record("third", ("a",))]
    report = records.report
    assert (report.lines, report.records, report.questions) == (4, 3, 2)
    assert (report.positives, report.negatives, report.fewest_negatives) == (4, 3, 0)
    assert (report.duplicates, report.empty_texts, report.repeated_texts) == (1, 4, 2)
    assert (report.contradictions, report.without_positives) == (1, 1)
    assert report.ignored_fields == ("id", "pos_id")
    assert [records.where(i).rpartition(", ")[2] for i in range(3)] == ["line 1", "line 2", "line 4"]
    assert records.num_positives.tolist() == [2, 1, 1] and records.num_negatives.tolist() == [2, 1, 0]
    (line,) = [record.getMessage() for record in caplog.records if "triplets: " in record.getMessage()]
    for words in ("3 records of 2 questions", "1 duplicates", "4 empty texts", "fields not used: id, pos_id"):
        assert words in line


def test_scores_stay_with_their_texts(tmp_path: Path) -> None:
    row = {"query": "q", "pos": ["", "a"], "neg": ["n", "a", "m"], "pos_scores": [9, 8], "neg_scores": [7, 6, 5]}
    records = opened(tmp_path, row)
    assert records[0] == Record("q", ("a",), ("n", "m"), (8.0,), (7.0, 5.0))
    assert (records.report.lowest_score, records.report.highest_score) == (5.0, 8.0)


def test_labels_that_are_texts_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(tmp_path, TRIPLET | {"type": "symmetric_class"})
    assert "type symmetric_class" in caplog.text


@pytest.mark.parametrize("at_once", [1, 7, 64, 10_000])
def test_distinct_hashes_in_parts(at_once: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 300, dtype=np.uint64)
    assert first_pass._distinct(np.concatenate([hashes, hashes[:50]]), at_once) == 300


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_select_and_slices(tmp_path: Path) -> None:
    records = opened(tmp_path, *({"query": str(i), "pos": [f"p{i}"]} for i in range(10)))
    part = records.select([7, 2, 2]).select(np.array([0, 2]))
    assert [record.query for record in part] == ["7", "2"] == [part[0].query, part[1].query]
    assert part.where(0).endswith("line 8") and len(part) == 2
    assert [record.query for record in records[8:]] == ["8", "9"]
    assert [record.query for record in records[::-4]] == ["9", "5", "1"]
    for index in (10, -11):
        with pytest.raises(IndexError):
            records[index]


def test_a_question_is_never_on_both_sides(tmp_path: Path) -> None:
    rows = [{"query": f"Question {i % 50}" + " " * (i // 50), "pos": [f"p{i}"]} for i in range(150)]
    records = opened(tmp_path, *rows)
    train, held_out = records.split(0.3, seed=1)
    ours, theirs = ({record.query.strip() for record in part} for part in (train, held_out))
    assert not ours & theirs and len(theirs) == 15 and len(ours) == 35
    assert len(train) + len(held_out) == 150 and len(held_out) == 45
    again = records.split(0.3, seed=1)
    other = records.split(0.3, seed=2)
    assert list(again[1]) == list(held_out) != list(other[1])
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="give a share between 0 and 1"):
            records.split(share, seed=0)
    assert len(records.split(1e-9, seed=0)[1]) == 3  # at least one question
    with pytest.raises(ValueError, match="one question alone"):
        records.select([0]).split(0.5, seed=0)


# ---- the store -------------------------------------------------------------------------------------------------------


def test_second_run_finds_the_first_ones_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path, TRIPLET, TRIPLET)
    passes: list[Sequence[Path]] = []

    def counted(paths: Sequence[Path], *arguments: Any, **options: Any) -> Any:
        passes.append(paths)
        return first_pass.check_and_store(paths, *arguments, **options)

    monkeypatch.setattr(store, "check_and_store", counted)
    again = opened(tmp_path, TRIPLET, TRIPLET)
    assert not passes and list(again) == list(first) and again.report == first.report
    opened(tmp_path, TRIPLET)
    assert len(passes) == 1  # other content
    opened(tmp_path, TRIPLET, prompt_format="{prompt} {query}")
    assert len(passes) == 2
    for name in ("rows.arrow", "index.bin", "texts.bin", "report.json"):  # damaged
        (file,) = (tmp_path / "cache").glob(f"{first._store.folder.name}/{name}")
        file.write_bytes(file.read_bytes()[:-1])
        assert list(opened(tmp_path, TRIPLET, TRIPLET)) == list(first)
    assert len(passes) == 6


def test_one_reads_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.jsonl", *({"query": f"q{i}", "pos": ["p"]} for i in range(500)))
    passes: list[Sequence[Path]] = []

    def counted(paths: Sequence[Path], *arguments: Any, **options: Any) -> Any:
        passes.append(paths)
        return first_pass.check_and_store(paths, *arguments, **options)

    monkeypatch.setattr(store, "check_and_store", counted)
    with ThreadPoolExecutor(4) as pool:
        opened_by_all = list(pool.map(lambda _: open_records(path, cache=tmp_path / "cache"), range(4)))
    assert len(passes) == 1
    assert all(list(records) == list(opened_by_all[0]) for records in opened_by_all)


def test_batches_of_the_pass_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_pass, "_BATCH_ROWS", 7)
    monkeypatch.setattr(json_file, "_BLOCK", 200)
    rows = [
        {"query": f"q{i}", "pos": [f"p{i}"] * (i % 3 + 1), "neg": [f"n{j}" for j in range(i % 5)]} for i in range(50)
    ]
    records = opened(tmp_path, *rows)
    expected = [Record(f"q{i}", (f"p{i}",), tuple(f"n{j}" for j in range(i % 5))) for i in range(50)]
    assert list(records) == expected == [records[i] for i in range(50)]
    assert records.report.repeated_texts == sum(i % 3 for i in range(50))


def test_several_files_are_one_set(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", PAIR | {"query": name}, PAIR) for name in "ab"]
    records = open_records(paths, cache=tmp_path / "cache")
    assert [record.query for record in records] == ["a", "q", "b", "q"]
    assert records.where(2) == f"{paths[1]}, line 1" and records.report.duplicates == 1


def test_pickles_as_its_folder(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": ["p" * 1000 + str(i)]} for i in range(100)]
    records = opened(tmp_path, *rows).select(np.arange(50))
    content = pickle.dumps(records)
    assert len(content) < 5_000 and list(pickle.loads(content)) == list(records)


def test_killed_first_pass_leaves_nothing_half(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", *({"query": f"q{i}", "pos": ["p"]} for i in range(20)))
    cache = tmp_path / "cache"
    code = f"""
import os, signal
from pathlib import Path
from trainers.retrieval import first_pass
from trainers.retrieval.records import open_records
first_pass._BATCH_ROWS = 5
flush = first_pass._Writer.flush
def once(writer):
    flush(writer)
    os.kill(os.getpid(), signal.SIGKILL)
first_pass._Writer.flush = once
open_records(Path({str(path)!r}), cache=Path({str(cache)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [file.suffix for file in sorted(cache.iterdir())] == [".lock", ".partial"]
    assert len(open_records(path, cache=cache)) == 20
    assert not list(cache.glob(".*.partial"))


def test_file_that_grows_while_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(paths: Sequence[Path], *arguments: Any, **options: Any) -> Any:
        report = first_pass.check_and_store(paths, *arguments, **options)
        with paths[0].open("ab") as file:
            file.write(b"{}\n")
        return report

    monkeypatch.setattr(store, "check_and_store", growing)
    with pytest.raises(ValueError, match=r"train.jsonl changed while being read"):
        opened(tmp_path, PAIR)


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format_, records",
    [
        ("pairs", [Record("q", ("a", "b")), Record("é", ("x\ny",))]),
        ("triplets", [Record("q", ("a",), ("n",)), Record("r", ("a",))]),
        ("scored", [Record("q", ("a", "b"), (), (0.1, 1 / 3))]),
        ("flagembedding", [Record("q", ("a",), ("n",), (1.0,), (0.5,)), Record("q", ("a",), (), (1.0,))]),
    ],
)
def test_written_records_come_back(tmp_path: Path, format_: str, records: list[Record]) -> None:
    path = tmp_path / "new" / "train.jsonl"
    assert write_records(path, iter(records)) == len(records)
    back = open_records(path, cache=tmp_path / "cache")
    assert back.format == format_ and list(back) == records


def test_graded_records_come_back_as_such(tmp_path: Path) -> None:
    records = [Record("q", ("a", "b"), (), (2.0, 0.0))]
    write_records(tmp_path / "train.jsonl", records, format="graded")
    back = open_records(tmp_path / "train.jsonl", cache=tmp_path / "cache")
    assert back.format == "graded" and list(back) == records


@pytest.mark.parametrize(
    "records",
    [
        [Record("q", ("a",)), Record("q", ("a",), ("n",))],
        [Record("q", ("a",)), Record("q", ("a",), (), (1.0,))],
        [Record("q", ("a",), (), (1.0,)), Record("q", ("a",))],
        [Record("q", ("a",), ("n",), (1.0,), (0.0,)), Record("q", ("a",), ("n",), (1.0,))],
    ],
)
def test_records_that_would_lose_something_are_not_written(tmp_path: Path, records: list[Record]) -> None:
    with pytest.raises(ValueError, match="line 2: a record that does not fit the format"):
        write_records(tmp_path / "train.jsonl", records)
    assert not (tmp_path / "train.jsonl").exists()


# ---- real files ------------------------------------------------------------------------------------------------------

SAMPLES = Path(os.environ.get("JOINTRAG_SAMPLES") or Path(__file__).parents[2] / "../shared/data")


@pytest.mark.parametrize(
    "name, format_, lines, texts",
    [
        ("flagembedding/msmarco.jsonl", "flagembedding", 10, 260),
        ("flagembedding/nq.jsonl", "flagembedding", 10, 989),
        ("flagembedding/reranker.jsonl", "flagembedding", 10, 260),
        ("t2ranking/lmsft.jsonl", "scored", 2, 4),
        ("t2ranking/t2rank_100.distill.standard.jsonl", "graded", 100, 2005),
        ("t2ranking/t2rank_100.jsonl", "triplets", 100, 2005),
        ("t2ranking/t2rank_100.small.jsonl", "triplets", 11, 226),
    ],
)
def test_real_samples(tmp_path: Path, name: str, format_: str, lines: int, texts: int) -> None:
    if not (SAMPLES / name).is_file():
        pytest.skip(f"no sample {name}")
    records = open_records(SAMPLES / name, cache=tmp_path / "cache")
    report = records.report
    assert (records.format, report.lines, len(records)) == (format_, lines, lines)
    left_out = report.empty_texts + report.repeated_texts + report.contradictions
    assert report.positives + report.negatives + left_out == texts
    rows = [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]
    for row, record in zip(rows, records, strict=True):
        assert record.query == row.get("prompt", "") + row["query"]
        given = dict(zip(row["pos"], row.get("pos_scores", row.get("scores", [])), strict=False))
        if given:
            assert record.positive_scores == tuple(given[text] for text in record.positives)
        assert list(record.positives) == list(dict.fromkeys(row["pos"]))
        assert list(record.negatives) == [t for t in dict.fromkeys(row.get("neg", [])) if t not in row["pos"]]
    assert re.match(rf"{format_}: {lines} records", str(report))
