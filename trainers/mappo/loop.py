"""Stage 7, the algorithm.

    repeat num_steps times:
        sample episodes with the current policy       every agent speaks, the live retriever answers
        reward them                                   one answer score for all, a penalty for each agent's own form
        score them under reference and critic         the KL to the warm start; what reward was to be expected
        estimate advantages                           GAE per turn, or against other rollouts of the question
        update policy and critic                      clipped surrogate, clipped value loss, minibatches of episodes
        adapt the KL coefficient                      towards the KL per response that was asked for
        look how it goes                              dev score, best weights kept; the watchdog warns, stops, goes back

Departs from the paper's code where that trained another policy than it sampled: log-probabilities here know the
selector's restriction, the temperature and what top-p left, dropout is off, every question is used.

Several processes (torchrun) share each step's questions and each minibatch's turns; all of them hold the whole rollout.
They may share the weights, too (`accelerate launch`, FSDP): each then gathers all of them to decode.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from jointrag.adapters import save_model
from jointrag.agents import Chain, build_chain
from jointrag.config import AgentsConfig, LanguageModelSection, MappoConfig
from jointrag.generation import GREEDY, LocalLM
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.pipeline import answer, answering
from jointrag.retrieval import HttpRetriever, Retriever, TimedRetriever
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Question
from trainers.mappo.checkpoints import Checkpoints, Progress
from trainers.mappo.history import History
from trainers.mappo.losses import adapt_kl_coefficient
from trainers.mappo.policy import Policy
from trainers.mappo.rewards import answer_rewards, check_rewards, example_episode
from trainers.mappo.rollouts import Rollout, experience, questions_of_step, score, summary
from trainers.mappo.samples import sample_rows
from trainers.mappo.sharding import full_weights, whole_model
from trainers.mappo.stopwatch import Stopwatch
from trainers.mappo.update import Outcome, update
from trainers.mappo.watchdog import Verdict, Watchdog
from trainers.parallel import Team
from trainers.warm_start import load_for_training

logger = logging.getLogger(__name__)
MOST_BAD_UPDATES = 3
NUM_SAMPLES = 8


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
    check_rewards(config.reward, example_episode(questions[0], chain))
    team = Team.join(device)
    torch.manual_seed(seed)  # fresh adapters start from random numbers, the same in every process
    llm, tokenizer = load_for_training(warm_start / "model", model, device, agents.chain)
    policy = Policy(LocalLM(llm, tokenizer, model.max_length, config.tokens_per_forward), config, team.sharded)
    progress = run(config, chain, policy, questions, dev, retriever, seed=seed, out=out, tracker=tracker, team=team)
    trained = whole_model(policy.model, lambda: load_for_training(warm_start / "model", model, "cpu", agents.chain)[0])
    if team.is_first:
        save_model(trained, out / "model", agents.chain)
        tokenizer.save_pretrained(out / "model")
    last = progress.last
    return {
        "mappo/train_seconds": progress.train_seconds,
        "mappo/steps": float(progress.step),
        "mappo/episodes": float(progress.step * config.questions_per_step * config.rollouts_per_question),
        "mappo/final_reward": last["mappo/reward"],
        "mappo/final_kl": last["mappo/kl"],
        "mappo/skipped_updates": float(progress.skipped_updates),
        "mappo/kept_step": float(_kept(config, progress)),
    } | ({"mappo/kept_dev_f1": progress.kept_dev_f1} if progress.kept_step is not None else {})


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
    team: Team | None = None,
) -> Progress:
    """The loop itself, on a policy in memory and any retriever. The weights to keep are in the policy at the end."""
    team = team or Team.join()
    retriever = TimedRetriever(retriever)
    optimizer = _optimizer(config, policy)
    checkpoints = Checkpoints(out / "checkpoints", policy, optimizer, team.is_first)
    progress = checkpoints.resume(Progress(kl_coefficient=config.kl_coefficient))
    history = History(out / "history.jsonl", progress, config.num_steps, tracker, team.is_first)
    watchdog = Watchdog(config.watchdog)
    watchdog.restore(progress.watchdog)
    dev = dev if config.dev_every else []
    if progress.step == 0 and dev:
        progress, measured = _measure(progress, dev, chain, retriever, policy, checkpoints, team)
        history.record(measured, progress)

    for step in range(progress.step, config.num_steps):
        if progress.ended:
            break
        watch = Stopwatch(policy.lm, retriever)
        rollout = sample(config, chain, policy, questions, retriever, step, seed, progress.kl_coefficient, team, watch)
        _set_learning_rates(optimizer, config, step, progress.rate_factor)
        rng = np.random.default_rng([seed, step])
        outcome = update(config, policy, optimizer, rollout, progress.kl_coefficient, step, rng, team)
        watch.lap("update")

        metrics = summary(rollout) | outcome.metrics(team) | watch.metrics(rollout, outcome, team.size)
        metrics["mappo/kl_coefficient"] = progress.kl_coefficient
        metrics["mappo/learning_rate"] = optimizer.param_groups[0]["lr"]
        metrics["mappo/skipped_updates"] = float(progress.skipped_updates + outcome.finite.count(False))
        progress = _after(config, progress, outcome, metrics["mappo/kl"], len(rollout.episodes), watch.total_s)
        if progress.bad_updates >= MOST_BAD_UPDATES:
            _give_up(out, rollout, team)
        verdict = watchdog.look(progress.step, metrics)
        progress = replace(progress, watchdog=watchdog.state())
        progress = _heed(verdict, progress, checkpoints)
        last = progress.step == config.num_steps or bool(progress.ended)
        if dev and (last or progress.step % config.dev_every == 0):
            progress, measured = _measure(progress, dev, chain, retriever, policy, checkpoints, team)
            metrics |= measured
        history.record(metrics, progress, verdict.reason)
        if team.is_first and config.samples_every and (last or progress.step % config.samples_every == 0):
            rows = sample_rows(rollout.episodes, rollout.rewards, progress.step, NUM_SAMPLES)
            tracker.log_table(rows, "episodes")
        progress = replace(progress, last=history.last)
        if last or progress.step % config.checkpoint_every == 0:
            checkpoints.save(progress)

    if _kept(config, progress) != progress.step:
        checkpoints.restore_best(progress)
        logger.info("MAPPO keeps the weights of step %d: later ones did worse on dev", _kept(config, progress))
    return progress


def sample(
    config: MappoConfig,
    chain: Chain,
    policy: Policy,
    questions: list[Question],
    retriever: Retriever,
    step: int,
    seed: int,
    kl_coefficient: float,
    team: Team,
    watch: Stopwatch,
) -> Rollout:
    """The step's episodes with everything the update needs. Each process samples its share; all get all of them."""
    asked = questions_of_step(questions, step, config.questions_per_step, seed)
    mine = team.share([question for question in asked for _ in range(config.rollouts_per_question)])
    generator = torch.Generator(policy.model.device).manual_seed(_step_seed(seed, step, team.rank))
    with full_weights(policy.model):
        states = list(answering(mine, chain, retriever, policy.lm, policy.sampling(generator)))
    watch.lap("rollout")
    scored = score(config, states, answer_rewards(states[-1], config.reward), policy, chain)
    watch.lap("reference")
    return experience(config, team.gather(scored), kl_coefficient)


