"""The command `jointrag` (python -m jointrag): one word for each thing it does.

jointrag ask "who wrote Faust?" --run NAME
jointrag serve --run NAME
jointrag rank --model BAAI/bge-reranker-v2-m3 --query "who wrote Faust?" documents.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# The server is a room of its own, above this one: it is named here, not imported, so that the rooms stay in order.
COMMANDS = ("jointrag.ask_command", "answer_server.command", "jointrag.rank_command")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jointrag", description="Train and use a whole RAG system.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        import_module(module).add_to(commands)
    given = parser.parse_args(arguments)
    return given.run_command(given)


if __name__ == "__main__":
    sys.exit(main())
