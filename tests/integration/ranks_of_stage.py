"""Stage functions that several processes share, for tests; and one such stage as a program of its own."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from jointrag.tracking import NoTracker, Tracker
from tasks.call import Call, execute

logger = logging.getLogger("trainers.test")


def fine(*, out: Path, tracker: Tracker) -> dict[str, float]:
    import torch

    from trainers.parallel import Team

    team = Team.join()
    logger.info("for all to read")
    ranks = team.gather([(team.rank, os.environ["OMP_NUM_THREADS"], torch.get_num_threads())])
    assert ranks == [(0, "1", 1), (1, "1", 1)], ranks
    assert isinstance(tracker, NoTracker) == (team.rank == 1)
    if team.is_first:
        (out / "file").touch()
    return {"rank": float(team.rank)}


def team(*, out: Path, tracker: Tracker) -> dict[str, float]:
    from trainers.parallel import Team

    team = Team.join()
    return {"size": float(team.size), "sharded": float(team.sharded)}


def second_fails(*, out: Path, tracker: Tracker) -> dict[str, float]:
    from trainers.parallel import Team

    team = Team.join()
    if team.rank == 1:
        raise ValueError("the second process has no questions; give it some")
    team.wait()
    return {}


def second_is_killed(*, out: Path, tracker: Tracker) -> dict[str, float]:
    from trainers.parallel import Team

    team = Team.join()
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    team.wait()
    return {}


def hangs(*, out: Path, tracker: Tracker) -> dict[str, float]:
    print("pids", os.getpid(), os.getppid(), flush=True)
    time.sleep(600)
    return {}


def run(name: str, folder: Path, accelerate_config: Path | None = None) -> dict[str, float]:
    call = Call(
        function=f"tests.integration.ranks_of_stage:{name}",
        sections={},
        values={},
        takes_tracker=True,
        num_threads=None,
        own_process=True,
        num_processes=2,
        accelerate_config=accelerate_config,
        failed=lambda: None,
    )
    uri = "http://127.0.0.1:9"  # nothing is recorded, so nobody has to answer
    (folder / "out").mkdir()
    return execute(call, {}, stage="mappo", out=folder / "out", folder=folder, tracking_uri=uri, tracking_id="run")


if __name__ == "__main__":  # python -m tests.integration.ranks_of_stage NAME FOLDER
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    run(sys.argv[1], Path(sys.argv[2]))
