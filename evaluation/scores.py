"""What evaluation finds out, as data: scores.json.

    scores = Scores.read(Path("runs/evaluate/KEY/scores.json"))
    scores.comparison("mappo", "warm_start")          # F1 over all questions, with interval and p-value
    scores.systems["mappo"].attribution               # where the points are lost

`evaluation.measures` computes it from episodes. Shares and scores are 0..1; nothing is rounded here. None: nothing in
the data to measure it by. Dictionaries are in the order in which they are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Data = TypeVar("Data", bound="_Data")
SystemKind = Literal["no_retrieval", "plain_rag", "trained", "subset", "served"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Measures(_Data):
    """Means over a set of questions."""

    num_questions: int
    f1: float
    em: float
    accuracy: float
    precision: float
    """Share of the answer's words that are in the gold answer."""
    recall: float
    """Share of the gold answer's words that are in the answer."""
    judged: float | None = None
    """Share of answers that the LLM judge holds to be right."""
    retrieval: dict[str, float] = Field(default_factory=dict)
    """Of the candidates, in the order in which the selector sees them: recall@k, mrr@k, ndcg@k, map@k against the gold
    passages, answer@k: share of questions with a gold answer in one of the first k. Without gold passages answer@k
    alone; empty without retrieval."""
    retrieval_recall: float | None
    """Share of a question's gold passages that are among the candidates."""
    read_recall: float | None
    """Share of a question's gold passages that the generator read, itself or as an agent condensed them."""
    read_precision: float | None
    """Share of the passages read that are gold; over questions for which any was read."""
    selector_precision: float | None = None
    """The selection against the gold passages among the candidates; over questions that have one there. An empty
    selection has a precision of 0."""
    selector_recall: float | None = None
    selector_f1: float | None = None
    """Mean of the questions' F1."""
    selector_exact: float | None = None
    """Share of those selections that are the gold passages among the candidates, all of them and nothing else."""
    new_gold: float | None = None
    """Gold passages per question that the sub-questions brought and the question itself would not have."""
    lost_gold: float | None = None
    """Gold passages per question that the question itself would have brought and the sub-questions did not."""
    num_sub_questions: float
    num_candidates: float
    num_read: float
    num_answer_words: float
    penalised: dict[str, float]
    """Per agent: the share of its responses that were malformed or too long. The selector's is its malformed rate."""


class Cost(_Data):
    """What one agent, or "retriever", cost per question."""

    num_calls: float
    """Prompts answered by the model; for the retriever: searches."""
    num_prompt_tokens: float
    num_response_tokens: float
    seconds: float
    """Its share of the batch's time, without waiting for other agents."""


class CalibrationBin(_Data):
    """Selections of similar confidence: the probability that the selector gave its whole selection, as it wrote it."""

    low: float
    high: float
    num_questions: int
    confidence: float
    """Mean of the bin."""
    exact: float
    """Share that is right: the gold passages among the candidates and nothing else. Calibrated: equal to confidence."""
    f1: float
    """Mean F1 of the answers."""


class Calibration(_Data):
    """Whether the selector's confidence says how often it is right; over questions with gold passages."""

    bins: tuple[CalibrationBin, ...]
    """Those with questions in them, ascending; ten of equal width."""
    error: float
    """Expected calibration error: mean distance between confidence and exact, by questions (Naeini et al., 2015)."""


class AttributionStep(_Data):
    """The same questions once more, with the output of these agents replaced by the gold one."""

    agent: str
    """Whose output became gold at this step: "rewriter", "retriever", "selector"; "generator" ends at 1, by definition.
    The first step, "": nothing is replaced."""
    replaced: tuple[str, ...]
    """All that is gold by now."""
    f1: float
    em: float
    accuracy: float
    delta: float
    """F1 gained over the step before: what is lost at this agent. With its 95 % paired-bootstrap interval."""
    low: float
    high: float
    alone: float | None = None
    """F1 gained over the first step when this agent's output alone is replaced."""


class Attribution(_Data):
    """Where a system loses its points, over the questions that name gold passages: the steps of a waterfall."""

    num_questions: int
    steps: tuple[AttributionStep, ...]
    """From the system as it is to the gold answer; deltas of all but the first add up to 1 − its F1."""


