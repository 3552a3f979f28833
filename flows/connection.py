"""Which servers a flow started from the command line talks to: the local services where they are up, or its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from flows.local_services import SERVICES, Services
from flows.temporary_server import temporary_server


@contextmanager
def connected(folder: Path = SERVICES) -> Iterator[Literal["given", "kept", "temporary"]]:
    """Point Prefect and MLflow at servers, before they are imported.

    "given": PREFECT_API_URL was set. "kept": the local services are up. "temporary": neither; a Prefect server runs
    until the block ends, and MLflow is used only if MLFLOW_TRACKING_URI or tracking.mlflow_uri says where.
    """
    services = Services(folder)
    # our own handler prints the progress; Prefect's engine would print every line a second time
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if "PREFECT_API_URL" in os.environ:
        yield "given"
        return
    running = services.running()
    if {"prefect", "mlflow"} <= set(running):
        _set(services.environment(running["prefect"].port, running["mlflow"].port))
        yield "kept"
        return
    with temporary_server(services) as environment:
        _set(environment)
        yield "temporary"


def _set(environment: dict[str, str]) -> None:
    for name, value in environment.items():
        os.environ.setdefault(name, value)
