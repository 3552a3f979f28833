"""Loading what is to be trained, of any kind, and what has to be right before training: padding, lengths, adapters.

model = load(SentenceTransformer, "BAAI/bge-m3", "retriever.encoder.name", device="auto")
prepare(model, settings, "BAAI/bge-m3")          # raises ValueError for what could not work
merge_adapters(model)                            # before it is saved (Learner.save does it)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from sentence_transformers.base.modules import Transformer
from torch import nn

from jointrag.config import LoraSettings, TrainingSettings

logger = logging.getLogger(__name__)
Model = TypeVar("Model")
_TASKS = {"sequence-classification": "SEQ_CLS", "text-generation": "CAUSAL_LM"}  # peft's names; else FEATURE_EXTRACTION


def load(
    kind: Callable[..., Model],
    name: str,
    setting: str,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    **given: Any,
) -> Model:
    """A sentence-transformers model of this class. Raises ValueError that names the setting `name` came from."""
    try:
        target = None if device == "auto" else device
        return kind(name, device=target, trust_remote_code=trust_remote_code, **given)  # type: ignore[call-arg]
    except (ImportError, OSError, ValueError) as error:
        code = "" if trust_remote_code or "trust_remote_code" not in str(error) else " (its authors' code would be run)"
        raise ValueError(
            f"{setting}={name!r} cannot be loaded ({error}){code}; give a folder or a Hugging Face name, and download "
            "the model beforehand where there is no network"
        ) from None


def weights(settings: TrainingSettings) -> dict[str, Any]:
    """How the model's weights are loaded (model_kwargs): from safetensors only, and with which attention."""
    attention = {} if settings.attention is None else {"attn_implementation": settings.attention}
    return {"use_safetensors": True, **attention}


def precision_of(settings: TrainingSettings, device: str) -> Literal["float32", "bf16", "fp16"]:
    """What settings.precision comes to on this type of device."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(settings: TrainingSettings, device: str) -> torch.autocast:
    """Measure a model on a GPU in the precision in which it is trained; on a CPU in float32."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision_of(settings, device))
    return torch.autocast(device, dtype, enabled=device == "cuda" and dtype is not None)


def prepare(model: Any, settings: TrainingSettings, name: str) -> None:
    """Make a loaded model ready for training: a token to pad with, float32 weights, adapters where they are asked for.

    Raises ValueError where there is nothing to pad with, or a maximum length is beyond the model's.
    """
    check_padding(model, name)
    for setting in ("max_length", "max_query_length"):
        check_length(model, getattr(settings, setting), setting, name)
    if settings.lora is None or precision_of(settings, model.device.type) == "float32":
        model.float()  # a frozen model under adapters may stay as it was stored
    if settings.lora is not None:
        add_adapters(model, settings.lora)


def check_padding(model: Any, name: str) -> None:
    """Texts of a batch are padded. Decoders often have no token for it; theirs for the end does as well, because
    attention is masked there."""
    tokenizer = model.tokenizer
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"{name}: its tokenizer has neither a padding nor an end token; add one "
                '(tokenizer.add_special_tokens({"pad_token": …}) and resize the embeddings) and save it'
            )
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("%s has no padding token; %r is padded with", name, tokenizer.eos_token)
    for config in {id(module.model.config): module.model.config for module in _transformers(model)}.values():
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id


def check_length(model: Any, length: int | None, setting: str, name: str) -> None:
    """Raises ValueError when the model has no positions for `length` tokens."""
    most = most_tokens(model)
    if length is not None and most is not None and length > most:
        raise ValueError(f"{setting}={length}, but {name} takes {most} tokens at most; set it to {most} or less")


def most_tokens(model: Any) -> int | None:
    """How many tokens the model has positions for; None where that is not known."""
    for module in _transformers(model):
        positions = getattr(module.model.config, "max_position_embeddings", None)
        if positions is None or positions < 1:
            continue
        for part in module.model.modules():  # RoBERTa and its like begin to count after the padding's position
            if isinstance(getattr(part, "position_embeddings", None), nn.Embedding):
                return positions - (0 if (padding := getattr(part, "padding_idx", None)) is None else padding + 1)
        return positions
    return None


def add_adapters(model: Any, lora: LoraSettings) -> None:
    """Low-rank adapters inside the transformer, whose own weights are frozen. They change nothing yet."""
    from peft import LoraConfig, get_peft_model

    for module in _transformers(model):
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) if lora.targets else "all-linear",
            task_type=_TASKS.get(module.transformer_task, "FEATURE_EXTRACTION"),
        )
        try:
            module.model = get_peft_model(module.model, config)  # type: ignore[assignment]
        except ValueError as error:
            raise ValueError(f"lora.targets={lora.targets}: {error}") from None


def merge_adapters(model: Any) -> None:
    """Make adapters part of the weights: what is saved loads without peft."""
    for module in _transformers(model):
        if hasattr(module.model, "merge_and_unload"):
            module.model = module.model.merge_and_unload()  # type: ignore[operator]


def _transformers(model: nn.Module) -> Iterator[Transformer]:
    return iter([module for module in model.modules() if isinstance(module, Transformer)])
