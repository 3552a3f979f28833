"""Agent data for other trainers: trl's conversational format, LLaMA-Factory's Alpaca format.

    trl/<agent>.jsonl             {"prompt": [messages], "completion": [messages]}: SFTTrainer
    trl/selector_pairs.jsonl      {"prompt": …, "chosen": …, "rejected": …}: DPOTrainer, RewardTrainer
    alpaca/<agent>.jsonl          {"instruction", "input", "output"}
    alpaca/selector_pairs.jsonl   {"instruction", "input", "chosen", "rejected"}
    alpaca/dataset_info.json      what LLaMA-Factory has to know of these files

What they say is what `warm_start.jsonl` says: the same prompts and responses. They are made as examples come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from jointrag.jsonl import JsonlWriter, write_atomically
from jointrag.prompts import messages
from jointrag.types import Example, Prompt
from trainers.labelling import Labelled

PAIRS = "selector_pairs"
Format = Literal["trl", "alpaca"]


class Exports:
    """Files below `out`, one per agent and format; complete when the block ends without an error."""

    def __init__(self, out: Path, formats: Sequence[Format]) -> None:
        self._out, self._formats = out, formats
        self._files: dict[tuple[str, str], JsonlWriter] = {}
        self._open = ExitStack()

    def __enter__(self) -> Exports:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and "alpaca" in self._formats:
            names = [name for format_, name in self._files if format_ == "alpaca"]
            info = {f"jointrag_{name}": _alpaca_info(name) for name in names}
            write_atomically(self._out / "alpaca" / "dataset_info.json", json.dumps(info, indent=2) + "\n")
        self._open.__exit__(kind, error, at)

    def add(self, labelled: Labelled) -> None:
        for format_ in self._formats:
            for example in labelled.examples:
                self._write(format_, example.prompt.agent, _row(format_, example))
            if (pair := labelled.pair) is not None:
                row = _prompt(format_, pair.example.prompt)
                row |= {"chosen": _said(format_, pair.example.response), "rejected": _said(format_, pair.rejected)}
                self._write(format_, PAIRS, row)

    @property
    def num_pairs(self) -> int:
        return max((file.count for (_, name), file in self._files.items() if name == PAIRS), default=0)

    def _write(self, format_: Format, name: str, row: dict[str, Any]) -> None:
        if (format_, name) not in self._files:
            file = self._open.enter_context(JsonlWriter(self._out / format_ / f"{name}.jsonl"))
            self._files[format_, name] = file
        self._files[format_, name].write(row)


def _row(format_: Format, example: Example) -> dict[str, Any]:
    response = "completion" if format_ == "trl" else "output"
    return _prompt(format_, example.prompt) | {response: _said(format_, example.response)}


def _prompt(format_: Format, prompt: Prompt) -> dict[str, Any]:
    if format_ == "trl":
        return {"prompt": messages(prompt)}
    return {"instruction": prompt.instructions, "input": prompt.content}


def _said(format_: Format, text: str) -> str | list[dict[str, str]]:
    return [{"role": "assistant", "content": text}] if format_ == "trl" else text


def _alpaca_info(name: str) -> dict[str, Any]:
    columns = {"prompt": "instruction", "query": "input"}
    if name == PAIRS:
        columns |= {"chosen": "chosen", "rejected": "rejected"}
        return {"file_name": f"{name}.jsonl", "ranking": True, "columns": columns}
    return {"file_name": f"{name}.jsonl", "columns": columns | {"response": "output"}}
