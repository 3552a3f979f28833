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
from jointrag.types import Prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORTH_A_FORWARD = 512  # tokens that keep one forward pass busy
ANSWER_NOW = "<respond>"  # models from scratch: ends the prompt


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
    """Tokens that a model has read and written: `padded` with the padding of its batches, `real` without."""

    real: int = 0
    padded: int = 0

    def add(self, real: int, padded: int) -> None:
        self.real += real
        self.padded += padded


class LanguageModel(Protocol):
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]: ...


def role_token(agent: str) -> str:
    """The token that tells a model trained from scratch which agent it plays."""
    return f"<{agent}>"


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt: chat template, or role token and content, or plain text for a base model.

    Raises ValueError where a model from scratch has no token for the agent."""
    if _has_token(tokenizer, ANSWER_NOW):
        if not _has_token(tokenizer, role_token(prompt.agent)):
            raise ValueError(
                f"this model from scratch has never seen the {prompt.agent}: run the warm start again with examples of "
                f"it; there are some where {prompt.agent} is in agents.chain and its label() is not always None"
            )
        return tokenizer.encode(f"{role_token(prompt.agent)}{prompt.content}{ANSWER_NOW}", add_special_tokens=False)
    if tokenizer.chat_template:
        messages = [{"role": "system", "content": prompt.instructions}, {"role": "user", "content": prompt.content}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(str(text), add_special_tokens=False)
    return tokenizer.encode(f"{prompt.instructions}\n\n{prompt.content}\n\n")


def _has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)


def encode_response(tokenizer: PreTrainedTokenizerBase, response: str, choices: Sequence[str] | None) -> list[int]:
    """Token ids of a response and the end token, as `LocalLM.generate` would have written them."""
    if choices is None:
        ids = tokenizer.encode(response, add_special_tokens=False)
    else:
        items = response.split(",") if response else []
        ids = list(ChoiceList(tokenizer, choices).encode([list(choices).index(item) for item in items]))
    return [*ids, end_token(tokenizer)]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends every response. Raises ValueError for a tokenizer without one."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token; choose another model")
    return tokenizer.eos_token_id


class LocalLM:
    """A causal language model in this process. Where it has adapters named like agents, each agent speaks with its own.

    `value_head`, where set, maps hidden states [batch, hidden] to values [batch]; completions then carry them.
    `count` goes on until its owner puts a new TokenCount in its place.
    `max_length` bounds prompt plus response; a prompt that leaves no room is a ValueError.
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
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        for ids, prompt in zip(encoded, prompts, strict=True):
            if len(ids) + max_new_tokens > self.max_length:
                raise ValueError(
                    f"a {prompt.agent} prompt of {len(ids)} tokens and {max_new_tokens} new ones exceed "
                    f"language_model.max_length={self.max_length}; split long passages, lower agents.num_candidates, "
                    "or raise it"
                )
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
