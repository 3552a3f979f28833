"""Stage 7, the algorithm.

    repeat num_steps times:
        sample episodes with the current policy       every agent speaks, the live retriever answers
        reward them                                   one answer score for all, a penalty for each agent's own form
        score them under the reference                KL to the warm start, charged per token or in the loss
        estimate advantages                           GAE per turn, or against other rollouts of the question
        update policy and critic                      clipped surrogate, clipped value loss, minibatches of episodes
        adapt the KL coefficient

Departs from the paper's code where that trained another policy than it sampled: log-probabilities here know the
selector's restriction and the temperature, dropout is off, every question is used. The critic is linear and does not
move the shared trunk.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from jointrag.agents import Chain, build_chain
from jointrag.config import AgentsConfig, LanguageModelSection, MappoConfig
from jointrag.generation import GREEDY, LocalLM, Sampling, batches_by_length
from jointrag.jsonl import read_jsonl
from jointrag.pipeline import answer
from jointrag.retrieval import HttpRetriever, Retriever
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Question
from trainers.mappo.checkpoints import Progress, resume, save
from trainers.mappo.losses import adapt_kl_coefficient, k3, policy_loss, value_loss
from trainers.mappo.policy import Policy, num_tokens
from trainers.mappo.rewards import answer_rewards
from trainers.mappo.rollouts import Rollout, experience, questions_of_step, summary
from trainers.warm_start import load_for_training, save_model

logger = logging.getLogger(__name__)
LOG_EVERY_S = 5.0


def train(
    config: MappoConfig,
    agents: AgentsConfig,
    model: LanguageModelSection,
    *,
    agent_data: Path,
    warm_start: Path,
    retrieval_url: str,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Train all agents jointly from the warm start; write `out`/model and `out`/history.jsonl (a line per step).

    A run that finds `out`/checkpoints goes on after the newest. Raises RetrieverUnavailable when the server is gone for
    good; the last checkpoint stays.
    """
    questions = list(read_jsonl(agent_data / "questions.jsonl", Question))
    dev = list(read_jsonl(agent_data / "dev.jsonl", Question))[: config.num_dev_questions]
    chain, retriever = build_chain(agents), HttpRetriever(retrieval_url)
    llm, tokenizer = load_for_training(warm_start / "model", model, device)
    lm = LocalLM(llm, tokenizer, model.max_length, config.tokens_per_forward)
    policy = Policy(lm, config.sampling.temperature, trains_entropy=config.entropy_coefficient > 0)
    progress = run(config, chain, policy, questions, dev, retriever, seed=seed, out=out, tracker=tracker)
    save_model(policy.model, tokenizer, out / "model")
    last = json.loads((out / "history.jsonl").read_text().splitlines()[-1])
    return {
        "mappo/train_seconds": progress.train_seconds,
        "mappo/steps": float(progress.step),
        "mappo/episodes": float(progress.step * config.questions_per_step * config.rollouts_per_question),
        "mappo/final_reward": last["mappo/reward"],
        "mappo/final_kl": last["mappo/kl"],
    }


def run(
    config: MappoConfig,
    chain: Chain,
    policy: Policy,
    questions: list[Question],
    dev: list[Question],
    retriever: Retriever,
    *,
    seed: int,
    out: Path,
    tracker: Tracker = NoTracker(),
) -> Progress:
    """The loop itself, on a policy in memory and any retriever."""
    optimizer = torch.optim.AdamW(
        [
            {"params": policy.parameters(), "lr": config.learning_rate},
            {"params": policy.value_head.parameters(), "lr": config.critic.learning_rate},
        ],
        weight_decay=0.0,
    )
    out.mkdir(parents=True, exist_ok=True)
    history = out / "history.jsonl"
    progress = resume(out / "checkpoints", history, policy, optimizer, Progress(kl_coefficient=config.kl_coefficient))
    if progress.step == 0 and config.dev_every and dev:
        _record({"dev/f1": dev_score(dev, chain, retriever, policy)}, 0, history, tracker)
    said = time.monotonic()
    for step in range(progress.step, config.num_steps):
        started = time.monotonic()
        sampling = Sampling(
            config.sampling.temperature, torch.Generator(policy.model.device).manual_seed(_step_seed(seed, step))
        )
        asked = questions_of_step(questions, step, config.questions_per_step, seed)
        batch = [question for question in asked for _ in range(config.rollouts_per_question)]

        episodes = answer(batch, chain, retriever, policy.lm, sampling)
        sampled = time.monotonic()
        rewards = answer_rewards(episodes, config.reward)
        turns = [turn for episode in episodes for turn in episode.turns]
        reference = policy.reference_logprobs(turns, config.tokens_per_forward)
        scored = time.monotonic()
        rollout = experience(config, episodes, rewards, reference, progress.kl_coefficient)

        _set_learning_rates(optimizer, config, step)
        metrics = summary(rollout) | update(
            config, policy, optimizer, rollout, progress.kl_coefficient, np.random.default_rng([seed, step]), step
        )
        ended = time.monotonic()
        metrics |= {
            "mappo/kl_coefficient": progress.kl_coefficient,
            "mappo/learning_rate": optimizer.param_groups[0]["lr"],
            "time/rollout_s": sampled - started,
            "time/reference_s": scored - sampled,
            "time/update_s": ended - scored,
            "time/episodes_per_s": len(episodes) / (ended - started),
            "time/tokens_per_s": sum(map(num_tokens, turns)) / (ended - started),
        }
        coefficient = progress.kl_coefficient
        if config.kl_target is not None:
            coefficient = adapt_kl_coefficient(
                coefficient, metrics["mappo/kl"], config.kl_target, config.kl_floor, len(episodes)
            )
        progress = Progress(step + 1, progress.train_seconds + ended - started, coefficient)
        if config.dev_every and dev and (step + 1) % config.dev_every == 0:
            metrics["dev/f1"] = dev_score(dev, chain, retriever, policy)
        _record(metrics, step + 1, history, tracker)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps:
            save(out / "checkpoints", progress, policy, optimizer)
        if time.monotonic() - said >= LOG_EVERY_S or step + 1 == config.num_steps:
            said = time.monotonic()
            _say(progress, config, metrics)
    return progress


