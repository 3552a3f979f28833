"""The language model that reads passages for a question and says how likely the gold answer is: in this process, or
behind a server.

reader = open_reader(PretrainedLM(name="Qwen/Qwen3-8B"), device="auto")
reader.logprobs(turns)   # per turn [response tokens]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jointrag.config import LanguageModelSection, PretrainedLM, ServedReader
from jointrag.encoders import fingerprint, no_bars_in_logs
from jointrag.generation import LocalLM, TokenCount
from jointrag.likelihood import num_tokens, response_logprobs
from jointrag.prompts import end_token
from jointrag.served import ServedLM
from jointrag.types import Turn

if TYPE_CHECKING:
    import torch


class Reader(Protocol):
    name: str  # changes with the model
    tokenizer: Any
    max_length: int  # tokens of prompt and answer
    count: TokenCount  # of what it has read

    def logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        """Log-probabilities of each turn's response, [response tokens] on the CPU. All turns are of one agent."""
        ...


def open_reader(
    config: LanguageModelSection | ServedReader,
    *,
    folder: Path | None = None,
    device: str = "auto",
    tokens_per_forward: int = 16_384,
) -> Reader:
    """`folder`: where the model is, if not where `config` says. Raises ValueError for one that cannot be loaded, or a
    server that does not return log-probabilities."""
    if isinstance(config, ServedReader):
        return _ServedReader(config)
    if folder is None and not isinstance(config, PretrainedLM):
        raise ValueError(
            "a language model from scratch cannot read before it is trained, so it has no preferences; choose a "
            "pretrained one (preferences.reader.type=pretrained, preferences.reader.name=…)"
        )
    path = folder or config.name  # type: ignore[union-attr]
    return _LocalReader(path, config, device, tokens_per_forward)


class _LocalReader:
    """Looks for its files at once and loads its weights when it is asked, so that a GPU is free for others before."""

    def __init__(self, path: Path | str, config: LanguageModelSection, device: str, tokens_per_forward: int) -> None:
        from transformers import AutoConfig, AutoTokenizer

        no_bars_in_logs()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            shape = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the reader {str(path)!r} cannot be loaded ({error}); give a folder or a Hugging Face name, and "
                "download the model beforehand where there is no network"
            ) from None
        end_token(self.tokenizer)
        self.name = f"{fingerprint(Path(path)) if Path(path).is_dir() else path} {config.model_dump_json()}"
        self.max_length = min(config.max_length, getattr(shape, "max_position_embeddings", None) or config.max_length)
        self.count = TokenCount()
        self._path, self._config, self._device, self._tokens_per_forward = path, config, device, tokens_per_forward

    @cached_property
    def _lm(self) -> LocalLM:
        lm = LocalLM.load(self._path, self._config, self._device)
        lm.count = self.count
        return lm

    def logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        return response_logprobs(self._lm, turns, self._tokens_per_forward)


class _ServedReader:
    """Asks its server for something small at once, to see whether it can be asked at all."""

    def __init__(self, config: ServedReader) -> None:
        from transformers import AutoTokenizer

        path = config.tokenizer or config.name
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the tokenizer {path!r} cannot be loaded ({error}); prompts are sent as token ids, so set "
                "reader.tokenizer to the folder or the Hugging Face name of the served model's"
            ) from None
        self.name = f"{config.base_url} {config.name}"
        self.max_length = config.max_length
        self.count = TokenCount()
        self._lm = ServedLM(config)
        end = end_token(self.tokenizer)
        self._lm.response_logprobs([Turn("", "", "", prompt_ids=(end,), response_ids=(end,))])

    def logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        import torch

        found = [torch.tensor(logprobs) for logprobs in self._lm.response_logprobs(turns)]
        read = sum(map(num_tokens, turns))
        self.count.add(real=read, padded=read)
        return found
