"""What an epoch shows of training records, and in which batches."""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates, Group, Groups, Key
from trainers.retrieval.records import Record, Records, open_records, write_records


def stored(folder: Path, *records: Record, format: Any = None) -> Records:
    write_records(folder / "train.jsonl", records, format)
    return open_records(folder / "train.jsonl", cache=folder / "cache")


def triplets(count: int, positives: int = 2, negatives: int = 5) -> list[Record]:
    return [
        Record(
            f"query {i}",
            tuple(f"positive {i} {j}" for j in range(positives)),
            tuple(f"negative {i} {j}" for j in range(negatives)),
        )
        for i in range(count)
    ]


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_every_pair_counts_once(tmp_path: Path) -> None:
    records = [Record(f"q{i}", tuple(f"p{i}{j}" for j in range(i + 1)), ("a", "b", "c")) for i in range(4)]
    groups = Groups(stored(tmp_path, *records), mode="one_positive", num_negatives=2, seed=0)
    assert len(groups) == 10
    shown = [groups[0, i] for i in range(len(groups))]
    assert [(group.query, group.texts[0]) for group in shown] == [(r.query, p) for r in records for p in r.positives]
    for group in shown:
        assert len(set(group.texts[1:])) == 2 and set(group.texts[1:]) <= {"a", "b", "c"}
        assert group.labels == (1.0, 0.0, 0.0)
    for outside in (10, -1):
        with pytest.raises(IndexError):
            groups[0, outside]


def test_draws_depend_on_seed_epoch_and_group_alone(tmp_path: Path) -> None:
    records = stored(tmp_path, *triplets(20, positives=3, negatives=10))
    for mode in ("one_positive", "sampled_positive"):
        groups = Groups(records, mode=mode, num_negatives=3, seed=7)
        first = [groups[epoch, i] for epoch in (0, 1) for i in range(len(groups))]
        loaded = pickle.loads(pickle.dumps(groups))
        assert [loaded[epoch, i] for epoch in (1, 0) for i in reversed(range(len(groups)))] == (
            first[len(groups) :][::-1] + first[: len(groups)][::-1]
        )
        assert first[: len(groups)] != first[len(groups) :]  # another epoch
        other = Groups(records, mode=mode, num_negatives=3, seed=8)
        assert [other[0, i] for i in range(len(groups))] != first[: len(groups)]


def test_negatives_are_drawn_evenly(tmp_path: Path) -> None:
    groups = Groups(stored(tmp_path, *triplets(1, 1, 10)), mode="one_positive", num_negatives=3, seed=0)
    counts = Counter(text for epoch in range(2_000) for text in groups[epoch, 0].texts[1:])
    assert len(counts) == 10 and all(abs(count - 600) < 5 * 20.5 for count in counts.values())  # 5 standard deviations


def test_sampled_positive_takes_turns(tmp_path: Path) -> None:
    groups = Groups(stored(tmp_path, *triplets(3, positives=4)), mode="sampled_positive", num_negatives=1, seed=0)
    assert len(groups) == 3
    assert {groups[epoch, 1].texts[0] for epoch in range(60)} == {f"positive 1 {j}" for j in range(4)}


def test_teacher_scores_go_with_their_texts(tmp_path: Path) -> None:
    record = Record("q", ("a", "b"), ("n", "m", "o"), (9.0, 8.0), (1.0, 2.0, 3.0))
    score = dict(zip("abnmo", (9.0, 8.0, 1.0, 2.0, 3.0), strict=True))
    records = stored(tmp_path, record)
    groups = Groups(records, mode="one_positive", num_negatives=2, seed=0)
    for epoch in range(10):
        group = groups[epoch, 1]
        assert group.texts[0] == "b" and group.labels == tuple(score[text] for text in group.texts)
    binary = Groups(records, mode="one_positive", num_negatives=2, seed=0, labels="binary")
    assert binary[0, 0].labels == (1.0, 0.0, 0.0) and binary[0, 0].texts == groups[0, 0].texts


