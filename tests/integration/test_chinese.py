"""Chinese questions and passages through every step: cut, found, labelled, put into prompts, scored.

The documents are written here; the queries and passages of t2ranking are used besides where the sample is
(JOINTRAG_SAMPLES).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.command import SAMPLES
from evaluation.measures import question_scores
from jointrag import datasets
from jointrag.agents import build_chain
from jointrag.config import AgentDataConfig, AgentsConfig, Bm25IndexConfig, ChunkingConfig, FilesDataset
from jointrag.index import build
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.lengths import num_words
from jointrag.prompts import encode_within
from jointrag.retrieval import InProcessRetriever
from jointrag.types import Episode, Example, Passage, Question
from trainers.agent_data import build_with
from trainers.scratch import word_level_tokenizer

PEOPLE = [("安娜", "北京", "画家"), ("王明", "上海", "医生"), ("李华", "广州", "教师"), ("陈静", "成都", "记者")]
AGENTS = AgentsConfig(num_candidates=3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents and a table of questions, prepared."""
    folder = tmp_path_factory.mktemp("chinese")
    (folder / "documents").mkdir()
    for name, city, work in PEOPLE:
        filler = "".join(f"第{i}段讲述了一些别的事情,与前面没有关系。" for i in range(12))
        text = f"# {name}\n\n{name}出生于{city},后来成为一名{work}。\n\n{filler}"
        (folder / "documents" / f"{name}.md").write_text(text, encoding="utf-8")
    asked = [{"id": f"城市-{name}", "text": f"{name}出生于哪座城市?", "answers": [city]} for name, city, _ in PEOPLE]
    asked += [{"id": f"职业-{name}", "text": f"{name}的职业是什么?", "answers": [work]} for name, _, work in PEOPLE]
    for split in ("train", "dev", "test"):
        write_jsonl(folder / f"{split}.jsonl", [{**q, "id": f"{split}-{q['id']}"} for q in asked])
    config = FilesDataset(
        name="files",
        path=folder,
        documents=folder / "documents",
        chunking=ChunkingConfig(num_tokens=60, overlap=10, converted=folder / "converted"),
    )
    datasets.prepare(config, seed=0, out=folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def retriever(prepared: Path) -> InProcessRetriever:
    build(Bm25IndexConfig(language="none"), prepared=prepared, out=prepared.parent / "index")
    return InProcessRetriever.open(prepared.parent / "index")


@pytest.fixture(scope="module")
def agent_data(prepared: Path, retriever: InProcessRetriever) -> Path:
    out = prepared.parent / "agent_data"
    build_with(retriever, AgentDataConfig(), AGENTS, prepared=prepared, seed=0, out=out)
    return out


def test_documents_are_cut_by_characters_at_sentences(prepared: Path) -> None:
    passages = list(read_jsonl(prepared / "corpus.jsonl", Passage))
    assert {passage.title for passage in passages} == {name for name, *_ in PEOPLE}
    assert len(passages) > 2 * len(PEOPLE)
    for passage in passages:
        assert 0 < num_words(passage.text) <= 60
        assert "�" not in passage.text


def test_keywords_find_the_right_passage_first(retriever: InProcessRetriever) -> None:
    for (name, city, _), hits in zip(
        PEOPLE, retriever.search([f"{name}出生于哪座城市?" for name, *_ in PEOPLE], 3), strict=True
    ):
        assert f"{name}出生于{city}" in hits[0].passage.text


def test_labels_are_the_passages_that_hold_the_answer(agent_data: Path) -> None:
    examples = list(read_jsonl(agent_data / "warm_start.jsonl", Example))
    by_agent = {agent: [e for e in examples if e.prompt.agent == agent] for agent in AGENTS.chain}
    assert [e.response for e in by_agent["rewriter"]] == [e.prompt.opening for e in by_agent["rewriter"]]
    for example in by_agent["selector"]:
        chosen = [p for p in example.prompt.passages if p.split(":")[0] in example.response.split(",")]
        name = next(name for name, *_ in PEOPLE if name in example.prompt.opening)
        assert any(f"{name}出生于" in passage for passage in chosen), example
        assert len(chosen) < len(example.prompt.passages)
    answers = {answer for _, city, work in PEOPLE for answer in (city, work)}
    assert {e.response for e in by_agent["generator"]} == answers
    card = (agent_data / "data_card.md").read_text(encoding="utf-8")
    assert "| rewriter | 8 | 100% | identity 100% |" in card
    assert "出生于" in card


def test_exports_are_readable_chinese(agent_data: Path) -> None:
    line = (agent_data / "trl" / "generator.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert "\\u" not in line
    assert json.loads(line)["prompt"][1]["content"][0] in "安王李陈"


def test_a_prompt_that_is_too_long_is_cut_between_characters(agent_data: Path) -> None:
    example = next(e for e in read_jsonl(agent_data / "warm_start.jsonl", Example) if e.prompt.agent == "selector")
    tokenizer = word_level_tokenizer(
        [example.prompt.content], ["<pad>", "<unk>", "<eos>", "<respond>", "<selector>"], lowercase=False
    )
    whole, _ = encode_within(tokenizer, example.prompt, 10_000)
    ids, is_cut = encode_within(tokenizer, example.prompt, len(whole) // 2)
    assert is_cut
    assert len(whole) // 2 - 3 <= len(ids) <= len(whole) // 2
    assert num_words(example.prompt.content) > 60  # characters, not lines
    assert tokenizer.unk_token_id not in ids


def test_answers_are_scored_by_character() -> None:
    question = Question("q", "安娜出生于哪座城市?", ("北京市", "北京"))
    said = ["北京", "北京市。", "她出生于北京", "上海", "南京"]
    scores = question_scores([Episode(question, answer=answer) for answer in said])
    assert scores["em"].tolist() == [1, 1, 0, 0, 0]
    assert scores["accuracy"].tolist() == [1, 1, 1, 0, 0]
    assert scores["f1"].tolist() == pytest.approx([1, 1, 2 * 2 / 8, 0, 0.5])


@pytest.mark.skipif(not (SAMPLES / "t2ranking").is_dir(), reason="the sample of t2ranking is not there")
def test_real_chinese_queries_find_and_label_their_passages(tmp_path: Path) -> None:
    """Whatever a search engine's users ask: the positives are found among all other passages, by words alone."""
    rows = [json.loads(line) for line in (SAMPLES / "t2ranking" / "t2rank_100.jsonl").open(encoding="utf-8")][:40]
    texts = list(dict.fromkeys(text for row in rows for text in (*row["pos"], *row["neg"])))
    ids = {text: f"p{i}" for i, text in enumerate(texts)}
    write_jsonl(tmp_path / "corpus.jsonl", [Passage(ids[text], "", text) for text in texts])
    questions = [
        Question(f"q{i}", row["query"], (row["pos"][0][:8],), "", tuple(ids[text] for text in row["pos"]))
        for i, row in enumerate(rows)
    ]
    for split in ("source", "train", "dev"):
        write_jsonl(tmp_path / "questions" / f"{split}.jsonl", questions)
    build(Bm25IndexConfig(language="none"), prepared=tmp_path, out=tmp_path / "index")
    retriever = InProcessRetriever.open(tmp_path / "index")
    metrics = build_with(retriever, AgentDataConfig(), AGENTS, prepared=tmp_path, seed=0, out=tmp_path / "out")
    assert metrics["agent_data/recall_at_10"] > 0.3
    assert metrics["agent_data/label_recall"] > 0.3
    chain = build_chain(AGENTS)
    for example in read_jsonl(tmp_path / "out" / "warm_start.jsonl", Example):
        if example.prompt.agent == "selector" and example.response:
            positions = [int(name.removeprefix("Document")) for name in example.response.split(",")]
            assert max(positions) < chain.num_candidates
