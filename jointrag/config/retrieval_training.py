"""How retrieval models are trained: the embedding model (stage 2), rerankers, late interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jointrag.config.base import Section, Share
from jointrag.config.retrieval import Encoder, ScratchEncoder


class LoraSettings(Section):
    """Low-rank adapters (peft); merged into the weights when the model is saved."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: tuple[str, ...] | None = None
    """Names of the layers that get one; null: all linear ones."""


class TrainingSettings(Section):
    """How a retrieval model of any kind is trained."""

    num_epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    """Queries per optimiser step, all processes together."""
    learning_rate: PositiveFloat = 2e-5
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    max_query_length: PositiveInt | None = None
    """Tokens of a query; null: as many as the model takes."""
    max_length: PositiveInt | None = None
    """Tokens of a text (of a pair, for rerankers that read the two together); null: as many as the model takes."""
    num_negatives: Annotated[int, Field(ge=0)] = 0
    """Negatives of its own that each query gets, drawn anew every epoch."""
    repeat_negatives: bool = False
    """True: a query that has fewer gets some of them twice. False: that is an error."""
    tokens_per_forward: PositiveInt = 16_384
    """Texts of like length go through the model together, this many tokens at most at a time."""
    most_padding: Share = 0.1
    """Share of padding that such a part may have. On a GPU, a little more makes fewer and larger parts."""
    gradient_caching: bool = False
    """True: memory for one part of a batch is enough, whatever batch_size is, for one more forward pass (GradCache)."""
    gradient_accumulation: PositiveInt = 1
    """Split a batch's queries over so many passes. In-batch negatives are those of a pass: mind gradient_caching."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, float32 elsewhere. Weights are kept in float32 whichever it is."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations; null: at the end only. The best model is kept."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints; training that was interrupted goes on from the last."""
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """null: what the model takes by itself. flash_attention_2 needs a GPU, the package flash-attn and half precision,
    and does without padding."""
    lora: LoraSettings | None = None
    trust_remote_code: bool = False
    """True: run code that comes with the model. Only for those whose authors you trust."""


Weight = Annotated[float, Field(ge=0)]


class TeacherConfig(Section):
    """Vectors of a larger model, to be imitated (distillation in the style of Stella and Jasper)."""

    vectors: Path
    """An .npy file or a bare np.memmap: row n belongs to line n of `data`, {"text": …} or {"query": …}."""
    num_dims: PositiveInt | None = None
    """A bare np.memmap does not say it."""
    dtype: Literal["float32", "float16"] = "float32"
    cosine_weight: Weight = 10.0
    """Of: every text's vector like the teacher's. Counts where the two are of one width."""
    similarity_weight: Weight = 200.0
    """Of: any two texts as similar as the teacher finds them."""
    relative_weight: Weight = 20.0
    """Of: the texts in the teacher's order, seen from each of them, with a margin."""
    margin: Weight = 0.015


