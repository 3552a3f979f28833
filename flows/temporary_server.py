"""A Prefect server that lives as long as the flow that needs it, also when that is killed.

Prefect would start one by itself, but leave it running after kill -9.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from flows.local_services import HOST, START_S, ServiceError, Services, answers


@contextmanager
def temporary_server(services: Services) -> Iterator[dict[str, str]]:
    """Start one on a free port; yields the environment that points at it. Its records stay in the services' folder."""
    services.folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    environment = services.quiet() | {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    log_path = services.folder / "temporary_server.log"
    process = None
    try:
        with FileLock(services.folder / "lock"), log_path.open("ab") as log:  # one sets up the database, not two
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.temporary_server", HOST, str(port)],
                env=environment | os.environ,
                stdin=subprocess.PIPE,  # kept open as long as we live; see jointrag.parent
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            deadline = time.monotonic() + START_S
            while not answers(f"{environment['PREFECT_API_URL']}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServiceError(f"no Prefect server could be started; see {log_path}")
                time.sleep(0.1)
        yield environment
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


def main(host: str, port: int) -> None:
    from jointrag.parent import exit_with_parent

    exit_with_parent()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
