"""Every setting of JointRAG: one frozen section per stage, one `PipelineConfig` that holds them.

A YAML preset plus dotted overrides is resolved once (`jointrag.presets.resolve`); stages get their section, never the
tree. A misspelt key, a wrong type or two settings that exclude each other is an error before anything runs.
"""

from jointrag.config.agents import AgentsConfig
from jointrag.config.base import AgentName, Section, Share
from jointrag.config.data import (
    ChunkingConfig,
    CorpusDataset,
    Dataset,
    FilesDataset,
    FlashRagDataset,
    NamedDataset,
    OnBadLine,
    PublicDataset,
    SynthesisConfig,
    SyntheticDataset,
)
from jointrag.config.evaluation import EvaluationConfig, JudgeConfig
from jointrag.config.language_model import LanguageModelSection, Lora, PretrainedLM, ScratchLM, ServedConfig
from jointrag.config.mappo import CriticConfig, MappoConfig, SamplingConfig, WatchdogConfig
from jointrag.config.pipeline import PipelineConfig, ReportConfig, RuntimeConfig, TrackingConfig
from jointrag.config.retrieval import (
    Bm25IndexConfig,
    EmbeddedCorpus,
    Encoder,
    HybridIndexConfig,
    IndexConfig,
    IndexSection,
    PretrainedEncoder,
    RerankingConfig,
    ScratchEncoder,
    ServerConfig,
    TorchIndexConfig,
)
from jointrag.config.retrieval_data import NegativesConfig, OwnReader, PreferencesConfig, ServedReader
from jointrag.config.retrieval_training import (
    DecoderFormat,
    LateInteractionConfig,
    LoraSettings,
    RerankerConfig,
    RetrieverConfig,
    TeacherConfig,
    TrainingSettings,
)
from jointrag.config.supervised import AgentDataConfig, AnswerContexts, ControlConfig, WarmStartConfig

__all__ = [
    "AgentDataConfig",
    "AgentName",
    "AgentsConfig",
    "AnswerContexts",
    "Bm25IndexConfig",
    "ChunkingConfig",
    "ControlConfig",
    "CorpusDataset",
    "CriticConfig",
    "Dataset",
    "DecoderFormat",
    "EmbeddedCorpus",
    "Encoder",
    "EvaluationConfig",
    "FilesDataset",
    "FlashRagDataset",
    "HybridIndexConfig",
    "IndexConfig",
    "IndexSection",
    "JudgeConfig",
    "LanguageModelSection",
    "LateInteractionConfig",
    "Lora",
    "LoraSettings",
    "MappoConfig",
    "NamedDataset",
    "NegativesConfig",
    "OnBadLine",
    "OwnReader",
    "PipelineConfig",
    "PreferencesConfig",
    "PretrainedEncoder",
    "PretrainedLM",
    "PublicDataset",
    "ReportConfig",
    "RerankerConfig",
    "RerankingConfig",
    "RetrieverConfig",
    "RuntimeConfig",
    "SamplingConfig",
    "ScratchEncoder",
    "ScratchLM",
    "Section",
    "ServedConfig",
    "ServedReader",
    "ServerConfig",
    "Share",
    "SynthesisConfig",
    "SyntheticDataset",
    "TeacherConfig",
    "TorchIndexConfig",
    "TrackingConfig",
    "TrainingSettings",
    "WarmStartConfig",
    "WatchdogConfig",
]