def test_labels_are_scaled_evenly(tmp_path: Path) -> None:
    records = stored(tmp_path, Record("q", ("a", "b", "c"), (), (3.0, 1.0, 0.0)), format="graded")
    groups = Groups(records, mode="all_texts", seed=0, min_label=0, max_label=3)
    assert groups[0, 0] == Group("q", ("a", "b", "c"), (1.0, 1 / 3, 0.0))
    assert Groups(records, mode="all_texts", seed=0)[0, 0].labels == (3.0, 1.0, 0.0)


def test_negatives_without_scores_have_the_lowest_label(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"query": "q", "pos": ["a", "b"], "neg": ["n"], "pos_scores": [3, 2]}')
    records = open_records(tmp_path / "train.jsonl", cache=tmp_path / "cache")
    groups = Groups(records, mode="all_texts", seed=0, min_label=1, max_label=3)
    assert groups[0, 0].labels == (1.0, 0.5, 0.0)
    assert Groups(records, mode="all_texts", seed=0)[0, 0].labels == (1.0, 1.0, 0.0)  # binary
    with pytest.raises(ValueError, match=r'line 1: "neg" has no scores; give "neg_scores", or min_label and max_label'):
        Groups(records, mode="all_texts", seed=0, labels="scores")


def test_all_texts_up_to_a_number(tmp_path: Path) -> None:
    records = stored(tmp_path, Record("q", ("a", "b"), ("n", "m", "o", "p")))
    everything = Groups(records, mode="all_texts", seed=0, max_texts=6)
    assert everything[3, 0] == Group("q", ("a", "b", "n", "m", "o", "p"), (1.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    some = Groups(records, mode="all_texts", seed=0, max_texts=3)
    shown = [some[epoch, 0] for epoch in range(50)]
    assert {text for group in shown for text in group.texts} == set("abnmop")
    assert all(len(group.texts) == 3 and group.labels[0] == 1.0 and group.labels[-1] == 0.0 for group in shown)
    assert len({group.texts for group in shown}) > 5


def test_capped_scores_keep_best_and_worst(tmp_path: Path) -> None:
    scores = (0.1, 0.9, 0.5, 0.0, 0.3)
    records = stored(tmp_path, Record("q", tuple("abcde"), (), scores))
    for epoch in range(20):
        group = Groups(records, mode="all_texts", seed=0, max_texts=3)[epoch, 0]
        assert {0.9, 0.0} < set(group.labels)
        assert [dict(zip("abcde", scores, strict=True))[text] for text in group.texts] == list(group.labels)


def test_repeated_negatives_where_asked_for(tmp_path: Path) -> None:
    groups = Groups(
        stored(tmp_path, *triplets(2, negatives=3)), mode="one_positive", num_negatives=7, seed=0, repeat_negatives=True
    )
    for epoch in range(5):
        counts = Counter(groups[epoch, 0].texts[1:])
        assert sum(counts.values()) == 7 and len(counts) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"num_negatives": 6},
            r"line 2: 5 usable negatives, and num_negatives=6 .*3 of 4 records.*set repeat_negatives",
        ),
        ({"num_negatives": 6, "repeat_negatives": True}, r"line 4: 0 usable negatives.*take such lines out"),
        ({"num_negatives": -1}, "num_negatives=-1 is below 0"),
        ({"labels": "scores"}, 'line 1: none of the fields "scores" and "pos_scores"'),
        ({"mode": "all_texts", "max_texts": 1}, "max_texts=1 leaves nothing to compare"),
    ],
)
def test_too_much_asked_of_triplets(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    rows = [*triplets(1, negatives=9), *triplets(3)[1:], Record("no", ("p",))]
    records = stored(tmp_path, *rows)
    with pytest.raises(ValueError, match=message):
        Groups(records, **{"mode": "one_positive", "seed": 0, **options})


def test_too_much_asked_of_other_files(tmp_path: Path) -> None:
    pairs = stored(tmp_path / "pairs", Record("q", ("p",)))
    with pytest.raises(ValueError, match=r'line 1: no field "neg", and num_negatives=2'):
        Groups(pairs, mode="one_positive", num_negatives=2, seed=0)
    with pytest.raises(ValueError, match="line 1: no record has a negative, so all labels would be 1"):
        Groups(pairs, mode="all_texts", seed=0)
    with pytest.raises(ValueError, match="no records to train on"):
        Groups(pairs.select([]), mode="one_positive", seed=0)
    scored = stored(tmp_path / "scored", Record("q", ("a", "b"), (), (0.0, 2.0)), Record("r", ("a",), (), (4.0,)))
    with pytest.raises(ValueError, match=r'line 1: "pos" holds scored texts, good and bad'):
        Groups(scored, mode="one_positive", seed=0)
    for low, high, message in (
        (0, 3, r"line 2: score 4 is outside min_label=0 … max_label=3.*the file's is 0 … 4"),
        (1, 4, "line 1: score 0 is outside"),
        (0, None, "give both or neither"),
        (3, 3, "min_label=3 has to be below max_label=3"),
    ):
        with pytest.raises(ValueError, match=message):
            Groups(scored, mode="all_texts", seed=0, min_label=low, max_label=high)
    assert Groups(scored.select([0]), mode="all_texts", seed=0, min_label=0, max_label=2)[0, 0].labels == (0.0, 1.0)


# ---- batches without duplicates --------------------------------------------------------------------------------------


def check_no_duplicates(records: Records, groups: Groups, batch: list[Key]) -> None:
    """Straight from the texts, without hashes."""
    answers: dict[str, set[str]] = {}
    for record in records:
        answers.setdefault(record.query.lower(), set()).update(record.positives)
    shown = [groups[key] for key in batch]
    assert len({group.query.lower() for group in shown}) == len(shown)
    for group in shown:
        others = {text for other in shown if other is not group for text in other.texts}
        assert not others & answers[group.query.lower()]


def crowded(count: int) -> list[Record]:
    """Questions that occur several times, texts that many share, answers of one that are negatives of another."""
    return [
        Record(
            f"{'Query' if i % 2 else 'query'} {i % (count // 3)}",
            (f"text {i % 17}", f"text {i % 23}"),
            tuple(f"text {j}" for j in range(30 + i % 11, 36 + i % 11)),
        )
        for i in range(count)
    ]


def test_nothing_occurs_twice_in_a_batch(tmp_path: Path) -> None:
    records = stored(tmp_path, *crowded(60), *triplets(200))
    groups = Groups(records, mode="one_positive", num_negatives=1, seed=0)
    batches = BatchesWithoutDuplicates(groups, batch_size=8, seed=0)
    seen = []
    for batch in batches:
        check_no_duplicates(records, groups, batch)
        seen += batch
    assert len(seen) == len(groups) and len(set(seen)) >= 0.99 * len(groups)


def test_no_text_answers_anothers_question(tmp_path: Path) -> None:
    """What q0 shows and what q1 shows have nothing in common, but another answer to q0 is q1's negative."""
    one_line = Record("q0", ("a", "b"), ("n",)), Record("q1", ("c",), ("b",)), *triplets(1)
    two_lines = Record("q0", ("a",), ("n",)), Record("Q0", ("b",), ("n",)), *one_line[1:]
    for name, rows in (("one", one_line), ("two", two_lines)):
        check_apart(Groups(stored(tmp_path / name, *rows), mode="one_positive", num_negatives=1, seed=0))


def check_apart(groups: Groups) -> None:
    for epoch in range(10):
        batches = BatchesWithoutDuplicates(groups, batch_size=2, seed=0)
        batches.set_epoch(epoch)
        for batch in batches:
            assert not {"q0", "q1"} <= {groups[key].query.lower() for key in batch}


def test_groups_may_share_negatives(tmp_path: Path) -> None:
    """A passage that was mined for every question is wrong for all of them."""
    records = stored(tmp_path, *(Record(f"q{i}", (f"p{i}",), ("hub",)) for i in range(6)))
    groups = Groups(records, mode="one_positive", num_negatives=1, seed=0)
    assert [len(batch) for batch in BatchesWithoutDuplicates(groups, batch_size=6, seed=0)] == [6]


def test_epochs_differ_and_repeat(tmp_path: Path) -> None:
    groups = Groups(stored(tmp_path, *triplets(30)), mode="one_positive", num_negatives=2, seed=0)
    batches = BatchesWithoutDuplicates(groups, batch_size=8, seed=3)
    first = list(batches)
    assert list(batches) == first and {epoch for batch in first for epoch, _ in batch} == {0}
    batches.set_epoch(1)
    second = list(batches)
    assert [[i for _, i in batch] for batch in second] != [[i for _, i in batch] for batch in first]
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    batches.set_epoch(0)
    assert list(batches) == first
    assert list(BatchesWithoutDuplicates(groups, batch_size=8, seed=4)) != first


@pytest.mark.parametrize("drop_last, sizes", [(False, [16, 16, 16, 12]), (True, [16, 16, 16])])
def test_last_batch(tmp_path: Path, drop_last: bool, sizes: list[int]) -> None:
    groups = Groups(stored(tmp_path, *triplets(60, positives=1)), mode="one_positive", seed=0)
    for kind in (BatchesWithoutDuplicates, BatchesByLength):
        batches = kind(groups, batch_size=16, seed=0, drop_last=drop_last)
        assert sorted((len(batch) for batch in batches), reverse=True) == sizes and len(batches) == len(sizes)


def test_one_group_alone_is_no_batch(tmp_path: Path) -> None:
    groups = Groups(stored(tmp_path, *triplets(9, positives=1)), mode="one_positive", seed=0)
    assert [len(batch) for batch in BatchesWithoutDuplicates(groups, batch_size=4, seed=0)] == [4, 4]
    assert [len(batch) for batch in BatchesWithoutDuplicates(groups, batch_size=1, seed=0)] == [1] * 9


def test_processes_share_a_step(tmp_path: Path) -> None:
    records = stored(tmp_path, *crowded(60), *triplets(61))
    groups = Groups(records, mode="one_positive", num_negatives=1, seed=0)
    alone = list(BatchesWithoutDuplicates(groups, batch_size=12, seed=0))
    parts = [list(BatchesWithoutDuplicates(groups, batch_size=4, seed=0, rank=r, world_size=3)) for r in range(3)]
    assert len(parts[0]) == len(BatchesWithoutDuplicates(groups, batch_size=4, seed=0, world_size=3)) == len(alone)
    for whole, *shares in zip(alone, *parts, strict=True):
        assert len({len(share) for share in shares}) == 1
        together = [key for share in shares for key in share]
        check_no_duplicates(records, groups, together)
        assert together == whole[: len(together)] and len(whole) - len(together) < 3


def test_what_repeats_too_often_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = stored(
        tmp_path, *(Record("the one", (f"p{i}",)) for i in range(80)), *triplets(20, positives=1, negatives=0)
    )
    groups = Groups(records, mode="one_positive", seed=0)
    batches = BatchesWithoutDuplicates(groups, batch_size=10, seed=0)
    with caplog.at_level(logging.WARNING):
        made = list(batches)
    assert [len(batch) for batch in made] == [10] * 10 == [10] * len(batches)
    for batch in made:
        check_no_duplicates(records, groups, batch)
    assert "groups are left out of epoch 0" in caplog.text
    seen = {i for batch in made for _, i in batch}
    assert f"{100 - len(seen)} of 100" in caplog.text


def test_nothing_that_goes_together(tmp_path: Path) -> None:
    records = stored(tmp_path, *(Record("the one", (f"p{i}",), ("n",)) for i in range(6)))
    groups = Groups(records, mode="one_positive", num_negatives=1, seed=0)
    assert [len(batch) for batch in BatchesWithoutDuplicates(groups, batch_size=2, seed=0)] == [1, 1, 1]
    with pytest.raises(ValueError, match="no 2 groups have different queries"):
        list(BatchesWithoutDuplicates(groups, batch_size=1, seed=0, world_size=2))


def test_too_few_groups_for_a_batch(tmp_path: Path) -> None:
    groups = Groups(stored(tmp_path, *triplets(3, positives=1)), mode="one_positive", seed=0)
    with pytest.raises(ValueError, match="3 groups are too few for batches of 1 on 4 processes"):
        BatchesWithoutDuplicates(groups, batch_size=1, seed=0, world_size=4)
    with pytest.raises(ValueError, match="batch_size=0"):
        BatchesByLength(groups, batch_size=0, seed=0)


# ---- batches by length -----------------------------------------------------------------------------------------------


def test_batches_by_length(tmp_path: Path) -> None:
    records = [Record(f"q{i}", ("x" * (1 + 37 * i % 997),), ("y" * (1 + 61 * i % 997),)) for i in range(400)]
    groups = Groups(stored(tmp_path, *records), mode="one_positive", num_negatives=1, seed=0)

    def waste(batches: list[list[Key]]) -> float:
        lengths = [[max(map(len, groups[key].texts)) for key in batch] for batch in batches]
        return sum(max(batch) * len(batch) for batch in lengths) / sum(map(sum, lengths)) - 1

    for key in ((0, 3), (1, 77)):
        assert groups.length(key) == max(map(len, groups[key].texts))
    batches = BatchesByLength(groups, batch_size=8, seed=0)
    first = list(batches)
    assert sorted(i for batch in first for _, i in batch) == list(range(400))
    assert waste(first) < 0.1 < 0.3 < waste(list(BatchesWithoutDuplicates(groups, batch_size=8, seed=0)))
    batches.set_epoch(1)
    assert {tuple(sorted(i for _, i in batch)) for batch in batches} != {
        tuple(sorted(i for _, i in batch)) for batch in first
    }
    longest = [max(groups.length(key) for key in batch) for batch in first]
    assert longest != sorted(longest)  # long and short batches in turn
    halves = [list(BatchesByLength(groups, batch_size=4, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[*a, *b] for a, b in zip(*halves, strict=True)] == first


# ---- together --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_a_data_loader(tmp_path: Path, num_workers: int) -> None:
    groups = Groups(stored(tmp_path, *triplets(20)), mode="one_positive", num_negatives=2, seed=0)
    batches = BatchesWithoutDuplicates(groups, batch_size=8, seed=0)
    context = "spawn" if num_workers else None  # a fork takes over whatever other tests have open
    loader = DataLoader(
        groups, batch_sampler=batches, collate_fn=list, num_workers=num_workers, multiprocessing_context=context
    )
    assert list(loader) == [[groups[key] for key in batch] for batch in batches]


SAMPLES = Path(os.environ.get("JOINTRAG_SAMPLES") or Path(__file__).parents[2] / "../shared/data")


@pytest.mark.parametrize("name", ["t2ranking/t2rank_100.jsonl", "flagembedding/nq.jsonl"])
def test_real_samples(tmp_path: Path, name: str) -> None:
    if not (SAMPLES / name).is_file():
        pytest.skip(f"no sample {name}")
    records = open_records(SAMPLES / name, cache=tmp_path / "cache")
    groups = Groups(records, mode="one_positive", num_negatives=14, seed=0)
    assert len(groups) == records.report.positives
    batches = BatchesWithoutDuplicates(groups, batch_size=8, seed=0)
    made = list(batches)
    assert len(made) == len(batches)
    for batch in made[:20]:
        check_no_duplicates(records, groups, batch)
