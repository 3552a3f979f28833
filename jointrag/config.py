"""Every setting of JointRAG: one frozen section per stage, one `PipelineConfig` that holds them.

A YAML preset plus dotted overrides is resolved once (`jointrag.presets.resolve`); stages get their section, never the
tree. A misspelt key, a wrong type or two settings that exclude each other is an error before anything runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
AgentName = str  # a name registered in jointrag.agents


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _check_heads(hidden_size: int, num_heads: int) -> None:
    if hidden_size % (2 * num_heads):  # rotary embeddings need heads of even width
        raise ValueError(f"hidden_size={hidden_size} has to be a multiple of 2 x num_heads={num_heads}")


# ---- data ------------------------------------------------------------------------------------------------------------


class SyntheticDataset(Section):
    """Made-up countries (jointrag/datasets/synthetic.py): works offline, in seconds, from a seed."""

    name: Literal["synthetic"] = "synthetic"
    num_source_countries: PositiveInt = 44
    """Countries for retriever training and the warm start."""
    num_target_countries: PositiveInt = 16
    """Countries whose questions and answers (nothing else) MAPPO trains on."""
    num_dev_countries: PositiveInt = 2
    num_test_countries: PositiveInt = 6
    """Countries that no stage before evaluation asks about."""
    num_people: PositiveInt = 20
    """People per country; companies and films are 0.4 times as many."""
    source_bridge_share: Share = 0.4
    """Share of two-hop (bridge) questions in source countries; the rest is one-hop."""
    target_bridge_share: Share = 0.6
    """The same for target, dev and test countries."""
    decomposition_share: Share = 0.4
    """Share of source bridge questions that come with sub-questions."""
    num_source_questions: PositiveInt = 12_000
    num_train_questions: PositiveInt = 6_000
    num_dev_questions: PositiveInt = 200
    num_test_questions: PositiveInt = 1_000


class FilesDataset(Section):
    """Your own data: a folder with corpus.jsonl, train.jsonl, dev.jsonl, test.jsonl (format: data/README.md)."""

    name: Literal["files"]
    path: Path
    """The folder."""


class NamedDataset(Section):
    """A public data set by name. Not available yet: prepare says so at once and names the way round."""

    name: Literal["hotpotqa", "2wikimultihopqa", "ambigqa", "musique"]
    corpus: Literal["own", "psgs_w100"] = "own"


Dataset = Annotated[SyntheticDataset | FilesDataset | NamedDataset, Field(discriminator="name")]


# ---- retrieval -------------------------------------------------------------------------------------------------------


class ScratchEncoder(Section):
    """A small BERT with a word-level vocabulary, trained from random weights (mean pooling)."""

    type: Literal["scratch"] = "scratch"
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    max_length: PositiveInt = 64

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchEncoder:
        _check_heads(self.hidden_size, self.num_heads)
        return self


class PretrainedEncoder(Section):
    """A Hugging Face name or folder, as sentence-transformers loads it."""

    type: Literal["pretrained"] = "pretrained"
    name: str
    max_length: PositiveInt = 256


Encoder = Annotated[ScratchEncoder | PretrainedEncoder, Field(discriminator="type")]


class RetrieverConfig(Section):
    """Stage 2: fine-tune the embedding model on (question, gold passage) pairs, in-batch softmax loss."""

    encoder: Encoder = ScratchEncoder()
    train: bool = True
    """False: use the encoder as it is (the paper keeps Contriever fixed)."""
    num_epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-5
    warmup_ratio: Share = 0.1
    temperature: PositiveFloat = 0.05
    max_pairs: PositiveInt | None = None
    """Use at most this many pairs (a random sample)."""


class IndexConfig(Section):
    """Stage 3: embed the corpus, build the Faiss index."""

    factory: str = "Flat"
    """A Faiss factory string; vectors are normalised and compared by inner product."""
    batch_size: PositiveInt = 256


class ServerConfig(Section):
    """Stage 4: the retrieval server. It lives as long as the flow and is always stopped."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: any free port."""
    num_threads: PositiveInt = 8
    max_batch: PositiveInt = 256
    """Most queries encoded together."""
    batch_window_ms: Annotated[float, Field(ge=0)] = 2.0
    """How long the first query of a batch waits for company."""
    startup_timeout_s: PositiveFloat = 120.0


# ---- language model and agents ---------------------------------------------------------------------------------------


class ScratchLM(Section):
    """A small Llama with a word-level vocabulary, trained from random weights."""

    type: Literal["scratch"] = "scratch"
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 256
    max_length: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchLM:
        _check_heads(self.hidden_size, self.num_heads)
        return self


