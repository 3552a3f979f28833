"""Decoding: the text is what greedy full forwards would give, the log-probabilities are those of the distribution
sampled from, and a restricted response is always a valid list."""

import pytest
import torch

from jointrag.decoding import truncate
from jointrag.generation import (
    GREEDY,
    Sampling,
    TokenCount,
    batches_by_length,
)
from jointrag.prompts import encode_prompt, encode_response
from jointrag.types import Prompt
from tests.tiny import QUESTIONS, tiny_lm

PROMPTS = [Prompt("generator", "", f"{q.text}{' again' * i}") for i, q in enumerate(QUESTIONS)]
CHOICES = ("Document0", "Document1", "Document2")


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@torch.no_grad()
def greedy_by_full_forwards(lm, prompt: Prompt, max_new_tokens: int) -> list[int]:
    ids = encode_prompt(lm.tokenizer, prompt)
    response = []
    for _ in range(max_new_tokens):
        logits = lm.model(torch.tensor([ids + response])).logits[0, -1]
        response.append(int(logits.argmax()))
        if response[-1] == lm.tokenizer.eos_token_id:
            break
    return response


def test_batched_greedy_decoding_equals_one_by_one_full_forwards(lm):
    completions = lm.generate(PROMPTS, 6, GREEDY)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert list(completion.response_ids) == greedy_by_full_forwards(lm, prompt, 6)


