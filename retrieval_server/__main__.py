"""Serve an index over HTTP: `python -m retrieval_server --index models/index --port 8000`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_server import state as shared_state
from retrieval_server import workers
from retrieval_server.address import bind, cannot_listen
from retrieval_server.options import config_of, parse

if TYPE_CHECKING:
    from jointrag.reranker import Reranker
    from jointrag.retrieval import Retriever
    from retrieval_server.service import Service

logger = logging.getLogger("retrieval_server")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.exit_with_parent:
        from jointrag.parent import exit_with_parent

        exit_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("sentence_transformers", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # waiting for a thread is no news when a batch is full
    try:
        if args.workers is not None or args.devices:
            workers.supervise(args)
        else:
            serve(args)
    except ValueError as error:
        sys.exit(f"error: {error}")


def serve(args: argparse.Namespace) -> None:
    """Until SIGTERM. With --fd it listens once it is ready: until then connections wait in the socket's queue, or are
    answered by the workers that share it. By itself it listens at once, and says 503 until it is ready."""
    config, token = config_of(args), _token(args)
    if args.torch_threads:
        os.environ["OMP_NUM_THREADS"] = str(args.torch_threads)  # Faiss, in whatever thread it is called
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing is under way yet
    bound = socket.socket(fileno=args.fd) if args.fd is not None else bind(args.host, args.port)
    host, port = bound.getsockname()[:2]

    from jointrag.devices import check_device
    from retrieval_server.app import create_app
    from retrieval_server.listening import Listener, on_stop_signals
    from retrieval_server.service import Service

    service = Service(
        config, lambda path: _open(args, path, service), (lambda: _reranker(args)) if args.reranker else None
    )
    failed: list[Exception] = []

    def load() -> None:
        check_device(args.device)
        path, generation = shared_state.read(args.shared_state) if args.shared_state else (args.index.resolve(), 1)
        num_passages = service.load(path, generation).info["num_passages"]
        logger.info("ready: %d passages on http://%s:%d", num_passages, host, port)

    def load_or_stop() -> None:
        try:
            load()
        except Exception as error:
            failed.append(error)
            listener.stop()

    if args.fd is not None:
        load()
    try:
        listener = Listener(create_app(service, token), bound, config)
    except OSError as error:  # somebody else began to listen meanwhile
        raise cannot_listen(host, port, error) from None

    on_stop_signals(service.stop, listener.stop)
    _reload_on_hangup(service, args.shared_state)
    if args.shared_state:
        shared_state.mark_ready(args.shared_state)
    loading = threading.Thread(target=load_or_stop, name="load", daemon=True)
    if args.fd is None:
        loading.start()
    listener.run()
    if failed:
        raise failed[0]
    logger.info("stopped")
    if listener.dropped or loading.is_alive():
        logging.shutdown()
        os._exit(0)  # a thread inside torch does not survive the end of the interpreter
    service.close()


def _open(args: argparse.Namespace, path: Path, service: Service) -> tuple[Retriever, Mapping[str, object]]:
    import torch

    from jointrag.retrieval import InProcessRetriever, RerankingRetriever

    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
    found = InProcessRetriever.open(path, args.device, args.max_batch)
    info = asdict(found.index.info)
    del info["files"]  # a row for each shard
    if service.reranker is None:
        return found, info
    retriever = RerankingRetriever(found, service.reranker, args.num_retrieved)
    return retriever, info | {"reranker": args.reranker, "num_retrieved": args.num_retrieved}


def _reranker(args: argparse.Namespace) -> Reranker:
    from jointrag import Reranker

    return Reranker(args.reranker, args.reranker_kind, args.device, max_length=args.reranker_length)


def _reload_on_hangup(service: Service, state: Path | None) -> None:
    """SIGHUP: a worker does what the others do, a server by itself opens its index again."""

    def reload() -> None:
        if state is not None:
            service.follow(*shared_state.read(state))
        elif service.state == "ready":
            service.follow(service.served.path, service.served.generation + 1)

    if state is not None:
        service.on_reloaded = lambda served: shared_state.share(state, served.path, served.generation)
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload, name="hangup", daemon=True).start())


def _token(args: argparse.Namespace) -> str | None:
    if args.token_file is None:
        return os.environ.get(args.token_variable) or None
    try:
        token = args.token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"{args.token_file}: {error.strerror}; --token-file holds the token clients send") from None
    if not token:
        raise ValueError(f"{args.token_file} is empty; --token-file holds the token clients send")
    return token


if __name__ == "__main__":
    main()
