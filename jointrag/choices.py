"""Restricting a response to a comma-separated list of distinct choices: `Document0,Document4`, or nothing.

The restriction is on tokens: at every position it says which tokens can still lead to a valid list. Decoding and the
policy's log-probabilities use the same object, so the policy trained is the policy sampled. A list is always the tokens
of its items one after the other (`Document0`, then `,Document4`), which is also how `encode` writes warm-start labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

State = tuple[frozenset[int], tuple[int, ...]]  # choices already listed, tokens of the item being written


class ChoiceList:
    """The token language of lists over `choices`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, choices: Sequence[str]) -> None:
        self._first = [_pieces(tokenizer, choice) for choice in choices]
        self._next = [_pieces(tokenizer, f",{choice}") for choice in choices]
        self._end: Any = tokenizer.eos_token_id
        start: frozenset[State] = frozenset({(frozenset(), ())})
        self._states: dict[tuple[int, ...], frozenset[State]] = {(): start}
        self._allowed: dict[tuple[int, ...], tuple[int, ...]] = {}

    def encode(self, positions: Sequence[int]) -> tuple[int, ...]:
        """The tokens of the list that names these choices in this order, without the end token."""
        items = [self._first[p] if i == 0 else self._next[p] for i, p in enumerate(positions)]
        return tuple(token for item in items for token in item)

    def allowed(self, written: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids that may follow `written`, the end token among them wherever the list may stop.

        Raises ValueError when `written` itself is not the beginning of a valid list.
        """
        if written not in self._allowed:
            tokens: set[int] = set()
            for used, part in self._follow(written):
                if not part:
                    tokens.add(self._end)
                for _, item in self._open(used):
                    if len(item) > len(part) and item[: len(part)] == part:
                        tokens.add(item[len(part)])
            self._allowed[written] = tuple(sorted(tokens))
        return self._allowed[written]

    def _open(self, used: frozenset[int]) -> list[tuple[int, tuple[int, ...]]]:
        items = self._next if used else self._first
        return [(position, item) for position, item in enumerate(items) if position not in used]

    def _follow(self, written: tuple[int, ...]) -> frozenset[State]:
        """Every way to read `written`: one item may be the beginning of another (Document1, Document10)."""
        if written not in self._states:
            *before, token = written
            states: set[State] = set()
            for used, part in self._follow(tuple(before)):
                longer = (*part, token)
                for position, item in self._open(used):
                    if item == longer:
                        states.add((used | {position}, ()))
                    elif item[: len(longer)] == longer:
                        states.add((used, longer))
            if not states:
                raise ValueError(f"token {token} cannot follow {tuple(before)} in a list of choices")
            self._states[written] = frozenset(states)
        return self._states[written]


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
