"""Decoders as rerankers: how a pair is written, and which token is the answer.

    model = as_reranker(load_decoder("Qwen/Qwen3-0.6B"), DecoderFormat())     # a CrossEncoder
    model.save_pretrained("reranker")                               # CrossEncoder("reranker") reads pairs alike

The format lives in the tokenizer's template for pairs, as token ids around the two texts: [bos] query_format and
document_format with `closing` at the end. So it is part of tokenizer.json, plain sentence-transformers applies it, and
because a template is no text, truncation leaves it alone. sentence-transformers' own way is a chat template, which is
cut like text (its end is written back), and lets a long query push the document out.

RAG-Retrieval and FlagEmbedding give the query at most 3/4 of the length. Here the longer of the two is cut first: a
query gets more than half only of what the document leaves free.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.util import load_file_path
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig

from jointrag.config import DecoderFormat


def is_bare_decoder(name: str, *, trust_remote_code: bool = False, **_: Any) -> bool:
    """Whether this is a causal language model that nobody has made a cross-encoder of."""
    heads = getattr(AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code), "architectures", None) or [
        ""
    ]
    if not heads[0].endswith("ForCausalLM"):
        return False
    saved_as = load_file_path(name, "config_sentence_transformers.json")  # an embedding model may be a decoder, too
    return saved_as is None or json.loads(Path(saved_as).read_text()).get("model_type") != "CrossEncoder"


def load_decoder(
    name: str, *, device: str | None = None, trust_remote_code: bool = False, model_kwargs: dict[str, Any] | None = None
) -> Transformer:
    """The decoder as a module that reads plain pairs, also where there is a chat template: that knows of no pairs."""
    shared = {"trust_remote_code": trust_remote_code}
    return Transformer(
        name,
        transformer_task="text-generation",
        model_kwargs={**shared, **(model_kwargs or {})},
        processor_kwargs=dict(shared),
        config_kwargs=dict(shared),
        modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
        module_output_name="causal_logits",
    ).to(device)


def as_reranker(decoder: Transformer, format_: DecoderFormat) -> CrossEncoder:
    """A cross-encoder that reads pairs in this format; its score is what the decoder thinks of the answer.

    Raises ValueError for an answer that is not one token after `closing`.
    """
    tokenizer: Any = decoder.tokenizer
    ending = _part(format_.document_format)[1] + format_.closing
    yes = answer_id(tokenizer, ending, format_.yes, "yes")
    no = None if format_.no is None else answer_id(tokenizer, ending, format_.no, "no")
    write_format(tokenizer, format_)
    return CrossEncoder(modules=[decoder, LogitScore(yes, no)], device=str(decoder.model.device))


def write_format(tokenizer: Any, format_: DecoderFormat) -> None:
    """Make the format the tokenizer's template for pairs. Single texts are tokenised as before."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer, so it cannot hold a format for pairs")
    before_query, after_query = _part(format_.query_format)
    before_document, after_document = _part(format_.document_format)
    probe = tokenizer("a").input_ids
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and probe[0] == tokenizer.bos_token_id else []
    fixed = {
        "open": bos + _ids(tokenizer, before_query),
        "between": _ids(tokenizer, after_query + before_document),
        "close": _ids(tokenizer, after_document + format_.closing),
        "bos": bos,
    }

    def template(*names: str) -> list[str]:
        return [name if name.startswith("$") else f"<{name}>" for name in names if name.startswith("$") or fixed[name]]

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template("bos", "$A"),
        pair=template("open", "$A", "between", "$B:0", "close"),
        special_tokens=[
            {"id": f"<{name}>", "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}  # type: ignore[list-item]
            for name, ids in fixed.items()
            if ids
        ],
    )
    for name in ("add_bos_token", "add_eos_token"):  # saved, they would make the loader write a template of its own
        tokenizer.init_kwargs.pop(name, None)


def check_room(tokenizer: Any, max_length: int) -> None:
    """Raises ValueError when what a tokenizer puts around a pair leaves less than half of `max_length` to the pair."""
    fixed = tokenizer.num_special_tokens_to_add(pair=True)
    if 2 * fixed > max_length:
        raise ValueError(
            f"max_length={max_length}, of which {fixed} tokens go to what stands around query and text; set it to "
            f"{2 * fixed} or more, or make the format shorter"
        )


def answer_id(tokenizer: Any, ending: str, answer: str, setting: str) -> int:
    """The token that `answer` is when it follows `ending`. Tokenised together: a leading space belongs to the word."""
    before, together = _ids(tokenizer, ending), _ids(tokenizer, ending + answer)
    found = together[len(before) :]
    if together[: len(before)] != before or len(found) != 1 or found[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"decoder.{setting}={answer!r} has to be one token of this tokenizer after {ending!r}; it is "
            f"{tokenizer.convert_ids_to_tokens(found)}. Try it with or without its space, or another word"
        )
    return found[0]


def _part(format_: str) -> tuple[str, str]:
    before, _, after = format_.partition("{}")
    return before, after


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids if text else []