class Lora(Section):
    """Low-rank adapters on all linear layers (peft)."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0


class PretrainedLM(Section):
    """A Hugging Face name or folder. A chat template is used where the tokenizer has one."""

    type: Literal["pretrained"] = "pretrained"
    name: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    lora: Lora | None = Lora()
    max_length: PositiveInt = 4096


LanguageModelSection = Annotated[ScratchLM | PretrainedLM, Field(discriminator="type")]


class RewriterConfig(Section):
    max_sub_questions: PositiveInt = 4
    max_characters: PositiveInt = 300
    penalty: Annotated[float, Field(le=0)] = -0.5
    """For too many sub-questions, too many characters, or none at all."""
    max_new_tokens: PositiveInt = 96


class SelectorConfig(Section):
    penalty: Annotated[float, Field(le=0)] = -1.0
    """For a malformed list, an unknown document or one named twice."""
    max_new_tokens: PositiveInt = 32


class GeneratorConfig(Section):
    max_words: PositiveInt = 30
    penalty: Annotated[float, Field(le=0)] = -0.5
    """For an answer of more than max_words words, or an empty one."""
    max_new_tokens: PositiveInt = 48


class AgentsConfig(Section):
    """The chain: which agents, what each may do, and how many passages they share."""

    chain: tuple[AgentName, ...] = ("rewriter", "selector", "generator")
    num_candidates: PositiveInt = 10
    """Passages retrieved per question, shared out over its sub-questions."""
    rewriter: RewriterConfig = RewriterConfig()
    selector: SelectorConfig = SelectorConfig()
    generator: GeneratorConfig = GeneratorConfig()

    @model_validator(mode="after")
    def _chain_is_possible(self) -> AgentsConfig:
        order = ["rewriter", "selector", "generator"]
        unknown = [name for name in self.chain if name not in order]
        if unknown:
            raise ValueError(f"unknown agent {unknown[0]!r} in chain; known agents: {', '.join(order)}")
        if list(self.chain) != [name for name in order if name in self.chain] or "generator" not in self.chain:
            raise ValueError(
                "the chain runs rewriter, selector, generator; leave out the first or second, keep the last"
            )
        return self


# ---- training the agents ---------------------------------------------------------------------------------------------


class AgentDataConfig(Section):
    """Stage 5: warm-start examples for every agent of the chain, and the question set for MAPPO."""

    num_warm_start_questions: PositiveInt = 6_000
    """Source questions turned into one example per agent."""
    num_reading_examples: Annotated[int, Field(ge=0)] = 0
    """Extra (passages, question) → answer examples, for models that have to learn to read first."""
    num_control_questions: Annotated[int, Field(ge=0)] = 0
    """Target questions turned into supervised examples for the control."""


class WarmStartConfig(Section):
    """Stage 6: one supervised pass over all agents' examples with trl's SFTTrainer."""

    num_epochs: PositiveFloat = 1.0
    reading_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Before that: epochs over the reading examples (models from scratch)."""
    reading_learning_rate: PositiveFloat = 2e-3
    prompt_loss_weight: Share = 0.0
    """What a prompt token counts in the loss; a response token counts 1. Helps a model from scratch learn to copy."""
    batch_size: PositiveInt = 32
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    warmup_ratio: Share = 0.03
    gradient_checkpointing: bool = False