def update(
    config: MappoConfig,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    kl_coefficient: float,
    rng: np.random.Generator,
    step: int,
) -> dict[str, float]:
    """PPO epochs over minibatches of episodes. Losses are means over the minibatch's response tokens."""
    totals: dict[str, float] = defaultdict(float)
    num_updates = 0
    actor_weight = 0.0 if config.advantage == "gae" and step < config.critic.warmup_steps else 1.0
    learned = torch.tensor([config.trained is None or turn.agent in config.trained for turn in rollout.turns])
    for _ in range(config.ppo_epochs):
        order = torch.from_numpy(rng.permutation(len(rollout.episodes)))
        for chosen in order.split(config.minibatch_episodes):
            rows = (torch.isin(rollout.episode_of, chosen) & learned).nonzero()[:, 0].tolist()
            count = sum(len(rollout.turns[i].response_ids) for i in rows)
            optimizer.zero_grad()
            for part in batches_by_length([num_tokens(rollout.turns[i]) for i in rows], config.tokens_per_forward):
                loss, sums = _losses(config, policy, rollout, [rows[i] for i in part], actor_weight, kl_coefficient)
                (loss / count).backward()
                for name, total in sums.items():
                    totals[name] += total / count
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            totals["grad_norm"] += float(norm)
            num_updates += 1
    return {f"mappo/{name}": total / num_updates for name, total in totals.items()}


def _losses(
    config: MappoConfig, policy: Policy, rollout: Rollout, rows: list[int], actor_weight: float, kl_coefficient: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of these turns and its parts, all summed over their response tokens."""
    where = rollout.mask[rows] > 0
    device = policy.model.device
    old_logprobs, reference, old_values, advantages, returns = (
        tensor[rows][where].to(device)
        for tensor in (rollout.logprobs, rollout.reference, rollout.values, rollout.advantages, rollout.returns)
    )
    now = policy.evaluate([rollout.turns[i] for i in rows])
    clip_high = config.clip_range_high or config.clip_range
    actor, metrics = policy_loss(now.logprobs, old_logprobs, advantages, config.clip_range, clip_high)
    metrics |= {"policy_loss": actor.item(), "entropy": now.entropies.sum().item()}
    if config.kl_in == "loss":
        actor = actor + kl_coefficient * k3(now.logprobs - reference).sum()
    if config.entropy_coefficient > 0:
        actor = actor - config.entropy_coefficient * now.entropies.sum()
    loss = actor_weight * actor
    if config.advantage == "gae":
        critic = value_loss(now.values, old_values, returns, config.critic.clip_range)
        metrics["value_loss"] = critic.item()
        loss = loss + config.critic.coefficient * critic
    return loss, metrics


def dev_score(dev: list[Question], chain: Chain, retriever: Retriever, policy: Policy) -> float:
    """Mean F1 of greedy answers to the dev questions."""
    return float(np.mean(answer_rewards(answer(dev, chain, retriever, policy.lm, GREEDY), "f1")))


def _record(metrics: dict[str, float], step: int, history: Path, tracker: Tracker) -> None:
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\n")
    tracker.log_metrics(metrics, step)


def _set_learning_rates(optimizer: torch.optim.Optimizer, config: MappoConfig, step: int) -> None:
    done = step / config.num_steps
    decay = 1 - done * (1 - config.final_learning_rate_ratio)
    for group, rate in zip(optimizer.param_groups, (config.learning_rate, config.critic.learning_rate), strict=True):
        group["lr"] = rate * decay


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _say(progress: Progress, config: MappoConfig, metrics: dict[str, float]) -> None:
    left_s = progress.train_seconds / progress.step * (config.num_steps - progress.step)
    dev = f" · dev F1 {metrics['dev/f1']:.3f}" if "dev/f1" in metrics else ""
    logger.info(
        "MAPPO step %d/%d · reward %.3f%s · KL %.3f · %.0f episodes/s · %d s left",
        progress.step,
        config.num_steps,
        metrics["mappo/reward"],
        dev,
        metrics["mappo/kl"],
        metrics["time/episodes_per_s"],
        left_s,
    )
