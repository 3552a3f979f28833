"""benchmarks/real_questions.py on small files in the published formats, and on the real samples where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.real_questions import SOURCES, halves, load
from benchmarks.retrieval_quality import fuse

SAMPLES = Path(os.environ.get("JOINTRAG_SAMPLES", Path(__file__).parents[2] / "../shared/data"))


@pytest.fixture
def samples(tmp_path):
    """Ten questions of each source; in hotpotqa every two, in musique the first four have a gold passage in common."""
    hotpotqa = [
        {
            "_id": f"h{i}",
            "question": f"Who is {i}?",
            "answer": f"{i}",
            "type": "bridge",
            "supporting_facts": [[f"page {i}", 0], [f"page {i}", 1], [f"shared {i // 2}", 0]],
            "context": [
                [title, [f"About {title}.", " More."]]
                for title in (f"page {i}", f"page {i + 10}", f"page {i + 20}", f"shared {i // 2}")
            ],
        }
        for i in range(10)
    ]
    _write(tmp_path / "hotpotqa", hotpotqa)
    musique = [
        {
            "id": f"2hop__{i}",
            "question": f"Where is {i}?",
            "answer": f"{i}",
            "answer_aliases": [f"no. {i}"],
            "paragraphs": [
                {"title": "same title", "paragraph_text": f"Text {place}.", "is_supporting": number < 2}
                for number, place in enumerate((i + 10, 0 if i < 4 else i, i, i + 20, i + 30))
            ],
        }
        for i in range(10)
    ]
    _write(tmp_path / "musique", musique)
    return tmp_path


def _write(folder, questions):
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(questions))


def test_questions_name_their_gold_passages_in_one_corpus_after_the_other(samples):
    data = load(samples)
    assert [(name, len(part)) for name, part in data.part.items()] == [("hotpotqa", 35), ("musique", 40)]
    texts = [{data.texts[i] for i in one.gold} for one in data.asked]
    assert texts[3] == {"page 3\nAbout page 3. More.", "shared 1\nAbout shared 1. More."}
    assert texts[15] == {"same title\nText 15.", "same title\nText 5."}
    assert data.asked[15].question.answers == ("5", "no. 5") and data.asked[15].question.type == "2 hops"
    assert all(i in data.part[one.source] for one in data.asked for i in one.gold)


@pytest.mark.parametrize("seed", range(5))
def test_halves_are_equal_and_share_no_gold_passage(samples, seed):
    data = load(samples)
    parts = halves(data.asked, seed)
    assert sorted(one.question.id for part in parts for one in part) == sorted(one.question.id for one in data.asked)
    for source in SOURCES:
        sizes = [sum(one.source == source for one in part) for part in parts]
        assert abs(sizes[0] - sizes[1]) <= 2  # hotpotqa here has nothing but pairs of questions that stay together
    first, second = ({i for one in part for i in one.gold} for part in parts)
    assert not first & second
    assert halves(data.asked, seed) == parts != halves(data.asked, seed + 1)


def test_some_questions_come_with_their_gold_passages_and_some_others(samples):
    data = load(samples, most_questions=2)
    assert [len(part) for part in data.part.values()] == [3 + 20, 3 + 20]
    assert [one.question.id for one in data.asked] == ["h0", "h1", "2hop__0", "2hop__1"]
    assert {data.texts[i] for i in data.asked[2].gold} == {"same title\nText 10.", "same title\nText 0."}


def test_what_is_missing_is_named(samples):
    (samples / "musique" / "train.json").unlink()
    with pytest.raises(ValueError, match=r"musique/train\.json is missing; a folder of samples \(--samples\)"):
        load(samples)


def test_fusion_puts_first_what_both_rank_high():
    # 1/61 + 1/63 for 7, 1/62 + 1/61 for 8, 1/63 + 1/62 for 9
    assert fuse([7, 8, 9], [8, 9, 7]) == [8, 7, 9]
    assert fuse([7, 8], [9]) == [7, 9, 8]


@pytest.mark.skipif(not (SAMPLES / "musique").is_dir(), reason=f"no samples in {SAMPLES}; set JOINTRAG_SAMPLES")
def test_the_real_samples_split_into_halves_of_fifty():
    data = load(SAMPLES)
    assert (len(data.asked), len(data.passages)) == (200, 2884)
    first, second = halves(data.asked, 0)
    assert [sum(one.source == source for one in part) for part in (first, second) for source in SOURCES] == [50] * 4
    assert not {i for one in first for i in one.gold} & {i for one in second for i in one.gold}
