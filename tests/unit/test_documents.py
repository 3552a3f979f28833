"""A folder of documents as a corpus, and questions from tables."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from jointrag.config import ChunkingConfig, CorpusDataset, FilesDataset
from jointrag.datasets import documents, prepare
from jointrag.jsonl import read_jsonl
from jointrag.lengths import num_words
from jointrag.types import Passage, Question

TEXT = "\n\n".join(f"Paragraph {i} is about pump number {i}. It has two sentences." for i in range(12))
MARKDOWN = f"# The pump\n\nIt pumps.\n\n## Installing\n\n{TEXT}\n"
HTML = f"<html><head><title>x</title></head><body><h1>Valves</h1><p>A valve opens.</p><p>{TEXT}</p></body></html>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    (folder / "deep").mkdir(parents=True)
    (folder / "notes_on-pumps.txt").write_text(TEXT)
    (folder / "deep" / "pump.md").write_text(MARKDOWN)
    (folder / "valves.html").write_text(HTML)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    _write_docx(folder / "seals.docx", "Seals", "A seal keeps water in. 密封圈防止漏水。")
    (folder / "manual.pdf").write_bytes(_pdf("Hello pump"))
    return folder


def _write_docx(path: Path, heading: str, text: str) -> None:
    """The least that is a Word document of a heading and a paragraph."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    document = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{document}"/></Types>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{relation}" '
            'Target="word/document.xml"/></Relationships>',
        )
        file.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{word}"><w:body><w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>{heading}'
            f"</w:t></w:r></w:p><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>",
        )


def _pdf(text: str) -> bytes:
    """The least that is a PDF of one line."""
    stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(content)
    trailer = b"trailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start
    return content + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


def config(tmp_path: Path, **given: object) -> ChunkingConfig:
    return ChunkingConfig.model_validate({"converted": tmp_path / "converted", **given})


def test_passages_know_their_file_title_and_place(folder: Path, tmp_path: Path) -> None:
    chunking = config(tmp_path, num_tokens=40, overlap=10)
    read = documents.write_passages(folder, tmp_path / "corpus.jsonl", chunking)
    passages = list(read_jsonl(tmp_path / "corpus.jsonl", Passage))
    assert (read.num_documents, read.num_converted, read.num_passages) == (5, 3, len(passages))
    titles = {passage.id.split("#")[0]: passage.title for passage in passages}
    assert titles == {
        "deep/pump.md": "The pump",
        "manual.pdf": "manual",
        "notes_on-pumps.txt": "notes on pumps",
        "seals.docx": "Seals",
        "valves.html": "Valves",
    }
    for passage in passages:
        if passage.id.startswith("notes"):
            start, end = map(int, passage.id.split("#")[1].split("-"))
            assert TEXT[start:end] == passage.text
        assert num_words(passage.text) <= 40
    notes = [passage.text for passage in passages if passage.id.startswith("notes")]
    assert len(notes) > 3
    assert all(text.startswith("Paragraph") for text in notes)
    assert all(text.endswith(".") for text in notes)
    assert {i for text in notes for i in range(12) if f"number {i}." in text} == set(range(12))
    assert any("密封圈" in passage.text for passage in passages)
    assert any("Hello pump" in passage.text for passage in passages)


def test_another_run_converts_what_is_new(folder: Path, tmp_path: Path) -> None:
    first = documents.write_passages(folder, tmp_path / "1.jsonl", config(tmp_path))
    assert first.num_converted == 3
    shutil.copy(folder / "valves.html", folder / "a_copy.html")
    (folder / "taps.html").write_text(HTML.replace("Valves", "Taps"))
    again = documents.write_passages(folder, tmp_path / "2.jsonl", config(tmp_path))
    assert (again.num_documents, again.num_converted) == (7, 1)
    (folder / "taps.html").unlink()
    (folder / "a_copy.html").unlink()
    assert documents.write_passages(folder, tmp_path / "3.jsonl", config(tmp_path)).num_converted == 0
    assert (tmp_path / "3.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


def test_what_cannot_be_read_is_listed(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing else")
    (folder / "broken.docx").write_bytes(b"no zip")
    (folder / "latin.txt").write_bytes("Wärme".encode("latin-1"))
    read = documents.write_passages(folder, tmp_path / "corpus.jsonl", config(tmp_path))
    assert [line.split(" ")[0] for line in read.unreadable] == ["broken.docx", "broken.pdf", "latin.txt"]
    assert "3 documents cannot be read: broken.docx" in caplog.text
    assert read.num_documents == 5


def test_folders_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no documents; it should hold \.txt, \.md"):
        documents.write_passages(tmp_path / "empty", tmp_path / "out", config(tmp_path))
    (tmp_path / "empty" / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match="no text in any of 1 documents"):
        documents.write_passages(tmp_path / "empty", tmp_path / "out", config(tmp_path))
    with pytest.raises(ValueError, match="overlap=50 has to be less than num_tokens=50"):
        config(tmp_path, num_tokens=50, overlap=50)


def test_documents_and_tables_of_questions_become_a_data_set(folder: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    asked.mkdir()
    with (asked / "train.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["query", "gold", "note"])
        table.writerow(["What opens, and when?", "A valve|valves", "easy"])
        table.writerow(["What keeps water in?", '["a seal", "密封圈"]', ""])
    rows = [{"query": "What pumps?", "gold": ["the pump"], "nr": 17}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), asked / "dev.parquet")
    (asked / "test.jsonl").write_text(json.dumps({"query": "What?", "gold": "a pump", "extra": 1}) + "\n")
    columns = {"text": "query", "answers": "gold"}
    given = FilesDataset.model_validate(
        {"name": "files", "path": asked, "documents": folder, "columns": columns, "chunking": config(tmp_path)}
    )
    metrics = prepare(given, seed=0, out=tmp_path / "out")
    train, dev, test = (
        list(read_jsonl(tmp_path / "out" / "questions" / f"{split}.jsonl", Question))
        for split in ("train", "dev", "test")
    )
    assert train == [
        Question("train-1", "What opens, and when?", ("A valve", "valves")),
        Question("train-2", "What keeps water in?", ("a seal", "密封圈")),
    ]
    assert dev == [Question("dev-1", "What pumps?", ("the pump",))]
    assert test == [Question("test-1", "What?", ("a pump",))]
    assert metrics["prepare/passages"] > 4
    alone = CorpusDataset(name="corpus", path=folder, chunking=config(tmp_path))
    assert prepare(alone, seed=0, out=tmp_path / "alone")["prepare/passages"] == metrics["prepare/passages"]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "a"}\n')
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.csv").write_text("question,answer\nWho?,Ada\n")
    given = FilesDataset(name="files", path=tmp_path, columns={"text": "query"})
    with pytest.raises(ValueError, match=r"row 1: no column 'query' \(dataset\.columns\); there are question, a"):
        prepare(given, seed=0, out=tmp_path / "out")
    given = FilesDataset(name="files", path=tmp_path, columns={"text": "question"})
    with pytest.raises(ValueError, match=r"train\.csv, row 1: field 'answers' is missing"):
        prepare(given, seed=0, out=tmp_path / "out")
