"""A whole run: one section per stage, and what goes around them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from jointrag.agents import AGENTS
from jointrag.config.agents import AgentsConfig
from jointrag.config.base import Section
from jointrag.config.data import Dataset, SyntheticDataset
from jointrag.config.evaluation import EvaluationConfig
from jointrag.config.language_model import LanguageModelSection, ScratchLM
from jointrag.config.mappo import MappoConfig
from jointrag.config.retrieval import IndexConfig, IndexSection, RerankingConfig, ServerConfig
from jointrag.config.retrieval_data import NegativesConfig, PreferencesConfig
from jointrag.config.retrieval_training import LateInteractionConfig, RerankerConfig, RetrieverConfig
from jointrag.config.supervised import AgentDataConfig, ControlConfig, WarmStartConfig


class ReportConfig(Section):
    """Stage 9: report.md and a self-contained report.html."""

    num_examples: Annotated[int, Field(ge=0)] = 20
    """Questions shown with the full chain: half of them won by MAPPO, half lost."""


class TrackingConfig(Section):
    """Where runs are recorded."""

    mlflow_uri: str | None = None
    """None: MLFLOW_TRACKING_URI if set, else no tracking."""
    experiment: str = "jointrag"
    num_traces: Annotated[int, Field(ge=0)] = 10
    """Held-out questions, picked at random, whose way through the chain MLflow's trace view shows, for every trained
    system."""


class RuntimeConfig(Section):
    """Where the work runs. Not part of any stage's key: the same artifact, faster or slower."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: PositiveInt | None = None
    """CPU threads per training process; None: torch's choice."""
    num_processes: PositiveInt = 1
    """Processes that share the training of a stage (torchrun), or the embedding of the corpus, one per GPU or CPU
    core."""
    accelerate_config: Path | None = None
    """An accelerate config file (configs/accelerate/): joint training starts with `accelerate launch`, for FSDP.
    Supervised stages keep a whole model per process."""
    dask_scheduler: str | None = None
    """Address of a Dask cluster whose workers embed the corpus, tcp://host:8786; they see the workspace at the same
    path. Needs prefect-dask (extra dask)."""


class PipelineConfig(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 0
    workspace: Path = Path()
    """Artifacts go to data/, models/ and runs/ below it."""
    runtime: RuntimeConfig = RuntimeConfig()
    dataset: Dataset = SyntheticDataset()
    preferences: PreferencesConfig = PreferencesConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    index: IndexSection = IndexConfig()
    negatives: NegativesConfig = NegativesConfig()
    late_interaction: LateInteractionConfig | None = None
    """flows.train_retrieval trains one where this is set."""
    reranker: RerankerConfig | None = None
    """Where this is set, a reranker is trained (train: false: taken as it is), and stands between retriever and agents:
    in training, evaluation and serving alike."""
    reranking: RerankingConfig = RerankingConfig()
    server: ServerConfig = ServerConfig()
    language_model: LanguageModelSection = ScratchLM()
    agents: AgentsConfig = AgentsConfig()
    agent_data: AgentDataConfig = AgentDataConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    mappo: MappoConfig = MappoConfig()
    control: ControlConfig = ControlConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _flashrag_by_one_name(cls, given: Any) -> Any:
        """dataset.name=flashrag:nq is short for name=flashrag, subset=nq."""
        dataset = given.get("dataset") if isinstance(given, dict) else None
        if isinstance(dataset, dict) and str(dataset.get("name", "")).startswith("flashrag:"):
            name, _, subset = dataset["name"].partition(":")
            return given | {"dataset": {**dataset, "name": name, "subset": subset}}
        return given

    @property
    def mines_negatives(self) -> bool:
        """Whether a model is to learn from hard negatives of the prepared questions, for want of a file of its own."""
        reranker = self.reranker if self.reranker and self.reranker.train else None
        return any(model is not None and model.data is None for model in (self.late_interaction, reranker))

    @model_validator(mode="after")
    def _sections_agree(self) -> PipelineConfig:
        if self.control.enabled and self.agent_data.num_control_questions == 0:
            raise ValueError(
                "control.enabled needs agent_data.num_control_questions > 0: there is nothing to train it on"
            )
        named = {"trained": set(self.mappo.trained or ()), "sampling_of": set(self.mappo.sampling_of)}
        for setting, agents in named.items():
            if unknown := agents - set(self.agents.chain):
                raise ValueError(f"mappo.{setting} names {sorted(unknown)[0]!r}, which is not in agents.chain")
        for agent, sources in self.agent_data.label_sources.items():
            if agent not in AGENTS:
                raise ValueError(f"agent_data.label_sources names the agent {agent!r}; there are {', '.join(AGENTS)}")
            known = (*AGENTS[agent].label_sources, "teacher")
            if unknown_sources := [source for source in sources if source not in known]:
                raise ValueError(
                    f"agent_data.label_sources.{agent} names {unknown_sources[0]!r}; choose from {', '.join(known)}"
                )
        for subset in self.evaluation.subsets:
            self.agents.subset(subset)
        if self.warm_start.reading_epochs > 0 and self.agent_data.num_reading_examples == 0:
            raise ValueError("warm_start.reading_epochs needs agent_data.num_reading_examples > 0")
        return self
