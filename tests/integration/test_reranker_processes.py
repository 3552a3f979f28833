"""A model on several devices, here two CPU processes: the scores of one, and mistakes told as by one."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

from jointrag import Reranker
from jointrag.rankers.processes import Processes
from tests.tiny_cross_encoder import tiny_cross_encoder
from tests.word_rankers import WORDS

QUERY = "bara deso"
PAIRS = [(QUERY, " ".join(WORDS[i % 9 : i % 9 + 1 + i % 13])) for i in range(41)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("model"))


def test_two_processes_score_as_one_does(folder: Path) -> None:
    one = Reranker(str(folder), device="cpu")
    two = Reranker(str(folder), devices=["cpu", "cpu"])
    assert isinstance(two.ranker, Processes)
    (other,) = two.ranker._others
    assert two.score(PAIRS) == pytest.approx(one.score(PAIRS), abs=1e-5)
    assert two.score(PAIRS, normalize=True) == pytest.approx(one.score(PAIRS, normalize=True), abs=1e-5)
    assert two.score(PAIRS[:1]) == pytest.approx(one.score(PAIRS[:1]), abs=1e-5)  # nothing is left for the second
    long = [" ".join(WORDS * n) for n in (3, 1, 5, 2)]
    mine, theirs = (reranker.rerank(QUERY, long) for reranker in (one, two))
    assert [(row.index, row.window) for row in theirs] == [(row.index, row.window) for row in mine]

    with pytest.raises(ValueError, match="leaves 0 tokens to the document"):
        two.compute_score(PAIRS, max_length=3)
    assert two.score(PAIRS) == pytest.approx(one.score(PAIRS), abs=1e-5), "an answer to the mistake was left over"

    process = other._process
    del two, other
    gc.collect()
    assert process.returncode == 0, "a process that nobody can ask any more still runs"


def test_a_process_that_ends_is_an_error_and_no_hang(folder: Path) -> None:
    two = Reranker(str(folder), devices=["cpu", "cpu"])
    assert isinstance(two.ranker, Processes)
    os.kill(two.ranker._others[0]._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"the process on cpu has ended \(exit code -9\)"):
            two.score(PAIRS)


def test_mistakes_in_the_making(folder: Path) -> None:
    for given, message in (
        ({"model": str(folder), "devices": ["cpu"]}, "a list of two or more"),
        ({"model": str(folder), "devices": ["cpu", "cpu"], "device": "cpu"}, "give one of them"),
        ({"model": str(folder), "devices": ["cpu", "cpu"], "cutoff": 1}, "no option cutoff"),
    ):
        with pytest.raises(ValueError, match=message):
            Reranker(**given)
