"""The command `jointrag` (python -m jointrag): one word for each thing it does.

jointrag rank --model BAAI/bge-reranker-v2-m3 --query "who wrote Faust?" documents.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jointrag import rank_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jointrag", description="Train and use a whole RAG system.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rank_command.add_to(commands)
    given = parser.parse_args(arguments)
    return given.run(given)


if __name__ == "__main__":
    sys.exit(main())
