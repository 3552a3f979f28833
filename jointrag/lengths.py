"""How long a text is, about, before any tokenizer is chosen."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[぀-ヿ㐀-䶿一-鿿가-힯]|\w+|[^\w\s]")


def num_words(text: str) -> int:
    """Words and marks, a character each in Chinese, Japanese and Korean: near to tokens, in any language."""
    return len(_TOKEN.findall(text))
