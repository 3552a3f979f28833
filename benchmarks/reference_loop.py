"""MAPPO in the shape of the public code of the paper's authors: what benchmarks/mappo_step.py measures ours against.

    loop = ReferenceLoop(config, chain, model, tokenizer, questions, retriever, seed=0)
    step = loop.step()          # loops.Step: seconds and tokens

The same method as trainers/mappo (shared reward, penalties, KL per token in the reward, GAE, clipped losses) on the
same questions, prompts and retriever, done in the usual way, by the library's own means:

- responses by transformers' `generate` on 4 left-padded prompts at a time, in the order of the questions;
- policy, reference and update each compute logits at every position, [4, prompt + response, vocabulary], and a
  log-softmax over all of them in float32;
- the reference is a second model;
- the critic's value head sits on the shared trunk and moves it;
- updates in minibatches of 4 episodes, an agent's 4 turns at a time, with gradients accumulated to minibatch_episodes.

Two things are kinder than in that code, so that both sides do the same work: the selector is decoded with our
restriction, through `prefix_allowed_tokens_fn` (without one, random weights would choose no passages at all and the
generator would have less to read); and padding is no longer than the longest of the 4 needs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.loops import Step
from jointrag.agents import Agent, Chain
from jointrag.choices import ChoiceList
from jointrag.config import MappoConfig
from jointrag.metrics import f1
from jointrag.pipeline import retrieve
from jointrag.prompts import encode_prompt
from jointrag.retrieval import Retriever
from jointrag.types import Episode, Question

MINIBATCH = 4


@dataclass
class Turns:
    """One agent's turns in MINIBATCH episodes. Prompts are padded on the left, responses on the right."""

    ids: torch.Tensor  # [batch, prompt + response]
    attention: torch.Tensor  # [batch, prompt + response]
    mask: torch.Tensor  # [batch, response]: 1 on response tokens, the end token included
    penalties: torch.Tensor  # [batch]


@dataclass
class Experience:
    """What the update needs of the same turns, each [batch, response]."""

    turns: Turns
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


