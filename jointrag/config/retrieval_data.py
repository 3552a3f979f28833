"""What retrieval models learn from besides files: mined negatives, and what helps the reader."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from jointrag.config.base import Section, Share
from jointrag.config.language_model import PretrainedLM, ServedConfig


class NegativesConfig(Section):
    """Hard negatives: passages that a retriever finds for a question and that do not answer it. The limits below keep
    false negatives out, the passages that answer it and that nobody has marked."""

    num_negatives: PositiveInt = 7
    first_rank: PositiveInt = 1
    last_rank: PositiveInt = 50
    """Negatives are found from the first to the last of these ranks, positives not counted. The best ranks hold the
    hardest negatives, and the most false ones."""
    margin: Annotated[float, Field(ge=0)] | None = None
    """A negative scores at least this much less than the positive; null: whatever it scores."""
    max_share: Share | None = 0.95
    """A negative scores at most this share of what the positive scores; null: whatever it scores."""
    compare_with: Literal["best", "worst"] = "best"
    """Which of several positives that is. worst is stricter, and leaves little where the retriever cannot find one of
    them, as in multi-hop questions."""
    leave_out_answers: bool = True
    """Leave passages out that hold a gold answer, where the questions have answers (yes and no aside)."""
    choose: Literal["top", "sample"] = "top"
    """top: the best ranks. sample: any of those that are left."""
    too_few: Literal["keep", "drop"] = "keep"
    """What becomes of a question with some negatives, but fewer than asked. One without any is always dropped."""
    titles: bool = True
    """Put a passage's title before its text. False where the positives of the data have none: a model would learn to
    tell the two apart by that."""
    scores: bool = False
    """Write the retriever's scores too (pos_scores, neg_scores)."""
    language: str = "english"
    """BM25's stemmer; none: words as they are. Chinese and Japanese need no other setting."""

    @model_validator(mode="after")
    def _ranks_suffice(self) -> NegativesConfig:
        num_ranks = self.last_rank - self.first_rank + 1
        if num_ranks < self.num_negatives:
            raise ValueError(
                f"first_rank={self.first_rank} to last_rank={self.last_rank} are {max(0, num_ranks)} ranks, too few "
                f"for num_negatives={self.num_negatives}"
            )
        return self


class OwnReader(Section):
    """The run's language model (language_model in the preset), as it is before training."""

    type: Literal["own"] = "own"


class ServedReader(ServedConfig):
    """A model behind a server that returns the log-probabilities of a prompt (vLLM does)."""

    type: Literal["served"] = "served"
    tokenizer: str | None = None
    """Hugging Face name or folder of its tokenizer; null: `name`."""
    max_length: PositiveInt = 4096
    """Tokens of prompt and answer that the server takes."""


Reader = Annotated[OwnReader | PretrainedLM | ServedReader, Field(discriminator="type")]


class PreferencesConfig(Section):
    """How much each candidate passage helps the language model that reads it: what it adds to the log-probability of
    the gold answer. The embedding model learns from it (retriever.loss=scores)."""

    reader: Reader = OwnReader()
    num_candidates: Annotated[int, Field(ge=2)] = 16
    """Passages scored per question: the retriever's best."""
    with_gold: bool = True
    """Gold passages are among them, found or not."""
    num_questions: PositiveInt | None = None
    """Score at most this many questions (a random sample)."""
    language: str = "english"
    """The stemmer, where BM25 finds the candidates."""
    questions_per_block: PositiveInt = 64
    """Scored, then written, together; an interrupted run goes on after the last block."""
    tokens_per_forward: PositiveInt = 16_384
    """Most tokens (padding included) in one forward pass."""
