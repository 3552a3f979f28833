"""The command line of a trainer that is run by itself: settings of one section, and where its data is.

    raise SystemExit(main("trainers.negatives", __doc__, NegativesConfig, _arguments, _run))

Imports little, so that --help and mistakes are answered at once. Exit codes: 0 done, 1 failed, 2 a mistake in the
command or the settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from jointrag.jsonl import in_plain_words
from jointrag.presets import ConfigError, parse_overrides
from jointrag.section import Section

S = TypeVar("S", bound=Section)


def main(
    module: str,
    description: str | None,
    section: type[S],
    arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[S, argparse.Namespace], dict[str, float]],
    implied: Callable[[argparse.Namespace], list[str]] = lambda options: [],
    given: Sequence[str] | None = None,
) -> int:
    """Parse, run, print the metrics that `run` returns; returns the exit code. `module` is what is run; `arguments`
    adds what is no setting, and `implied` says which settings follow from it."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=(description or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change a setting; the value is YAML"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--list-settings", action=_ListSettings, section=section, help="print every setting and stop")
    options = parser.parse_args(given)
    try:
        config = settings(section, [*implied(options), *options.set])
    except ConfigError as error:
        return _complain(error, 2)
    _show_progress()
    try:
        metrics = run(config, options)
    except (ValueError, OSError) as error:  # a mistake in the data, a place that cannot be written
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    for name, value in metrics.items():
        print(f"{name:<36} {value:,.4g}" if value % 1 else f"{name:<36} {value:,.0f}")
    return 0


def settings(section: type[S], overrides: Sequence[str]) -> S:
    """The section with `overrides` such as "num_negatives=15". Raises ConfigError naming the setting."""
    try:
        return section.model_validate(parse_overrides(overrides))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown setting {where}; there are {', '.join(section.settings())}") from None
        is_ours = first["type"] == "value_error"
        message = first["msg"].removeprefix("Value error, ") if is_ours else in_plain_words(first)
        raise ConfigError(f"{where} {message}".strip()) from None


class _ListSettings(argparse.Action):
    def __init__(self, section: type[Section], **keywords: object) -> None:
        super().__init__(nargs=0, **keywords)  # type: ignore[arg-type]
        self.section = section

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for name, field in self.section.settings().items():
            print(f"{name:<24} {field.default!r:<16} {' '.join((field.description or '').split())}".rstrip())
        parser.exit()


def _show_progress() -> None:
    """Our own log lines, as they are, on the console."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("trainers", "jointrag"):
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(handler)


def _complain(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
