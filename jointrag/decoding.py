"""The decode loop of `jointrag.generation.LocalLM`: one batch of prompts, token by token.

Every response keeps the log-probabilities of exactly the distribution it was sampled from: temperature first, then the
restriction of the output (jointrag.choices), then top-k, then top-p, renormalised.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from jointrag.generation import Completion, Sampling, decoder_and_head

if TYPE_CHECKING:
    from jointrag.generation import LocalLM


def truncate(logprobs: torch.Tensor, top_k: int | None, top_p: float) -> torch.Tensor:
    """Log-probabilities [..., tokens] of the most likely tokens alone, renormalised; all others are -inf.

    top-k keeps the k most likely tokens (Fan et al., 2018). top-p then keeps, of what is left, the fewest most likely
    ones that together reach probability p (the nucleus: Holtzman et al., 2020), so the most likely token always stays.
    Tokens exactly as likely as the last one kept stay as well: what is kept depends on no order among equals.
    """
    if top_k is not None and top_k < logprobs.shape[-1]:
        least = logprobs.topk(top_k).values[..., -1:]
        logprobs = logprobs.masked_fill(logprobs < least, float("-inf")).log_softmax(-1)
    if top_p < 1:
        ordered = logprobs.sort(descending=True).values
        probabilities = ordered.exp()
        more_likely = probabilities.cumsum(-1) - probabilities  # the probability of all that come before
        least = ordered.masked_fill(more_likely >= top_p, float("inf")).amin(-1, keepdim=True)
        logprobs = logprobs.masked_fill(logprobs < least, float("-inf")).log_softmax(-1)
    return logprobs


class _Room(DynamicLayer):
    """Keys and values of one layer, with room for the whole response from the start: a new token is written into its
    place, where DynamicLayer would copy all that came before."""

    def __init__(self, num_new: int) -> None:
        super().__init__()
        self.num_new = num_new
        self.rooms: list[torch.Tensor] = []  # for keys and for values, each [batch, heads, tokens, head size]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        start, num_tokens = self.get_seq_length(), key_states.shape[2]
        if not self.rooms:
            self.lazy_initialization(key_states, value_states)
            for new in (key_states, value_states):
                batch, heads, _, size = new.shape
                self.rooms.append(new.new_empty(batch, heads, num_tokens + self.num_new, size))
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start : start + num_tokens] = new
        self._show(start + num_tokens)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.rooms = [room[indices] for room in self.rooms]
        self._show(self.get_seq_length())

    def _show(self, num_tokens: int) -> None:
        self.keys, self.values = (room[:, :, :num_tokens] for room in self.rooms)


class Decoding:
    """One batch being decoded. Rows that have ended leave the batch once they are half of it."""

    def __init__(
        self,
        lm: LocalLM,
        prompts: list[list[int]],
        choices: list[tuple[str, ...] | None],
        sampling: Sampling,
    ) -> None:
        self.lm, self.prompts, self.sampling = lm, prompts, sampling
        self.decoder, self.head = decoder_and_head(lm.model)
        self.device = lm.model.device
        self.truncated = sampling.temperature > 0 and (sampling.top_p < 1 or sampling.top_k is not None)
        self.lists = [lm.choice_list(c) if c is not None else None for c in choices]
        self.responses: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.values: list[list[float]] = [[] for _ in prompts]
        self.support: list[list[tuple[int, ...]]] = [[] for _ in prompts]

    def run(self, max_new_tokens: int) -> list[Completion]:
        hidden, mask, cache = self._read_prompts(max_new_tokens)
        rows = list(range(len(self.prompts)))  # which prompt each row of the batch is; ended rows linger for a while
        for step in range(max_new_tokens):
            tokens = self._speak(hidden, rows)
            alive = [j for j, row in enumerate(rows) if self._is_open(row)]
            if not alive or step == max_new_tokens - 1:
                break
            if len(alive) <= len(rows) // 2:
                index = torch.tensor(alive, device=self.device)
                cache.batch_select_indices(index)
                tokens, mask = tokens[index], mask[index]
                rows = [rows[j] for j in alive]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            hidden = self._forward(tokens[:, None], mask, cache)
            self.lm.count.add(real=len(alive), padded=len(rows))
        return [self._completion(i) for i in range(len(self.prompts))]

    def _read_prompts(self, max_new_tokens: int) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """Hidden states [batch, hidden] after the prompts, the mask of what is no padding [batch, tokens], and the keys
        and values. A prompt that occurs several times (rollouts of one question) is read once."""
        unique = list(dict.fromkeys(map(tuple, self.prompts)))
        width = max(map(len, unique))
        ids = torch.tensor([[self.lm.end] * (width - len(ids)) + [*ids] for ids in unique], device=self.device)
        pads = torch.tensor([width - len(ids) for ids in unique], device=self.device)
        mask = (torch.arange(width, device=self.device)[None] >= pads[:, None]).long()
        cache = DynamicCache(config=self.lm.model.config)
        cache.layers = [_Room(max_new_tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
        hidden = self._forward(ids, mask, cache)
        self.lm.count.add(real=sum(map(len, unique)), padded=ids.numel())
        if len(unique) < len(self.prompts):
            place = {prompt: i for i, prompt in enumerate(unique)}
            index = torch.tensor([place[tuple(prompt)] for prompt in self.prompts], device=self.device)
            cache.batch_select_indices(index)
            hidden, mask = hidden[index], mask[index]
        return hidden, mask, cache

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Hidden states [batch, hidden] at the last of `ids` [batch, new tokens]."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]

    def _speak(self, hidden: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Draw the next tokens [batch] and write down those of responses that have not ended."""
        distribution = self._distribution(self.head(hidden), rows)
        tokens = self._draw(distribution)
        drawn, logprobs = tokens.tolist(), distribution.gather(1, tokens[:, None])[:, 0].tolist()
        values = self.lm.value_head(hidden).tolist() if self.lm.value_head else None
        support = _supports(distribution) if self.truncated else None
        for j, row in enumerate(rows):
            if self._is_open(row):
                self.responses[row].append(drawn[j])
                self.logprobs[row].append(logprobs[j])
                if values is not None:
                    self.values[row].append(values[j])
                if support is not None:
                    self.support[row].append(support[j])
        return tokens

    def _is_open(self, row: int) -> bool:
        return not self.responses[row] or self.responses[row][-1] != self.lm.end

    def _distribution(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Log-probabilities [batch, vocabulary] of what the next token is drawn from; -inf: cannot be drawn."""
        logits = logits.float()
        if self.sampling.temperature > 0:
            logits = logits / self.sampling.temperature
        allowed = [self._allowed(row) for row in rows]
        limited = [j for j, ids in enumerate(allowed) if ids is not None]
        if limited:
            places = [(j, id) for j in limited for id in allowed[j] or ()]
            at, ids = torch.tensor(places, device=self.device).T
            forbidden = torch.zeros_like(logits, dtype=torch.bool)
            forbidden[limited] = True
            forbidden[at, ids] = False
            logits = logits.masked_fill(forbidden, float("-inf"))
        logprobs = torch.log_softmax(logits, dim=-1)
        return truncate(logprobs, self.sampling.top_k, self.sampling.top_p) if self.truncated else logprobs

    def _draw(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Next tokens [batch]."""
        if self.sampling.temperature == 0:
            return logprobs.argmax(-1)
        # the inverse of the distribution function: one random number a row, where torch.multinomial takes one a token
        reached = logprobs.double().exp().cumsum(-1)
        random = torch.rand(len(logprobs), 1, generator=self.sampling.generator, device=logprobs.device).double()
        return torch.searchsorted(reached, random * reached[:, -1:], right=True).clamp(max=logprobs.shape[1] - 1)[:, 0]

    def _allowed(self, row: int) -> tuple[int, ...] | None:
        """The ids that may come next; None: all."""
        choice_list = self.lists[row]
        if choice_list is None:
            return None
        if not self._is_open(row):
            return (self.lm.end,)  # what an ended row draws is not looked at
        return choice_list.allowed(tuple(self.responses[row]))

    def _completion(self, i: int) -> Completion:
        text = str(self.lm.tokenizer.decode(self.responses[i], skip_special_tokens=True))
        return Completion(
            text=text.strip(),
            prompt_ids=tuple(self.prompts[i]),
            response_ids=tuple(self.responses[i]),
            logprobs=tuple(self.logprobs[i]),
            values=tuple(self.values[i]),
            support=tuple(self.support[i]),
        )


def _supports(logprobs: torch.Tensor) -> list[tuple[int, ...]]:
    """Per row the ids that have any probability, in ascending order."""
    possible = logprobs.isfinite()
    counts, ids = possible.sum(-1).tolist(), possible.nonzero()[:, 1].tolist()
    ends = list(accumulate(counts))
    return [tuple(ids[end - count : end]) for count, end in zip(counts, ends, strict=True)]