class RetrieverConfig(TrainingSettings):
    """Stage 2: fine-tune the embedding model on (question, gold passage) pairs, in-batch softmax loss; or on a file of
    one's own, with hard negatives, with scores, or with a teacher's vectors."""

    encoder: Encoder = ScratchEncoder()
    train: bool = True
    """False: use the encoder as it is (the paper keeps Contriever fixed)."""
    supervision: Literal["gold", "preference"] = "gold"
    """What the prepared questions teach. gold: their gold passages. preference: the passages that help the language
    model to the gold answer, as measured before training (section preferences)."""
    data: Path | None = None
    """A training file (JSON lines) in place of the prepared questions."""
    held_out: Share = 0.0
    """Share of the questions in `data` that are kept aside, and evaluated on in place of the dev questions."""
    loss: Literal["auto", "softmax", "scores"] = "auto"
    """softmax: each query's positive against all other texts of its batch. scores: each query's texts in proportion to
    their scores in `data`. auto: scores where every text has one, softmax otherwise."""
    temperature: PositiveFloat = 0.05
    score_temperature: PositiveFloat = 1.0
    """The scores of `data` are divided by this before their softmax: the smaller, the more the best one counts."""
    max_texts: Annotated[int, Field(ge=2)] | None = None
    """Of a query with more scored texts, so many are drawn each epoch."""
    guide: str | None = None
    """A model (name or folder) that says which texts of a batch are no negatives of a query: those that it finds closer
    to it than the positive."""
    teacher: TeacherConfig | None = None
    matryoshka_dims: tuple[PositiveInt, ...] = ()
    """Train the first so many dimensions to be of use alone: the loss is the mean over these. A linear layer is added
    when the largest exceeds the model's own."""
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs (a random sample)."""

    @model_validator(mode="after")
    def _fits_together(self) -> RetrieverConfig:
        if self.data is None:
            for name in ("teacher", "held_out"):
                if getattr(self, name):
                    raise ValueError(f"{name} goes with data; set data to a training file")
            if self.supervision == "gold" and (self.loss == "scores" or self.num_negatives):
                raise ValueError(
                    "the prepared questions have neither scores nor negatives of their own; set data to a training "
                    "file that has, or loss=softmax and num_negatives=0"
                )
        elif self.supervision == "preference":
            raise ValueError("supervision=preference is for the prepared questions; leave data out, or supervision")
        if self.teacher and self.held_out:
            raise ValueError("held_out is for questions, and a teacher's texts have none; leave it at 0")
        if self.teacher and self.guide:
            raise ValueError("guide is for losses with negatives, and a teacher's vectors need none; set one of them")
        return self


class DecoderFormat(Section):
    """How a decoder reads a pair, and which words are its answer. It becomes part of the tokenizer that is saved.

    The fixed parts are never cut off. Where a pair is too long, the longer of query and text is cut first, so that
    neither pushes the other out. `{}` stands for the text; fixed parts that end in a line break fit best, because a
    tokenizer would cut there anyway.
    """

    query_format: str = "query:\n{}\n"
    document_format: str = "document:\n{}\n"
    closing: str = "relevant:"
    """After the text; the answer is what the model would say next."""
    yes: str = " yes"
    """One token. With its space, where one would be written after `closing`."""
    no: str | None = " no"
    """The score is logit(yes) - logit(no); null: logit(yes) alone."""

    @model_validator(mode="after")
    def _one_place_each(self) -> DecoderFormat:
        for name in ("query_format", "document_format"):
            if getattr(self, name).count("{}") != 1:
                raise ValueError(f"{name}={getattr(self, name)!r} needs {{}} once, where the text goes")
        return self


class RerankerConfig(TrainingSettings):
    """A reranker (cross-encoder): reads query and text together, gives one score."""

    model: str
    """A Hugging Face name or folder: a cross-encoder, an encoder (gets a new head), or a decoder."""
    train: bool = True
    """False: use the model as it is."""
    data: Path | None = None
    """A training file (JSON lines). Null: the prepared questions with mined negatives (section negatives)."""
    dev: Path | None = None
    """Questions to evaluate on, in the same format."""
    decoder: DecoderFormat | None = None
    """For decoders that are no rerankers yet; null: the default one."""
    loss: Literal["point_ce", "point_mse", "pairwise", "listwise", "lambda", "kl", "margin_mse"] = "listwise"
    """listwise (softmax), pairwise (RankNet), lambda (nDCG): a query's texts against each other. point_ce, point_mse:
    each text by itself, labels from 0 to 1, so that scores are probabilities. kl, margin_mse: a teacher's scores."""
    labels: Literal["auto", "binary", "scores"] = "auto"
    """scores: the file's; binary: 1 for pos, 0 for neg; auto: scores where every text has one."""
    min_label: float | None = None
    max_label: float | None = None
    """Scores from min_label to max_label become 0 to 1, evenly. Null: as they are."""
    score_temperature: PositiveFloat = 1.0
    """kl: scores are divided by it; the smaller, the more the best text counts."""
    num_negatives: Annotated[int, Field(ge=1)] = 7
    """Texts without a score: negatives that each positive is shown with."""
    max_texts: Annotated[int, Field(ge=2)] | None = 16
    """Texts with scores: of a query with more of them, so many are drawn each epoch."""
    held_out: Share = 0.1
    """Share of the questions to evaluate on, where there is no `dev`; 0: none."""
    relevant_from: float | None = None
    """In evaluation, texts with this score or more are the relevant ones; null: positives are, or grades count."""

    @model_validator(mode="after")
    def _fits_rerankers(self) -> RerankerConfig:
        if self.max_query_length is not None:
            raise ValueError("max_query_length is for models that read a query alone; rerankers have max_length")
        if (self.min_label is None) != (self.max_label is None):
            raise ValueError("min_label and max_label belong together: give both or neither")
        if self.min_label is not None and self.max_label is not None and self.min_label >= self.max_label:
            raise ValueError(f"min_label={self.min_label} has to be below max_label={self.max_label}")
        return self


class LateInteractionConfig(TrainingSettings):
    """A late-interaction model (ColBERT): a vector for each token; a score is MaxSim, the sum over the query's tokens
    of their best match in the text."""

    model: str
    """A Hugging Face name or folder: a late-interaction model, or any encoder."""
    data: Path | None = None
    """A training file (JSON lines). Null: the prepared questions with mined negatives (section negatives)."""
    dev: Path | None = None
    """Questions to evaluate on, in the same format."""
    dim: PositiveInt = 128
    """Of a token's vector, for a model that has none yet (a new linear layer). Others keep their own."""
    query_expansion: PositiveInt | None = None
    """ColBERT's: queries are filled up to so many tokens with mask tokens, which are scored too. Null: none."""
    temperature: PositiveFloat = 1.0
    """MaxSim is divided by it."""
    loss: Literal["auto", "in_batch", "kl"] = "auto"
    """in_batch: the positive against all other texts of the batch. kl: a query's texts in proportion to a teacher's
    scores. auto: kl where every text has a score."""
    score_temperature: PositiveFloat = 1.0
    """kl: scores are divided by it; the smaller, the more the best text counts."""
    max_texts: Annotated[int, Field(ge=2)] | None = 16
    """kl: of a query with more texts, so many are drawn each epoch."""
    guide: str | None = None
    """in_batch: an embedding model (name or folder) that says which texts of a batch are no negatives of a query: those
    that it finds closer to it than the positive."""
    held_out: Share = 0.1
    """Share of the questions to evaluate on, where there is no `dev`; 0: none."""
    relevant_from: float | None = None
    """In evaluation, texts with this score or more are the relevant ones; null: positives are, or grades count."""

    @model_validator(mode="after")
    def _fits_late_interaction(self) -> LateInteractionConfig:
        if self.query_expansion is not None and self.max_query_length is not None:
            raise ValueError("query_expansion is how long queries are; leave max_query_length out")
        if self.guide is not None and self.loss == "kl":
            raise ValueError("guide is for in-batch negatives, and loss=kl has none; leave it out")
        return self
