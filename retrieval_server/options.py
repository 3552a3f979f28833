"""The options of `python -m retrieval_server`: every setting of ServerConfig is one, and goes on to its workers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from jointrag.config import ServerConfig
from jointrag.retrieval_client import TOKEN_VARIABLE

_SETTINGS = {  # of ServerConfig, those that are the server's own; the rest say where and how often it runs
    "num_threads": "requests handled at a time",
    "max_batch": "most queries encoded together",
    "max_batch_characters": "most characters of the queries encoded together",
    "batch_window_ms": "how long the first query of a batch waits for company",
    "cache_size": "passages kept in answers to queries asked before",
    "answer_cache_bytes": "whole answers kept for requests that come again",
    "max_queued_queries": "queries that may wait; more are refused with 503",
    "max_queries_per_request": "most queries (or texts to rerank) of a request",
    "max_query_characters": "longest query",
    "max_k": "most passages per query",
    "max_body_bytes": "largest request",
    "stop_timeout_s": "how long requests under way may take after SIGTERM",
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    defaults = ServerConfig()
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_server",
        description="Serve an index over HTTP. SIGHUP opens its folder again and swaps it in; SIGTERM finishes what is "
        "under way.",
    )
    parser.add_argument("--index", type=Path, required=True, help="an index folder, as the index stage writes it")
    parser.add_argument("--reranker", help="a model folder or name that puts the passages found in order")
    parser.add_argument("--reranker-kind", help="what it is, where its files do not say it")
    parser.add_argument("--reranker-length", type=int, help="most tokens that it reads of query and passage")
    parser.add_argument("--num-retrieved", type=int, default=50, help="passages it puts in order (%(default)s)")
    parser.add_argument("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes behind the port (default: one per --devices, or one)")
    parser.add_argument("--devices", default="", help="the workers' devices, with commas: cuda:0,cuda:1")
    parser.add_argument("--consecutive-ports", action="store_true", help="each worker has its own port, from --port on")
    parser.add_argument(
        "--torch-threads", type=int, help="CPU threads of each worker (default: its share of the cores)"
    )
    parser.add_argument("--token-file", type=Path, help="holds the token that clients have to send")
    parser.add_argument(
        "--token-variable",
        default=TOKEN_VARIABLE,
        help="environment variable with the token, where there is no file; not set: none is needed (%(default)s)",
    )
    for name, text in _SETTINGS.items():
        default = getattr(defaults, name)
        parser.add_argument(_option(name), type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin, a pipe, is closed")
    parser.add_argument("--fd", type=int, help="listen on this inherited, bound socket instead of --host and --port")
    parser.add_argument("--shared-state", type=Path, help=argparse.SUPPRESS)  # of a worker: see workers.py
    return parser.parse_args(argv)


def config_of(args: argparse.Namespace) -> ServerConfig:
    """Raises ValueError for settings that are out of range."""
    try:
        return ServerConfig.model_validate({name: getattr(args, name) for name in _SETTINGS})
    except ValidationError as error:
        raise ValueError(
            "; ".join(f"{_option(str(one['loc'][0]))}: {one['msg']}" if one["loc"] else one["msg"]
                      for one in error.errors())
        ) from None  # fmt: skip


def settings(config: ServerConfig) -> Iterator[str]:
    """The settings again as options."""
    for name in _SETTINGS:
        yield from (_option(name), str(getattr(config, name)))


def worker_command(args: argparse.Namespace, device: str, torch_threads: int | None) -> list[str]:
    """The options of a worker like this server, what it listens on and the index aside."""
    given = {
        "--reranker": args.reranker,
        "--reranker-kind": args.reranker_kind,
        "--reranker-length": args.reranker_length,
        "--num-retrieved": args.num_retrieved,
        "--device": device,
        "--torch-threads": torch_threads,
        "--token-file": args.token_file,
        "--token-variable": args.token_variable,
    }
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return [*options, *settings(config_of(args))]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
