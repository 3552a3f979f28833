"""Several processes behind one port or on consecutive ports, and a server that is killed while clients ask."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever, InProcessRetriever
from retrieval_server.process import serving
from tests.serving import ended, wait_until

ROOT = Path(__file__).parents[2]
TOKEN = {"Authorization": "Bearer secret"}


class Running:
    """A server started by `python -m retrieval_server`: what it logs, and its process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def said(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in list(self.lines) if (found := re.search(pattern, line))), None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        def there() -> bool:
            assert self.process.poll() is None or self.said(pattern), "".join(self.lines)
            return self.said(pattern) is not None

        wait_until(there, timeout_s=120)
        found = self.said(pattern)
        assert found is not None
        return found

    def stop(self) -> int:
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(10)
        return self.process.returncode


@contextmanager
def running(*options: str, folder: Path = ROOT) -> Iterator[Running]:
    command = [sys.executable, "-m", "retrieval_server", "--device", "cpu", "--torch-threads", "1", *options]
    environment = {**os.environ, "JOINTRAG_SERVER_TOKEN": "secret", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder)
    server = Running(process)
    try:
        yield server
    finally:
        server.stop()
        assert process.stderr is not None
        process.stderr.close()


def info(url: str) -> dict[str, object]:
    return requests.get(f"{url}/info", headers=TOKEN, timeout=20).json()


def workers(url: str, count: int) -> dict[int, dict[str, object]]:
    """What every worker says, by its pid: new connections go to any of them."""
    found: dict[int, dict[str, object]] = {}

    def all_answered() -> bool:
        with ThreadPoolExecutor(8) as pool:
            found.update({int(str(one["pid"])): one for one in pool.map(info, [url] * 16)})
        return len(found) >= count

    wait_until(all_answered, timeout_s=60)
    return found


def test_two_workers_live_die_and_reload_together(index_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(index_dir, other)
    with running("--index", str(index_dir), "--port", "0", "--workers", "2") as server:
        url = server.wait_for(r"ready: 2 workers on (\S+)")[1]
        first = workers(url, 2)
        assert len(first) == 2 and server.process.pid not in first
        query = ["Where does Ada Adler live?"]
        expected = InProcessRetriever.open(index_dir, "cpu").search(query, 5)
        client = HttpRetriever(url, cache_size=0, token="secret")
        assert client.search(query, 5) == expected

        # one is killed while clients ask; another takes its place
        dead, left = first
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(client.search, [f"Ada {i}"], 3) for i in range(100)]
            os.kill(dead, signal.SIGKILL)
            assert all(len(one.result(60)[0]) == 3 for one in asked)
        server.wait_for(r"worker \d died \(exit code -9\); starting it again")
        second: dict[int, dict[str, object]] = {}
        wait_until(lambda: bool(second.update(workers(url, 1)) or set(second) - {dead, left}), timeout_s=60)
        assert left in second

        # told to one, done by both, and by a worker that starts later
        answer = requests.post(f"{url}/v1/reload", json={"index": str(other), "wait": True}, headers=TOKEN, timeout=60)
        assert (answer.status_code, answer.json()["generation"]) == (200, 2)
        wait_until(lambda: {(one["index"], one["generation"]) for one in workers(url, 2).values()} == {(str(other), 2)})
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: {(one["index"], one["generation"]) for one in workers(url, 2).values()} == {(str(other), 3)})
        assert client.search(query, 5) == expected

        # they count together, the dead one's requests included
        counted = requests.get(f"{url}/metrics", headers=TOKEN, timeout=20).text
        (num,) = re.findall(r'retrieval_requests_total\{endpoint="/v1/search",status="200"\} (\S+)', counted)
        assert float(num) >= 90
        assert "retrieval_index_generation 3.0" in counted

        pids = set(workers(url, 2))
        assert server.stop() == 0
        assert all(ended(pid, 1) for pid in pids)
        with pytest.raises(requests.ConnectionError):
            info(url)


def test_devices_on_consecutive_ports(index_dir: Path) -> None:
    with running("--index", str(index_dir), "--port", "0", "--devices", "cpu,cpu", "--consecutive-ports") as server:
        urls = [url.rstrip(",") for url in server.wait_for(r"ready: 2 workers on (.*)")[1].split()]
        assert len(urls) == 2 and len({info(url)["pid"] for url in urls}) == 2
        assert all(len(HttpRetriever(url, token="secret").search(["Ada"], 4)[0]) == 4 for url in urls)
        pids = [int(str(info(url)["pid"])) for url in urls]
        assert server.stop() == 0
    assert all(ended(pid, 1) for pid in pids)


def test_paths_are_relative_to_where_it_was_started(index_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "index").symlink_to(index_dir)
    options = ["--index", "index", "--token-file", "token", "--port", "0", "--workers", "1"]
    with running(*options, folder=tmp_path) as server:
        url = server.wait_for(r"ready: 1 workers on (\S+)")[1]
        assert info(url)["index"] == str(index_dir)
        again = requests.post(f"{url}/v1/reload", json={"index": "index", "wait": True}, headers=TOKEN, timeout=60)
        assert again.json()["status"] == "done"


def test_killed_parent_leaves_no_worker(index_dir: Path) -> None:
    with running("--index", str(index_dir), "--port", "0", "--workers", "2") as server:
        url = server.wait_for(r"ready: 2 workers on (\S+)")[1]
        pids = workers(url, 2)
        server.process.kill()
        assert all(ended(pid) for pid in pids)
        with pytest.raises(requests.ConnectionError):
            info(url)


def test_a_server_that_cannot_start_ends_with_the_reason(tmp_path: Path) -> None:
    with running("--index", str(tmp_path), "--port", "0", "--workers", "2") as server:
        server.process.wait(120)
        assert server.stop() == 1
    assert server.said("no index.json") and server.said(r"^error: worker \d ended with exit code 1 before it was ready")


def test_it_says_503_until_it_is_ready(index_dir: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with running("--index", str(index_dir), "--port", url.rsplit(":", 1)[1]) as server:
        states: list[object] = []

        def ready() -> bool:
            try:
                health = requests.get(f"{url}/health", timeout=20)
            except requests.ConnectionError:
                return False
            assert health.status_code == (200 if health.json()["status"] == "ready" else 503)
            if not states:
                early = requests.post(f"{url}/search", json={}, headers=TOKEN, timeout=20)
                assert early.status_code in (400, 503)
            states.append(health.json()["status"])
            return states[-1] == "ready"

        wait_until(ready, timeout_s=120, every_s=0.2)  # often would slow it down
        assert states[0] == "starting"
        generation = info(url)["generation"]
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: info(url)["generation"] == 2)
        assert generation == 1
        assert server.stop() == 0


@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_under_load_and_restarted_by_its_supervisor_loses_nothing(
    index_dir: Path, tmp_path: Path, num_workers: int
) -> None:
    config = ServerConfig(workers=num_workers)
    with (
        serving(config, index=index_dir, log_path=tmp_path / "log", device="cpu", torch_threads=1) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        client = HttpRetriever(server.url, timeout_s=120, cache_size=0)
        queries = [f"Where does number {i} live?" for i in range(400)]
        asked = [pool.submit(client.search, [query], 3) for query in queries]
        wait_until(lambda: sum(one.done() for one in asked) >= 50)
        assert not all(one.done() for one in asked)
        os.kill(server.pid, signal.SIGKILL)
        found = [one.result(120)[0] for one in asked]
        assert (server.restarts, server.failed) == (1, None)
    expected = InProcessRetriever.open(index_dir, "cpu").search(queries, 3)
    for ours, theirs in zip(found, expected, strict=True):
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-5)
