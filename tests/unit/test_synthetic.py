"""The made-up countries: answers are in the corpus, splits are different worlds, a seed is a data set."""

import pytest

from jointrag.config import SyntheticDataset
from jointrag.datasets import SPLITS, prepare
from jointrag.datasets.synthetic_words import RELATIONS
from jointrag.jsonl import read_jsonl
from jointrag.types import Passage, Question

SMALL = SyntheticDataset(
    num_source_countries=4,
    num_target_countries=2,
    num_test_countries=1,
    num_dev_countries=1,
    num_people=20,
    num_source_questions=600,
    num_train_questions=200,
    num_dev_questions=50,
    num_test_questions=100,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    prepare(SMALL, seed=3, out=out)
    passages = {p.id: p for p in read_jsonl(out / "corpus.jsonl", Passage)}
    questions = {s: list(read_jsonl(out / "questions" / f"{s}.jsonl", Question)) for s in SPLITS}
    return passages, questions


def test_the_last_gold_passage_holds_the_answer(world):
    passages, questions = world
    for question in (q for split in questions.values() for q in split):
        assert question.answers[0] in passages[question.gold_passages[-1]].text
        assert question.answers[0] not in question.text


def test_a_bridge_needs_both_passages(world):
    passages, questions = world
    for question in (q for q in questions["test"] if q.type == "bridge"):
        first, second = (passages[g].text for g in question.gold_passages)
        described = question.sub_questions[1]
        # somebody else fits the same description in the same relation, so the first passage has to say who is meant
        assert question.answers[0] not in first or first == second
        assert described != question.text


def test_descriptions_are_ambiguous(world):
    """Asking for the second hop alone has several answers for most bridge questions."""
    _, questions = world
    answers: dict[str, set[str]] = {}
    bridges = [q for split in questions.values() for q in split if q.type == "bridge" and q.sub_questions]
    for question in bridges:
        answers.setdefault(question.sub_questions[1], set()).update(question.answers)
    assert any(len(found) > 1 for found in answers.values())


def test_splits_share_no_names_and_no_gold_passages(world):
    _, questions = world
    golds = {split: {g for q in qs for g in q.gold_passages} for split, qs in questions.items()}
    answers = {split: {q.answers[0] for q in qs} for split, qs in questions.items()}
    for a in SPLITS:
        for b in SPLITS:
            if a != b:
                assert not golds[a] & golds[b]
                assert not answers[a] & answers[b]


def test_questions_differ_and_counts_are_as_asked(world):
    _, questions = world
    assert {split: len(qs) for split, qs in questions.items()} == {"source": 600, "train": 200, "dev": 50, "test": 100}
    for qs in questions.values():
        assert len({q.text for q in qs}) == len({q.id for q in qs}) == len(qs)


def test_sources_know_some_decompositions_only(world):
    _, questions = world
    known = [bool(q.sub_questions) for q in questions["source"] if q.type == "bridge"]
    assert 0.2 < sum(known) / len(known) < 0.6


def test_same_seed_same_data(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare(SMALL, seed=seed, out=tmp_path / name)
    text = {name: (tmp_path / name / "corpus.jsonl").read_text() for name in "abc"}
    assert text["a"] == text["b"] != text["c"]


def test_too_many_questions_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="lower num_test_questions"):
        prepare(SMALL.model_copy(update={"num_test_questions": 100_000}), seed=0, out=tmp_path)


def test_target_phrasings_use_no_new_word():
    """The target domain is told in the words of the source domain: only their arrangement is new."""

    def words(index: int) -> set[str]:
        texts = [t for r in RELATIONS for t in (r.facts[index], r.questions[index], r.clause)]
        return {w.lower() for t in texts for w in t.replace("?", " ").replace(".", " ").replace(",", " ").split()}

    assert words(2) - words(0) - words(1) - {"named", "which", "person"} == set()
