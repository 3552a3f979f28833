"""jointrag serve: a trained system on a web page and over HTTP.

    jointrag serve --run spry-wren                       # http://127.0.0.1:8100, joint training and warm start
    jointrag serve --checkpoint mappo --port 9000        # one model alone
    jointrag serve --checkpoint mappo --checkpoint mine=models/mappo/KEY

POST /ask answers with the whole chain; /v1/chat/completions takes the requests of OpenAI's clients, a checkpoint's name
is the model. Ctrl-C finishes what is under way and stops. There is no password: to listen beyond this machine, put a
proxy that asks for one in front.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from typing import Any

from jointrag import systems

DEFAULT = ("mappo", "warm_start")
_SERVER = "answer server"
_SPARE_THREADS = 4  # for the page, and for refusing


def add_to(commands: Any) -> None:
    """Adds `serve` to the subcommands of a parser."""
    parser = commands.add_parser(
        "serve",
        help="a trained system on a web page and over HTTP",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run_command=run)
    systems.add_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8100, help="0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="of a web page whose scripts may ask: https://chat.example.org, '*' for any; repeatable (default: none)",
    )
    parser.add_argument(
        "--max-waiting",
        type=systems.positive,
        default=16,
        metavar="N",
        help="requests that wait for a model; more are refused with 503 (default: %(default)s)",
    )
    for name, default, text in (
        ("max-query-characters", 4000, "longest question"),
        ("max-body-bytes", 4 * 2**20, "largest request"),
        ("stop-timeout-s", 10, "how long requests under way may take after Ctrl-C"),
    ):
        parser.add_argument(
            f"--{name}", type=systems.positive, default=default, metavar="N", help=f"{text} (default: %(default)s)"
        )


def run(given: argparse.Namespace) -> int:
    """Exit codes: 0 stopped, 2 a mistake in the command, 130 interrupted before it was ready."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a request that waits for a thread is no news
    try:
        _serve(given)
    except (ValueError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _serve(given: argparse.Namespace) -> None:
    try:
        import flask
        import waitress
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'jointrag[server]'") from None
    assert flask and waitress
    from retrieval_server.address import bind, cannot_listen

    with bind(given.host, given.port, _SERVER) as bound:  # a port that is taken costs no model's loading
        host, port = bound.getsockname()[:2]
        listening, asked = systems.open_systems(given, DEFAULT)

        from answer_server.app import create_app
        from answer_server.service import Description, Service
        from jointrag.asking import ask
        from jointrag.config import ServerConfig
        from retrieval_server.listening import Listener, on_stop_signals

        examples = systems.example_questions(listening)
        for system in asked:  # what cannot work is found now, and the first question finds all loaded
            list(ask(system, examples[0] if examples else "Is everything there?"))
        config = ServerConfig(
            num_threads=len(asked) * (given.max_waiting + 1) + _SPARE_THREADS,
            max_queries_per_request=1,
            max_queued_queries=len(asked) * given.max_waiting + _SPARE_THREADS,
            max_query_characters=given.max_query_characters,
            max_body_bytes=given.max_body_bytes,
            stop_timeout_s=given.stop_timeout_s,
        )
        service = Service(asked, config, Description(listening.name, examples), given.max_waiting)
        try:
            listener = Listener(create_app(service, given.allow_origin), bound, config)
        except OSError as error:  # somebody else began to listen meanwhile
            raise cannot_listen(host, port, error, _SERVER) from None
        on_stop_signals(service.stop, listener.stop)
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        names = ", ".join(system.name for system in asked)
        print(f"{listening.name} ({names}) answers on {where}; Ctrl-C stops it", flush=True)
        listener.run()
        print("stopped", flush=True)
        if listener.dropped:
            os._exit(0)  # a thread inside torch does not survive the end of the interpreter


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin: http://HOST:PORT or https://HOST, and nothing behind it"
        )
    return text


def _port(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return value
