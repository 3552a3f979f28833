"""Language-model back ends: prompts in, completions out.

`LocalLM` holds a transformers model and decodes it with a plain loop of its own: prompts sorted by length and batched
by tokens, log-probabilities of exactly the distribution sampled from, the output restriction included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jointrag import adapters
from jointrag.choices import ChoiceList
from jointrag.config import LanguageModelSection
from jointrag.prompts import encode_within, end_token
from jointrag.types import Prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORTH_A_FORWARD = 512  # tokens that keep one forward pass busy


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; `generator` makes sampling repeatable.

    `per_agent` holds what differs for single agents; ask `of`.
    """

    temperature: float = 1.0
    generator: torch.Generator | None = None
    top_p: float = 1.0
    top_k: int | None = None
    per_agent: Mapping[str, Sampling] = field(default_factory=dict)

    def of(self, agent: str) -> Sampling:
        """How this agent's tokens are drawn."""
        return self.per_agent.get(agent, self)


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Completion:
    """A response. Ids, log-probabilities and values are per response token, the end token included; see types.Turn.
    A model behind a server gives no ids, but may say how many tokens there were."""

    text: str
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    support: tuple[tuple[int, ...], ...] = ()
    num_served_tokens: tuple[int, int] = (0, 0)  # of prompt and response, where the ids are not known


@dataclass
class TokenCount:
    """Tokens that a model has read and written: `padded` with the padding of its batches, `real` without. `cut`:
    prompts that were too long, so that passages in them were cut."""

    real: int = 0
    padded: int = 0
    cut: int = 0

    def add(self, real: int, padded: int) -> None:
        self.real += real
        self.padded += padded


class LanguageModel(Protocol):
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]: ...


class LocalLM:
    """A causal language model in this process. Where it has adapters named like agents, each agent speaks with its own.

    `value_head`, where set, maps hidden states [batch, hidden] to values [batch]; completions then carry them.
    `count` goes on until its owner puts a new TokenCount in its place.
    `max_length` bounds prompt plus response: passages are cut where they leave no room for the response, see
    `jointrag.prompts`; a question that leaves none is a ValueError.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 4096,
        tokens_per_forward: int = 16_384,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end = end_token(tokenizer)
        self.max_length = max_length
        self.tokens_per_forward = tokens_per_forward
        self.value_head: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.count = TokenCount()
        self._choice_lists: dict[tuple[str, ...], ChoiceList] = {}

    @classmethod
    def load(cls, path: Path | str, config: LanguageModelSection, device: str = "auto") -> LocalLM:
        """Load a transformers folder (or Hugging Face name) for inference, the agents' adapters included."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path)
        model = adapters.load_adapters(load_model(path, config, device), path)
        return cls(model.eval(), tokenizer, max_length=config.max_length)

    def choice_list(self, choices: tuple[str, ...]) -> ChoiceList:
        """The restriction for these choices in this model's tokens (built once)."""
        if choices not in self._choice_lists:
            self._choice_lists[choices] = ChoiceList(self.tokenizer, choices)
        return self._choice_lists[choices]

    def play(self, agent: str) -> None:
        """Speak with this agent's adapter, if the model has adapters."""
        adapters.play(self.model, agent)

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order; all prompts are of one agent. Long and short ones are decoded apart, so
        little is padding."""
        import torch

        from jointrag.decoding import Decoding

        agents = {prompt.agent for prompt in prompts}
        assert len(agents) <= 1, f"one agent at a time, not {sorted(agents)}"
        for agent in agents:
            self.play(agent)
        fitted = [encode_within(self.tokenizer, prompt, self.max_length - max_new_tokens) for prompt in prompts]
        encoded = [ids for ids, _ in fitted]
        self.count.cut += sum(is_cut for _, is_cut in fitted)
        completions: list[Completion | None] = [None] * len(prompts)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            for batch in batches_by_length([len(ids) + max_new_tokens for ids in encoded], self.tokens_per_forward):
                choices = [prompts[i].choices for i in batch]
                decoded = Decoding(self, [encoded[i] for i in batch], choices, sampling).run(max_new_tokens)
                for i, completion in zip(batch, decoded, strict=True):
                    completions[i] = completion
        self.model.train(was_training)
        return [completion for completion in completions if completion is not None]


def check_folder(folder: Path) -> None:
    """Raises ValueError where there is no model or no tokenizer to load in it."""
    for pattern, what in (("config.json", "model"), ("tokenizer*", "tokenizer")):
        if not any(folder.glob(pattern)):
            raise ValueError(
                f"{folder} has no {what} ({pattern} is missing); save it there with "
                f"{what}.save_pretrained({str(folder)!r}), or train that stage again"
            )


def load_model(path: Path | str, config: LanguageModelSection, device: str) -> PreTrainedModel:
    """The bare model in the section's dtype on `device` ("auto": cuda where there is one)."""
    import torch
    from transformers import AutoModelForCausalLM

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if config.type == "scratch" else getattr(torch, config.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(device)


def decoder_and_head(model: Any) -> tuple[Any, Any]:
    """The trunk that gives hidden states and the layer that gives logits; adapters stay active."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # peft wraps the model
    return inner.get_decoder(), inner.get_output_embeddings()


def batches_by_length(lengths: Sequence[int], tokens_per_batch: int, most_padding: float = 1.0) -> list[list[int]]:
    """Indices grouped so that each group's size times its greatest length fits the budget (one item always fits).

    A group that is large enough to be worth a forward pass of its own ends where a longer item would make more than
    `most_padding` of it padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches: list[list[int]] = []
    tokens = 0  # in the last batch, without padding
    for i in order:
        padded = lengths[i] * (len(batches[-1]) + 1) if batches else 0
        too_much_padding = tokens >= WORTH_A_FORWARD and padded - tokens - lengths[i] > most_padding * padded
        if not batches or padded > tokens_per_batch or too_much_padding:
            batches.append([])
            tokens = 0
        batches[-1].append(i)
        tokens += lengths[i]
    return batches
