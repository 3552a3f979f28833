"""The command line that all GPU benchmarks share, and how fast devices could be."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import record
from benchmarks.record import Case

RESULTS = Path(__file__).parents[1] / "results" / "gpu"
# dense bfloat16, from the makers' data sheets, in FLOP/s; the first name that is part of the device's counts
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}

Measure = Callable[[str, bool], tuple[list[Case], str]]  # device, quick: all cases, and notes on them


def run(name: str, about: str | None, measure: Measure) -> int:
    """Parse the command line, measure, print the table and write results/gpu/`name`.json; returns the exit status."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu takes a tiny shape and proves nothing but that it runs")
    parser.add_argument("--quick", action="store_true", help="less of it; writes no file unless --out is given")
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results/gpu/; none with --quick or on a CPU")
    given = parser.parse_args()
    on_gpu = given.device != "cpu"
    if on_gpu and not torch.cuda.is_available():
        print("no CUDA device here; to see whether the script runs: --device cpu --quick", file=sys.stderr)
        return 1
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    cases, notes = measure(given.device, given.quick)
    print(record.table(cases))
    out = given.out or (RESULTS / f"{name}.json" if on_gpu and not given.quick else None)
    if out:
        record.write(out, cases, notes, device_name(given.device) if on_gpu else "")
    return 0


def device_name(device: str) -> str:
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def peak_flops(device: str) -> float | None:
    """What the device could do in bfloat16, FLOP/s; None for one that is not in `PEAKS`."""
    return next((flops for part, flops in PEAKS.items() if part in device_name(device)), None)


def about_peak(device: str) -> str:
    """A sentence about the peak that utilisation is measured against."""
    name, peak = device_name(device), peak_flops(device)
    if peak is None:
        return f"No utilisation: the peak of {name!r} is not in the table of benchmarks/gpu/command.py."
    return f"Utilisation: of {peak / 1e12:.0f} TFLOP/s, dense bfloat16 on {name}."
