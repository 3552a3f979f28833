"""The retrieval server as a step of a flow: started when a stage first needs it, stopped when the block ends."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from prefect import Task
from prefect.cache_policies import NO_CACHE

from jointrag.artifacts import Artifact
from retrieval_server.process import Reranking, ServerProcess, serving
from tasks.run import Run


class RetrievalServer:
    """`with RetrievalServer(run, index) as server:` and hand `server` to the stages that retrieve."""

    def __init__(self, run: Run, index: Artifact, reranker: Artifact | None = None) -> None:
        """`reranker`: as stages.chain_reranker gives it."""
        self.inputs = {"index": index} | ({"reranker": reranker} if reranker else {})
        self._run = run
        self._stack = ExitStack()
        self._processes: list[ServerProcess] = []

    def __enter__(self) -> RetrievalServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if not self._processes and error is None:
            self._run.say("serve", "not needed: everything that would ask it is finished")

    def start(self) -> str:
        """Its address, or with commas those of all replicas; the first call starts them, as a Prefect task of its
        own."""
        if not self._processes:
            task = Task(
                fn=self._start, name="serve", task_run_name="serve", cache_policy=NO_CACHE, persist_result=False
            )
            start = time.monotonic()
            url = task(**self.inputs)
            self._run.say("serve", f"{time.monotonic() - start:.1f} s, at {url}")
            self._run.records.append(
                {"stage": "serve", "seconds": time.monotonic() - start, "cached": False, "metrics": {}}
            )
        return self._url

    def failed(self) -> str | None:
        return next((process.failed for process in self._processes if process.failed), None)

    @property
    def _url(self) -> str:
        return ",".join(process.url for process in self._processes)

    def _start(self, index: Artifact, reranker: Artifact | None = None) -> str:
        runtime, config = self._run.config.runtime, self._run.config.server
        reranking = self._reranking(reranker) if reranker else None
        self._processes = [
            self._stack.enter_context(
                serving(
                    config.model_copy(update={"port": config.port + i if config.port else 0}),
                    index=index.path,
                    log_path=self._run.folder / f"retrieval_server{f'-{i + 1}' if i else ''}.log",
                    device=runtime.device,
                    torch_threads=runtime.num_threads,
                    reranking=reranking,
                )
            )
            for i in range(config.replicas)
        ]
        return self._url

    def _reranking(self, reranker: Artifact) -> Reranking:
        config, use = self._run.config.reranker, self._run.config.reranking
        assert config is not None
        model = str(reranker.path / "model") if config.train else config.model
        return Reranking(model, use.kind, use.max_length, use.num_retrieved)
