"""The command line of benchmarks on the samples of t2ranking and musique."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

SAMPLES = Path(os.environ.get("JOINTRAG_SAMPLES", Path(__file__).parents[1] / "../shared/data"))


def parser(name: str, about: str | None, quick: str, rounds: int) -> argparse.ArgumentParser:
    """--quick (which means `quick`), --out, --samples and --rounds."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help=f"{quick}; writes no file unless --out is given")
    made.add_argument("--out", type=Path, help=f"default: {name}.json in benchmarks/results/; none with --quick")
    made.add_argument("--samples", type=Path, default=SAMPLES, help="holds t2ranking/ and musique/ (%(default)s)")
    made.add_argument("--rounds", type=int, default=rounds)
    return made


def parse(made: argparse.ArgumentParser, threads: int, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was given, with the samples there; torch takes `threads` from now on, and libraries are quiet."""
    given = made.parse_args(arguments)
    if not given.samples.is_dir():
        made.error(f"no samples in {given.samples}; give the folder that holds t2ranking/ and musique/ (--samples)")
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    return given
