"""Minutes of load: no error, and no more memory than in the beginning."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from jointrag.config import ServerConfig
from retrieval_server.process import serving
from tests.tiny_retrievers import sentences

SECONDS = float(os.environ.get("JOINTRAG_LOAD_SECONDS", "180"))
CLIENTS = 16


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


@pytest.mark.slow
def test_three_minutes_of_load(index_dir: Path, tmp_path: Path) -> None:
    """Fresh queries and ones asked before, of all lengths, one or many at a time, by each of the ways to ask."""
    stop = threading.Event()
    texts = sentences(5_000, seed=0)

    def ask(number: int) -> int:
        rng, session, count = random.Random(number), requests.Session(), 0
        while not stop.is_set():
            queries = [
                rng.choice(texts) + (f" {rng.random()}" if rng.random() < 0.7 else "")
                for _ in range(rng.choice((1, 1, 1, 2, 10, 100)))
            ]
            k = rng.choice((1, 5, 5, 5, 50))
            path, body = rng.choice(
                [
                    ("/v1/search", {"queries": queries, "k": k}),
                    ("/search", {"questions": queries, "N": k}),
                    ("/retrieve", {"queries": queries, "topk": k, "return_scores": True}),
                ]
            )
            answer = session.post(f"{server.url}{path}", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
            value = answer.json()
            rows = value if path == "/search" else next(iter(value.values()))
            assert len(rows) == len(queries)
            count += 1
        return count

    config = ServerConfig(cache_size=5_000, answer_cache_bytes=4 * 2**20)  # full within seconds
    with (
        serving(config, index=index_dir, log_path=tmp_path / "log", device="cpu", torch_threads=1) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        try:
            clients = [pool.submit(ask, i) for i in range(CLIENTS)]
            memory: list[float] = []
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                assert not any(one.done() for one in clients), [one.result() for one in clients if one.done()]
                memory.append(resident_mib(server.pid))
                time.sleep(1)
        finally:
            stop.set()
        num_requests = sum(one.result(60) for one in clients)
        assert server.restarts == 0
    third = len(memory) // 3
    early, late = max(memory[third : 2 * third]), max(memory[2 * third :])
    print(f"{num_requests} requests in {SECONDS:g} s; memory {early:.0f} MiB, later {late:.0f} MiB")
    assert num_requests > 10 * SECONDS
    assert late < early + 15, memory
    assert "ERROR" not in (tmp_path / "log").read_text()
