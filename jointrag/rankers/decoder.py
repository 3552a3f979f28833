"""Decoders asked whether a text answers a query: the score is logit(yes) − logit(no) of the next token.

How a pair is put to them is part of what they were trained on, so each family has its prompt in PROMPTS. A folder of
sentence-transformers says it itself (what jointrag's own training writes), and any chat model can be asked in words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jointrag.rankers.loading import Loading, load_model, load_tokenizer, most_tokens
from jointrag.rankers.local import LocalRanker
from jointrag.rankers.writing import Sentence, Template, Writing

_QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_GEMMA_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_CHAT_TASK = "Does the document help to answer the query? Answer Yes or No."


@dataclass(frozen=True, slots=True)
class Asking:
    """A prompt and the tokens that answer it. `no` None: the logit of `yes` alone."""

    writing: Writing
    yes: int
    no: int | None = None


def bge(tokenizer: Any, instruction: str | None = None) -> Asking:
    """bge-reranker-v2-gemma: <bos>A: query⏎B: passage⏎instruction, and the logit of Yes. Length limits query and
    passage; the instruction comes on top (FlagEmbedding's FlagLLMReranker)."""
    separator, task = (_ids(tokenizer, text) for text in ("\n", instruction or _GEMMA_TASK))
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    tail = [*separator, *task]
    return Asking(
        Template(tokenizer, bos, separator, tail, query_prefix="A: ", document_prefix="B: ", free=len(tail)),
        _ids(tokenizer, "Yes")[0],
    )


def qwen3(tokenizer: Any, instruction: str | None = None) -> Asking:
    """Qwen3-Reranker: its chat form with an empty thought, yes against no (the model card)."""
    head = _ids(
        tokenizer,
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    )
    tail = _ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    before = f"<Instruct>: {instruction or _QWEN3_TASK}\n<Query>: "
    writing = Sentence(tokenizer, before, "\n<Document>: ", head=head, tail=tail)
    return Asking(writing, _one(tokenizer, "yes"), _one(tokenizer, "no"))


def chat(tokenizer: Any, instruction: str | None = None) -> Asking:
    """Any model with a chat template, asked in words: the first token of Yes against that of No."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: no chat template, so it cannot be asked in words; choose a prompt")
    query, document = "\x02query\x03", "\x02document\x03"
    asked = f"Query: {query}\n\nDocument: {document}\n\n{instruction or _CHAT_TASK}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, rest = text.split(query)
    between, after = rest.split(document)
    return Asking(
        Sentence(tokenizer, before, between, tail=_ids(tokenizer, after)),
        _ids(tokenizer, "Yes")[0],
        _ids(tokenizer, "No")[0],
    )


PROMPTS: dict[str, Callable[[Any, str | None], Asking]] = {"bge": bge, "qwen3": qwen3, "chat": chat}


def saved(tokenizer: Any, folder: Path) -> Asking:
    """What a folder of sentence-transformers says: the tokenizer's template for pairs, and LogitScore's tokens."""
    (score,) = (
        one["path"] for one in json.loads((folder / "modules.json").read_text("utf-8")) if "LogitScore" in one["type"]
    )
    config = json.loads((folder / score / "config.json").read_text("utf-8"))
    return Asking(Template.of(tokenizer), config["true_token_id"], config.get("false_token_id"))


class Decoder(LocalRanker):
    """A causal language model with a prompt of PROMPTS, or as sentence-transformers saved it."""

    def __init__(
        self, name: str, loading: Loading, *, prompt: str | None = None, instruction: str | None = None
    ) -> None:
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(name, loading)
        self.asking = _asking(name, tokenizer, prompt, instruction)
        model = load_model(AutoModelForCausalLM, name, loading)
        super().__init__(
            model,
            tokenizer,
            self.asking.writing,
            max_length=loading.max_length or min(1024, most_tokens(model, tokenizer)),
            tokens_per_forward=loading.tokens_per_forward,
            left=True,
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_first: torch.Tensor) -> torch.Tensor:
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
        ).logits[:, -1]
        yes = logits[:, self.asking.yes]
        return yes if self.asking.no is None else yes - logits[:, self.asking.no]


def _asking(name: str, tokenizer: Any, prompt: str | None, instruction: str | None) -> Asking:
    if prompt is not None:
        if prompt not in PROMPTS:
            raise ValueError(f"prompt={prompt!r} is none of {', '.join(PROMPTS)}")
        return PROMPTS[prompt](tokenizer, instruction)
    if (Path(name) / "modules.json").is_file():
        return saved(tokenizer, Path(name))
    raise ValueError(f"{name}: nothing says how this decoder is to be asked; give prompt={' or '.join(PROMPTS)}")


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def _one(tokenizer: Any, word: str) -> int:
    """The id of a word that has to be a single token, in the form without a space before it."""
    found = tokenizer.convert_tokens_to_ids(word)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"{word!r} is no token of {tokenizer.name_or_path}, so it cannot be the answer")
    return found
