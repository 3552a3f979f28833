"""The decode loop of `jointrag.generation.LocalLM`: one batch of prompts, token by token.

Every response keeps the log-probabilities of exactly the distribution it was sampled from: temperature first, then the
restriction of the output (jointrag.choices), then top-k, then top-p, renormalised.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

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
        self.lists = [lm.choice_list(c) if c is not None else None for c in choices]
        self.truncated = sampling.temperature > 0 and (sampling.top_p < 1 or sampling.top_k is not None)
        self.restricted = any(choice_list is not None for choice_list in self.lists)
        self.responses: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.values: list[list[float]] = [[] for _ in prompts]
        self.support: list[list[tuple[int, ...]]] = [[] for _ in prompts]

    def run(self, max_new_tokens: int) -> list[Completion]:
        decoder, head = decoder_and_head(self.lm.model)
        device = self.lm.model.device
        end = self.lm.end
        width = max(map(len, self.prompts))
        pads = torch.tensor([width - len(ids) for ids in self.prompts], device=device)
        ids = torch.tensor([[end] * (width - len(ids)) + ids for ids in self.prompts], device=device)
        mask = (torch.arange(width, device=device)[None] >= pads[:, None]).long()  # [batch, width]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.lm.model.config)
        rows = list(range(len(self.prompts)))  # which prompt each row of the batch is; ended rows linger for a while
        alive = [True] * len(rows)
        for step in range(max_new_tokens):
            hidden = decoder(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]  # [batch, hidden]
            distribution = self._distribution(head(hidden), rows)
            tokens = self._draw(distribution)
            drawn, logprobs = tokens.tolist(), distribution.gather(1, tokens[:, None])[:, 0].tolist()
            values = self.lm.value_head(hidden).tolist() if self.lm.value_head else None
            support = _supports(distribution) if self.truncated else None
            for j, row in enumerate(rows):
                if alive[j]:
                    self.responses[row].append(drawn[j])
                    self.logprobs[row].append(logprobs[j])
                    if values is not None:
                        self.values[row].append(values[j])
                    if support is not None:
                        self.support[row].append(support[j])
                    alive[j] = drawn[j] != end
            num_alive = sum(alive)
            if num_alive == 0 or step == max_new_tokens - 1:
                break
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            if num_alive <= len(rows) // 2:
                keep = [j for j, is_alive in enumerate(alive) if is_alive]
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                ids, positions, mask = ids[index], positions[index], mask[index]
                rows, alive = [rows[j] for j in keep], [True] * len(keep)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [self._completion(i) for i in range(len(self.prompts))]

    def _distribution(self, logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Log-probabilities [batch, vocabulary] of what the next token is drawn from; -inf: cannot be drawn."""
        logits = logits.float()
        if self.sampling.temperature > 0:
            logits = logits / self.sampling.temperature
        if self.restricted:
            forbidden = torch.ones_like(logits, dtype=torch.bool)
            for j, row in enumerate(rows):
                forbidden[j, self._allowed(row)] = False
            logits = logits.masked_fill(forbidden, float("-inf"))
        logprobs = torch.log_softmax(logits, dim=-1)
        return truncate(logprobs, self.sampling.top_k, self.sampling.top_p) if self.truncated else logprobs

    def _draw(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Next tokens [batch]."""
        if self.sampling.temperature == 0:
            return logprobs.argmax(-1)
        return torch.multinomial(logprobs.exp(), 1, generator=self.sampling.generator)[:, 0]

    def _allowed(self, row: int) -> Any:
        choice_list, written = self.lists[row], self.responses[row]
        if choice_list is None:
            return slice(None)
        if written and written[-1] == self.lm.end:
            return [self.lm.end]  # an ended row: what it draws is not looked at
        return list(choice_list.allowed(tuple(written)))

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
