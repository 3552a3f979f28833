"""When the headline names an agent: only where attribution supports it."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation import agent_tables, result_tables, run_tables
from evaluation.scores import Comparison, Measures, Scores, SystemScores
from evaluation.sentences import headline, label, mostly_through, verdict
from tests.made_up_scores import attribution

CHAIN = ("rewriter", "selector", "generator")


def scores(before: float, after: float, selector: tuple[float, float], attributed: int = 100, agents=CHAIN) -> Scores:
    """Warm start and MAPPO with these F1 and these points lost at the selector."""

    def system(f1: float, lost: float) -> SystemScores:
        overall = Measures(
            num_questions=100, f1=f1, em=f1, accuracy=f1, precision=f1, recall=f1, retrieval_recall=None,
            read_recall=None, read_precision=None, num_sub_questions=1, num_candidates=4, num_read=2,
            num_answer_words=1, penalised={},
        )  # fmt: skip
        found = attribution(f1, lost, attributed)
        return SystemScores(agents=agents, overall=overall, types={}, seconds=1, attribution=found)

    delta = after - before
    change = Comparison(
        system="mappo", baseline="warm_start", metric="f1", type=None, delta=delta, low=delta - 0.01,
        high=delta + 0.01, share_not_better=0, num_questions=100,
    )  # fmt: skip
    systems = {"warm_start": system(before, selector[0]), "mappo": system(after, selector[1])}
    return Scores(num_questions=100, types={}, systems=systems, comparisons=(change,))


def test_the_agent_whose_losses_fell_is_named() -> None:
    found = scores(0.447, 0.483, (0.20, 0.12))
    assert mostly_through(found) == "selector"
    sentence = "Joint training raised F1 from 44.7 to 48.3 (+3.6, 95 % interval +2.6 to +4.6), mostly through the "
    assert headline(found) == sentence + "selector, on 100 held-out questions."


def test_so_is_the_agent_that_got_worse() -> None:
    assert mostly_through(scores(0.483, 0.447, (0.12, 0.20))) == "selector"


@pytest.mark.parametrize(
    "what, found",
    [
        ("no difference to explain", scores(0.445, 0.450, (0.20, 0.12))),
        ("the intervals before and after overlap", scores(0.44, 0.49, (0.20, 0.15))),
        ("less than half of it, and no other agent had more", scores(0.2, 0.5, (0.20, 0.12), agents=("selector",))),
        ("few questions could be attributed", scores(0.447, 0.483, (0.20, 0.12), attributed=50)),
        ("it does not speak", scores(0.447, 0.483, (0.20, 0.12), agents=("rewriter",))),
    ],
)
def test_no_agent_is_named_where(what: str, found: Scores) -> None:
    assert mostly_through(found) == "", what
    assert "mostly" not in headline(found)


@pytest.mark.parametrize(
    "kinds, main",
    [
        ({"warm_start": "trained", "control": "trained", "mappo": "trained"}, ("mappo", "warm_start")),
        ({"before": "trained", "between": "trained", "after": "trained"}, ("after", "before")),
        ({"plain_rag": "plain_rag", "before": "trained", "after": "trained", "big": "served"}, ("after", "before")),
        ({"mappo": "trained", "big": "served"}, ("big", "mappo")),
        ({"small": "served", "big": "served"}, ("big", "small")),
        ({"plain_rag": "plain_rag", "after-selector-generator": "subset", "after": "trained"}, None),
    ],
)
def test_the_comparison_that_a_report_is_about(kinds: dict[str, Any], main: tuple[str, str] | None) -> None:
    whole = scores(0.4, 0.5, (0.2, 0.1))
    systems = {name: whole.systems["mappo"].model_copy(update={"kind": kind}) for name, kind in kinds.items()}
    names = list(systems)
    pairs = [(system, baseline) for i, system in enumerate(names) for baseline in names[:i]]
    comparisons = tuple(whole.comparisons[0].model_copy(update={"system": s, "baseline": b}) for s, b in pairs)
    found = whole.model_copy(update={"systems": systems, "comparisons": comparisons})
    assert (found.main and (found.main.system, found.main.baseline)) == main
    shown = [(c.system, c.baseline) for c in result_tables.subjects_differences(found)]
    assert {found.subject} < set(names) and all(found.subject in pair for pair in shown)
    assert len(shown) == len(names) - 1 and (main is None or shown[0] == main)
    if main and main != ("mappo", "warm_start"):
        assert headline(found).startswith(
            f"{label(found, main[0])} reached F1 50.0, {label(found, main[1])} 50.0 (+10.0,"
        )


@pytest.mark.parametrize("p_value, said", [(None, "raised"), (0.05, "raised"), (0.0625, "same"), (1.0, "same")])
def test_an_interval_alone_is_not_enough_where_p_is_known(p_value: float | None, said: str) -> None:
    found = scores(0.447, 0.483, (0.20, 0.12))
    main = found.comparisons[0].model_copy(update={"p_value": p_value})
    assert verdict(main) == said
    sentence = headline(found.model_copy(update={"comparisons": (main,)}))
    assert ("no measurable difference" in sentence and f", but p = {p_value:.3f})" in sentence) == (said == "same")


def test_names_of_systems() -> None:
    plain = scores(0.4, 0.5, (0.2, 0.1))
    subset = plain.systems["mappo"].model_copy(
        update={"kind": "subset", "model": "mappo", "agents": ("selector", "generator")}
    )
    found = plain.model_copy(update={"systems": {**plain.systems, "mappo-selector-generator": subset, "big": subset}})
    assert label(found, "mappo-selector-generator") == "MAPPO, selector + generator"
    assert label(found, "warm_start") == "warm start"


def test_losses_add_up_in_the_table() -> None:
    table = result_tables.attribution(scores(0.447, 0.483, (0.20, 0.12)))
    assert table is not None
    assert table.columns == ("", "warm start", "MAPPO")
    assert [row[0] for row in table.rows[:5]] == [
        "F1 as it is",
        *(f"lost at the {agent}" for agent in ("rewriter", "retriever", "selector", "generator")),
    ]
    for column in (1, 2):
        values = [float(row[column].split(" ")[0].replace("−", "-")) for row in table.rows[:5]]
        assert sum(values) == pytest.approx(100, abs=0.3)  # rounded


def test_only_what_was_measured_gets_a_table() -> None:
    bare = scores(0.4, 0.5, (0.2, 0.1))
    for table in (agent_tables.retrieval, agent_tables.rewriter, agent_tables.selector, agent_tables.cost):
        assert table(bare) is None
    assert result_tables.per_type(bare) is result_tables.per_hops(bare) is None
    assert agent_tables.calibration_sentence(bare) == ""


def test_what_a_stage_took_now_and_then() -> None:
    stages = [
        {"stage": "prepare", "seconds": 2.0, "cached": True, "bytes": 1_500_000, "metrics": {}},
        {"stage": "warm_start", "seconds": 60.0, "cached": False, "bytes": 500_000, "metrics": {}},
        {"stage": "serve", "seconds": 3.0, "cached": False, "metrics": {}},
    ]
    assert run_tables.stage_times(stages).rows == (
        ("prepare", "reused", "2.0 s", "1.5 MB"),
        ("warm start", "1 min 0 s", "", "0.5 MB"),
        ("serve", "3.0 s", "", "–"),
        ("total", "1 min 3 s", "2.0 s", "2.0 MB"),
    )
