"""Models that are trained from random weights: their tokenizer (whole words, punctuation apart), and a small encoder.

    tokenizer = word_level_tokenizer(texts, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lowercase=True)   # a small encoder
    tokenizer = word_level_tokenizer(texts, ["<pad>", "<unk>", "<eos>", "<rewriter>"], lowercase=False)   # a small LM

A few hundred words cover a small corpus, sequences stay short, and nothing has to be downloaded.

The encoder is a small BERT. Mean pooling over random word vectors already measures word overlap, so training starts
from a usable retriever and has to learn only which words matter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Transformer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from jointrag.config import ScratchEncoder

# A word with the hyphens and apostrophes inside it, a possessive 's (so that a name stays one word), or a character.
_PIECES = r"\w+(?:(?:-|['’](?!s\b))\w+)*|['’]s\b|[^\w\s]"
_ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")


def word_level_tokenizer(
    texts: Iterable[str],
    special_tokens: Sequence[str],
    lowercase: bool,
    keep_newlines: bool = False,
    max_vocabulary: int = 30_000,
) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the words of `texts`, the most frequent first, after `special_tokens`.

    A special token plays the role its name says ("[PAD]" or "<pad>": padding; unk, bos, eos, cls, sep, mask likewise);
    any other is an extra token that text is never split into. With cls and sep among them, every text is wrapped in the
    two. Decoding joins words by spaces and closes up before `. , ? !`. `keep_newlines` makes a newline a token.

    Raises ValueError when pad or unk is not among the special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    roles = {name: token for token in special_tokens if (name := token.strip("[]<>|").lower()) in _ROLES}
    for name in ("pad", "unk"):
        if name not in roles:
            raise ValueError(f"special_tokens {list(special_tokens)} has no {name} token; add one named '<{name}>'")

    tokenizer = Tokenizer(models.WordLevel(unk_token=roles["unk"]))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    pattern = Regex(rf"\n|{_PIECES}" if keep_newlines else _PIECES)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, "removed", invert=True)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # a space before words, none before . , ? !
    trainer = trainers.WordLevelTrainer(
        vocab_size=max_vocabulary, special_tokens=list(special_tokens), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if "cls" in roles and "sep" in roles:
        wrap = [(roles[name], tokenizer.token_to_id(roles[name])) for name in ("cls", "sep")]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{roles['cls']} $A {roles['sep']}", special_tokens=wrap
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[token for token in special_tokens if token not in roles.values()],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in roles.items()},
    )


def scratch_encoder(config: ScratchEncoder, texts: Iterable[str]) -> list[Any]:
    """The modules of a sentence-transformers model, with a vocabulary of `texts` and torch's current random state."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import BertConfig, BertModel

    tokenizer = word_level_tokenizer(texts, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lowercase=True)
    tokenizer.model_max_length = config.max_length
    bert = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        max_position_embeddings=config.max_length,
        pad_token_id=0,
        hidden_dropout_prob=0.0,  # one short epoch does not overfit
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(bert)
    with torch.no_grad():  # at the start a word's vector is the word alone, so that overlap is what similarity measures
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
    return [as_module(model, tokenizer), Pooling(config.hidden_size, "mean"), Normalize()]


def as_module(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Transformer:
    """The first module of a sentence-transformers model, which is otherwise made from a folder alone."""
    from safetensors.torch import save_file
    from sentence_transformers.base.modules import Transformer

    model.config.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        # save_pretrained writes in the first of several processes only, and each has a folder of its own here
        model.config.to_json_file(f"{folder}/config.json")
        save_file(model.state_dict(), f"{folder}/model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(folder)
        return Transformer(folder, max_seq_length=tokenizer.model_max_length)
