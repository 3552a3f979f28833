"""Low-rank adapters on one language model: one that all agents share, or one for each agent, named like it (peft).

model = with_adapters(model, Lora(), ["rewriter", "generator"])
play(model, "rewriter")                      # its adapter is the one that counts from now on
with adapters_off(model): ...                # the model as it was before
save_model(model, path, ["rewriter", "generator"])

A folder with adapters is a transformers folder with `adapters/<agent>/` beside the weights, each in peft's format.

peft itself makes the adapter that it activates trainable and freezes the others, and does so again when adapters are
switched back on. Here nothing but an optimizer's owner decides what is trained: `play` and `adapters_off` leave
requires_grad as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointrag.config import Lora

SHARED = "default"  # peft's own name for an adapter: here the one of all agents that have none of their own
FOLDER = "adapters"


def with_adapters(model: Any, lora: Lora, names: Sequence[str] = (SHARED,)) -> Any:
    """The model with fresh adapters on all linear layers, every one trainable. They change nothing yet."""
    from peft import LoraConfig, get_peft_model

    def config() -> LoraConfig:
        return LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )

    first, *others = names
    adapted = get_peft_model(model, config(), adapter_name=first)
    for name in others:
        adapted.add_adapter(name, config())
    adapted.set_requires_grad(list(names))
    return adapted


def play(model: Any, name: str) -> None:
    """Make `name`'s adapter the active one, or the shared one where `name` has none. A model without adapters stays as
    it is.

    Raises ValueError for a name without an adapter in a model that has only adapters of others.
    """
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return
    chosen = name if name in adapters else SHARED
    if chosen not in adapters:
        raise ValueError(
            f"the model has adapters for {', '.join(adapters)}, but none for {name}: train it with this agent in "
            "agents.chain, or take the agent out of the chain"
        )
    if model.active_adapter != chosen:
        with _requires_grad_kept(model):
            model.set_adapter(chosen)


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model as it is without its adapters, for as long as the block lasts."""
    if not getattr(model, "peft_config", None):
        yield
        return
    with _requires_grad_kept(model), model.disable_adapter():
        yield


def save_model(model: Any, path: Path, agents: Sequence[str]) -> None:
    """Write a transformers folder. A shared adapter becomes part of the weights; those that `agents` have of their own
    go beside them. Adapters of others are left out, and `model` is of no more use."""
    own = [agent for agent in agents if agent in getattr(model, "peft_config", ())]
    if own:
        model.save_pretrained(str(path / FOLDER), selected_adapters=own, save_embedding_layers=False)
        model = model.unload()
    elif hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload(adapter_names=[SHARED])
    model.save_pretrained(path)


def load_adapters(model: Any, path: Path | str) -> Any:
    """The model with the adapters of the folder it was loaded from; the model itself where there are none."""
    folders = sorted(config.parent for config in Path(path, FOLDER).glob("*/adapter_config.json"))
    if not folders:
        return model
    from peft import PeftModel

    first, *others = folders
    device = str(model.device)
    adapted = PeftModel.from_pretrained(model, str(first), adapter_name=first.name, torch_device=device)
    for folder in others:
        adapted.load_adapter(str(folder), adapter_name=folder.name, torch_device=device)
    return adapted


@contextmanager
def _requires_grad_kept(model: Any) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)
