from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jointrag import preflight as module
from jointrag.preflight import FILES, preflight
from jointrag.presets import ConfigError, resolve


def problems(preset: str, *overrides: str) -> list[str]:
    try:
        preflight(resolve(preset, overrides))
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_text('{"id": "1"}\n')
    return tmp_path


def of_files(folder: Path) -> list[str]:
    return problems("smoke", "dataset.name=files", f"dataset.path={folder}")


@pytest.mark.parametrize("preset", ["demo", "smoke"])
def test_offline_presets_have_no_problem(preset: str) -> None:
    assert problems(preset) == []


def test_own_files(corpus: Path) -> None:
    assert of_files(corpus) == []


def test_a_corpus_in_another_form(corpus: Path) -> None:
    (corpus / "corpus.jsonl").rename(corpus / "corpus.tsv")
    assert of_files(corpus) == []
    (corpus / "corpus.tsv").unlink()
    assert "corpus.jsonl: no such file (nor .tsv or .parquet); dataset.path should hold corpus" in of_files(corpus)[0]


def test_questions_that_will_be_written_need_not_be_there(corpus: Path, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        (corpus / f"{split}.jsonl").unlink()
    written = ["dataset.name=files", "dataset.questions=synthesise", "dataset.synthesis.local.name=any/model"]
    assert any("train.jsonl" in problem for problem in of_files(corpus))
    assert problems("smoke", *written, f"dataset.path={corpus}") == []
    assert "nowhere: no such folder" in problems("smoke", *written, f"dataset.documents={tmp_path / 'nowhere'}")[0]


def test_missing_folder(tmp_path: Path) -> None:
    assert "no such folder; it should hold corpus.jsonl, train.jsonl" in of_files(tmp_path / "nowhere")[0]


def test_missing_and_empty_files_are_all_named(corpus: Path) -> None:
    (corpus / "dev.jsonl").unlink()
    (corpus / "test.jsonl").write_text("\n  \n")
    missing, empty = of_files(corpus)
    assert missing.startswith(f"{corpus / 'dev.jsonl'}: no such file")
    assert empty.startswith(f"{corpus / 'test.jsonl'} holds no questions")


def test_the_papers_preset_says_what_cannot_run_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_num_gpus", lambda: 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = problems("paper")
    assert found[0].startswith("runtime.device=cuda, but there is no usable NVIDIA GPU here")
    assert [line.split("=")[0] for line in found[1:]] == ["retriever.encoder.name", "language_model.name"]


def test_published_files_and_a_corpus_that_are_not_there(tmp_path: Path) -> None:
    given = ["dataset.name=nq", f"dataset.path={tmp_path}", f"dataset.corpus={tmp_path / 'wiki.tsv'}"]
    files, corpus = problems("smoke", *given)
    assert files.startswith(f"{tmp_path}: no file of a split")
    assert "wiki.tsv: no such file; give one, or own, psgs_w100 or wiki18" in corpus


def test_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def of_model(name: str | Path) -> list[str]:
        return problems("smoke", "language_model.type=pretrained", f"language_model.name={name}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert of_model("some/model") == []  # it can be downloaded
    assert of_model(tmp_path) == []
    assert of_model(tmp_path / "nowhere") == [f"language_model.name={tmp_path / 'nowhere'}: no such folder"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nor in the Hugging Face cache" in of_model("some/model")[0]


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert problems("smoke", f"server.port={port}") == [
            f"server.port={port} is in use on 127.0.0.1; choose another one, or 0 for any free port"
        ]
    assert problems("smoke", f"server.port={port}") == []


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_num_gpus", lambda: 2)
    four = ("runtime.num_processes=4", "warm_start.batch_size=8", "control.batch_size=8")
    assert problems("smoke", *four, "runtime.device=auto") == [
        "runtime.num_processes=4 need a GPU each, and there are 2; use runtime.num_processes=2"
    ]
    assert problems("smoke", *four, "runtime.device=cpu") == []
    assert problems("smoke", *four[1:], "runtime.num_processes=2", "runtime.device=auto") == []


def test_batches_that_the_processes_cannot_share() -> None:
    found = problems("smoke", "runtime.num_processes=3", "warm_start.batch_size=8", "control.batch_size=9")
    assert found == ["warm_start.batch_size=8 cannot be shared by runtime.num_processes=3; choose a multiple"]


def test_a_missing_accelerate_config() -> None:
    (found,) = problems("smoke", "runtime.accelerate_config=nowhere.yaml")
    assert found == "runtime.accelerate_config=nowhere.yaml: no such file; configs/accelerate/ has some"
