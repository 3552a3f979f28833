"""Corpora that are downloaded: interrupted, gone on from, unpacked; against a server on this machine."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jointrag.datasets import downloads

CONTENT = bytes(range(256)) * 20_000


@dataclass
class Store:
    """Serves `content`, from where it is asked to; hangs up after `most` bytes."""

    content: bytes = CONTENT
    most: int | None = None
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def store() -> Iterator[Store]:
    told = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"] if told.ranges else None
            told.asked.append(self.headers["Range"])
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if self.path != "/wiki.bin":
                self.send_error(404)
            elif start >= len(told.content):
                self.send_error(416)
            else:
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(told.content) - start))
                self.end_headers()
                self.wfile.write(told.content[start:][: told.most])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/wiki.bin"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_gone_on_from(store: Store, tmp_path: Path, ranges: bool) -> None:
    out = tmp_path / "corpora" / "wiki.bin"
    store.most, store.ranges = 2_000_000, ranges
    with pytest.raises(ValueError, match=r"wiki\.bin cannot be downloaded .*run it again to go on, or put the file"):
        downloads.fetch(store.url, out)
    assert not out.exists()
    store.most = None
    assert downloads.fetch(store.url, out).read_bytes() == CONTENT
    assert store.asked[0] is None
    assert store.asked[1] is not None
    assert [path.name for path in out.parent.iterdir()] == ["wiki.bin"]
    assert downloads.fetch(store.url, out) == out
    assert len(store.asked) == 2


def test_all_of_it_was_there(store: Store, tmp_path: Path) -> None:
    (tmp_path / "wiki.bin.part").write_bytes(CONTENT)
    assert downloads.fetch(store.url, tmp_path / "wiki.bin").read_bytes() == CONTENT


def test_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="404"):
        downloads.fetch(store.url + "x", tmp_path / "wiki.bin")
    assert not list(tmp_path.iterdir())


def test_an_archive_is_unpacked_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as packed:
        packed.writestr("folder/wiki.jsonl", '{"id": "0", "contents": "a"}\n')
    store.content = (tmp_path / "made.zip").read_bytes()
    monkeypatch.setitem(downloads.CORPORA, "wiki18", store.url + "?name=/wiki.zip")
    monkeypatch.setattr(downloads, "fetch", lambda url, out, fetch=downloads.fetch: fetch(store.url, out))
    found = downloads.corpus_file("wiki18", tmp_path)
    assert found == tmp_path / "corpora" / "wiki.jsonl"
    assert found.read_text() == '{"id": "0", "contents": "a"}\n'
    assert downloads.corpus_file("wiki18", tmp_path) == found
    assert len(store.asked) == 1
    found.unlink()
    (tmp_path / "corpora" / "wiki.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"wiki\.zip: damaged"):
        downloads.corpus_file("wiki18", tmp_path)
