"""The command line that all flows share: `python -m flows.full_pipeline --preset demo --set mappo.num_steps=50`.

Imports little, so that --help and mistakes are answered at once. Exit codes: 0 done, 1 failed, 2 a mistake in the
command or the settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jointrag import presets
from jointrag.ablations import load, tables
from jointrag.preflight import preflight

OVERRIDES = """\
settings:
  --set section.setting=value changes one setting of the preset, as often as you like. Values are YAML:
    --set mappo.num_steps=50 --set seed=1 --set agents.chain=[selector,generator]
    --set dataset.name=files --set dataset.path=data/my-corpus
  --list-settings prints all of them with their values in the preset.

A stage whose settings and inputs are unchanged is not run again; --force STAGE does it again all the same.
With `make up` the run is recorded in the local Prefect and MLflow; without, it runs on its own.
"""


def main(flow: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """Run the flow `module:name` as the command line says. Returns the exit code."""
    parser = _parser(flow, (description or "").strip())
    given = parser.parse_args(arguments)
    overrides: dict[str, Any] = {}
    try:
        overrides = presets.parse_overrides(given.set)
        config = presets.resolve(given.preset, overrides)
        if given.list_settings:
            _list_settings(config.model_dump(mode="json"))
            return 0
        preflight(config)
        if "table" in given:
            load(given.table)
        datasets = _datasets(parser, given.dataset) if "dataset" in given else {}
    except presets.ConfigError as error:
        return _complain(error, 2)
    parameters: dict[str, Any] = {"preset": given.preset, "overrides": overrides, "force": given.force}
    if "checkpoint" in given:
        parameters["checkpoints"] = _checkpoints(parser, given.checkpoint)
        parameters["datasets"] = datasets
    if "table" in given:
        parameters |= {"table": given.table, "seeds": given.seeds}
    _show_progress()
    return _run(flow, parameters)


def _run(flow: str, parameters: dict[str, Any]) -> int:
    from flows.connection import connected
    from flows.local_services import ServiceError

    try:
        with connected() as server:
            from prefect.settings import PREFECT_UI_URL  # reads the environment that `connected` has set

            from tasks.call import StageFailed
            from tasks.logs import deliver

            module, _, name = flow.partition(":")
            try:
                state = getattr(import_module(module), name)(**parameters, return_state=True)
            finally:
                deliver()
            if server == "kept":
                run_id = state.state_details.flow_run_id
                print(f"Prefect {PREFECT_UI_URL.value()}/runs/flow-run/{run_id}", file=sys.stderr)
            if state.is_completed():
                return 0
            error = state.result(raise_on_failure=False)
            if isinstance(error, StageFailed | ValueError):
                return _complain(error, 2 if isinstance(error, presets.ConfigError) else 1)
            if isinstance(error, BaseException):
                raise error
            return _complain(f"the run ended as {state.name}: {state.message}", 1)
    except (OSError, ServiceError) as error:  # a place that cannot be written, a server that cannot start
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser(flow: str, description: str) -> argparse.ArgumentParser:
    known = presets.presets()
    listing = f"presets:\n{_listing(known)}"
    if flow.endswith(":ablation"):
        listing = f"tables:\n{_listing(tables())}\n\n{listing}"
    parser = argparse.ArgumentParser(
        prog=f"python -m {flow.partition(':')[0]}",
        description=description,
        epilog=f"{listing}\n\n{OVERRIDES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="demo", metavar="NAME", help="a file in configs/ (default: demo)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="change a setting, see below")
    parser.add_argument(
        "--force", action="append", default=[], metavar="STAGE", choices=STAGES, help="do a stage again"
    )
    parser.add_argument("--list-settings", action="store_true", help="print every setting and stop")
    if flow.endswith(":evaluate_rag"):
        parser.add_argument(
            "--checkpoint",
            action="append",
            default=[],
            metavar="NAME=WHERE",
            help="a finished stage output, e.g. after=models/mappo/KEY, or a served model: big=http://HOST:8000/v1#MODEL",
        )
        parser.add_argument(
            "--dataset",
            action="append",
            default=[],
            metavar="NAME[:A.B=VALUE]",
            help="one of several datasets to evaluate on, with a setting in which it differs from the others "
            "(NAME:preset=PRESET: with the dataset and the retrieval of another preset)",
        )
    if flow.endswith(":ablation"):
        parser.add_argument("--table", required=True, metavar="NAME", help="what to compare, see below")
        parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each row once with each (default: 0)")
    return parser


def _listing(files: dict[str, Path]) -> str:
    width = max(map(len, files))
    return "\n".join(f"  {name:<{width}}  {presets.describe(path)}" for name, path in files.items())


STAGES = (
    "prepare",
    "start_retriever",
    "preferences",
    "retriever",
    "index",
    "negatives",
    "late_interaction",
    "reranker",
    "agent_data",
    "warm_start",
    "mappo",
    "control",
    "evaluate",
    "report",
)


def _checkpoints(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, str]:
    if not given:
        parser.error("--checkpoint NAME=WHERE is needed at least once")
    pairs = [text.partition("=") for text in given]
    for name, equals, folder in pairs:
        if not (name and equals and folder):
            parser.error(f"--checkpoint {name}{equals}{folder} is not of the form NAME=WHERE")
    names = [name for name, _, _ in pairs]
    if repeated := {name for name in names if names.count(name) > 1}:
        parser.error(f"--checkpoint {min(repeated)}=… is given more than once")
    return {name: folder for name, _, folder in pairs}


def _datasets(parser: argparse.ArgumentParser, given: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, colon, setting = text.partition(":")
        own = found.setdefault(name, {})
        if colon:
            key, equals, value = setting.partition("=")
            if not (name and equals):
                parser.error(f"--dataset {text} is not of the form NAME or NAME:SETTING=VALUE")
            own |= {"preset": value} if key == "preset" else {key: presets.parse_value(key, value)}
    return found


def _list_settings(values: dict[str, Any]) -> None:
    from jointrag.tracking import flatten

    now = dict(flatten(values))
    for path, field in presets.settings():
        value = repr(now[path]) if path in now else "–"
        print(f"{path:<44} {value:<28} {' '.join((field.description or '').split())}".rstrip())


def _show_progress() -> None:
    """Our own log lines, as they are, on the console."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("flows", "tasks", "trainers", "retrieval_server", "evaluation", "jointrag"):
        log = logging.getLogger(name)
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(handler)


def _complain(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
