"""An ablation: the whole pipeline once per row and seed, and one table that says what each part contributes.

python -m flows.ablation --preset demo --table agents --seeds 0 1 2
python -m flows.ablation --preset single-gpu --table my-rows.yaml --set mappo.num_steps=100

Tables: agents, trained, penalties, kl, advantages (configs/ablations/), or a file of your own of the same form. Rows
share every stage that their settings leave alone; finished stages of an earlier run, failed or not, are taken over.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.ablation:ablation", __doc__))

import logging
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows import full_pipeline
from flows.opening import Preset, StageName, opened
from jointrag import artifacts
from jointrag.ablations import Ablation, load, slug
from jointrag.preflight import preflight
from jointrag.presets import ConfigError, resolve
from tasks.ablation import make_table, publish_table
from tasks.publish import publish
from tasks.run import StageFailed

logger = logging.getLogger(__name__)
CHAIN = ("ablation",)


@flow(name="ablation")
def ablation(
    table: str,
    preset: Preset = "demo",
    seeds: list[int] | None = None,
    overrides: dict[str, Any] | None = None,
    force: list[StageName] | None = None,
) -> str:
    """Train and evaluate every row of a table with every seed (default: 0). Returns the path of the table's page.

    overrides: settings that differ from the preset in all rows. force: stages to do again in all rows.
    A row that fails does not keep the others from being trained; the table is made when all are.
    """
    rows, seeds = load(table), seeds or [0]
    trainings = _trainings(rows, preset, seeds, overrides or {})
    with opened(preset, overrides, None, CHAIN, name=f"ablation-{rows.name}-{preset}") as run:
        evaluations, failed = {}, []
        for number, (variant, seed, settings) in enumerate(trainings, 1):
            logger.info("── %d/%d: %s, seed %d", number, len(trainings), variant, seed)
            name = f"{flow_run.name}-{slug(variant)}-seed-{seed}"
            state = training.with_options(flow_run_name=name)(preset, settings, force, return_state=True)
            if state.is_completed():
                evaluations[f"{variant}.{seed}"] = artifacts.read(Path(state.result()))
            elif state.is_failed():
                failed.append(f"{variant}, seed {seed}: {state.result(raise_on_failure=False)}")
                logger.error("%s", failed[-1])
            else:  # cancelled or crashed: so is all of it
                state.result()
        if failed:
            what = "\n".join(failed)
            raise StageFailed(f"{len(failed)} of {len(trainings)} trainings failed; the others are kept\n{what}")
        return publish_table(run, make_table(run, rows, evaluations))


@flow(name="ablation-training")
def training(preset: Preset, overrides: dict[str, Any], force: list[StageName] | None = None) -> str:
    """One row with one seed. Returns the path of its evaluation."""
    with opened(preset, overrides, force, full_pipeline.CHAIN) as run:
        evaluation, report = full_pipeline.trained_and_evaluated(run)
        publish(run, evaluation, report)
        return str(evaluation.path)


def _trainings(
    rows: Ablation, preset: str, seeds: list[int], overrides: dict[str, Any]
) -> list[tuple[str, int, dict[str, Any]]]:
    """(row, seed, settings) in the order of training. Raises ConfigError before anything runs if one is impossible."""
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds names one twice: {' '.join(map(str, seeds))}")
    trainings = [(name, seed, rows.overrides(name, overrides, seed)) for seed in seeds for name in rows.variants]
    for name, _, settings in trainings[: len(rows.variants)]:
        try:
            preflight(resolve(preset, settings))
        except ConfigError as error:
            raise ConfigError(f"row {name!r} of table {rows.name}: {error}") from None
    return trainings