class ReferenceLoop:
    def __init__(
        self,
        config: MappoConfig,
        chain: Chain,
        model: Any,
        tokenizer: Any,
        questions: Sequence[Question],
        retriever: Retriever,
        *,
        seed: int,
    ) -> None:
        self.config, self.chain, self.retriever = config, chain, retriever
        self.model, self.tokenizer, self.questions = model.eval(), tokenizer, questions
        self.device = model.device
        reference = copy.deepcopy(model)
        if hasattr(reference, "unload"):
            reference = reference.unload()  # a second model, without adapters
        self.reference = reference.eval().requires_grad_(False)
        self.value_head = nn.Linear(model.config.hidden_size, 1).to(self.device)
        self.trained = [p for p in (*model.parameters(), *self.value_head.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, weight_decay=0.0)
        self.rng = np.random.default_rng(seed)
        self._choice_lists: dict[tuple[str, ...], ChoiceList] = {}

    def step(self) -> Step:
        """One iteration of rollout and update."""
        torch.manual_seed(int(self.rng.integers(2**31)))
        chosen = self.rng.permutation(len(self.questions))[: self.config.questions_per_step]
        asked = [self.questions[i] for i in chosen]
        started = time.perf_counter()
        rollouts = [self.rollout(asked[i : i + MINIBATCH]) for i in range(0, len(asked), MINIBATCH)]
        sampled = time.perf_counter()
        experience = [
            self.score(turns, [f1(e.answer, e.question.answers) for e in episodes])
            for episodes, agents in rollouts
            for turns in agents
        ]
        scored = time.perf_counter()
        self.update(experience, turns_per_minibatch=len(self.chain.agents))
        ended = time.perf_counter()
        lengths = [
            (int(attended - spoken), int(spoken))
            for _, agents in rollouts
            for turns in agents
            for attended, spoken in zip(turns.attention.sum(1).tolist(), turns.mask.sum(1).tolist(), strict=True)
        ]
        return Step(len(asked), ended - started, sampled - started, scored - sampled, ended - scored, tuple(lengths))

    # ---- rollout -----------------------------------------------------------------------------------------------------

    def rollout(self, questions: Sequence[Question]) -> tuple[list[Episode], list[Turns]]:
        """The episodes of these questions and the turns of each agent."""
        episodes = [Episode(question, sub_questions=(question.text,)) for question in questions]
        spoken, retrieved = [], False
        for agent in self.chain.agents:
            if agent.reads_passages and not retrieved:
                episodes, retrieved = retrieve(episodes, self.retriever, self.chain.num_candidates), True
            episodes, turns = self.speak(agent, episodes)
            spoken.append(turns)
        return episodes, spoken

    @torch.no_grad()
    def speak(self, agent: Agent, episodes: Sequence[Episode]) -> tuple[list[Episode], Turns]:
        """The episodes with what `agent` made of them, and its turns."""
        prompts = [agent.prompt(episode) for episode in episodes]
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        width = max(map(len, encoded))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in encoded], device=self.device)
        real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=self.device)
        written = self.model.generate(
            input_ids=ids,
            attention_mask=real,
            do_sample=True,
            temperature=self.config.sampling.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=agent.max_new_tokens,
            eos_token_id=end,
            pad_token_id=pad,
            prefix_allowed_tokens_fn=self._restriction([prompt.choices for prompt in prompts], width),
        )
        responses = written[:, width:]
        ended_before = (responses == end).cumsum(1) - (responses == end).long() > 0
        mask = (~ended_before).float()
        read = [
            agent.read(episode, str(self.tokenizer.decode(row[keep > 0], skip_special_tokens=True)).strip())
            for episode, row, keep in zip(episodes, responses, mask, strict=True)
        ]
        penalties = torch.tensor([penalty for _, penalty in read], device=self.device)
        return [episode for episode, _ in read], Turns(written, torch.cat([real, mask.long()], dim=1), mask, penalties)

    def _restriction(
        self, choices: Sequence[tuple[str, ...] | None], width: int
    ) -> Callable[[int, torch.Tensor], list[int]] | None:
        """What may come next in each row; None without a restricted one."""
        if all(names is None for names in choices):
            return None
        end = self.tokenizer.eos_token_id

        def allowed(row: int, ids: torch.Tensor) -> list[int]:
            names, written = choices[row], tuple(ids[width:].tolist())
            assert names is not None
            if end in written:
                return [end]
            if names not in self._choice_lists:
                self._choice_lists[names] = ChoiceList(self.tokenizer, names)
            return list(self._choice_lists[names].allowed(written))

        return allowed

    # ---- scoring and update ------------------------------------------------------------------------------------------

    def score(self, turns: Turns, rewards: Sequence[float]) -> Experience:
        """Log-probabilities under policy and reference, values, advantages and returns; `rewards` per episode."""
        with torch.no_grad():
            logprobs, values, _ = self.forward(self.model, turns)
            reference, _, _ = self.forward(self.reference, turns)
        paid = -self.config.kl_coefficient * (logprobs - reference) * turns.mask
        last = turns.mask.sum(1).long() - 1
        paid[torch.arange(len(last)), last] += torch.tensor(rewards, device=self.device) + turns.penalties
        advantages, returns = self._gae(paid, values * turns.mask, turns.mask)
        return Experience(turns, logprobs, values, advantages, returns)

    def forward(self, model: Any, turns: Turns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, values and entropies of the response tokens, each [batch, response]; every one is
        computed at every position first."""
        positions = (turns.attention.cumsum(1) - 1).clamp(min=0)
        output = model(
            input_ids=turns.ids,
            attention_mask=turns.attention,
            position_ids=positions,
            output_hidden_states=True,
            use_cache=False,
        )
        logits = output.logits[:, :-1].float()  # [batch, tokens - 1, vocabulary]
        if self.config.sampling.temperature != 1:
            logits = logits / self.config.sampling.temperature
        everything = torch.log_softmax(logits, dim=-1)
        logprobs = everything.gather(2, turns.ids[:, 1:, None])[:, :, 0]
        with torch.no_grad():
            entropies = -(everything.exp() * everything).sum(-1)
        values = self.value_head(output.hidden_states[-1][:, :-1].float())[:, :, 0]
        response = slice(-turns.mask.shape[1], None)
        return logprobs[:, response], values[:, response], entropies[:, response]

    def _gae(
        self, rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages (whitened over the minibatch) and returns, both [batch, response]."""
        gamma, decay = self.config.gamma, self.config.gamma * self.config.gae_lambda
        advantages = torch.zeros_like(rewards)
        ahead = value_ahead = torch.zeros(len(rewards), device=self.device)
        for t in reversed(range(rewards.shape[1])):
            ahead = (rewards[:, t] + gamma * value_ahead - values[:, t] + decay * ahead) * mask[:, t]
            value_ahead = values[:, t]
            advantages[:, t] = ahead
        returns = (advantages + values) * mask
        real = advantages[mask > 0]
        return (advantages - real.mean()) / (real.std(correction=0) + 1e-8) * mask, returns

    def update(self, experience: Sequence[Experience], turns_per_minibatch: int) -> None:
        """PPO epochs. `experience` holds the agents' turns of one minibatch after the other."""
        minibatches = [experience[i : i + turns_per_minibatch] for i in range(0, len(experience), turns_per_minibatch)]
        accumulated = max(1, self.config.minibatch_episodes // MINIBATCH)
        for _ in range(self.config.ppo_epochs):
            order = self.rng.permutation(len(minibatches))
            for start in range(0, len(order), accumulated):
                batches = [batch for i in order[start : start + accumulated] for batch in minibatches[i]]
                count = sum(batch.turns.mask.sum() for batch in batches)
                self.optimizer.zero_grad()
                for batch in batches:
                    (self._loss(batch) / count).backward()
                torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
                self.optimizer.step()

    def _loss(self, batch: Experience) -> torch.Tensor:
        """Clipped surrogate and clipped value loss, summed over the response tokens."""
        logprobs, values, _ = self.forward(self.model, batch.turns)
        ratios = (logprobs - batch.logprobs).exp()
        clip, value_clip = self.config.clip_range, self.config.critic.clip_range or float("inf")
        surrogate = torch.minimum(ratios * batch.advantages, ratios.clamp(1 - clip, 1 + clip) * batch.advantages)
        near = batch.values + (values - batch.values).clamp(-value_clip, value_clip)
        errors = torch.maximum((values - batch.returns).square(), (near - batch.returns).square())
        return ((self.config.critic.coefficient * 0.5 * errors - surrogate) * batch.turns.mask).sum()
