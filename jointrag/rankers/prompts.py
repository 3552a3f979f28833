"""How decoders are asked about a pair: a prompt per family, and the tokens that answer.

    asked = PROMPTS["qwen3"](tokenizer, None)
    asked.writing.write(["who wrote Faust?"], ["Goethe wrote Faust."], Limits(1024)); asked.yes, asked.no

The words are those that the families were trained on, from their model cards and code (FlagEmbedding, mxbai-rerank).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jointrag.rankers.loading import model_json, saved_modules, saved_prompt
from jointrag.rankers.writing import Sentence, Template, Writing

_GEMMA_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:"
)
CHAT_TASK = "Does the document help to answer the query? Answer Yes or No."
_QUERY, _DOCUMENT = "\x02query\x03", "\x02document\x03"  # stand where the texts go while a template is rendered


@dataclass(frozen=True, slots=True)
class Asking:
    """A prompt and the tokens that answer it. `no` None: the logit of `yes` alone."""

    writing: Writing
    yes: int
    no: int | None = None


def bge(tokenizer: Any, instruction: str | None = None) -> Asking:
    """bge-reranker-v2-gemma and -minicpm: <bos>A: query⏎B: passage⏎instruction, and the logit of Yes. Length limits
    query and passage; the instruction comes on top, as in FlagEmbedding."""
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


def mxbai(tokenizer: Any, instruction: str | None = None) -> Asking:
    """mxbai-rerank-v2: 1 against 0 (the package mxbai-rerank). Its fixed words do not count towards the length."""
    head = _ids(
        tokenizer,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
    )
    separator = _ids(tokenizer, "\n")
    tail = [*separator, *_ids(tokenizer, _MXBAI_TASK), *_ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")]
    query_prefix = f"instruction: {instruction}\nquery: " if instruction else "query: "
    writing = Template(
        tokenizer, head, separator, tail, query_prefix=query_prefix, document_prefix="document: ",
        free=len(head) + len(tail),
    )  # fmt: skip
    return Asking(writing, _ids(tokenizer, "1")[0], _ids(tokenizer, "0")[0])


def chat(tokenizer: Any, instruction: str | None = None) -> Asking:
    """Any model with a chat template, asked in words: the first token of Yes against that of No."""
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: no chat template, so it cannot be asked in words; choose a prompt")
    asked = f"Query: {_QUERY}\n\nDocument: {_DOCUMENT}\n\n{instruction or CHAT_TASK}"
    messages = [{"role": "user", "content": asked}]
    writing, after = _rendered(tokenizer, messages, add_generation_prompt=True, enable_thinking=False)
    yes, no = (_next(tokenizer, after, word) for word in ("Yes", "No"))
    if yes == no:
        raise ValueError(f"{tokenizer.name_or_path}: Yes and No begin with the same token, so neither is an answer")
    return Asking(writing, yes, no)


PROMPTS: dict[str, Callable[[Any, str | None], Asking]] = {"bge": bge, "qwen3": qwen3, "mxbai": mxbai, "chat": chat}


def asking(name: str, tokenizer: Any, prompt: str | None, instruction: str | None) -> Asking:
    """How this model is asked. Raises ValueError where neither `prompt` nor the model's files say it."""
    if prompt is not None:
        if prompt not in PROMPTS:
            raise ValueError(f"prompt={prompt!r} is none of {', '.join(PROMPTS)}")
        return PROMPTS[prompt](tokenizer, instruction)
    if any("LogitScore" in module["type"] for module in saved_modules(name)):
        return saved(name, tokenizer, instruction)
    raise ValueError(f"{name}: nothing says how this decoder is to be asked; give prompt={' or '.join(PROMPTS)}")


def saved(name: str, tokenizer: Any, instruction: str | None = None) -> Asking:
    """As sentence-transformers saved it, LogitScore's tokens being the answer."""
    (score,) = (one["path"] for one in saved_modules(name) if "LogitScore" in one["type"])
    answer = model_json(name, f"{score}/config.json", needed=True)
    return Asking(saved_writing(name, tokenizer, instruction), answer["true_token_id"], answer.get("false_token_id"))


def saved_writing(name: str, tokenizer: Any, instruction: str | None = None) -> Writing:
    """How a CrossEncoder of sentence-transformers reads pairs: in its chat template, with a message for the query and
    one for the document, else in the tokenizer's template for pairs, as our own training has it."""
    prompt = saved_prompt(name) if instruction is None else instruction
    settings = model_json(name, "sentence_bert_config.json")
    message = (settings.get("modality_config") or {}).get("message")
    if message is None:
        return Template.of(tokenizer, query_prefix=prompt)
    said = {"system": prompt} if prompt else {}
    said |= {"query": _QUERY, "document": _DOCUMENT}
    structured = message.get("format") == "structured"
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if structured else text}
        for role, text in said.items()
    ]
    given = dict((settings.get("processing_kwargs") or {}).get("chat_template") or {})
    given.pop("restore_suffix", None)  # sentence-transformers' own: a cut text keeps its end, as it always does here
    return _rendered(tokenizer, messages, **given)[0]


def _rendered(tokenizer: Any, messages: list[dict[str, Any]], **given: Any) -> tuple[Sentence, str]:
    """A chat template around query and document, and what it says after them. Raises ValueError for one that leaves
    them out."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, **given)
    before, found, rest = text.partition(_QUERY)
    between, found_too, after = rest.partition(_DOCUMENT)
    if not (found and found_too):
        raise ValueError(f"{tokenizer.name_or_path}: its chat template does not say the query and then the document")
    return Sentence(tokenizer, before, between, tail=_ids(tokenizer, after)), after


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def _next(tokenizer: Any, before: str, word: str) -> int:
    """The first token of a word where it follows `before`: some tokenizers have another one for the head of a text."""
    start = len(before)
    encoding = tokenizer(before + word, add_special_tokens=False, return_offsets_mapping=True)
    return next(
        token for token, (_, end) in zip(encoding.input_ids, encoding.offset_mapping, strict=True) if end > start
    )


def _one(tokenizer: Any, word: str) -> int:
    """The id of a word that has to be a single token, in the form without a space before it."""
    found = tokenizer.convert_tokens_to_ids(word)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"{word!r} is no token of {tokenizer.name_or_path}, so it cannot be the answer")
    return found