@torch.no_grad()
def test_logprobs_are_those_of_a_full_forward(lm):
    sampling = Sampling(0.7, torch.Generator().manual_seed(0))
    for completion in lm.generate(PROMPTS, 8, sampling):
        ids = torch.tensor([[*completion.prompt_ids, *completion.response_ids]])
        logprobs = (lm.model(ids).logits[0, :-1] / 0.7).log_softmax(-1)
        start = len(completion.prompt_ids) - 1
        expected = [float(logprobs[start + j, t]) for j, t in enumerate(completion.response_ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_same_generator_same_sample(lm):
    first, second, third = (
        [c.text for c in lm.generate(PROMPTS, 8, Sampling(1.0, torch.Generator().manual_seed(seed)))]
        for seed in (1, 1, 2)
    )
    assert first == second != third


def test_restricted_responses_are_valid_lists(lm):
    prompts = [Prompt("selector", "", f"Where does Anna live ? {'x ' * i}", CHOICES) for i in range(200)]
    completions = lm.generate(prompts, 12, Sampling(1.0, torch.Generator().manual_seed(0)))
    for completion in completions:
        items = [item.strip() for item in completion.text.split(",")] if completion.text else []
        assert set(items) <= set(CHOICES)
        assert len(set(items)) == len(items)
        assert completion.response_ids[-1] == lm.tokenizer.eos_token_id
    assert len({completion.text for completion in completions}) > 5  # free to choose within the restriction


def test_labels_are_encoded_as_decoding_writes_them(lm):
    ids = encode_response(lm.tokenizer, "Document2,Document0", CHOICES)
    assert ids[-1] == lm.tokenizer.eos_token_id
    choice_list = lm.choice_list(CHOICES)
    for i, token in enumerate(ids):
        assert token in choice_list.allowed(tuple(ids[:i]))
    assert encode_response(lm.tokenizer, "", CHOICES) == [lm.tokenizer.eos_token_id]


def test_newlines_survive_a_round_trip(lm):
    ids = encode_response(lm.tokenizer, "Where does Anna live ?\nWhere does Ben live ?", None)
    assert len(lm.tokenizer.decode(ids, skip_special_tokens=True).splitlines()) == 2


def test_a_prompt_without_room_is_an_error(lm):
    with pytest.raises(ValueError, match="max_length"):
        lm.generate([Prompt("generator", "", "Anna " * 300)], 4, GREEDY)


def test_batches_by_length_fit_the_budget_and_cover_everything():
    lengths = [5, 100, 7, 7, 50, 3]
    batches = batches_by_length(lengths, 60)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    "top_k, top_p, kept",
    [
        (2, 1.0, (0.625, 0.375, 0.0, 0.0)),
        (3, 1.0, (0.5, 0.3, 0.1, 0.1)),  # the third and the fourth are equally likely: neither goes
        (9, 1.0, (0.5, 0.3, 0.1, 0.1)),
        (None, 0.3, (1.0, 0.0, 0.0, 0.0)),  # the most likely token alone is more than that, and stays
        (None, 0.7, (0.625, 0.375, 0.0, 0.0)),
        (None, 0.85, (0.5, 0.3, 0.1, 0.1)),  # again a tie
        (2, 0.6, (1.0, 0.0, 0.0, 0.0)),  # of what top-k leaves, the first is 0.625
    ],
)
def test_truncation_by_hand(top_k, top_p, kept):
    shuffled = torch.tensor([2, 0, 3, 1])
    truncated = truncate(log(0.5, 0.3, 0.1, 0.1)[:, shuffled], top_k, top_p)
    torch.testing.assert_close(truncated, log(*kept)[:, shuffled])


def test_a_forbidden_token_stays_forbidden():
    truncated = truncate(log(0.9, 0.1, 0.0), top_k=3, top_p=0.999)
    torch.testing.assert_close(truncated, log(0.9, 0.1, 0.0))


@pytest.mark.parametrize("top_k, top_p", [(5, 1.0), (None, 0.9), (None, 0.2), (20, 0.7), (1, 0.5)])
def test_truncation_equals_that_of_transformers(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logprobs = torch.randn(64, 200, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
    theirs = logprobs
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(None, theirs)  # type: ignore[arg-type]
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)  # type: ignore[arg-type]
    torch.testing.assert_close(truncate(logprobs, top_k, top_p), theirs.log_softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("choices", [None, CHOICES])
def test_truncated_samples_know_what_they_were_drawn_from(lm, choices):
    prompts = [Prompt("selector", "", f"{q.text}{' again' * i}", choices) for i, q in enumerate(QUESTIONS)]
    sampling = Sampling(0.7, torch.Generator().manual_seed(0), top_p=0.8, top_k=20)
    for completion in lm.generate(prompts, 6, sampling):
        ids = torch.tensor([[*completion.prompt_ids, *completion.response_ids]])
        logits = lm.model(ids).logits[0, len(completion.prompt_ids) - 1 : -1] / 0.7
        assert len(completion.support) == len(completion.response_ids)
        for j, (token, support) in enumerate(zip(completion.response_ids, completion.support, strict=True)):
            if choices is not None:
                allowed = lm.choice_list(choices).allowed(completion.response_ids[:j])
                assert set(support) <= set(allowed)
                logits[j, [i for i in range(logits.shape[1]) if i not in allowed]] = float("-inf")
            expected = truncate(logits[j].log_softmax(-1), 20, 0.8)
            assert list(support) == expected.isfinite().nonzero()[:, 0].tolist()
            assert token in support
            assert completion.logprobs[j] == pytest.approx(float(expected[token]), abs=1e-4)


def test_support_is_recorded_only_where_something_is_cut_off(lm):
    generator = torch.Generator().manual_seed(0)
    assert all(not c.support for c in lm.generate(PROMPTS, 4, Sampling(1.0, generator)))
    greedy = lm.generate(PROMPTS, 4, GREEDY)
    assert lm.generate(PROMPTS, 4, Sampling(0.0, generator, top_p=0.1, top_k=3)) == greedy
    assert all(len(ids) == 1 for c in lm.generate(PROMPTS, 4, Sampling(1.0, generator, top_k=1)) for ids in c.support)


def test_equal_prompts_are_read_once_and_answered_apart(lm):
    sampling = Sampling(1.0, torch.Generator().manual_seed(0))
    lm.count = TokenCount()
    mixed = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    completions = lm.generate(mixed, 6, sampling)
    longest, shortest = sorted((len(encode_prompt(lm.tokenizer, prompt)) for prompt in PROMPTS[:2]), reverse=True)
    spoken = sum(len(completion.response_ids) - 1 for completion in completions)  # the last token is drawn, never read
    assert lm.count.real == longest + shortest + spoken
    assert lm.count.padded >= 2 * longest + spoken
    assert len({completion.text for completion in completions}) > 2
    first, second = lm.generate([PROMPTS[0], PROMPTS[0]], 6, GREEDY)
    assert first == second
    assert first.response_ids == lm.generate(PROMPTS[:1], 6, GREEDY)[0].response_ids


def test_padding_is_counted(lm):
    lm.count = TokenCount()
    lm.generate(PROMPTS[:1], 6, GREEDY)
    assert lm.count.real == lm.count.padded  # one prompt: nothing to pad
    lm.count = TokenCount()
    lm.generate(PROMPTS, 1, GREEDY)
    lengths = [len(encode_prompt(lm.tokenizer, prompt)) for prompt in PROMPTS]
    assert (lm.count.real, lm.count.padded) == (sum(lengths), len(lengths) * max(lengths))


def test_batches_end_before_they_are_mostly_padding():
    lengths = [10] * 200 + [100] * 20
    apart = batches_by_length(lengths, 10_000, most_padding=0.1)
    assert [sorted({lengths[i] for i in batch}) for batch in apart] == [[10], [100]]
    assert len(batches_by_length([10] * 20 + [100] * 3, 10_000, most_padding=0.1)) == 1  # too few to go alone
