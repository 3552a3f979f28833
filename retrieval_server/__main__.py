"""Serve an index over HTTP: `python -m retrieval_server --index models/index --port 8000`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from jointrag.config import ServerConfig
from retrieval_server.address import bind, cannot_listen

logger = logging.getLogger("retrieval_server")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    defaults = ServerConfig()
    parser = argparse.ArgumentParser(prog="python -m retrieval_server", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="an index folder, as the index stage writes it")
    parser.add_argument("--reranker", help="a model folder or name that puts the passages found in order")
    parser.add_argument("--reranker-kind", help="what it is, where its files do not say it")
    parser.add_argument("--reranker-length", type=int, help="most tokens that it reads of query and passage")
    parser.add_argument("--num-retrieved", type=int, default=50, help="passages it puts in order (%(default)s)")
    parser.add_argument("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--num-threads", type=int, default=defaults.num_threads, help="requests handled at a time")
    parser.add_argument("--max-batch", type=int, default=defaults.max_batch, help="most queries encoded together")
    parser.add_argument(
        "--batch-window-ms",
        type=float,
        default=defaults.batch_window_ms,
        help="how long the first query of a batch waits for company (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: %(default)s)")
    parser.add_argument("--torch-threads", type=int, help="CPU threads for encoding and searching (default: torch's)")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin, a pipe, is closed")
    parser.add_argument("--fd", type=int, help="listen on this inherited, bound socket instead of --host and --port")
    return parser.parse_args(argv)


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
        serve(args)
    except ValueError as error:
        sys.exit(f"error: {error}")


def serve(args: argparse.Namespace) -> None:
    """Load, then listen: whoever can connect gets answers."""
    bound = socket.socket(fileno=args.fd) if args.fd is not None else bind(args.host, args.port)
    import faiss
    import torch
    from waitress.server import create_server

    from jointrag.retrieval import InProcessRetriever, RerankingRetriever, Retriever
    from retrieval_server.app import create_app
    from retrieval_server.batching import Batcher

    if args.torch_threads:
        torch.set_num_threads(args.torch_threads)
        faiss.omp_set_num_threads(args.torch_threads)
    found = InProcessRetriever.open(args.index, args.device, args.max_batch)
    info = asdict(found.index.info)
    retriever: Retriever = found
    if args.reranker is not None:
        from jointrag import Reranker

        reranker = Reranker(args.reranker, args.reranker_kind, args.device, max_length=args.reranker_length)
        retriever = RerankingRetriever(found, reranker, args.num_retrieved)
        info |= {"reranker": args.reranker, "num_retrieved": args.num_retrieved}
    retriever.search(["warm up"], 1)
    batcher = Batcher(retriever, args.max_batch, args.batch_window_ms)
    app = create_app(batcher, {**info, "index": str(args.index.resolve()), "pid": os.getpid()})

    host, port = bound.getsockname()[:2]
    try:
        server = create_server(app, sockets=[bound], threads=args.num_threads, connection_limit=1000, backlog=1024)
    except OSError as error:  # somebody else began to listen while the model was loading
        raise cannot_listen(host, port, error) from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logger.info("ready: %d passages on http://%s:%d", info["num_passages"], host, port)
    server.run()  # returns on SIGTERM and ctrl-c, with the handlers finished
    batcher.close()


if __name__ == "__main__":
    main()
