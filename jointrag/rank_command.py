"""jointrag rank: documents in a file or on standard input, best first.

    jointrag rank --model BAAI/bge-reranker-v2-m3 --query "who wrote Faust?" documents.jsonl
    grep -h Goethe *.txt | jointrag rank --model bm25 --query "who wrote Faust?" --top-k 3 --json

A .jsonl file has an object {"text", and as far as known "id", "metadata"} or a text on each line; of other files each
line is a document, and standard input is JSON lines where it begins with a brace. Blank lines are skipped. A document
without an id is named after its file and line.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jointrag.rankers.results import Document, Ranking, as_document

_STDIN = "-"


def add_to(commands: Any) -> None:
    """Adds `rank` to the subcommands of a parser."""
    parser = commands.add_parser(
        "rank", help="documents, best first", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run_command=lambda given: run(parser, given))
    parser.add_argument("files", nargs="*", default=[_STDIN], metavar="FILE", help="- or none: standard input")
    parser.add_argument("--model", required=True, help="a folder, a Hugging Face name, a server's address, or bm25")
    parser.add_argument("--query", required=True)
    parser.add_argument("--top-k", type=_positive, metavar="K", help="show the best K alone")
    parser.add_argument("--json", action="store_true", help="a JSON object on a line for each document, not a table")
    parser.add_argument("--normalize", action="store_true", help="scores between 0 and 1")
    parser.add_argument("--kind", help="of model, where its files do not say it")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the kind; repeatable")
    parser.add_argument("--long-documents", choices=("truncate", "windows"), default="truncate")
    parser.add_argument("--overlap", type=int, help="tokens that windows share (default: 80, a quarter of one at most)")
    parser.add_argument("--aggregate", choices=("max", "first", "mean", "top2"), default="max", help="of windows")
    parser.add_argument("--max-length", type=_positive, help="tokens that go through the model at once")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--dtype", help="float32, fp16 or bf16")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")


def run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)  # to stderr: what was cut
    try:
        documents = [document for file in given.files for document in read_documents(file)]
        ranking = _rank(given, documents)
    except ValueError as error:
        parser.error(str(error))
    for line in json_lines(ranking) if given.json else table(ranking, shutil.get_terminal_size((120, 24)).columns):
        print(line)
    return 0


def _rank(given: argparse.Namespace, documents: Sequence[Document]) -> Ranking:
    options = dict(_option(one) for one in given.option)
    from transformers.utils.logging import disable_progress_bar  # heavy: mistakes above cost no seconds

    from jointrag import Reranker

    disable_progress_bar()
    reranker = Reranker(
        given.model,
        given.kind,
        given.device,
        given.dtype,
        long_documents=given.long_documents,
        overlap=given.overlap,
        aggregate=given.aggregate,
        max_length=given.max_length,
        trust_remote_code=given.trust_remote_code,
        **options,
    )
    return reranker.rank(given.query, documents, given.top_k, normalize=given.normalize)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_documents(file: str) -> Iterator[Document]:
    """The documents of a file. Raises ValueError with file and line for what is none."""
    if file == _STDIN:
        yield from _documents("standard input", sys.stdin.buffer, None)
        return
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{file}: no such file")
    with path.open("rb") as lines:
        yield from _documents(file, lines, path.suffix == ".jsonl")


def _documents(name: str, lines: Iterable[bytes], is_json: bool | None) -> Iterator[Document]:
    """`is_json` None: the first line tells."""
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        where = f"{name}, line {number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None
        if is_json is None:
            is_json = line.startswith("{")
        found = _json(line, number, where) if is_json else Document(line)
        yield found if found.id is not None else Document(found.text, f"{name}:{number}", found.metadata)


def _json(line: str, number: int, where: str) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); a file of plain texts has another name than .jsonl") from None
    try:
        return as_document(row, number)
    except ValueError:
        raise ValueError(f'{where}: {line:.60} is neither a text nor {{"text": …}} (with id, metadata)') from None


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _option(text: str) -> tuple[str, Any]:
    """Raises ValueError for what is not NAME=VALUE. A value is JSON where it can be read as that, else a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option {text}: NAME=VALUE is expected")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# ---- writing ---------------------------------------------------------------------------------------------------------


def json_lines(ranking: Ranking) -> Iterator[str]:
    for one in ranking:
        yield json.dumps(one.to_dict(), ensure_ascii=False)


def table(ranking: Ranking, width: int) -> Iterator[str]:
    """Rank, score, id, and the beginning of the text, or of the window that counted."""
    rows = [("", "score", "id", "text")]
    for one in ranking:
        rows.append((str(one.rank), f"{one.score:.4g}", one.id or "", " ".join((one.passage or "").split())))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        line = f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}"
        yield (line if len(line) <= width else line[: width - 1] + "…").rstrip()