class MappoConfig(Section):
    """Stage 7: joint training of the agents by PPO with a shared reward."""

    num_steps: PositiveInt = 200
    """Iterations of rollout and update."""
    questions_per_step: PositiveInt = 64
    rollouts_per_question: PositiveInt = 1
    """Episodes sampled of each question; group and rloo compare them with each other and need at least 2."""
    advantage: Literal["gae", "group", "rloo"] = "gae"
    """gae: a critic says what to expect. group, rloo: the other rollouts of the question do, without a critic."""
    whiten: Literal["agent", "all", "no"] = "agent"
    """Advantages to mean 0 and deviation 1: over each agent's tokens, over all tokens, or not at all."""
    trained: tuple[AgentName, ...] | None = None
    """The agents whose turns are learned from; the others only act. null: all of the chain."""
    minibatch_episodes: PositiveInt = 32
    ppo_epochs: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-5
    final_learning_rate_ratio: Share = 0.1
    """The rate decays linearly to this share of itself."""
    critic_learning_rate: PositiveFloat = 1e-3
    critic_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps that train the critic alone."""
    clip_range: PositiveFloat = 0.2
    clip_range_high: PositiveFloat | None = None
    """The upper side of the clip range, where it is to be another one."""
    value_clip_range: PositiveFloat | None = 0.2
    value_coefficient: PositiveFloat = 0.5
    gamma: Share = 1.0
    gae_lambda: Share = 0.95
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the KL to the warm start in the reward: where the adaptive coefficient starts."""
    kl_in: Literal["reward", "loss"] = "reward"
    """reward: charged token by token before advantages are estimated. loss: the k3 estimator beside the policy loss."""
    kl_target: PositiveFloat | None = 1.0
    """KL per response, in nats, that the coefficient is steered towards; null: it stays as it is."""
    kl_floor: Annotated[float, Field(ge=0)] = 0.01
    """The adaptive coefficient never falls below this."""
    reward: Literal["f1", "em", "accuracy"] | dict[Literal["f1", "em", "accuracy"], float] = "f1"
    """A metric, or several with their weights: {f1: 0.5, em: 0.5}."""
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.0
    temperature: PositiveFloat = 1.0
    max_grad_norm: PositiveFloat = 1.0
    checkpoint_every: PositiveInt = 20
    dev_every: Annotated[int, Field(ge=0)] = 50
    """Greedy score on the dev questions every so many steps; 0: never."""
    num_dev_questions: PositiveInt = 200
    tokens_per_forward: PositiveInt = 16_384
    """Most tokens (padding included) in one forward pass."""

    @model_validator(mode="after")
    def _batches_fit(self) -> MappoConfig:
        num_episodes = self.questions_per_step * self.rollouts_per_question
        if self.minibatch_episodes > num_episodes:
            raise ValueError(f"minibatch_episodes={self.minibatch_episodes} is more than the {num_episodes} of a step")
        if self.advantage != "gae" and self.rollouts_per_question < 2:
            raise ValueError(f"advantage={self.advantage} compares rollouts: set rollouts_per_question to 2 or more")
        if self.kl_target is not None and self.kl_coefficient < self.kl_floor:
            raise ValueError(f"kl_coefficient={self.kl_coefficient} starts below kl_floor={self.kl_floor}")
        return self


class ControlConfig(Section):
    """Beside MAPPO: the same time of further supervised training on the target domain."""

    enabled: bool = False
    learning_rate: PositiveFloat = 1e-4
    prompt_loss_weight: Share = 0.0
    """As in the warm start; give both the same, or the comparison is not fair."""
    batch_size: PositiveInt = 32


class EvaluationConfig(Section):
    """Stage 8: greedy answers of every trained model on the same held-out questions."""

    num_questions: PositiveInt | None = None
    """None: the whole test split."""
    num_bootstrap: PositiveInt = 10_000
    batch_size: PositiveInt = 128


class ReportConfig(Section):
    """Stage 9: report.md and a self-contained report.html."""

    num_examples: Annotated[int, Field(ge=0)] = 6
    """Questions shown with the full chain: half of them won by MAPPO, half lost."""


class TrackingConfig(Section):
    """Where runs are recorded."""

    mlflow_uri: str | None = None
    """None: MLFLOW_TRACKING_URI if set, else no tracking."""
    experiment: str = "jointrag"


class RuntimeConfig(Section):
    """Where the work runs. Not part of any stage's key: the same artifact, faster or slower."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: PositiveInt | None = None
    """CPU threads per training process; None: torch's choice."""


class PipelineConfig(Section):
    """A whole run."""

    seed: Annotated[int, Field(ge=0)] = 0
    workspace: Path = Path()
    """Artifacts go to data/, models/ and runs/ below it."""
    runtime: RuntimeConfig = RuntimeConfig()
    dataset: Dataset = SyntheticDataset()
    retriever: RetrieverConfig = RetrieverConfig()
    index: IndexConfig = IndexConfig()
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

    @model_validator(mode="after")
    def _sections_agree(self) -> PipelineConfig:
        if self.control.enabled and self.agent_data.num_control_questions == 0:
            raise ValueError(
                "control.enabled needs agent_data.num_control_questions > 0: there is nothing to train it on"
            )
        if unknown := set(self.mappo.trained or ()) - set(self.agents.chain):
            raise ValueError(f"mappo.trained names {sorted(unknown)[0]!r}, which is not in agents.chain")
        if self.warm_start.reading_epochs > 0 and self.agent_data.num_reading_examples == 0:
            raise ValueError("warm_start.reading_epochs needs agent_data.num_reading_examples > 0")
        return self
