"""Downloads: question sets from the Hugging Face hub, Wikipedia's passages from where they are published."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from jointrag.progress import progress

_PSGS = "https://dl.fbaipublicfiles.com/dpr/wikipedia_split/psgs_w100.tsv.gz"
_WIKI18 = "https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets/resolve/main/retrieval-corpus/wiki18_100w.zip"
CORPORA = {"psgs_w100": _PSGS, "wiki18": _WIKI18}
_SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
_PART = 1 << 20  # bytes
_TIMEOUT_S = 60

Numbered = Iterator[tuple[str, dict[str, Any]]]


def from_hub(path: str, subset: str | None, cache: Path) -> dict[str, Numbered]:
    """The splits of a data set on the hub, by our names, kept in `cache`.

    Raises ValueError where it is neither there nor can be downloaded, saying what to put where.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name = f"{path} ({subset})" if subset else path
    try:
        found = load_dataset(path, subset, cache_dir=str(cache))
    except (ConnectionError, DatasetNotFoundError, OSError) as error:
        raise ValueError(
            f"{name} is not in {cache} and cannot be downloaded ({error}). Where there is a network, download the "
            "published files and set dataset.path to the folder that holds train.*, dev.* and test.*"
        ) from None

    def numbered(split: Any) -> Numbered:
        return ((f"{name}, row {number}", row) for number, row in enumerate(split, 1))

    return {_SPLITS[str(split)]: numbered(rows) for split, rows in found.items() if str(split) in _SPLITS}


def corpus_file(name: str, downloads: Path) -> Path:
    """The file of a published corpus, downloaded where it is not there yet."""
    url = CORPORA[name]
    file = downloads / "corpora" / url.rsplit("/", 1)[1]
    if file.suffix != ".zip":
        return fetch(url, file)
    unpacked = file.with_suffix(".jsonl")
    if not unpacked.is_file():
        _unpack(fetch(url, file), unpacked)
    return unpacked


def fetch(url: str, out: Path) -> Path:
    """Download `url` to `out`; what an interrupted download left is gone on from. Raises ValueError where it fails."""
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    start = part.stat().st_size if part.is_file() else 0
    try:
        headers = {"Range": f"bytes={start}-"} if start else {}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:  # all of it is there
                part.replace(out)
                return out
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            size = int(response.headers.get("Content-Length", 0)) + (start if resumed else 0)
            with part.open("ab" if resumed else "wb") as file:
                blocks = response.iter_content(_PART)
                for block in progress(blocks, f"downloading {out.name}, MiB", (size + _PART - 1) // _PART or None):
                    file.write(block)
        if size and part.stat().st_size != size:
            raise OSError(f"{part.stat().st_size:,} of {size:,} bytes came")
    except (requests.RequestException, OSError) as error:
        raise ValueError(
            f"{url} cannot be downloaded to {out} ({error}); run it again to go on, or put the file there yourself"
        ) from None
    part.replace(out)
    return out


def _unpack(archive: Path, out: Path) -> None:
    """The one file of a zip archive that has the ending of `out`."""
    aside = out.with_name(f".{out.name}.part")
    try:
        with zipfile.ZipFile(archive) as packed:
            member = next(name for name in packed.namelist() if name.endswith(out.suffix))
            with packed.open(member) as source, aside.open("wb") as file:
                while block := source.read(_PART):
                    file.write(block)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ValueError(f"{archive}: damaged, or without a {out.suffix} file ({error}); delete it") from None
    aside.replace(out)
