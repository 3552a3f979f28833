"""Where points are lost: the same questions again, with one agent's output after the other replaced by the gold one.

The rewriter's becomes the data set's sub-questions, the retriever's gets the gold passages it missed, in place of its
last other ones, the selector's becomes the gold passages among the candidates. Replaced one after the other they make a
waterfall from the system's F1 to 100; what is left at its end is the generator's. Replaced alone they say what mending
one agent would bring by itself. All through `jointrag.pipeline.walk`; an agent that is asked what it was asked before
says what it said before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.answering import fingerprint, in_batches, without_tokens
from evaluation.costs import RETRIEVER
from evaluation.measures import question_scores
from evaluation.scores import Attribution, AttributionStep
from evaluation.significance import paired_bootstrap
from evaluation.systems import Speaker, System
from jointrag.agents import Agent, Chain
from jointrag.agents.rewriter import Rewriter
from jointrag.agents.selector import Selector
from jointrag.config import AgentsConfig
from jointrag.generation import GREEDY, LanguageModel
from jointrag.pipeline import speak, walk
from jointrag.retrieval import Retriever
from jointrag.types import Episode, Passage, Turn

logger = logging.getLogger(__name__)


def gold_passages(episodes: Iterable[Episode], corpus: Path) -> dict[str, Passage]:
    """The gold passages of the episodes' questions, by id: from the candidates, else from the corpus."""
    episodes = list(episodes)
    wanted = {name for episode in episodes for name in episode.question.gold_passages}
    found = {p.id: p for episode in episodes for p in episode.candidates if p.id in wanted}
    if missing := wanted - set(found):
        with corpus.open("rb") as file:
            for line in file:
                row = json.loads(line)
                if row["id"] in missing:
                    found[row["id"]] = Passage(row["id"], row["title"], row["text"])
                    missing.remove(row["id"])
                    if not missing:
                        break
    if missing:
        logger.warning("%d gold passages are not in the corpus, %s for one: left out", len(missing), min(missing))
    return found


def attribute(
    system: System,
    speaker: Speaker,
    agents: AgentsConfig,
    episodes: Sequence[Episode],
    passages: Mapping[str, Passage],
    retriever: Retriever,
    *,
    batch_size: int,
    journals: Path,
    num_resamples: int,
    seed: int,
) -> Attribution | None:
    """The waterfall over those of the system's `episodes` whose questions name gold passages; None: there are none."""
    own = [episode for episode in episodes if episode.question.gold_passages]
    if not own:
        return None
    chain = system.chain(agents)
    said = {(turn.agent, turn.prompt): turn.response for episode in own for turn in episode.turns}

    def again(gold: tuple[str, ...]) -> list[Episode]:
        def batch(start: int) -> list[Episode]:
            return replayed(own[start : start + batch_size], chain, retriever, speaker, gold, passages, said)

        name = "-".join(["attribution", system.name, *gold])
        belongs_to = fingerprint([e.question for e in own], asdict(system), agents.model_dump(mode="json"), batch_size)
        path = journals / f"{name}.jsonl"
        what = f"evaluate {system.name} with gold {', '.join(gold)}"
        made = in_batches(batch, len(own), batch_size, path, Episode, belongs_to, what)
        said.update({(turn.agent, turn.prompt): turn.response for episode in made for turn in episode.turns})
        return made

    replaceable = _replaceable(chain, own)
    cumulative = [again(tuple(replaceable[: i + 1])) for i in range(len(replaceable))]
    alone = [cumulative[0], *(again((agent,)) for agent in replaceable[1:])]
    return _waterfall(own, replaceable, cumulative, alone, num_resamples, seed)


def _replaceable(chain: Chain, episodes: Sequence[Episode]) -> list[str]:
    """Of the chain, in order, what there is gold for."""
    has_sub_questions = any(episode.question.sub_questions for episode in episodes)
    rewriters = [agent.name for agent in chain.agents if isinstance(agent, Rewriter) and has_sub_questions]
    selectors = [agent.name for agent in chain.agents if isinstance(agent, Selector)]
    return [*rewriters, RETRIEVER, *selectors]


