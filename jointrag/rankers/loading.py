"""Models and tokenizers for rankers: device, precision, safetensors, no stranger's code unless it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
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
    """A transformers model of this class, in evaluation mode. Raises ValueError where it cannot be loaded."""
    try:
        model = kind.from_pretrained(
            name, dtype=loading.precision(), trust_remote_code=loading.trust_remote_code, use_safetensors=True
        )
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(_cannot(name, error)) from None
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
    most = tokenizer.model_max_length
    positions = getattr(model.config, "max_position_embeddings", None) or most
    if getattr(model.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
        positions -= 2  # they begin to count after the padding's position
    return int(min(most, positions))


def _cannot(name: str, error: Exception) -> str:
    code = "; trust_remote_code=True would run its authors' code" if "trust_remote_code" in str(error) else ""
    return (
        f"{name!r} cannot be loaded ({error}){code}; give a folder or a Hugging Face name, and download the model "
        "beforehand where there is no network"
    )
