"""Tiny random rankers of the real architectures, with tokenizers of the real classes, and pairs to score."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "who wrote Faust? Goethe wrote Faust, a play in two parts.",
    "the capital of Norway is Oslo; it lies at the head of a fjord.",
    "A: query B: passage Yes No yes no 1 0 relevant document instruction",
    "浮士德是歌德写的一部悲剧。挪威的首都是奥斯陆。",
    "谁写了 Faust?",
]
LONG = " ".join(SENTENCES[:3] * 6)
PAIRS = [
    ("who wrote Faust?", "Goethe wrote Faust."),
    ("who wrote Faust?", ""),
    ("", "Goethe wrote Faust."),
    ("谁写了浮士德?", "浮士德是歌德写的一部悲剧。"),
    ("谁写了 Faust?", "Faust 是歌德 (Goethe) 写的: a play — in two parts 🎭 é"),
    ("who wrote Faust?", LONG),
    (LONG, "Goethe wrote Faust."),
    (LONG, LONG),
    ("capital?", " Oslo \n\n lies at the head of a fjord.  "),
    ("capital?", "浮士德是歌德写的。" * 20),
]
MAX_LENGTH = 96
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,  # scores that differ
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Weights that are all random, the biases and norms of a new model too: what is left out somewhere shows."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(folder)
    return folder


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def wordpiece() -> Any:
    from transformers import BertTokenizer

    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    return BertTokenizer(vocab=raw.get_vocab())


def sentencepiece(kind: str = "xlm-roberta") -> Any:
    from transformers import DebertaV2Tokenizer, XLMRobertaTokenizer

    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator(SENTENCES, trainers.UnigramTrainer(vocab_size=200, show_progress=False))
    pieces = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"] if piece != "<unk>"]
    if kind == "xlm-roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        return XLMRobertaTokenizer(vocab=[*((name, 0.0) for name in special), *pieces, ("<mask>", 0.0)])
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    return DebertaV2Tokenizer(vocab=[*((name, 0.0) for name in special), *pieces, ("[MASK]", 0.0)])


def byte_level(kind: str = "qwen2") -> Any:
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(SENTENCES * 3, trainer)
    if kind == "modernbert":
        ids = {name: raw.token_to_id(name) for name in ("[CLS]", "[SEP]")}
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=list(ids.items())
        )
        named = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "CLS", "SEP", "MASK")}
        return PreTrainedTokenizerFast(tokenizer_object=raw, **named)
    model = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    return tokenizer


def byte_fallback(kind: str = "gemma") -> Any:
    from transformers import GemmaTokenizer, LlamaTokenizer

    gemma = kind == "gemma"
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] if gemma else ["<unk>", "<s>", "</s>"]
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = [*first, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    raw.train_from_iterator([*SENTENCES, "Yes", "No"] * 3, trainer)
    model = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return (GemmaTokenizer if gemma else LlamaTokenizer)(vocab=model["vocab"], merges=merges)


# ---- models ----------------------------------------------------------------------------------------------------------


def classifier(kind: str, folder: Path, *, labels: int = 1) -> Path:
    """A cross-encoder: xlm-roberta, bert, modernbert, deberta, qwen2, gemma."""
    hf: Any = import_module("transformers")

    torch.manual_seed(1)
    many = {"num_labels": labels}
    if kind == "xlm-roberta":
        tokenizer = sentencepiece()
        config = hf.XLMRobertaConfig(
            vocab_size=len(tokenizer),
            type_vocab_size=1,
            pad_token_id=1,
            **many,
            **_SHAPE | {"max_position_embeddings": 258},
        )
        return save(hf.XLMRobertaForSequenceClassification(config), tokenizer, folder)
    if kind == "bert":
        tokenizer = wordpiece()
        return save(
            hf.BertForSequenceClassification(hf.BertConfig(vocab_size=len(tokenizer), **many, **_SHAPE)),
            tokenizer,
            folder,
        )
    if kind == "modernbert":
        tokenizer = byte_level("modernbert")
        config = hf.ModernBertConfig(
            vocab_size=len(tokenizer), local_attention=8, global_attn_every_n_layers=2,
            pad_token_id=tokenizer.pad_token_id, cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id, bos_token_id=None, eos_token_id=None,
            classifier_pooling="mean", **many, **_SHAPE,
        )  # fmt: skip
        return save(hf.ModernBertForSequenceClassification(config), tokenizer, folder)
    if kind == "deberta":
        tokenizer = sentencepiece("deberta")
        config = hf.DebertaV2Config(
            vocab_size=len(tokenizer), relative_attention=True, position_biased_input=False, type_vocab_size=0,
            position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
            **many, **_SHAPE,
        )  # fmt: skip
        return save(hf.DebertaV2ForSequenceClassification(config), tokenizer, folder)
    if kind == "qwen2":
        tokenizer = byte_level()
        config = hf.Qwen2Config(vocab_size=len(tokenizer), pad_token_id=None, num_key_value_heads=2, **many, **_SHAPE)
        return save(hf.Qwen2ForSequenceClassification(config), tokenizer, folder)
    assert kind == "gemma"
    tokenizer = byte_fallback()
    config = hf.GemmaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **many, **_SHAPE, **_GROUPED
    )
    return save(hf.GemmaForSequenceClassification(config), tokenizer, folder)


def decoder(kind: str, folder: Path) -> Path:
    """A causal language model: gemma, qwen3, llama."""
    hf: Any = import_module("transformers")

    torch.manual_seed(2)
    if kind == "qwen3":
        tokenizer = byte_level()
        config = hf.Qwen3Config(vocab_size=len(tokenizer), **_SHAPE | {"max_position_embeddings": 1024}, **_GROUPED)
        folder = save(hf.Qwen3ForCausalLM(config), tokenizer, folder)
        tokenizer.model_max_length = 1024
        tokenizer.save_pretrained(folder)
        return folder
    tokenizer = byte_fallback(kind)
    make, config = {
        "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig(vocab_size=len(tokenizer), **_SHAPE, **_GROUPED)),
        "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(vocab_size=len(tokenizer), **_SHAPE)),
    }[kind]
    return save(make(config), tokenizer, folder)


def layerwise(folder: Path) -> Path:
    """A decoder with a head at each of its layers but the first, and its authors' code beside it."""
    from tests.minicpm_layerwise import LayerWiseMiniCPMConfig, LayerWiseMiniCPMForCausalLM

    torch.manual_seed(3)
    tokenizer = byte_fallback("llama")
    config = LayerWiseMiniCPMConfig(
        vocab_size=len(tokenizer), start_layer=2, num_key_value_heads=2, **_SHAPE | {"num_hidden_layers": 4}
    )
    config._attn_implementation = "sdpa"
    save(LayerWiseMiniCPMForCausalLM(config), tokenizer, folder)
    code = Path(__file__).parent / "minicpm_layerwise.py"
    shutil.copy(code, folder / "modeling_minicpm_reranker.py")
    saved = json.loads((folder / "config.json").read_text())
    saved["auto_map"] = {
        "AutoConfig": "modeling_minicpm_reranker.LayerWiseMiniCPMConfig",
        "AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


def multi_vector(folder: Path, *, prompts: dict[str, str] | None = None, expansion: int | None = None) -> Path:
    """A late-interaction model in the format of sentence-transformers: BERT, a layer to 16 dimensions, punctuation of
    documents left out, unit vectors."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import BertConfig, BertModel

    torch.manual_seed(4)
    tokenizer = wordpiece()
    bare = save(BertModel(BertConfig(vocab_size=len(tokenizer), **_SHAPE)), tokenizer, folder / "bert")
    queries: dict[str, Any] = {"query_length": 40}
    if expansion is not None:
        queries = {"query_expansion": {"strategy": "fixed", "attend": False, "length": expansion}}
    transformer = Transformer(str(bare), document_length=48, **queries)
    names: dict[str, Any] = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    layer = Dense(32, 16, bias=False, activation_function=torch.nn.Identity(), **names)
    mask = MultiVectorMask(skiplist_words=[".", ",", "?"])
    normal = Normalize(module_input_name="token_embeddings")
    model = MultiVectorEncoder(modules=[transformer, layer, mask, normal], prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
