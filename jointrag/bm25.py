"""BM25 over texts (bm25s, Lucene's variant): the retriever that needs no training.

    bm25 = BM25.build((passage.contents for passage in corpus), scratch=Path("work"), language="english")
    positions, scores = bm25.search(["who directed solaris"], k=10)   # [1, 10] each; position -1: no more
    bm25.score("who directed solaris", ["a text that need not be in the corpus"])
    bm25.save(Path("index/bm25"))
    bm25 = BM25.load(Path("index/bm25"))   # maps what is large

Words are those of jointrag.metrics: no case, no punctuation; each Chinese or Japanese character is a word, and each two
in a row are one more. Others are stemmed as `language` says. Texts are read once and not kept. The index stays in
memory: 8 bytes for every distinct word of every text, some 40 while it is built.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jointrag.jsonl import write_atomically
from jointrag.metrics import is_by_character, normalize

NO_STEMMING = "none"
_ARRAYS = ("data", "indices", "indptr")  # of bm25s: a sparse matrix, a column per word
_SETTINGS, _WORDS = "settings.json", "words.json"


class BM25:
    """See the module. Scores are above 0; a text that shares no word with the query is not found."""

    def __init__(
        self, index: Any, words: dict[str, int], language: str, split: Callable[[str], list[str]], mean_length: float
    ) -> None:
        self._index = index
        self._words = words
        self._language = language
        self._split = split
        self._mean_length = mean_length

    @classmethod
    def build(
        cls, texts: Iterable[str], *, scratch: Path, language: str = "english", k1: float = 1.5, b: float = 0.75
    ) -> BM25:
        """Index `texts`; the folder `scratch` takes a file of 4 bytes a word meanwhile.

        Raises ValueError for a language without a stemmer, for texts without a single word, and where bm25s is missing.
        """
        split = splitter(language)
        bm25s = _import_bm25s()
        words: dict[str, int] = {}
        lengths = array("i")
        scratch.mkdir(parents=True, exist_ok=True)
        path = scratch / "words.bin"
        try:
            with path.open("wb") as file:
                for text in texts:
                    ids = array("i", (words.setdefault(word, len(words)) for word in split(text)))
                    lengths.append(len(ids))
                    file.write(ids)
            if not words:
                raise ValueError("the corpus has no words to search for; are its texts empty?")
            index = bm25s.BM25(method="lucene", k1=k1, b=b)
            rows = _Rows(np.memmap(path, dtype=np.int32, mode="r"), np.asarray(lengths, dtype=np.int64))
            index.scores = index.build_index_from_ids(range(len(words)), rows, show_progress=False)
        finally:
            path.unlink(missing_ok=True)
        return cls(index, words, language, split, float(np.mean(lengths)))

    def save(self, folder: Path) -> None:
        """Write into `folder`, settings.json last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            aside = folder / f".{name}.npy"
            with aside.open("wb") as file:
                np.save(file, self._index.scores[name])
            aside.replace(folder / f"{name}.npy")
        write_atomically(folder / _WORDS, json.dumps(list(self._words), ensure_ascii=False))
        settings = {"language": self._language, "k1": self._index.k1, "b": self._index.b}
        settings |= {"mean_length": self._mean_length, "num_texts": int(self._index.scores["num_docs"])}
        write_atomically(folder / _SETTINGS, json.dumps(settings) + "\n")

    @classmethod
    def load(cls, folder: Path) -> BM25:
        """What `save` wrote. Raises ValueError for files that are missing or damaged."""
        try:
            settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            words = json.loads((folder / _WORDS).read_text(encoding="utf-8"))
            scores = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
            index = _import_bm25s().BM25(method="lucene", k1=settings["k1"], b=settings["b"])
            index.scores = {**scores, "num_docs": settings["num_texts"]}
            index.nonoccurrence_array = None  # Lucene's variant scores only words that occur
            language, mean_length = settings["language"], settings["mean_length"]
        except (OSError, EOFError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder}: damaged ({type(error).__name__}: {error}); build the index again") from None
        if len(scores["indptr"]) != len(words) + 1 or len(scores["data"]) != scores["indptr"][-1]:
            raise ValueError(f"{folder}: its files do not belong together; build the index again")
        return cls(index, {word: i for i, word in enumerate(words)}, language, splitter(language), mean_length)

    def __len__(self) -> int:
        """How many texts."""
        return int(self._index.scores["num_docs"])

    def search(self, queries: Sequence[str], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores [queries, k] of the best texts, best first, the earlier one of equals first."""
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        for row, query in enumerate(queries):
            ids = self._known(query)
            if ids:
                everywhere = self._index.get_scores_from_ids(ids)
                best = _best(everywhere, k)
                positions[row, : len(best)], scores[row, : len(best)] = best, everywhere[best]
        return positions, scores

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """What each text would score, in the corpus or not."""
        k1, b = self._index.k1, self._index.b
        weights = [(word, self._weight(self._words[word])) for word in self._split(query) if word in self._words]
        scores = []
        for text in texts:
            counts = Counter(self._split(text))
            saturation = k1 * (1 - b + b * counts.total() / self._mean_length)
            scores.append(sum(weight * counts[word] / (counts[word] + saturation) for word, weight in weights))
        return scores

    def _known(self, query: str) -> list[int]:
        return [self._words[word] for word in self._split(query) if word in self._words]

    def _weight(self, word: int) -> float:
        """The inverse document frequency, as Lucene has it."""
        ends = self._index.scores["indptr"]
        num_texts, num_with = self._index.scores["num_docs"], int(ends[word + 1] - ends[word])
        return math.log(1 + (num_texts - num_with + 0.5) / (num_with + 0.5))


def splitter(language: str) -> Callable[[str], list[str]]:
    """Text to words, as the module says. Raises ValueError for a language that PyStemmer does not know."""
    if language == NO_STEMMING:
        return _words
    try:
        import Stemmer
    except ImportError:
        raise ValueError(f"{_INSTALL}, or set language={NO_STEMMING}") from None
    if language not in (known := Stemmer.algorithms()):
        raise ValueError(f"language={language!r} has no stemmer; choose {NO_STEMMING} or one of {', '.join(known)}")
    stem = Stemmer.Stemmer(language).stemWords
    return lambda text: stem(_words(text))


def _words(text: str) -> list[str]:
    words = normalize(text).split()
    if text.isascii():
        return words
    single = [is_by_character(word) for word in words]
    return words + [words[i] + words[i + 1] for i in range(len(words) - 1) if single[i] and single[i + 1]]


_INSTALL = "BM25 needs bm25s and PyStemmer: pip install bm25s PyStemmer"


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise ValueError(_INSTALL) from None
    return bm25s


class _Rows(Sequence[list[int]]):
    """The word ids of each text, from one array."""

    def __init__(self, ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        self._ids = ids
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return self._ids[start : self._ends[index]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[index] for index in range(len(self)))


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the `k` highest scores above 0, best first; of equal ones the first."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        least = np.partition(scores[found], -k)[-k]
        above = found[scores[found] > least]
        found = np.concatenate([above, found[scores[found] == least][: k - len(above)]])
    return found[np.lexsort((found, -scores[found]))]