def replayed(
    episodes: Sequence[Episode],
    chain: Chain,
    retriever: Retriever,
    speaker: Speaker,
    gold: tuple[str, ...],
    passages: Mapping[str, Passage],
    said: dict[tuple[str, str], str],
) -> list[Episode]:
    """The questions of `episodes` again, the outputs of `gold` replaced. `said`: what agents said to a prompt, which
    grows."""

    def say(agent: Agent, now: list[Episode]) -> list[Episode]:
        if RETRIEVER in gold and agent is chain.after_retrieval[0]:
            now = [with_gold_candidates(episode, passages, chain.num_candidates) for episode in now]
        if agent.name not in gold:
            return _said_again(agent, now, speaker, said)
        responses = [_gold_response(agent, episode) for episode in now]
        spoken = iter(_said_again(agent, [e for e, r in zip(now, responses, strict=True) if r is None], speaker, said))
        return [
            next(spoken) if response is None else agent.read(episode, response)[0]
            for episode, response in zip(now, responses, strict=True)
        ]

    *_, finished = walk([episode.question for episode in episodes], chain, retriever, say)
    return [without_tokens(episode) for episode in finished]


def with_gold_candidates(episode: Episode, passages: Mapping[str, Passage], num_candidates: int) -> Episode:
    """With the gold passages that were not found: where there is no room, in place of the last that are not gold."""
    gold = set(episode.question.gold_passages)
    candidates = list(episode.candidates)
    there = {passage.id for passage in candidates}
    for name in episode.question.gold_passages:
        if name in there or name not in passages:
            continue
        if len(candidates) < num_candidates:
            candidates.append(passages[name])
        elif others := [i for i, passage in enumerate(candidates) if passage.id not in gold]:
            candidates[others[-1]] = passages[name]
    return replace(episode, candidates=tuple(candidates))


def _gold_response(agent: Agent, episode: Episode) -> str | None:
    """What the agent would say if it knew; None: the data does not tell."""
    if isinstance(agent, Rewriter):
        return "\n".join(episode.question.sub_questions) or None
    assert isinstance(agent, Selector)
    gold = set(episode.question.gold_passages)
    return agent.write([i for i, passage in enumerate(episode.candidates) if passage.id in gold])


def _said_again(
    agent: Agent, episodes: Sequence[Episode], speaker: Speaker, said: dict[tuple[str, str], str]
) -> list[Episode]:
    prompts = [agent.prompt(episode) for episode in episodes]
    new = {p.content: e for p, e in zip(prompts, episodes, strict=True) if (agent.name, p.content) not in said}
    if new:
        llm: LanguageModel = speaker.llm
        for content, episode in zip(new, speak(agent, list(new.values()), llm, GREEDY), strict=True):
            said[agent.name, content] = episode.turns[-1].response
    spoken = []
    for episode, prompt in zip(episodes, prompts, strict=True):
        response = said[agent.name, prompt.content]
        read, penalty = agent.read(episode, response)
        turn = Turn(agent.name, prompt.content, response, penalty, prompt.choices)
        spoken.append(replace(read, turns=(*read.turns, turn)))
    return spoken


# ---- the waterfall ---------------------------------------------------------------------------------------------------


def _waterfall(
    own: Sequence[Episode],
    replaceable: Sequence[str],
    cumulative: Sequence[Sequence[Episode]],
    alone: Sequence[Sequence[Episode]],
    num_resamples: int,
    seed: int,
) -> Attribution:
    def step(
        agent: str,
        replaced: tuple[str, ...],
        now: Mapping[str, NDArray[np.float64]],
        before: NDArray[np.float64],
        by_itself: float | None,
    ) -> AttributionStep:
        found = paired_bootstrap(now["f1"] - before, np.random.default_rng(seed), num_resamples)
        means = {name: float(now[name].mean()) for name in ("f1", "em", "accuracy")}
        ends = {"delta": found.delta, "low": found.low, "high": found.high}
        return AttributionStep(agent=agent, replaced=replaced, **means, **ends, alone=by_itself)

    first = question_scores(own)
    steps, before = [step("", (), first, first["f1"], None)], first["f1"]
    for i, agent in enumerate(replaceable):
        now = question_scores(cumulative[i])
        by_itself = float((question_scores(alone[i])["f1"] - first["f1"]).mean())
        steps.append(step(agent, tuple(replaceable[: i + 1]), now, before, by_itself))
        before = now["f1"]
    perfect = {name: np.ones(len(own)) for name in first}
    answering = own[0].turns[-1].agent
    steps.append(step(answering, (*replaceable, answering), perfect, before, None))
    return Attribution(num_questions=len(own), steps=tuple(steps))
