"""The chain: rewrite → retrieve → select → generate, from questions to episodes.

Rollouts, evaluation, serving and demos all call `answer`, or `answering` to see every agent's part. Labelling takes the
same `walk` with labels in place of a model's words; there is no second way through the agents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jointrag.agents import Agent, Chain
from jointrag.generation import LanguageModel, Sampling
from jointrag.retrieval import Retriever, candidates
from jointrag.types import Episode, Question, Turn


def answer(
    questions: Sequence[Question], chain: Chain, retriever: Retriever, llm: LanguageModel, sampling: Sampling
) -> list[Episode]:
    """One finished episode per question, in the order of `questions`."""
    *_, episodes = answering(questions, chain, retriever, llm, sampling)
    return episodes


def answering(
    questions: Sequence[Question], chain: Chain, retriever: Retriever, llm: LanguageModel, sampling: Sampling
) -> Iterator[list[Episode]]:
    """The episodes after every agent of the chain, in the order in which they speak; the last are finished."""
    return walk(questions, chain, retriever, lambda agent, episodes: speak(agent, episodes, llm, sampling))


def walk(
    questions: Sequence[Question],
    chain: Chain,
    retriever: Retriever,
    say: Callable[[Agent, list[Episode]], list[Episode]],
) -> Iterator[list[Episode]]:
    """The episodes after every agent's part, which `say` adds: a language model's words, or an agent's labels.

    Retrieval follows the last agent before it, and what it found is in the episodes after that agent: they show what
    its words led to. A chain that begins with reading retrieves the question itself.
    """
    asking = chain.before_retrieval
    episodes = [Episode(question, sub_questions=(question.text,)) for question in questions]
    if not asking:
        episodes = retrieve(episodes, retriever, chain.num_candidates)
    for agent in (*asking, *chain.after_retrieval):
        episodes = say(agent, episodes)
        if asking and agent is asking[-1]:
            episodes = retrieve(episodes, retriever, chain.num_candidates)
        yield episodes


def speak(agent: Agent, episodes: Sequence[Episode], llm: LanguageModel, sampling: Sampling) -> list[Episode]:
    """Every episode with this agent's turn added."""
    prompts = [agent.prompt(episode) for episode in episodes]
    completions = llm.generate(prompts, agent.max_new_tokens, sampling.of(agent.name))
    spoken = []
    for episode, prompt, completion in zip(episodes, prompts, completions, strict=True):
        episode, penalty = agent.read(episode, completion.text)
        turn = Turn(
            agent=agent.name,
            prompt=prompt.content,
            response=completion.text,
            penalty=penalty,
            choices=prompt.choices,
            prompt_ids=completion.prompt_ids,
            response_ids=completion.response_ids,
            logprobs=completion.logprobs,
            values=completion.values,
            support=completion.support,
        )
        spoken.append(replace(episode, turns=(*episode.turns, turn)))
    return spoken


def retrieve(episodes: Sequence[Episode], retriever: Retriever, num_candidates: int) -> list[Episode]:
    """Every episode with its candidates: one request for all sub-questions of all episodes."""
    queries = [query for episode in episodes for query in episode.sub_questions]
    hits = iter(retriever.search(queries, num_candidates))
    return [
        replace(
            episode,
            candidates=tuple(
                hit.passage for hit in candidates([next(hits) for _ in episode.sub_questions], num_candidates)
            ),
        )
        for episode in episodes
    ]
