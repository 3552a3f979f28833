"""The restriction on lists: only valid lists, all valid lists, in tokens of any kind."""

import itertools
from typing import Any

import pytest

from jointrag.choices import ChoiceList


class CharacterTokenizer:
    """One token per character: items take several tokens and Document1 is the beginning of Document10."""

    eos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [ord(character) for character in text]


TOKENIZER: Any = CharacterTokenizer()


def every_list(choices: ChoiceList, limit: int) -> set[str]:
    found: set[str] = set()
    open_ends: list[tuple[int, ...]] = [()]
    while open_ends:
        written = open_ends.pop()
        for token in choices.allowed(written):
            if token == 0:
                found.add("".join(map(chr, written)))
            elif len(written) < limit:
                open_ends.append((*written, token))
    return found


def test_exactly_the_lists_of_distinct_choices_are_allowed():
    names = ["D1", "D10", "D2"]
    expected = {",".join(order) for size in range(4) for order in itertools.permutations(names, size)}
    assert every_list(ChoiceList(TOKENIZER, names), limit=20) == expected


def test_encode_writes_what_allowed_accepts():
    choices = ChoiceList(TOKENIZER, ["D1", "D10", "D2"])
    tokens = choices.encode([1, 0])
    assert "".join(map(chr, tokens)) == "D10,D1"
    for i, token in enumerate(tokens):
        assert token in choices.allowed(tokens[:i])
    assert 0 in choices.allowed(tokens)


def test_a_choice_cannot_come_twice():
    choices = ChoiceList(TOKENIZER, ["D1", "D2"])
    assert ord("1") not in choices.allowed(tuple(map(ord, "D1,D")))


def test_tokens_that_lead_nowhere_are_an_error():
    with pytest.raises(ValueError, match="cannot follow"):
        ChoiceList(TOKENIZER, ["D1"]).allowed(tuple(map(ord, "X")))
