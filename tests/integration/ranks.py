"""What tests run in several processes: `torchrun(2, NAME, OUT)` calls the function NAME here in each of them.

Every process writes what it found to OUT/<rank>.pt.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from jointrag.adapters import with_adapters
from jointrag.config import CriticConfig, Lora, MappoConfig, PretrainedLM
from jointrag.parent import exit_with_parent
from jointrag.pipeline import answer, answering
from jointrag.tracking import NoTracker
from jointrag.types import Episode
from tasks import supervisor
from tests.tiny import AGENTS, QUESTIONS, TINY, FixedRetriever, chain, tiny_lm
from trainers.labelling import label
from trainers.mappo import loop
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy
from trainers.mappo.rewards import answer_rewards
from trainers.mappo.rollouts import experience, score
from trainers.mappo.sharding import clip_gradients, full_weights, part_like, shard, whole
from trainers.mappo.update import update
from trainers.parallel import Team
from trainers.warm_start import Phase, encode, fit

TIMEOUT_S = 300


def torchrun(num_processes: int, name: str, out: Path, module: str = __name__) -> list[Any]:
    """What every process found, in the order of their ranks. Raises AssertionError with the output when one failed."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes), "-m", module]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    deadline = time.monotonic() + TIMEOUT_S
    lines: list[str] = []
    try:
        supervisor.run(
            [sys.executable, *launch, name, str(out)],
            on_line=lines.append,
            environment=environment,
            failed=lambda: "took too long" if time.monotonic() > deadline else None,
        )
    except supervisor.CommandFailed as error:
        raise AssertionError("\n".join([*lines, str(error)])) from None
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(num_processes)]


def team(out: Path) -> Any:
    """Every method of Team once."""
    team = Team.join()
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))]
    parameters.append(torch.nn.Parameter(torch.zeros(2)))  # without a gradient on one process
    parameters[0].grad = torch.full((2, 3), 1.0 + team.rank)
    parameters[1].grad = torch.arange(4.0, dtype=torch.float64)
    if team.rank == 1:
        parameters[2].grad = torch.ones(2)
    team.sum_gradients(parameters)
    team.wait()
    return {
        "rank": team.rank,
        "size": team.size,
        "is_first": team.is_first,
        "share": team.share(range(7)),
        "gather": team.gather([f"{team.rank}.{i}" for i in range(1 + team.rank)]),
        "gradients": [parameter.grad for parameter in parameters],
    }


def warm_start(out: Path) -> Any:
    """A few steps of the warm start, with prompt loss, gradient accumulation and examples of many lengths."""
    Team.join("cpu")
    lm = tiny_lm()
    examples = [example for one in label(QUESTIONS, chain(), FixedRetriever()) for example in one.examples]
    rows = encode(lm.tokenizer, examples * 4, TINY.max_length, AGENTS)[:48]
    phase = Phase("warm_start", 2, 1e-3, batch_size=8, gradient_accumulation=2, prompt_loss_weight=0.3)
    metrics = fit(lm.model, lm.tokenizer, rows, phase, seed=0, out=out, tracker=NoTracker())
    timed = replace(phase, name="control", num_epochs=1000, max_seconds=1.0)
    weights = {name: weight.detach().clone() for name, weight in lm.model.state_dict().items()}
    fit(lm.model, lm.tokenizer, rows, timed, seed=0, out=out, tracker=NoTracker())
    return {"loss": metrics["warm_start/loss"], "weights": weights, "timed": lm.model.state_dict()}


def sharded(out: Path) -> Any:
    """Three updates of a policy between rollouts; in several processes its weights are sharded."""
    return {lora: _updates(lora) for lora in (False, True)}


def _updates(lora: bool) -> dict[str, Any]:
    team = Team.join("cpu")
    lm = tiny_lm()
    if lora:
        lm.model = with_adapters(lm.model, Lora(r=4, alpha=8))
        torch.manual_seed(1)
        for name, parameter in lm.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    policy = Policy(lm, MappoConfig(advantage="rloo", rollouts_per_question=2, tokens_per_forward=300))
    turns = [turn for episode in _sample(policy, 2) for turn in episode.turns]  # the same in every process
    if team.size > 1:
        team = replace(team, sharded=True)
        shard(policy.model)
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    norms, passes = [], []
    for _ in range(3):
        with full_weights(policy.model):
            _sample(policy, 1 + team.rank)  # every process as much as it likes
        first = 7 if team.size > 1 and team.rank == 0 else 0
        mine = turns[:7] if team.rank == 1 else turns[first:]
        batches = policy.batches(mine)
        passes.append(len(batches))
        for rows, weight in team.in_step([[first + j for j in batch] for batch in batches]):
            found = policy.evaluate([turns[i] for i in rows])
            (-weight * found.logprobs.sum() / len(turns)).backward()
        team.sum_gradients(trained.values())
        norms.append(float(clip_gradients(list(trained.values()), 0.1)))
        optimizer.step()
        optimizer.zero_grad()
    for parameter in trained.values():
        assert torch.equal(whole(part_like(whole(parameter), parameter)), whole(parameter))
    weights = {name: whole(parameter) for name, parameter in trained.items()}
    return {"weights": weights, "norms": norms, "passes": passes, "sharded": isinstance(policy.model, FSDPModule)}