def dev_scores(dev: list[Question], chain: Chain, retriever: Retriever, policy: Policy, team: Team) -> list[float]:
    """The F1 of greedy answers to the dev questions."""
    mine = team.share(dev)
    with full_weights(policy.model):
        answered = answer(mine, chain, retriever, policy.lm, GREEDY)
    return team.gather(answer_rewards(answered, "f1"))


def _measure(
    progress: Progress,
    dev: list[Question],
    chain: Chain,
    retriever: Retriever,
    policy: Policy,
    checkpoints: Checkpoints,
    team: Team,
) -> tuple[Progress, dict[str, float]]:
    """The dev score. The weights to keep are the latest that are within a standard error of the best: a difference
    that so few questions cannot tell from none is no reason to throw training away."""
    scores = dev_scores(dev, chain, retriever, policy, team)
    score, error = float(np.mean(scores)), float(np.std(scores)) / len(scores) ** 0.5
    progress = replace(progress, best_dev_f1=max(score, progress.best_dev_f1))
    if score >= progress.best_dev_f1 - error:
        progress = replace(progress, kept_step=progress.step, kept_dev_f1=score)
        checkpoints.keep_best(progress)
        team.wait()
    return progress, {"dev/f1": score}


def _after(
    config: MappoConfig, progress: Progress, outcome: Outcome, kl: float, num_episodes: int, seconds: float
) -> Progress:
    """One step further."""
    coefficient = progress.kl_coefficient
    if config.kl_target is not None:
        coefficient = adapt_kl_coefficient(coefficient, kl, config.kl_target, config.kl_floor, num_episodes)
    bad = progress.bad_updates
    for finite in outcome.finite:
        bad = 0 if finite else min(bad + 1, MOST_BAD_UPDATES)
        if bad == MOST_BAD_UPDATES:
            break
    return replace(
        progress,
        step=progress.step + 1,
        train_seconds=progress.train_seconds + seconds,
        kl_coefficient=coefficient,
        bad_updates=bad,
        skipped_updates=progress.skipped_updates + outcome.finite.count(False),
    )


def _heed(verdict: Verdict, progress: Progress, checkpoints: Checkpoints) -> Progress:
    """Do what the watchdog says."""
    if verdict.action == "stop":
        return replace(progress, ended=verdict.reason)
    if verdict.action == "roll_back":
        checkpoints.restore_best(progress)
        return replace(progress, rate_factor=progress.rate_factor / 2)
    return progress


def _give_up(out: Path, rollout: Rollout, team: Team) -> None:
    path = out / "bad_batch.jsonl"
    if team.is_first:
        write_jsonl(path, rollout.episodes)
    raise ValueError(
        f"{MOST_BAD_UPDATES} updates in a row had a loss or gradient that is not a finite number; the episodes are in "
        f"{path}. Lower mappo.learning_rate or mappo.max_grad_norm, or train in float32 (language_model.dtype)"
    )


def _kept(config: MappoConfig, progress: Progress) -> int:
    """The step whose weights are kept."""
    wanted = config.keep == "best" or progress.ended
    return progress.kept_step if wanted and progress.kept_step is not None else progress.step


def _optimizer(config: MappoConfig, policy: Policy) -> torch.optim.Optimizer:
    groups = [{"params": policy.parameters(), "lr": config.learning_rate}]
    if policy.critic:
        groups.append({"params": policy.critic.trained(), "lr": config.critic.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _set_learning_rates(optimizer: torch.optim.Optimizer, config: MappoConfig, step: int, factor: float) -> None:
    decay = factor * (1 - step / config.num_steps * (1 - config.final_learning_rate_ratio))
    for group, rate in zip(optimizer.param_groups, (config.learning_rate, config.critic.learning_rate), strict=False):
        group["lr"] = rate * decay


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank] if rank else [seed, step]).generate_state(1)[0])
