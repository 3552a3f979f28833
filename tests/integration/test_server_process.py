"""The retrieval server as a process: start, kill -9, restart, stop, and the death of its parent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever, InProcessRetriever, RetrieverUnavailable
from retrieval_server.process import ServerProcess, serving
from tests.serving import ended, wait_until


def kill(server: ServerProcess) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.failed is not None or server.pid != pid)


def test_life_of_a_server(index_dir: Path, tmp_path: Path) -> None:
    """Started, killed and back at the same address without a lost query, killed for good, stopped."""
    log = tmp_path / "logs" / "server.log"
    with serving(ServerConfig(), index=index_dir, log_path=log, device="cpu", torch_threads=1) as server:
        client = HttpRetriever(server.url, timeout_s=60, cache_size=0)
        expected = InProcessRetriever.open(index_dir, "cpu").search(["Where does Ada Adler live?"], 5)
        found = client.search(["Where does Ada Adler live?"], 5)
        assert [hit.score for hit in found[0]] == pytest.approx([hit.score for hit in expected[0]], abs=1e-5)
        info = requests.get(f"{server.url}/info", timeout=10).json()
        assert (info["pid"], info["num_passages"], info["index"]) == (server.pid, 128, str(index_dir))
        assert len(info["encoder_fingerprint"]) == 64

        first_url = server.url
        with ThreadPoolExecutor(4) as pool:  # clients that ask while it dies
            os.kill(info["pid"], signal.SIGKILL)
            answers = pool.map(lambda i: client.search([f"{i} Ada"], 3), range(8))
            assert all(len(answer[0]) == 3 for answer in answers)
        assert (server.restarts, server.url, server.failed) == (1, first_url, None)
        assert requests.get(f"{server.url}/info", timeout=10).json()["pid"] == server.pid != info["pid"]

        kill(server)
        assert server.failed is not None
        assert "died twice" in server.failed
        assert str(log) in server.failed
        with pytest.raises(RetrieverUnavailable):
            HttpRetriever(server.url, timeout_s=0.2).search(["anybody there?"], 1)
        second = server.pid
    assert ended(second)
    assert log.read_text().count("ready: 128 passages") == 2


def test_stopped_at_the_end_of_the_block_even_after_an_error(index_dir: Path, tmp_path: Path) -> None:
    config, log = ServerConfig(), tmp_path / "server.log"
    pid, url = 0, ""
    with suppress(KeyboardInterrupt), serving(config, index=index_dir, log_path=log, device="cpu") as server:
        pid, url = server.pid, server.url
        raise KeyboardInterrupt
    assert ended(pid)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)
    assert server.restarts == 0


def test_failed_start_shows_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(RuntimeError, match=r"(?s)before it was ready.*server\.log.*not a finished index"):  # noqa: SIM117
        with serving(ServerConfig(), index=tmp_path, log_path=log, device="cpu"):
            pass
    assert "error:" in log.read_text()


def test_slow_start_is_given_up_and_leaves_no_process(index_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = ServerProcess(ServerConfig(startup_timeout_s=0.05), index_dir, log, "cpu", 1)
    try:
        with pytest.raises(RuntimeError, match=r"not ready within 0\.05 s \(server\.startup_timeout_s\)"):
            server.start()
    finally:
        server.stop()
    assert ended(server.pid)


def test_busy_port_is_named_at_once(index_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127\.0\.0\.1:{port} .*choose another port \(server\.port"):  # noqa: SIM117
            with serving(ServerConfig(port=port), index=index_dir, log_path=tmp_path / "log"):
                pass
    assert not (tmp_path / "log").exists()  # nothing was started


PARENT = """
import json, sys, time
from pathlib import Path
from jointrag.config import ServerConfig
from retrieval_server.process import serving
index, log = map(Path, sys.argv[1:])
with serving(ServerConfig(), index=index, log_path=log, device="cpu", torch_threads=1) as server:
    print(json.dumps([server.pid, server.url]), flush=True)
    time.sleep(600)
"""


def test_killed_parent_leaves_no_server(index_dir: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(index_dir), str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        pid, url = json.loads(parent.stdout.readline())
        assert requests.get(f"{url}/health", timeout=10).ok
    finally:
        parent.kill()
        parent.communicate()
    assert ended(pid), "the server outlived its parent"
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)


def test_command_line_serves_and_stops_on_sigterm(index_dir: Path) -> None:
    command = [sys.executable, "-m", "retrieval_server", "--index", str(index_dir), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = next(line.split()[-1] for line in process.stderr if "ready: 128 passages on" in line)
        assert len(HttpRetriever(url).search(["Ada"], 4)[0]) == 4
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_help_is_fast_and_bad_arguments_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "retrieval_server"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--batch-window-ms" in shown.stdout
    for heavy in ("torch", "transformers", "faiss", "flask", "sentence_transformers"):
        assert f"| {heavy}\n" not in shown.stderr.replace("|   ", "| ")
    failed = serve("--index", str(tmp_path), "--port", "0")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no index.json")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "65536"], "cannot listen on port 65536"),
        (["--port", "65535", "--workers", "2", "--consecutive-ports"], "cannot listen on "),
        (["--port", "0", "--workers", "0"], "--workers 0: at least one is needed"),
        (["--port", "0", "--device", "cuda:77"], "--device cuda:77: torch sees "),
        (["--port", "0", "--device", "toaster"], "--device toaster: auto, cpu, cuda or cuda:1 is expected"),
    ],
)
def test_what_cannot_be_served_is_an_error_of_one_line(index_dir: Path, arguments: list[str], message: str) -> None:
    failed = serve("--index", str(index_dir), *arguments)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert message in failed.stderr


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Ends by itself, as something is wrong with the arguments."""
    command = [sys.executable, "-m", "retrieval_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