def mappo(out: Path) -> Any:
    """Two updates on the same rollouts in every process; then a short run, in which they share the questions."""
    team = Team.join("cpu")
    config = MappoConfig(
        advantage="gae",
        rollouts_per_question=1,
        num_steps=3,
        questions_per_step=7,
        minibatch_episodes=3,
        ppo_epochs=2,
        learning_rate=1e-3,
        dev_every=1,
    ).model_copy(update={"entropy_coefficient": 0.01})
    policy = Policy(tiny_lm(), config)
    assert policy.critic
    optimizer = torch.optim.AdamW([*policy.parameters(), *policy.critic.trained()], lr=1e-3)
    grad_norms = []
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        states = list(answering(QUESTIONS, chain(), FixedRetriever(), policy.lm, policy.sampling(generator)))
        scored = score(config, states, answer_rewards(states[-1], "f1"), policy, chain())
        rollout = experience(config, scored, 0.1)
        outcome = update(config, policy, optimizer, rollout, 0.1, step, np.random.default_rng(step), team)
        grad_norms.append(outcome.metrics(team)["mappo/grad_norm"])
    updated = {name: parameter.detach().clone() for name, parameter in policy.named_parameters().items()}
    progress = run(config, chain(), policy, QUESTIONS, QUESTIONS, FixedRetriever(), seed=0, out=out / f"{team.size}")
    trained = {name: parameter.detach() for name, parameter in policy.named_parameters().items()}
    return {"updated": updated, "norms": grad_norms, "trained": trained, "last": progress.last, "step": progress.step}


JOINT = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    num_steps=3,
    questions_per_step=5,
    minibatch_episodes=3,
    learning_rate=1e-3,
    max_grad_norm=0.1,
    checkpoint_every=1,
    dev_every=1,
    keep="last",
    tokens_per_forward=300,
)
LORA = PretrainedLM(name="", dtype="float32", lora=Lora(r=4, alpha=8), max_length=TINY.max_length)
JOINT_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "all weights": (TINY, {"shaping_coefficient": 0.1, "gradient_checkpointing": True}),
    "all weights, critic on the trunk": (
        TINY,  # with minibatches of one turn, of which the second process has nothing
        {"critic": CriticConfig(view="central"), "trained": ("generator",), "minibatch_episodes": 4},
    ),
    "all weights, critic of its own": (TINY, {"critic": CriticConfig(model="separate"), "keep": "best"}),
    "LoRA": (LORA, {"critic": CriticConfig(model="separate", view="central"), "gradient_checkpointing": True}),
    "LoRA for each agent": (
        LORA.model_copy(update={"lora": Lora(r=4, alpha=8, per_agent=True)}),
        {"ppo_epochs": 2, "advantage": "rloo", "rollouts_per_question": 2},
    ),
}


def joint(out: Path) -> Any:
    """Stage 7 of every kind with whole models, in OUT/<kind>/whole, and with sharded ones, in OUT/<kind>/sharded; the
    last step of these once more, in OUT/<kind>/again."""
    loop.HttpRetriever = lambda url: FixedRetriever()  # type: ignore[misc, assignment]
    given: Any = {"agent_data": out, "warm_start": out, "retrieval_url": "", "seed": 0, "device": "cpu"}
    for kind, (model, settings) in JOINT_KINDS.items():
        config = JOINT.model_copy(update=settings)
        whole, sharded, again = (out / kind / name for name in ("whole", "sharded", "again"))
        os.environ |= {"ACCELERATE_USE_FSDP": "false"}
        loop.train(config, AGENTS, model, **given, out=whole)
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as `accelerate launch` says it
        loop.train(config, AGENTS, model, **given, out=sharded)
        team = Team.join("cpu")
        assert team.sharded
        if team.is_first:
            shutil.copytree(sharded, again)
            (again / "checkpoints" / "step-000003.pt").unlink()
        team.wait()
        loop.train(config, AGENTS, model, **given, out=again)


def _sample(policy: Policy, times: int) -> list[Episode]:
    sampling = policy.sampling(torch.Generator().manual_seed(0))
    return answer(QUESTIONS * times, chain(), FixedRetriever(), policy.lm, sampling)


if __name__ == "__main__":
    exit_with_parent()
    found = globals()[sys.argv[1]](Path(sys.argv[2]))
    torch.save(found, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
    Team.leave()
