"""Our log lines in the log of the Prefect run they belong to."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler, APILogWorker

PACKAGES = ("flows", "tasks", "trainers", "retrieval_server", "evaluation", "jointrag")


class _RunHandler(APILogHandler):
    """Prefect's handler, for lines that are said inside a run; others have no run to go to."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(FlowRunContext.get() or TaskRunContext.get())


def send_to_prefect() -> None:
    """From now on, what our packages log at INFO or above shows in the Prefect run."""
    for name in PACKAGES:
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        if not any(isinstance(handler, _RunHandler) for handler in log.handlers):
            log.addHandler(_RunHandler())


def deliver_logs() -> None:
    """Send the lines that are still waiting: before a run's end, so that who follows it sees them all."""
    APILogWorker.drain_all(timeout=10, at_exit=False)


def deliver() -> None:
    """Send what is still waiting to the Prefect server, before that goes away."""
    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)
