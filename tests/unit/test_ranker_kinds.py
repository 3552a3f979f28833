"""Which kind of ranker a model is: by its files, then by its name; else an error that lists the kinds."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from jointrag import Reranker
from jointrag.rankers.base import Ranker
from jointrag.rankers.kinds import KINDS, NAMES, Found, find, make
from jointrag.rankers.loading import Loading


def folder(path: Path, head: str | None, saved: str | None = None) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"architectures": [head]} if head else {}))
    if saved:
        (path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": saved}))
    return str(path)


@pytest.mark.parametrize(
    ("name", "head", "saved", "kind", "options"),
    [
        ("some-bge", "XLMRobertaForSequenceClassification", None, "cross_encoder", {}),
        ("bce-reranker-base_v1", "XLMRobertaForSequenceClassification", None, "cross_encoder", {"sigmoid": True}),
        ("ours", "BertForSequenceClassification", "CrossEncoder", "cross_encoder", {}),
        ("ours", "Qwen2ForCausalLM", "CrossEncoder", "decoder", {}),
        ("qwen3-reranker-tuned", "Qwen3ForCausalLM", "CrossEncoder", "decoder", {}),  # its files come first
        ("bge-reranker-v2-gemma", "GemmaForCausalLM", None, "decoder", {"prompt": "bge"}),
        ("Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", None, "decoder", {"prompt": "qwen3"}),
        ("Qwen3-Reranker-0.6B-seq-cls", "Qwen3ForSequenceClassification", None, "cross_encoder", {"prompt": "qwen3"}),
        ("mxbai-rerank-base-v2", "Qwen2ForCausalLM", None, "decoder", {"prompt": "mxbai"}),
        ("mxbai-rerank-base-v1", "DebertaV2ForSequenceClassification", None, "cross_encoder", {}),
        ("bge-reranker-v2-minicpm-layerwise", "LayerWiseMiniCPMForCausalLM", None, "layerwise", {}),
        ("layers", "LayerWiseMiniCPMForCausalLM", None, "layerwise", {}),
        ("colbert", "BertModel", "MultiVectorEncoder", "late_interaction", {}),
        ("pylate", "BertModel", "ColBERT", "late_interaction", {}),
        ("stanford", "HF_ColBERT", None, "late_interaction", {}),
    ],
)
def test_files_first_then_the_name(
    name: str, head: str, saved: str | None, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    assert find(folder(tmp_path / name, head, saved)) == Found(kind, options)


def test_what_needs_no_files() -> None:
    assert find("bm25") == Found("bm25", {})
    assert find("http://127.0.0.1:8080/rerank") == find("https://api.jina.ai/v1/rerank") == Found("served", {})


@pytest.mark.parametrize(
    ("head", "saved", "what"),
    [
        ("Qwen2ForCausalLM", None, "a language model that nothing says how to ask"),
        ("BertModel", "SentenceTransformer", "an embedding model"),
        ("BertModel", None, "BertModel: no reranker that is known here"),
        (None, None, "of no known architecture"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_lists_the_kinds(
    head: str | None, saved: str | None, what: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=what) as error:
        Reranker(folder(tmp_path, head, saved))
    assert str(error.value).endswith(f"kind= one of {', '.join(KINDS)}")


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match=r"kind='colbert' is none of cross_encoder, decoder, .*, bm25"):
        Reranker("bm25", "colbert")


def test_a_misspelt_option_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"a bm25 ranker has no option langauge; it has language, k1, b$"):
        make("bm25", None, Loading(), {"langauge": "german"})


def test_a_given_kind_still_takes_what_the_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Ranker):
        def __init__(self, name: str, loading: Loading, **options: Any) -> None:
            raise LookupError(options)

        def score_batch(self, pairs: Any) -> list[float]:
            return []

    import jointrag.rankers.cross_encoder as module

    monkeypatch.setattr(module, "CrossEncoder", Seen)
    name = folder(tmp_path / "bce-reranker-base_v1", "XLMRobertaForSequenceClassification")
    with pytest.raises(LookupError) as error:
        make(name, "cross_encoder", Loading(), {})
    assert error.value.args == ({"sigmoid": True},)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json in it; give the folder that holds the model"):
        Reranker(str(tmp_path))


def test_a_name_without_a_network() -> None:
    with pytest.raises(ValueError, match=r"'nobody/no-such-model' is no folder and cannot be downloaded") as error:
        Reranker("nobody/no-such-model")
    assert "give a folder, a Hugging Face name, the address of a server, or bm25" in str(error.value)


def test_every_kind_is_a_ranker_and_every_name_of_a_kind() -> None:
    for where in KINDS.values():
        module, _, attribute = where.partition(":")
        made = getattr(import_module(module), attribute)
        assert issubclass(made, Ranker) and made.__doc__
    assert {kind for _, kind, _ in NAMES} <= set(KINDS)
