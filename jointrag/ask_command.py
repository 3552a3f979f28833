"""jointrag ask: a question to a trained system, with everything its agents say on the way to the answer.

    jointrag ask "Where was the director of Solaris born?" --run spry-wren
    jointrag ask "Where was the director of Solaris born?" --checkpoint warm_start --checkpoint mappo
    jointrag ask --json < questions.txt

Without a question it reads questions from standard input, one on each line: the models are loaded once. The answers are
greedy, as in evaluation. Passages that the generator gets are marked with ✓.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jointrag import systems
from jointrag.asking import Part, System, ask

DEFAULT = ("mappo",)
_INDENT = 11  # columns for the labels on the left
_NARROWEST = 20  # columns for the texts beside them
_LINES = 2  # of a passage, unless --full


def add_to(commands: Any) -> None:
    """Adds `ask` to the subcommands of a parser."""
    parser = commands.add_parser(
        "ask",
        help="a question to a trained system",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run_command=lambda given: run(parser, given))
    parser.add_argument("question", nargs="?", help="none: questions on standard input, one a line")
    systems.add_options(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object on a line for each answer, not a text")
    parser.add_argument("--full", action="store_true", help="whole passages")


def run(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Exit codes: 0 answered, 1 not, 2 a mistake in the command, 130 interrupted."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    if given.question is not None and not given.question.strip():
        parser.error("the question is empty")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # ✓ in a terminal that has none
    try:
        opened, asked = systems.open_systems(given, DEFAULT)
        if given.question is None and sys.stdin.isatty():
            _hint(systems.example_questions(opened))
        questions = [given.question.strip()] if given.question is not None else _typed()
        num_failed = sum(not _answer(system, question, given) for question in questions for system in asked)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read it has seen enough
        sys.stderr.close()
        return 0
    return 1 if num_failed else 0


def _answer(system: System, question: str, given: argparse.Namespace) -> bool:
    """Whether there was an answer; a question that cannot be answered does not stop the next."""
    try:
        parts = ask(system, question)
        if given.json:
            *_, last = parts
            print(json.dumps(last.to_dict(), ensure_ascii=False), flush=True)
        else:
            width = shutil.get_terminal_size((120, 24)).columns
            for line in lines(system, question, parts, width, None if given.full else _LINES):
                print(line, flush=True)
    except (ValueError, ConnectionError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"error: {system.name}: {error}", file=sys.stderr)
        return False
    return True


def _typed() -> Iterator[str]:
    """The lines of standard input that are not blank."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            print("question> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _hint(examples: list[str]) -> None:
    print("Ask a question; Ctrl-D ends." + (" For example:" if examples else ""))
    for example in examples:
        print(f"  {example}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def lines(system: System, question: str, parts: Iterable[Part], width: int, max_lines: int | None) -> Iterator[str]:
    """The chain as a text of `width` columns, each part of it as soon as it is there; `max_lines` of a passage."""
    yield from _entry("question", [question], width)
    yield from _entry("answered by", [f"{system.name} ({', '.join(system.agents)})"], width)
    before_retrieval = [agent.name for agent in system.chain.before_retrieval]
    is_shown = False
    for part in parts:
        episode = part.episode
        if part.agent in before_retrieval:
            yield from _entry(part.agent, _numbered(episode.sub_questions), width)
            continue
        if not is_shown and (part.is_done or episode.selected is not None):  # it is known which are read
            yield from _passages(part, width, max_lines)
            is_shown = True
        if part.is_done:
            yield from _entry("answer", [episode.answer or "(nothing)", f"after {part.seconds:.1f} s"], width)
        elif episode.selected is None or episode.condensed is not None:
            yield from _entry(part.agent, [episode.turns[-1].response or "(nothing)"], width)
    yield ""


def _passages(part: Part, width: int, max_lines: int | None) -> Iterator[str]:
    found = part.episode.candidates
    texts = []
    for i, passage in enumerate(found):
        mark = "✓" if part.is_read(i) else " "
        texts.append(f"{mark} [{i + 1}] {passage.title + ': ' if passage.title else ''}{passage.text}")
    yield from _entry("passages", texts or ["(none found)"], width, max_lines, hang=6)
    if found and not any(part.is_read(i) for i in range(len(found))):
        yield from _entry("", ["none of them is read: the answer is what the model knows by itself"], width)


def _numbered(texts: Sequence[str]) -> list[str]:
    return [f"{i}. {text}" for i, text in enumerate(texts, 1)] if len(texts) > 1 else list(texts)


def _entry(label: str, texts: Sequence[str], width: int, max_lines: int | None = None, hang: int = 0) -> Iterator[str]:
    """The label on the left, the texts beside it, each in as many lines as it takes or `max_lines`."""
    for text in texts:
        plain = "".join(sign if sign.isprintable() else " " for sign in text)  # no escape sequences of the data's
        wrapped = textwrap.wrap(
            plain,
            max(width - _INDENT - 1, _NARROWEST),
            subsequent_indent=" " * hang,
            max_lines=max_lines,
            placeholder=" …",
        )
        for line in wrapped or [""]:
            yield f"{label:<{_INDENT}} {line}".rstrip()
            label = ""
