"""Several processes that train together, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from jointrag.config import PretrainedLM
from jointrag.generation import LocalLM
from jointrag.jsonl import write_jsonl
from tests.integration.ranks import JOINT_KINDS, mappo, sharded, torchrun, warm_start
from tests.tiny import QUESTIONS, tiny_lm
from trainers.parallel import Team


def test_alone_nothing_is_shared_and_nothing_is_started():
    team = Team.join()
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    team.sum_gradients([parameter])
    team.wait()
    assert team == Team(rank=0, size=1)
    assert team.is_first
    assert team.share([1, 2, 3]) == team.gather([1, 2, 3]) == [1, 2, 3]
    assert parameter.grad.tolist() == [1, 1]
    assert not distributed.is_initialized()


def test_shares_are_contiguous_and_differ_by_one_at_most():
    assert [Team(rank, 3).share("abcdefgh") for rank in range(3)] == [list("abc"), list("def"), list("gh")]
    assert [Team(rank, 3).share("a") for rank in range(3)] == [["a"], [], []]


def test_two_processes_share_gather_and_sum(tmp_path):
    first, second = torchrun(2, "team", tmp_path)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["size"] == second["size"] == 2
    assert first["is_first"] and not second["is_first"]
    assert first["share"] + second["share"] == list(range(7))
    assert first["gather"] == second["gather"] == ["0.0", "1.0", "1.1"]
    expected = [torch.full((2, 3), 3.0), 2 * torch.arange(4.0, dtype=torch.float64), torch.ones(2)]
    for found in (first, second):
        torch.testing.assert_close(found["gradients"], expected)


def test_two_processes_make_the_warm_start_of_one(tmp_path):
    first, second = torchrun(2, "warm_start", tmp_path)
    alone = warm_start(tmp_path)
    assert abs(first["loss"] - alone["loss"]) < 1e-4
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
        assert torch.equal(first["timed"][name], second["timed"][name])  # their time ended after the same step


def test_a_batch_that_cannot_be_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(Team, "join", lambda device: Team(0, 3))
    with pytest.raises(ValueError, match="warm_start: a batch of 8 examples cannot be shared by 3 processes"):
        warm_start(tmp_path)


def test_two_processes_make_the_updates_of_one(tmp_path):
    first, second = torchrun(2, "mappo", tmp_path)
    alone = mappo(tmp_path)
    torch.testing.assert_close(first["norms"], alone["norms"], rtol=1e-4, atol=0)
    for name, weight in alone["updated"].items():
        torch.testing.assert_close(first["updated"][name], weight, rtol=0, atol=1e-5)
        assert torch.equal(first["updated"][name], second["updated"][name])
        assert torch.equal(first["trained"][name], second["trained"][name])
    assert first["step"] == second["step"] == 3
    assert first["last"]["mappo/reward"] == second["last"]["mappo/reward"]
    assert len((tmp_path / "2" / "history.jsonl").read_text().splitlines()) == len(
        (tmp_path / "1" / "history.jsonl").read_text().splitlines()
    )  # one of them writes


def test_a_sharded_model_makes_the_updates_of_a_whole_one(tmp_path):
    """FSDP2, full fine-tuning and LoRA: rollouts of different lengths, forward passes of different numbers."""
    first, second = torchrun(2, "sharded", tmp_path)
    alone = sharded(tmp_path)
    for lora in (False, True):
        assert first[lora]["sharded"] and second[lora]["sharded"] and not alone[lora]["sharded"]
        assert first[lora]["passes"] != second[lora]["passes"]
        torch.testing.assert_close(first[lora]["norms"], alone[lora]["norms"], rtol=1e-4, atol=0)
        for name, weight in alone[lora]["weights"].items():
            torch.testing.assert_close(first[lora]["weights"][name], weight, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def joint_runs(tmp_path_factory) -> Path:
    """Joint training of every kind by two processes, of whole models and of sharded ones."""
    folder = tmp_path_factory.mktemp("joint")
    lm = tiny_lm()
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "questions.jsonl", QUESTIONS)
    write_jsonl(folder / "dev.jsonl", QUESTIONS)
    torchrun(2, "joint", folder)
    return folder


@pytest.mark.parametrize("kind", JOINT_KINDS)
def test_joint_training_of_a_sharded_model_is_that_of_a_whole_one(joint_runs, kind):
    ours, theirs = (joint_runs / kind / name for name in ("sharded", "whole"))
    for line, expected in zip(history(ours), history(theirs), strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-5)
    found, expected, before = checkpoint(ours, 3), checkpoint(theirs, 3), checkpoint(ours, 2)
    torch.testing.assert_close(found["policy"], expected["policy"], rtol=0, atol=1e-5)  # the critic with it
    assert any((weight - before["policy"][name]).abs().max() > 1e-4 for name, weight in found["policy"].items())


@pytest.mark.parametrize("kind", JOINT_KINDS)
def test_a_sharded_run_goes_on_as_if_it_had_never_ended(joint_runs, kind):
    run, again = (joint_runs / kind / name for name in ("sharded", "again"))
    assert history(again) == history(run)
    torch.testing.assert_close(weights(again), weights(run), rtol=0, atol=0)
    last, once_more = checkpoint(run, 3), checkpoint(again, 3)
    torch.testing.assert_close(once_more["policy"], last["policy"], rtol=0, atol=0)
    torch.testing.assert_close(once_more["optimizer"]["state"], last["optimizer"]["state"], rtol=0, atol=0)


def history(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "history.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if "time/" not in name} for line in lines]


def checkpoint(out: Path, step: int) -> dict[str, Any]:
    return torch.load(out / "checkpoints" / f"step-{step:06d}.pt")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the saved model, as later stages load it."""
    lm = LocalLM.load(folder / "model", PretrainedLM(name="", dtype="float32"), "cpu")
    return {name: weight.detach() for name, weight in lm.model.named_parameters()}


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "does not do ACCELERATE_USE_DEEPSPEED"),
        ({"ACCELERATE_USE_FSDP": "true"}, "set fsdp_version: 2"),
    ],
)
def test_configs_that_joint_training_cannot_follow(environment, message, monkeypatch):
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: SimpleNamespace(process_index=0, num_processes=2))
    for name, value in ({"WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Team.join()
