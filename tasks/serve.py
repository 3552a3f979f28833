"""The retrieval server as a step of a flow: started when a stage first needs it, stopped when the block ends."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from prefect import Task
from prefect.cache_policies import NO_CACHE

from jointrag.artifacts import Artifact
from retrieval_server.process import ServerProcess, serving
from tasks.run import Run


class RetrievalServer:
    """`with RetrievalServer(run, index) as server:` and hand `server` to the stages that retrieve."""

    def __init__(self, run: Run, index: Artifact) -> None:
        self.index = index
        self._run = run
        self._stack = ExitStack()
        self._process: ServerProcess | None = None

    def __enter__(self) -> RetrievalServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._process is None and error is None:
            self._run.say("serve", "not needed: everything that would ask it is finished")

    def start(self) -> str:
        """Its address; the first call starts it, as a Prefect task of its own."""
        if self._process is None:
            task = Task(
                fn=self._start, name="serve", task_run_name="serve", cache_policy=NO_CACHE, persist_result=False
            )
            start = time.monotonic()
            url = task(index=self.index)
            self._run.say("serve", f"{time.monotonic() - start:.1f} s, at {url}")
            self._run.records.append(
                {"stage": "serve", "seconds": time.monotonic() - start, "cached": False, "metrics": {}}
            )
        assert self._process is not None
        return self._process.url

    def failed(self) -> str | None:
        return self._process.failed if self._process else None

    def _start(self, index: Artifact) -> str:
        runtime = self._run.config.runtime
        self._process = self._stack.enter_context(
            serving(
                self._run.config.server,
                index=index.path,
                log_path=self._run.folder / "retrieval_server.log",
                device=runtime.device,
                torch_threads=runtime.num_threads,
            )
        )
        return self._process.url
