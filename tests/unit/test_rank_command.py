"""jointrag rank: what it reads, what it prints, and mistakes without a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from jointrag.__main__ import main
from jointrag.rank_command import read_documents, table
from jointrag.rankers import kinds
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.results import Document, Ranked, Ranking, Window

ROOT = Path(__file__).parents[2]
ROWS = (
    '{"text": "bb", "id": "b", "metadata": {"page": 1}}\n\n{"text": "dddd", "source": "web"}\n"ccc"\n{"text": null}\n'
)


class ByLength(Ranker):
    """`sign`: -1 prefers the short."""

    def __init__(self, name: str, loading: object, *, sign: int = 1) -> None:
        self.sign = sign

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [float(self.sign * len(text)) for _, text in pairs]


@pytest.fixture(autouse=True)
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.KINDS, "by_length", f"{__name__}:ByLength")


def rank(*arguments: str) -> int:
    return main(["rank", "--model", "any", "--kind", "by_length", "--query", "q", *arguments])


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))


def test_json_lines_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text(ROWS)
    assert rank(str(file), "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"rank": 1, "index": 1, "id": f"{file}:3", "score": 4.0, "text": "dddd", "metadata": {"source": "web"}},
        {"rank": 2, "index": 2, "id": f"{file}:4", "score": 3.0, "text": "ccc"},
        {"rank": 3, "index": 0, "id": "b", "score": 2.0, "text": "bb", "metadata": {"page": 1}},
        {"rank": 4, "index": 3, "id": f"{file}:5", "score": None, "text": None},
    ]


def test_a_table_of_the_best_of_several_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text('dddd\n\n{"text": 1}\n', encoding="utf-8-sig")
    Path("b.jsonl").write_text('{"text": "c\\nc\\tc", "id": "x"}\n')
    assert rank("a.txt", "b.jsonl", "--top-k", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "   score  id       text",
        '1     11  a.txt:3  {"text": 1}',
        "2      5  x        c c c",
    ]


def test_standard_input_is_json_lines_or_texts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, ROWS)
    assert rank("--top-k", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["id"] == "standard input:3"
    feed(monkeypatch, "aa\n{\n")
    assert [one.text for one in read_documents("-")] == ["aa", "{"]
    feed(monkeypatch, "")
    assert rank("-") == 0
    assert capsys.readouterr().out == "  score  id  text\n"


def test_options_of_the_kind_reach_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    feed(monkeypatch, "aaa\na\n")
    assert rank("--option", "sign=-1", "--normalize", "--json", "--top-k", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "a" and found["score"] == pytest.approx(0.2689, abs=1e-4)


@pytest.mark.parametrize(
    "rows, message",
    [
        (b'{"text": "a"}\n{"text": \n', "docs.jsonl, line 2: not JSON"),
        (b'\n{"txt": "a"}\n', 'docs.jsonl, line 2: {"txt": "a"} is neither a text nor'),
        (b"[1]\n", "docs.jsonl, line 1: [1] is neither a text nor"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "docs.jsonl, line 2: not UTF-8"),
    ],
)
def test_a_line_that_is_no_document_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: bytes, message: str
) -> None:
    (tmp_path / "docs.jsonl").write_bytes(rows)
    with pytest.raises(SystemExit) as ended:
        rank(str(tmp_path / "docs.jsonl"))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.jsonl"], "jointrag rank: error: nowhere.jsonl: no such file"),
        (["--top-k", "0"], "0 is less than 1"),
        (["--option", "sign"], "--option sign: NAME=VALUE is expected"),
        (["--option", "sing=2"], "sing"),
        (["--long-documents", "windows"], "reads documents whole"),
        (["--kind", "by_lenght"], "kind='by_lenght' is none of cross_encoder"),
    ],
)
def test_mistakes_have_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, "a\n")
    with pytest.raises(SystemExit) as ended:
        rank(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_table_shows_the_window_that_counted_and_fits_the_screen() -> None:
    window = Window(1, 2, 4, 9)
    ranking = Ranking("q", (Ranked(0, Document("one three", "id"), 1.5, 1, window),))
    assert list(table(ranking, 80))[1] == "1    1.5  id  three"
    assert list(table(ranking, 16))[1] == "1    1.5  id  t…"


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jointrag", "rank", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "standard input" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "transformers", "numpy", "pydantic"}
