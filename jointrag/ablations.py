"""Ablation tables: which settings change from row to row. One YAML file each, in configs/ablations/ or the user's own.

    ablation = load("agents")
    ablation.overrides("selector + generator", {"mappo.num_steps": 50}, seed=1)

A file's first comment line says what is compared. Below it, every row has a name and the settings in which it differs
from the preset, as for `--set`. The first row is the full system: the others are compared with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jointrag.presets import CONFIGS, ConfigError, describe, parse_overrides
from jointrag.section import Section
from jointrag.tracking import flatten

FOLDER = CONFIGS / "ablations"
ASIDE: dict[str, Any] = {"control.enabled": False, "evaluation.baselines": [], "evaluation.attribution": False}


class Ablation(Section):
    """One table before it is filled in."""

    name: str
    about: str
    """What is compared, in a sentence."""
    variants: dict[str, dict[str, Any]]
    """Per row its name and the settings that differ from the preset, by dotted name."""
    full: str
    """The row that the others are compared with: the file's first."""

    def overrides(self, variant: str, given: dict[str, Any], seed: int) -> dict[str, Any]:
        """The settings of one training: what the caller `given` changes everywhere, then what this row changes.

        The control and what is evaluated beside warm start and MAPPO are left out unless asked for: they are no part
        of the table, and the control alone takes as long as MAPPO.
        """
        row = dict(flatten(parse_overrides(self.variants[variant])))
        return parse_overrides(ASIDE | parse_overrides(given) | row | {"seed": seed})


def tables() -> dict[str, Path]:
    """Every shipped ablation by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load(table: str) -> Ablation:
    """The ablation of that name, or in that file. Raises ConfigError."""
    path = tables().get(table, Path(table))
    if not path.is_file():
        raise ConfigError(f"no ablation {table!r}: name one of {', '.join(tables())}, or a YAML file of your own")
    try:
        rows = {
            str(name): settings or {} for name, settings in yaml.safe_load(path.read_text(encoding="utf-8")).items()
        }
        ablation = Ablation(name=path.stem, about=describe(path), variants=rows, full=next(iter(rows), ""))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (AttributeError, ValidationError):
        raise ConfigError(f"{path}: every line names a row: `name: {{mappo.num_steps: 50}}`, or `name: {{}}`") from None
    if len(ablation.variants) < 2:
        raise ConfigError(f"{path}: one row is no comparison; the first is the full system, the others follow it")
    slugs = [slug(name) for name in ablation.variants]
    if twice := [name for name, short in zip(ablation.variants, slugs, strict=True) if slugs.count(short) > 1]:
        raise ConfigError(f"{path}: {twice[0]!r} and {twice[1]!r} differ in no letter or digit; rename one")
    return ablation


def slug(name: str) -> str:
    """A row's name as part of a file's or a metric's: "selector + generator" → "selector-generator"."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")
