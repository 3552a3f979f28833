"""How likely a language model finds given responses, and the gold answers of questions among them.

gold = gold_answers(episodes, generator, lm.tokenizer)
gold.best(response_logprobs(lm, gold.turns))     # per episode: mean log-probability per token of the best answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jointrag.generation import LocalLM, batches_by_length, decoder_and_head
from jointrag.prompts import encode_prompt, encode_response, encode_within
from jointrag.types import Episode, Turn

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from jointrag.agents import Agent

MOST_PADDING = 0.1  # of a forward pass; more, and longer turns go into the next one
LOGITS_AT_ONCE = 2**26  # more (256 MB in float32) are computed piece by piece


def num_tokens(turn: Turn) -> int:
    """Prompt and response together."""
    return len(turn.prompt_ids) + len(turn.response_ids)


def hidden_before(decoder: Any, turns: Sequence[Turn], pad: int, device: torch.device) -> torch.Tensor:
    """The hidden states [response tokens, hidden] from which each response token of each turn is predicted, turn after
    turn: one forward pass over prompts and responses."""
    import torch

    width = max(map(num_tokens, turns))
    # right padding needs no mask: in a causal model no response token can see it
    ids = torch.tensor(
        [[*t.prompt_ids, *t.response_ids, *[pad] * (width - num_tokens(t))] for t in turns], device=device
    )
    rows = [i for i, turn in enumerate(turns) for _ in turn.response_ids]
    # the token at position p is predicted at p - 1
    before = [len(turn.prompt_ids) - 1 + j for turn in turns for j in range(len(turn.response_ids))]
    return decoder(input_ids=ids, use_cache=False).last_hidden_state[rows, before]


def _hidden_after_prompts(decoder: Any, turns: Sequence[Turn], pad: int, device: torch.device) -> torch.Tensor:
    """The same where turns have prompts in common: each is read once, and its responses go on from there. A question
    with ten gold answers costs little more than one with a single one."""
    import torch

    prompts = list(dict.fromkeys(turn.prompt_ids for turn in turns))
    width = max(map(len, prompts))
    ids = torch.tensor([[*[pad] * (width - len(prompt)), *prompt] for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    place = {prompt: i for i, prompt in enumerate(prompts)}
    of_turn = torch.tensor([place[turn.prompt_ids] for turn in turns], device=device)
    hidden = read.last_hidden_state[of_turn, -1:]  # [turns, 1, hidden]: what predicts each first token
    longest = max(len(turn.response_ids) for turn in turns)
    if longest > 1:
        read.past_key_values.batch_select_indices(of_turn)
        said = [[*t.response_ids[:-1], *[pad] * (longest - len(t.response_ids))] for t in turns]
        later = decoder(
            input_ids=torch.tensor(said, device=device),
            attention_mask=torch.cat([mask[of_turn], mask.new_ones(len(turns), longest - 1)], dim=1),
            position_ids=positions[of_turn, -1:] + 1 + torch.arange(longest - 1, device=device),
            past_key_values=read.past_key_values,
            use_cache=True,
        )
        hidden = torch.cat([hidden, later.last_hidden_state], dim=1)
    rows = [i for i, turn in enumerate(turns) for _ in turn.response_ids]
    return hidden[rows, [j for turn in turns for j in range(len(turn.response_ids))]]


def response_logprobs(lm: LocalLM, turns: Sequence[Turn], tokens_per_forward: int | None = None) -> list[torch.Tensor]:
    """Log-probabilities of each turn's response, [response tokens] on the CPU, unrestricted and at temperature 1. All
    turns are of one agent. `tokens_per_forward`: the model's own unless given."""
    import torch

    agents = {turn.agent for turn in turns}
    assert len(agents) <= 1, f"one agent at a time, not {sorted(agents)}"
    for agent in agents:
        lm.play(agent)
    decoder, head = decoder_and_head(lm.model)
    found = [torch.empty(0)] * len(turns)
    was_training = lm.model.training
    lm.model.eval()
    with torch.no_grad():
        longest = {}  # response of each prompt, so that a prompt's turns stay together
        for turn in turns:
            longest[turn.prompt_ids] = max(longest.get(turn.prompt_ids, 0), len(turn.response_ids))
        lengths = [len(turn.prompt_ids) + longest[turn.prompt_ids] for turn in turns]
        for batch in batches_by_length(lengths, tokens_per_forward or lm.tokens_per_forward, MOST_PADDING):
            here = [turns[i] for i in batch]
            tokens = torch.tensor([token for turn in here for token in turn.response_ids], device=lm.model.device)
            num_prompts = len({turn.prompt_ids for turn in here})
            read = hidden_before if num_prompts == len(here) else _hidden_after_prompts
            hidden = read(decoder, here, lm.end, lm.model.device)
            size = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
            logprobs = torch.cat(
                [
                    torch.log_softmax(head(some).float(), dim=-1).gather(1, ids[:, None])[:, 0]
                    for some, ids in zip(hidden.split(size), tokens.split(size), strict=True)
                ]
            )
            for i, piece in zip(batch, logprobs.cpu().split([len(t.response_ids) for t in here]), strict=True):
                found[i] = piece
            lm.count.add(*_tokens_read(here))
    lm.model.train(was_training)
    return found


def _tokens_read(turns: Sequence[Turn]) -> tuple[int, int]:
    """Tokens of one forward pass, each prompt counted once: without padding, and with it."""
    prompts = [len(prompt) for prompt in {turn.prompt_ids for turn in turns}]
    responses = [len(turn.response_ids) for turn in turns]
    return sum(prompts) + sum(responses), max(prompts) * len(prompts) + max(responses) * len(responses)


@dataclass(frozen=True)
class GoldAnswers:
    """The gold answers of episodes as turns of the agent that answers; each (prompt, answer) once."""

    turns: list[Turn]
    asked: list[list[int]]  # per episode: where in `turns` its gold answers are

    def best(self, logprobs: Sequence[torch.Tensor]) -> list[float]:
        """Per episode: the mean log-probability per token of its most likely gold answer; `logprobs`: of each turn."""
        means = [tokens.mean().item() for tokens in logprobs]
        return [max(means[i] for i in places) for places in self.asked]


def gold_answers(
    episodes: Sequence[Episode], generator: Agent, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> GoldAnswers:
    """As if `generator` had written each gold answer from the passages of the episode. Every question has an answer.

    With `max_length`, of prompt and response, passages are cut as they are when the generator answers itself."""
    room = None if max_length is None else max_length - generator.max_new_tokens
    turns: list[Turn] = []
    places: dict[tuple[str, str], int] = {}
    asked = []
    for episode in episodes:
        prompt = generator.prompt(episode)
        new = [gold for gold in dict.fromkeys(episode.question.answers) if (prompt.content, gold) not in places]
        prompt_ids: tuple[int, ...] = ()
        if new:
            ids = encode_prompt(tokenizer, prompt) if room is None else encode_within(tokenizer, prompt, room)[0]
            prompt_ids = tuple(ids)
        for gold in new:
            places[prompt.content, gold] = len(turns)
            response_ids = tuple(encode_response(tokenizer, gold, None))
            turns.append(Turn(generator.name, prompt.content, gold, prompt_ids=prompt_ids, response_ids=response_ids))
        asked.append([places[prompt.content, gold] for gold in episode.question.answers])
    return GoldAnswers(turns, asked)
