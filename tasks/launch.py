"""The processes that share a training stage: `python -m tasks.launch --num-processes 2 spec.json`.

torchrun starts tasks.child that many times; with --accelerate-config, accelerate does, and a number of processes that
is 1 here is the file's. The processes say themselves what they have to say, so the launchers' own reports and
tracebacks are kept from the console.

Nothing outlives the flow: torchrun gives every process a session of its own, but also the pipe at stdin that this one
got (jointrag.parent), and each ends when that does.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from jointrag.jsonl import write_atomically
from jointrag.parent import exit_with_parent
from tasks import child
from tasks.supervisor import ending


def main(spec: Path, num_processes: int, accelerate_config: Path | None) -> int:
    exit_with_parent()
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable()
    try:
        if accelerate_config:
            _accelerate(spec, num_processes, accelerate_config)
        else:
            _torchrun(spec, num_processes)
    except SignalException:
        return 1
    except ChildFailedError as error:
        # a killed process could not say so, and what the others said is that it had gone (torchrun sends them TERM)
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                write_atomically(child.error_of(spec), f"process {rank} {ending(failure.exitcode)}")
        return 1
    except Exception as error:  # a config file that accelerate refuses
        write_atomically(child.error_of(spec), child.explain(error))
        return 1
    return 0


def _torchrun(spec: Path, num_processes: int) -> None:
    from torch.distributed import run

    run.run(run.parse_args(["--standalone", "--nproc-per-node", str(num_processes), "-m", child.__name__, str(spec)]))


def _accelerate(spec: Path, num_processes: int, config: Path) -> None:
    from accelerate.commands.launch import launch_command, launch_command_parser

    number = ["--num_processes", str(num_processes)] if num_processes > 1 else []
    where = ["--config_file", str(config), "--main_process_port", "0"]  # any free port
    launch_command(launch_command_parser().parse_args([*where, *number, "-m", child.__name__, str(spec)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--num-processes", type=int, required=True)
    parser.add_argument("--accelerate-config", type=Path)
    sys.exit(main(**vars(parser.parse_args())))
