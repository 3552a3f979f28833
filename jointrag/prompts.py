"""Prompts in a model's tokens: through its chat template where it has one, as plain text for a base model, behind the
agent's name for a model from scratch.

Labelling, warm start, rollouts and evaluation all encode here, so the same turn is the same tokens everywhere. A prompt
that is too long loses the ends of its longest passages, never the instructions or the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jointrag.choices import ChoiceList
from jointrag.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_NOW = "<respond>"  # models from scratch: ends the prompt


def role_token(agent: str) -> str:
    """The token that tells a model trained from scratch which agent it plays."""
    return f"<{agent}>"


def messages(prompt: Prompt, *, system_role: bool = True) -> list[dict[str, str]]:
    """The prompt as a conversation; without a system role the instructions begin what the user says."""
    if not prompt.instructions:
        return [{"role": "user", "content": prompt.content}]
    if not system_role:
        return [{"role": "user", "content": f"{prompt.instructions}\n\n{prompt.content}"}]
    return [{"role": "system", "content": prompt.instructions}, {"role": "user", "content": prompt.content}]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a whole prompt.

    Raises ValueError where a model from scratch has no token for the agent."""
    if _has_token(tokenizer, ANSWER_NOW):
        if not _has_token(tokenizer, role_token(prompt.agent)):
            raise ValueError(
                f"this model from scratch has never seen the {prompt.agent}: run the warm start again with examples of "
                f"it; there are some where {prompt.agent} is in agents.chain and its label() is not always None"
            )
        return tokenizer.encode(f"{role_token(prompt.agent)}{prompt.content}{ANSWER_NOW}", add_special_tokens=False)
    if tokenizer.chat_template:
        return tokenizer.encode(_templated(tokenizer, prompt), add_special_tokens=False)
    return tokenizer.encode(f"{prompt.instructions}\n\n{prompt.content}\n\n")


def encode_within(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, room: int) -> tuple[list[int], bool]:
    """At most `room` token ids of a prompt, and whether passages were cut for that.

    The longest passages are cut to one length, the shorter ones stay whole. Raises ValueError where the prompt does not
    fit without any passage, and what `encode_prompt` raises.
    """
    ids = encode_prompt(tokenizer, prompt)
    if len(ids) <= room:
        return ids, False
    ends = [_token_ends(tokenizer, passage) for passage in prompt.passages]
    most = sum(map(len, ends))
    while most > 0 and len(ids) > room:  # tokens can come out otherwise where texts meet, so once may not be enough
        most = max(0, most - (len(ids) - room))
        kept = share([len(of_passage) for of_passage in ends], most)
        cut = (p[: e[n - 1]] if n else "" for p, e, n in zip(prompt.passages, ends, kept, strict=True))
        ids = encode_prompt(tokenizer, replace(prompt, passages=tuple(cut)))
    if len(ids) > room:
        raise ValueError(
            f"a {prompt.agent} prompt of {len(ids)} tokens without any passage where there is room for {room}; raise "
            f"language_model.max_length, or shorten the question ({prompt.opening!r:.60})"
        )
    return ids, True


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


def share(wanted: Sequence[int], total: int) -> list[int]:
    """`total` shared out so that nobody gets more than is wanted, and nobody more than another who wants more.

    >>> share([10, 2, 7], 12)
    [5, 2, 5]
    """
    given = [0] * len(wanted)
    left = total
    for num_left, i in zip(range(len(wanted), 0, -1), sorted(range(len(wanted)), key=wanted.__getitem__), strict=True):
        given[i] = min(wanted[i], left // num_left)
        left -= given[i]
    return given


def _templated(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The prompt in the model's own template. Some templates refuse a system role, some leave out what it says."""
    from jinja2 import TemplateError

    def render(system_role: bool) -> str:
        turns = messages(prompt, system_role=system_role)
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    try:
        text = render(system_role=True)
    except TemplateError:
        return render(system_role=False)
    return text if prompt.instructions.strip() in text else render(system_role=False)


def _token_ends(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Where in `text` each of its tokens ends."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in encoded["offset_mapping"]]


def _has_token(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return tokenizer.convert_tokens_to_ids(token) not in (None, tokenizer.unk_token_id)
