"""Stage 1: where questions and passages come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from jointrag.config.base import Section, Share
from jointrag.config.language_model import PretrainedLM, ServedConfig

OnBadLine = Literal["refuse", "skip"]
QuestionField = Literal["id", "text", "answers", "type", "gold_passages", "sub_questions"]


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


class ChunkingConfig(Section):
    """How documents become passages."""

    num_tokens: PositiveInt = 200
    """The most that a passage has; it ends at a heading, a paragraph or a sentence where one fits."""
    overlap: NonNegativeInt = 40
    """The most that neighbours share."""
    tokenizer: str | None = None
    """Whose tokens are counted, a Hugging Face name or a folder; null: words and marks, and the characters of Chinese,
    Japanese and Korean."""
    converted: Path = Path("data/documents")
    """Where the texts of converted files are kept."""

    @model_validator(mode="after")
    def _chunks_move_on(self) -> ChunkingConfig:
        if self.overlap >= self.num_tokens:
            raise ValueError(f"overlap={self.overlap} has to be less than num_tokens={self.num_tokens}")
        return self


class SynthesisConfig(Section):
    """Questions that a language model writes about the passages, where there are none."""

    served: ServedConfig | None = None
    """The model that writes, behind an OpenAI-compatible server;"""
    local: PretrainedLM | None = None
    """or in this process. One of the two."""
    num_train_questions: PositiveInt = 1_000
    num_dev_questions: PositiveInt = 100
    num_test_questions: PositiveInt = 200
    two_hop_share: Share = 0.5
    """Of the questions that are asked for; two-hop questions are dropped more often."""
    top_k: PositiveInt = 10
    """A keyword search for the question, or its sub-questions, has to find its passages among the first so many."""
    max_answer_words: PositiveInt = 10
    language: str = "english"
    """Of the keyword search: snowball's name of it, or none."""
    replies: Path = Path("data/synthesis")
    """Where the model's replies are kept, so that it is not asked twice."""

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.num_train_questions, "dev": self.num_dev_questions, "test": self.num_test_questions}

    @property
    def model_name(self) -> str:
        model = self.served or self.local
        assert model is not None
        return model.name

    @model_validator(mode="after")
    def _one_model(self) -> SynthesisConfig:
        if (self.served is None) == (self.local is None):
            raise ValueError("synthesis needs a model: set served.base_url and served.name, or local.name (not both)")
        return self


class FilesDataset(Section):
    """Your own data: a folder with corpus.jsonl (.tsv, .parquet) and questions, train.jsonl, dev.jsonl, test.jsonl
    (.csv, .tsv, .parquet); see data/README.md."""

    name: Literal["files"]
    path: Path | None = None
    """The folder; null with documents and questions=synthesise."""
    questions: Literal["files", "synthesise"] = "files"
    """synthesise: there are none; a language model writes them about the passages."""
    synthesis: SynthesisConfig | None = None
    documents: Path | None = None
    """A folder of .txt, .md, .html, .pdf and .docx files in place of the corpus file."""
    chunking: ChunkingConfig = ChunkingConfig()
    columns: dict[QuestionField, str] = Field(default_factory=dict)
    """What the columns of the questions are called, where not like this."""
    on_bad_line: OnBadLine = "refuse"
    """Lines of the corpus that cannot be used, or whose id was used before: an error, or left out with a warning."""

    @model_validator(mode="after")
    def _has_its_parts(self) -> FilesDataset:
        if self.questions == "synthesise" and self.synthesis is None:
            raise ValueError(
                "questions=synthesise needs a model: set synthesis.served.base_url and synthesis.served.name, or "
                "synthesis.local.name"
            )
        if self.path is None and not (self.documents and self.questions == "synthesise"):
            raise ValueError("path has to be set: the folder with the questions, and with the corpus or documents")
        return self


class CorpusDataset(Section):
    """Passages alone: all that a retriever with a training file of its own (retriever.data) needs."""

    name: Literal["corpus"]
    path: Path
    """A file of passages, .jsonl, .tsv or .parquet (format: data/README.md), or a folder of documents."""
    chunking: ChunkingConfig = ChunkingConfig()
    """How the documents are cut."""
    on_bad_line: OnBadLine = "refuse"
    """As of dataset.name=files."""


class PublicDataset(Section):
    """What all public question sets have in common."""

    path: Path | None = None
    """A folder with its published files: train, dev (or validation) and test, as .json, .jsonl or .parquet. null: they
    are downloaded."""
    downloads: Path = Path("data")
    """Where downloads go: questions to <downloads>/<name>, corpora to <downloads>/corpora."""
    corpus: Literal["own", "psgs_w100", "wiki18"] | Path = "own"
    """The paragraphs that come with the questions; Wikipedia's 21 million, as DPR or FlashRAG have them; or a file."""
    num_train_questions: PositiveInt | None = None
    """null: all that are left. Where a set has too few splits, dev and test are taken from train, by the seed."""
    num_dev_questions: PositiveInt = 500
    num_test_questions: PositiveInt | None = None
    """null: the whole published split; a tenth of train, at most 1,000, where there is none with answers."""
    on_bad_line: OnBadLine = "refuse"
    """As of dataset.name=files, for a corpus of its own file."""


class NamedDataset(PublicDataset):
    """A public question set by its name."""

    name: Literal["hotpotqa", "2wikimultihopqa", "musique", "ambigqa", "nq", "triviaqa", "popqa"]

    @model_validator(mode="after")
    def _has_a_corpus(self) -> NamedDataset:
        if self.corpus == "own" and self.name in ("ambigqa", "nq", "triviaqa", "popqa"):
            raise ValueError(f"{self.name} brings no passages; set corpus to psgs_w100, wiki18 or a file of your own")
        return self


class FlashRagDataset(PublicDataset):
    """Any question set of FlashRAG's collection, or in its format."""

    name: Literal["flashrag"]
    subset: str
    """Its name there: nq, hotpotqa, bamboogle …"""
    corpus: Literal["psgs_w100", "wiki18"] | Path = "wiki18"


Dataset = Annotated[
    SyntheticDataset | FilesDataset | CorpusDataset | NamedDataset | FlashRagDataset, Field(discriminator="name")
]