class SystemScores(_Data):
    """One system: over all questions, per question type and per hop count."""

    kind: SystemKind = "trained"
    """no_retrieval: the last agent alone, without passages. plain_rag: the question itself is searched for, and the
    last agent reads all candidates. subset: some of the chain's agents. served: a model behind a server."""
    model: str = ""
    """Whose weights answered: the name of a checkpoint or of a served model."""
    agents: tuple[str, ...] = ()
    """Who spoke, in order."""
    overall: Measures
    types: dict[str, Measures]
    hops: dict[int, Measures] = Field(default_factory=dict)
    seconds: float
    """Time to answer all questions, without loading the model."""
    cost: dict[str, Cost] = Field(default_factory=dict)
    """By agent, and "retriever"."""
    calibration: Calibration | None = None
    """None: no selector, no gold passages, or a model that does not tell probabilities."""
    attribution: Attribution | None = None


class Comparison(_Data):
    """`system` minus `baseline` on the same questions, with its 95 % paired-bootstrap interval."""

    system: str
    baseline: str
    metric: str
    """f1, em, accuracy; judged where there is a judge."""
    type: str | None
    """The questions of this type; with hops None too: all questions."""
    hops: int | None = None
    """The questions with this many hops."""
    delta: float
    low: float
    high: float
    share_not_better: float
    p_value: float | None = None
    """Two-sided, by approximate randomisation."""
    num_questions: int


class Scores(_Data):
    """The content of scores.json."""

    num_questions: int
    types: dict[str, int]
    """Questions per type; empty where the data names no types."""
    hops: dict[int, int] = Field(default_factory=dict)
    """Questions per hop count: the number of gold passages, or of gold sub-questions where a set names no passages;
    empty where it names neither, or where all have as many."""
    question_retrieval: dict[str, float] = Field(default_factory=dict)
    """Before rewriting: what the question itself finds; the same keys as Measures.retrieval."""
    judge: str | None = None
    """The model that judged."""
    systems: dict[str, SystemScores]
    comparisons: tuple[Comparison, ...]
    """Every system with all before it."""

    @classmethod
    def read(cls, path: Path) -> Self:
        return read_data(cls, path)

    def comparison(
        self, system: str, baseline: str, metric: str = "f1", type: str | None = None, hops: int | None = None
    ) -> Comparison | None:
        """The one comparison asked for, or None if these two were not compared."""
        wanted = (system, baseline, metric, type, hops)
        found = (c for c in self.comparisons if (c.system, c.baseline, c.metric, c.type, c.hops) == wanted)
        return next(found, None)

    @property
    def subject(self) -> str:
        """The system that a report is about: joint training, else the last trained system, else the last one."""
        trained = [name for name, system in self.systems.items() if system.kind == "trained"]
        return "mappo" if "mappo" in trained else (trained or list(self.systems))[-1]

    @property
    def main(self) -> Comparison | None:
        """The comparison that a report is about, F1 over all questions: of its subject with the warm start, else with
        the first other trained system, else with the first served one. None: there is none of them."""
        kinds = ("trained", "served")
        others = [n for kind in kinds for n, s in self.systems.items() if s.kind == kind and n != self.subject]
        other = "warm_start" if "warm_start" in others else next(iter(others), "")
        return self.comparison(self.subject, other) or self.comparison(other, self.subject)


class MatrixCell(_Data):
    """A system on a dataset."""

    num_questions: int
    f1: float
    low: float
    """95 % bootstrap interval of F1."""
    high: float
    em: float
    accuracy: float
    in_domain: bool | None
    """Whether it was trained on this dataset; None: not known, as of a served model."""


class Matrix(_Data):
    """The content of matrix.json: the same systems on several datasets."""

    datasets: dict[str, int]
    """Number of questions by name."""
    cells: dict[str, dict[str, MatrixCell]]
    """By system, then by dataset."""
    scores: dict[str, str]
    """By dataset: the path of its scores.json."""

    @classmethod
    def read(cls, path: Path) -> Self:
        return read_data(cls, path)


def read_data(cls: type[Data], path: Path) -> Data:
    """The content of `path`. Raises ValueError with the file, the field and what to do."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the evaluation first")
    try:
        return cls.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: not scores of this version ({field}: {first['msg']}); evaluate again") from None
