"""Stage 6: the supervised warm start of all agents, one shared model, with trl's SFTTrainer.

A pretrained model sees every agent's examples once (LoRA where the preset says so; adapters are merged at the end, so
what follows starts from a plain model). A model from scratch first learns to read: passages and a question in, the
answer out, with some loss on the prompt as well.

`train_control` continues in the same way on labelled target questions: the control beside MAPPO.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointrag import adapters
from jointrag.adapters import SHARED, with_adapters
from jointrag.agents import build_chain
from jointrag.config import AgentsConfig, ControlConfig, LanguageModelSection, PretrainedLM, ScratchLM, WarmStartConfig
from jointrag.generation import load_model
from jointrag.jsonl import read_jsonl
from jointrag.prompts import ANSWER_NOW, encode_response, encode_within, end_token, role_token
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Example

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """One supervised run: how long, how fast."""

    name: str
    num_epochs: float
    learning_rate: float
    batch_size: int
    gradient_accumulation: int = 1
    warmup_ratio: float = 0.03
    prompt_loss_weight: float = 0.0
    gradient_checkpointing: bool = False
    max_seconds: float | None = None


def train(
    config: WarmStartConfig,
    model: LanguageModelSection,
    agents: AgentsConfig,
    *,
    agent_data: Path,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Write `out`/model, a transformers folder. Metrics: final losses and seconds per phase."""
    import torch

    from trainers.parallel import Team

    team = Team.join(device)
    torch.manual_seed(seed)
    examples = list(read_jsonl(agent_data / "warm_start.jsonl", Example))
    reading = list(read_jsonl(agent_data / "reading.jsonl", Example)) if config.reading_epochs else []
    llm, tokenizer = _start(model, examples + reading, device)
    reading_rows, rows = (encode(tokenizer, part, model.max_length, agents) for part in (reading, examples))
    shared = {
        "batch_size": config.batch_size,
        "gradient_accumulation": config.gradient_accumulation,
        "warmup_ratio": config.warmup_ratio,
        "prompt_loss_weight": config.prompt_loss_weight,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    metrics = {}
    if reading:
        phase = Phase("reading", config.reading_epochs, config.reading_learning_rate, **shared)
        metrics |= fit(llm, tokenizer, reading_rows, phase, seed=seed, out=out, tracker=tracker)
    phase = Phase("warm_start", config.num_epochs, config.learning_rate, **shared)
    metrics |= fit(llm, tokenizer, rows, phase, seed=seed, out=out, tracker=tracker)
    if team.is_first:
        save_model(llm, tokenizer, out / "model")
    return metrics


def train_control(
    config: ControlConfig,
    model: LanguageModelSection,
    agents: AgentsConfig,
    *,
    agent_data: Path,
    warm_start: Path,
    mappo: Path,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Continue the warm start on labelled target questions for as many seconds as MAPPO took. Writes `out`/model."""
    import torch

    from trainers.parallel import Team

    team = Team.join(device)
    torch.manual_seed(seed)
    seconds = json.loads((mappo / "manifest.json").read_text())["metrics"]["mappo/train_seconds"]
    examples = list(read_jsonl(agent_data / "control.jsonl", Example))
    llm, tokenizer = load_for_training(warm_start / "model", model, device)
    rows = encode(tokenizer, examples, model.max_length, agents)
    phase = Phase(
        "control",
        num_epochs=1_000,  # the time ends it
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        warmup_ratio=0.0,
        prompt_loss_weight=config.prompt_loss_weight,
        max_seconds=seconds,
    )
    metrics = fit(llm, tokenizer, rows, phase, seed=seed, out=out, tracker=tracker)
    if team.is_first:
        save_model(llm, tokenizer, out / "model")
    return metrics


def _start(model: LanguageModelSection, examples: Sequence[Example], device: str) -> tuple[Any, Any]:
    """Model and tokenizer before any training."""
    if isinstance(model, ScratchLM):
        return from_scratch(model, examples, device)
    return load_for_training(model.name, model, device)


def load_for_training(
    path: Path | str, model: LanguageModelSection, device: str, agents: Sequence[str] = ()
) -> tuple[Any, Any]:
    """A saved model and its tokenizer; with a fresh adapter where the section asks for one, or one for each of `agents`
    where it asks for that."""
    from transformers import AutoTokenizer

    if Path(path, adapters.FOLDER).is_dir():
        raise ValueError(
            f"{path} holds adapters of single agents, which training cannot start from; name the model they were "
            "trained on, or train with language_model.lora.per_agent=false, which makes the adapter part of the weights"
        )
    llm, tokenizer = load_model(path, model, device), AutoTokenizer.from_pretrained(path)
    if isinstance(model, PretrainedLM) and model.lora:
        llm = with_adapters(llm, model.lora, agents if model.lora.per_agent and agents else (SHARED,))
    return llm, tokenizer


def from_scratch(config: ScratchLM, examples: Sequence[Example], device: str) -> tuple[Any, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.scratch import word_level_tokenizer

    roles = sorted({role_token(example.prompt.agent) for example in examples})
    choices = {choice for example in examples for choice in example.prompt.choices or ()}
    texts = [f"{example.prompt.content}\n{example.response}" for example in examples]
    texts.append(",".join(sorted(choices)))
    tokenizer = word_level_tokenizer(
        texts, ["<pad>", "<unk>", "<eos>", ANSWER_NOW, *roles], lowercase=False, keep_newlines=True
    )
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.get_vocab()["<pad>"],
        eos_token_id=tokenizer.get_vocab()["<eos>"],
        bos_token_id=None,
    )
    llm: Any = LlamaForCausalLM(shape)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        llm = llm.to("cuda")
    logger.info("%s parameters, %d words", f"{llm.num_parameters():,}", len(tokenizer))
    return llm, tokenizer


def encode(tokenizer: Any, examples: Sequence[Example], max_length: int, agents: AgentsConfig) -> list[dict[str, Any]]:
    """Rows of {input_ids, prompt_length}; the prompts are what the agent would get: as long as `max_length` tokens less
    the longest response it may give, passages cut where they do not fit.

    Raises ValueError for an example that does not fit without them."""
    room = {agent.name: max_length - agent.max_new_tokens for agent in build_chain(agents).agents}
    rows, num_cut = [], 0
    for example in examples:
        prompt, is_cut = encode_within(tokenizer, example.prompt, room[example.prompt.agent])
        response = encode_response(tokenizer, example.response, example.prompt.choices)
        if len(prompt) + len(response) > max_length:
            raise ValueError(
                f"example {example.id!r} has {len(prompt) + len(response)} tokens, {len(response)} of them the "
                f"response, more than language_model.max_length={max_length}; raise it, or leave the example out"
            )
        num_cut += is_cut
        rows.append({"input_ids": prompt + response, "prompt_length": len(prompt)})
    if num_cut:
        logger.warning(
            "%d of %d prompts were too long for language_model.max_length=%d: their longest passages were cut",
            num_cut, len(examples), max_length,
        )  # fmt: skip
    return rows


def fit(
    llm: Any, tokenizer: Any, rows: list[dict[str, Any]], phase: Phase, *, seed: int, out: Path, tracker: Tracker
) -> dict[str, float]:
    """Train `llm` in place, in as many processes as there are. Returns {phase/loss, phase/examples,
    phase/train_seconds}. Raises ValueError for a batch that the processes cannot share."""
    from datasets import Dataset
    from transformers import PrinterCallback

    from trainers.parallel import Team
    from trainers.sft import MovingAverage, WeightedSFTTrainer, collate

    pad_id = end_token(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    team = Team.join(llm.device.type)
    watch = MovingAverage(phase.name, tracker, phase.max_seconds)
    trainer = WeightedSFTTrainer(
        model=llm,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        data_collator=lambda batch: collate(batch, pad_id),
        callbacks=[watch],
        args=_arguments(llm, phase, team.size, seed, out),
    )
    trainer.prompt_loss_weight = phase.prompt_loss_weight
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    return {
        f"{phase.name}/loss": sum(team.gather([watch.loss])) / team.size,
        f"{phase.name}/examples": float(len(rows)),
        f"{phase.name}/train_seconds": time.perf_counter() - started,
    }


def _arguments(llm: Any, phase: Phase, num_processes: int, seed: int, out: Path) -> Any:
    import torch
    from trl.trainer.sft_config import SFTConfig

    if phase.batch_size % num_processes:
        raise ValueError(
            f"{phase.name}: a batch of {phase.batch_size} examples cannot be shared by {num_processes} processes; "
            "choose a multiple as batch_size"
        )
    on_gpu = llm.device.type == "cuda"
    arguments = SFTConfig(
        output_dir=str(out / "trainer"),
        num_train_epochs=phase.num_epochs,
        per_device_train_batch_size=phase.batch_size // num_processes,
        gradient_accumulation_steps=phase.gradient_accumulation,
        learning_rate=phase.learning_rate,
        lr_scheduler_type="constant" if phase.max_seconds else "cosine",
        warmup_steps=phase.warmup_ratio,
        activation_checkpointing=phase.gradient_checkpointing,
        train_sampling_strategy="group_by_length",
        bf16=on_gpu and llm.dtype == torch.bfloat16,
        use_cpu=not on_gpu,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        ddp_find_unused_parameters=False,  # every trained weight has its part in every step
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=seed,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one GPU: trl refuses to start where it could see two
    return arguments


def save_model(llm: Any, tokenizer: Any, path: Path) -> None:
    """Save a plain transformers folder: the adapter becomes part of the weights."""
    adapters.save_model(llm, path, agents=())
    tokenizer.save_pretrained(path)
