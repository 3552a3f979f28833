"""A folder of documents as a corpus: .txt, .md, .html, .pdf and .docx, cut into passages.

    read = write_passages(Path("manuals"), Path("corpus.jsonl"), ChunkingConfig())
    read.num_passages, read.unreadable

A passage's id says where it is from, `setup/install.pdf#1200-1890`: the file, and the characters of its text. Converted
texts are kept by the content of their file, so another run converts what is new or has changed and nothing else.
markitdown converts; semantic-text-splitter cuts at headings, paragraphs, sentences where these fit (extra documents).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jointrag.config import ChunkingConfig
from jointrag.jsonl import write_atomically, write_jsonl
from jointrag.lengths import num_words
from jointrag.progress import progress
from jointrag.types import Passage

logger = logging.getLogger(__name__)
_PLAIN, _CONVERTED = (".txt", ".md"), (".html", ".htm", ".pdf", ".docx")
_MARKDOWN = (".md", ".html", ".htm", ".docx")  # what has headings once it is converted
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


@dataclass
class Read:
    """What became of a folder."""

    num_documents: int = 0
    num_converted: int = 0  # in this run; the others were converted before, or are plain text
    num_passages: int = 0
    unreadable: list[str] = field(default_factory=list)  # file and reason


def write_passages(folder: Path, out: Path, config: ChunkingConfig) -> Read:
    """Write the passages of all documents below `folder`, in the order of their paths, to `out`.

    Files that cannot be read are listed, in the result and in a warning. Raises ValueError where none can, for a folder
    without documents, and where the packages are missing.
    """
    known = (*_PLAIN, *_CONVERTED)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in known)
    if not files:
        raise ValueError(f"{folder}: no documents; it should hold {', '.join(known)} files")
    read = Read()
    split = _splitter(config)

    def passages() -> Iterator[Passage]:
        for path in progress(files, "reading documents"):
            name = path.relative_to(folder).as_posix()
            try:
                text = _text(path, config.converted, read)
            except Exception as error:  # whatever a converter meets in a broken file
                read.unreadable.append(f"{name} ({type(error).__name__}: {str(error).splitlines()[0]:.200})")
                continue
            read.num_documents += 1
            title = _title(path, text)
            for start, chunk in split(path, text):
                read.num_passages += 1
                yield Passage(f"{name}#{start}-{start + len(chunk)}", title, chunk)

    write_jsonl(out, passages())
    if read.unreadable:
        logger.warning("%d documents cannot be read: %s", len(read.unreadable), "; ".join(read.unreadable))
    if not read.num_passages:
        raise ValueError(f"{folder}: no text in any of {len(files)} documents ({'; '.join(read.unreadable[:3])})")
    return read


def _text(path: Path, converted: Path, read: Read) -> str:
    if path.suffix.lower() in _PLAIN:
        return path.read_text(encoding="utf-8-sig")
    kept = converted / f"{hashlib.sha256(path.read_bytes()).hexdigest()}{path.suffix.lower()}.md"
    if not kept.is_file():
        text = _convert(path)
        if not text.strip():
            raise ValueError("no text in it; a scan needs OCR first")
        write_atomically(kept, text)
        read.num_converted += 1
    return kept.read_text(encoding="utf-8")


def _convert(path: Path) -> str:
    markitdown, converters = _package("markitdown"), _package("markitdown.converters")
    name = {".pdf": "PdfConverter", ".docx": "DocxConverter"}.get(path.suffix.lower(), "HtmlConverter")
    converter = markitdown.MarkItDown(enable_builtins=False)
    converter.register_converter(getattr(converters, name)())  # no other: it would take anything for plain text
    return converter.convert_local(str(path)).text_content


def _title(path: Path, text: str) -> str:
    """The first heading, or the file's name in words."""
    heading = _HEADING.search(text) if path.suffix.lower() in _MARKDOWN else None
    return heading[1] if heading else re.sub(r"[_-]+", " ", path.stem)


def _splitter(config: ChunkingConfig) -> Callable[[Path, str], list[tuple[int, str]]]:
    """What cuts the text of a file into (place of its first character, chunk)."""
    splitting = _package("semantic_text_splitter")
    count = num_words if config.tokenizer is None else _tokens_of(config.tokenizer)
    made = {
        is_markdown: kind.from_callback(count, config.num_tokens, config.overlap)
        for is_markdown, kind in ((True, splitting.MarkdownSplitter), (False, splitting.TextSplitter))
    }
    return lambda path, text: made[path.suffix.lower() in _MARKDOWN].chunk_indices(text)


def _tokens_of(tokenizer: str) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(tokenizer)
    return lambda text: len(made(text, add_special_tokens=False, verbose=False).input_ids)


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ValueError(f"a folder of documents needs {name}: pip install 'jointrag[documents]'") from None
