"""Start a deployment and follow it in the terminal: `python -m flows.watch full-pipeline/demo`.

Runs `prefect deployment run NAME --watch` and shows, instead of its list of states, the run's own log: a line per stage
with its time, progress, the table of results. Exit codes: 0 the run completed, 1 it did not, 130 interrupted (the run
goes on).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from flows.local_services import SERVICES, Services

POLL_S = 1.0
LAST_LINES_S = 2.0
OURS = ("flows", "tasks", "trainers", "retrieval_server", "evaluation", "jointrag")


def follow(flow_run_id: UUID) -> bool:
    """Print the run's log until it ends. Returns whether it completed."""
    from prefect.client.orchestration import get_client

    shown = 0
    last = ""
    ended_at_s: float | None = None
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(flow_run_id).state
            assert state is not None, "a flow run is created with a state"
            name = str(state.name)
            if name != last and not state.is_running() and not state.is_final():
                print(f"{name.lower()} …", flush=True)
            last = name
            for log in _logs(client, flow_run_id, shown):
                shown += 1
                ended_at_s = None
                if log.name.partition(".")[0] in OURS:
                    print(log.message, flush=True)
            if state.is_final():
                ended_at_s = ended_at_s or time.monotonic()
                if time.monotonic() - ended_at_s < LAST_LINES_S:  # the server may still be taking in the last lines
                    time.sleep(POLL_S / 4)
                    continue
                if not state.is_completed():
                    print(f"error: {_reason(state.message or name)}", file=sys.stderr)
                return state.is_completed()
            time.sleep(POLL_S)


def _logs(client: Any, flow_run_id: UUID, offset: int) -> Iterator[Any]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    while True:
        page = client.read_logs(only, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC)
        yield from page
        if len(page) < 200:
            return
        offset += len(page)


def _reason(message: str) -> str:
    """Prefect wraps an exception's text: `Flow run encountered an exception: StageFailed: …`."""
    message = message.removeprefix("Flow run encountered an exception: ")
    return message.removeprefix("StageFailed: ").removeprefix("ConfigError: ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.watch", description="Start a deployment and follow it.")
    parser.add_argument("deployment", help="FLOW/DEPLOYMENT, e.g. full-pipeline/demo")
    parser.add_argument("--param", action="append", default=[], help="as for `prefect deployment run`: NAME=JSON")
    given = parser.parse_args()
    _connect()
    parameters = [part for text in given.param for part in ("--param", text)]
    command = [sys.executable, "-m", "prefect", "deployment", "run", given.deployment, "--watch", *parameters]
    print(f"prefect deployment run {given.deployment} --watch", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"UUID: ([0-9a-f-]{36})", line):
                break
        else:
            print("".join(said), file=sys.stderr)
            return 1
        threading.Thread(target=process.stdout.read, daemon=True).start()  # the rest says what the log says better
        flow_run_id = UUID(found.group(1))
        try:
            completed = follow(flow_run_id)
        except KeyboardInterrupt:
            print(f"\nthe run goes on; to stop it: prefect flow-run cancel {flow_run_id}", file=sys.stderr)
            return 130
        print(f"Prefect {_page()}/runs/flow-run/{flow_run_id}")
        return 0 if completed else 1
    finally:
        process.terminate()
        process.wait()


def _page() -> str:
    """Where the Prefect pages are."""
    return os.environ.get("PREFECT_UI_URL") or os.environ["PREFECT_API_URL"].removesuffix("/api")


def _connect() -> None:
    if "PREFECT_API_URL" in os.environ:
        return
    services = Services(SERVICES)
    running = services.running()
    if not {"prefect", "mlflow", "worker"} <= set(running):
        raise SystemExit("error: the local services are not up; start them with: make up deploy")
    os.environ.update(services.environment(running["prefect"].port, running["mlflow"].port))


if __name__ == "__main__":
    sys.exit(main())
