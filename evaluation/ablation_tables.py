"""An ablation's table and its sentence, for the console, as Markdown and as a page."""

from __future__ import annotations

from typing import Any

from evaluation.ablation_data import Result, Row
from evaluation.tables import Table, markdown, plain, points, signed


def table(result: Result) -> Table:
    """A row per variant: means ± spread over seeds, and the difference to the full system."""
    rows = [
        (
            row.name,
            _with_spread(row),
            "–" if row.delta is None else f"{signed(row.delta)} ({_interval(row)})",
            points(row.warm_start_f1),
            signed(row.f1 - row.warm_start_f1),
            points(row.em),
            points(row.accuracy),
        )
        for row in result.rows
    ]
    return Table(
        _caption(result),
        ("", "F1", "difference", "warm start", "gain", "EM", "accuracy"),
        tuple(rows),
        _note(result),
    )


def per_seed(result: Result) -> Table:
    """F1 of every training."""
    rows = [(row.name, *(points(t.f1) for t in row.trainings)) for row in result.rows]
    return Table("F1 per seed", ("", *(f"seed {seed}" for seed in result.seeds)), tuple(rows))


def headline(result: Result) -> str:
    """What the full system has over the others, in a sentence; what is not measurable is said to be so."""
    clear = [row for row in result.rows[1:] if row.low is not None and row.high is not None and row.low * row.high > 0]
    if not clear:
        return f"No row differs measurably from {result.rows[0].name} (F1 {points(result.rows[0].f1)})."
    said = [
        f"{row.name} {signed(abs(row.delta or 0)).lstrip('+')} points {'below' if (row.delta or 0) < 0 else 'above'}"
        for row in clear
    ]
    rest = len(result.rows) - 1 - len(clear)
    others = "" if not rest else f"; {rest} other{'s' if rest > 1 else ''} not measurably different"
    return f"{result.rows[0].name} reaches F1 {points(result.rows[0].f1)}: {', '.join(said)}{others}."


def as_text(result: Result) -> str:
    """For the console."""
    shown = table(result)
    return "\n".join([shown.caption, "", plain(shown), "", headline(result), *([shown.note] if shown.note else [])])


def as_markdown(result: Result) -> str:
    parts = [f"# Ablation: {result.name}", result.about + ".", f"**{headline(result)}**", markdown(table(result))]
    if len(result.seeds) > 1:
        parts.append(markdown(per_seed(result)))
    return "\n\n".join([*parts, markdown(_settings(result))]) + "\n"


def as_html(result: Result) -> str:
    from evaluation.page import render

    return render(
        "ablation.html.j2",
        result=result,
        headline=headline(result),
        table=table(result),
        per_seed=per_seed(result) if len(result.seeds) > 1 else None,
        settings=_settings(result),
    )


def _settings(result: Result) -> Table:
    rows = [
        (row.name, ", ".join(f"{name}={_value(value)}" for name, value in row.settings.items()) or "–")
        for row in result.rows
    ]
    return Table("What each row changes in the preset", ("", "settings"), tuple(rows))


def _value(value: Any) -> str:
    """As it would be written after --set: [selector, generator], null."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def _caption(result: Result) -> str:
    count = f"{result.num_questions:,} held-out questions"
    if len(result.seeds) == 1:
        return f"F1 on {count}, seed {result.seeds[0]}, in percent"
    return f"Means over {len(result.seeds)} seeds, {count} each, in percent"


def _note(result: Result) -> str:
    columns = (
        f"Difference: in F1, to {result.rows[0].name}, with its 95 % interval. "
        "Warm start, gain: F1 before joint training, and what that adds. "
    )
    if len(result.seeds) == 1:
        return f"{columns}One seed: the intervals cover the choice of questions, not what another training would give."
    return (
        f"{columns}±: standard deviation over seeds. The intervals draw anew seeds and, in each, questions; "
        "with few seeds they are rather too narrow."
    )


def _with_spread(row: Row) -> str:
    return points(row.f1) if row.f1_spread is None else f"{points(row.f1)}\u00a0±\u00a0{points(row.f1_spread)}"


def _interval(row: Row) -> str:
    assert row.low is not None and row.high is not None
    return f"{signed(row.low)} to\u00a0{signed(row.high)}"
