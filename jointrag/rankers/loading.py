"""Models and tokenizers for rankers: device, precision, safetensors, no stranger's code unless it is asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is loaded. None: device and dtype as the machine has them (fp16 or bf16 on a GPU), lengths as the
    model's kind has them."""

    device: str | None = None
    dtype: str | torch.dtype | None = None
    max_length: int | None = None
    tokens_per_forward: int | None = None
    trust_remote_code: bool = False

    def where(self) -> torch.device:
        if self.device not in (None, "auto"):
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def precision(self) -> torch.dtype:
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        known = {"float32": torch.float32, "fp16": torch.float16, "float16": torch.float16}
        known |= {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp32": torch.float32}
        if self.dtype not in (None, "auto"):
            if self.dtype not in known:
                raise ValueError(f"dtype={self.dtype!r} is none of {', '.join(known)}")
            return known[self.dtype]
        if self.where().type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_model(kind: Any, name: str, loading: Loading) -> Any:
    """A transformers model of this class, in evaluation mode. Raises ValueError where it cannot be loaded, and where
    weights are missing: transformers would make random ones."""
    try:
        model, info = kind.from_pretrained(
            name,
            dtype=loading.precision(),
            trust_remote_code=loading.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (AttributeError, ImportError, OSError, TypeError, ValueError) as error:  # the first: code of older versions
        raise ValueError(_cannot(name, error)) from None
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name!r} has no weights for {', '.join(missing[:3])}{' …' if missing[3:] else ''} of a "
            f"{type(model).__name__}: it is no such model, or needs its authors' code (trust_remote_code=True)"
        )
    return model.to(loading.where()).eval()


def load_tokenizer(name: str, loading: Loading) -> Any:
    """Its tokenizer. Raises ValueError where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=loading.trust_remote_code)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(_cannot(name, error)) from None


def most_tokens(model: Any, tokenizer: Any) -> int:
    """How many tokens the model reads."""
    positions = num_positions(model) or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length))


def length(model: Any, tokenizer: Any, name: str, loading: Loading, *, usual: int) -> int:
    """Tokens of a piece: as asked for, else what sentence-transformers saved, else `usual`; never more than the model
    has positions for.

    Raises ValueError where more are asked for than it has a table of.
    """
    most = num_positions(model)
    if loading.max_length is not None:
        if most is not None and loading.max_length > most:
            raise ValueError(f"max_length={loading.max_length}, but {name} has positions for {most} tokens")
        return loading.max_length
    most = most_tokens(model, tokenizer)
    return most if is_saved_reranker(name) and most < 100_000 else min(usual, most)


def num_positions(model: Any) -> int | None:
    """For how many tokens a model has learned positions; None where it computes them. RoBERTa and its kin begin to
    count after the padding's position."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            padding = getattr(module, "padding_idx", None)
            return int(table.weight.shape[0]) - (padding + 1 if isinstance(padding, int) else 0)
    return None


# ---- files beside the weights ----------------------------------------------------------------------------------------


def model_json(name: str, file: str, *, needed: bool = False) -> dict[str, Any]:
    """A JSON file of a folder or of a model on the Hub; {} where there is none. Raises ValueError for a name that is
    neither, and for a file that is `needed`."""
    found = _json(name, file, needed=needed)
    if not isinstance(found, dict):
        raise ValueError(f"{name}: {file} should hold an object")
    return found


def saved_modules(name: str) -> list[dict[str, Any]]:
    """What sentence-transformers made a model of: modules.json; [] for other models."""
    return _json(name, "modules.json") or []


def is_saved_reranker(name: str) -> bool:
    """Whether sentence-transformers saved it as a CrossEncoder, as our own training does."""
    return model_json(name, "config_sentence_transformers.json").get("model_type") == "CrossEncoder"


def saved_prompt(name: str) -> str:
    """What a CrossEncoder puts before each query by default; mostly nothing."""
    if not is_saved_reranker(name):
        return ""
    config = model_json(name, "config_sentence_transformers.json")
    return (config.get("prompts") or {}).get(config.get("default_prompt_name"), "") or ""


def _json(name: str, file: str, *, needed: bool = False) -> Any:
    path: str | Path | None = Path(name) / file
    if not Path(name).is_dir():
        from transformers.utils.hub import cached_file

        try:
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=needed)
        except OSError as error:
            raise ValueError(
                f"{name!r} is no folder and cannot be downloaded ({error}); give a folder, a Hugging Face name, the "
                "address of a server, or bm25"
            ) from None
    if path is None or not Path(path).is_file():
        if needed:
            raise ValueError(f"{name}: no {file} in it; give the folder that holds the model")
        return {}
    return json.loads(Path(path).read_text("utf-8"))


def _cannot(name: str, error: Exception) -> str:
    code = "; trust_remote_code=True would run its authors' code" if "trust_remote_code" in str(error) else ""
    return (
        f"{name!r} cannot be loaded ({error}){code}; give a folder or a Hugging Face name, and download the model "
        "beforehand where there is no network"
    )
