"""What the scores say, in plain sentences, and what systems are called there."""

from __future__ import annotations

from evaluation.scores import Attribution, AttributionStep, Comparison, Scores
from evaluation.tables import interval, p_value, points, signed

LABELS = {
    "warm_start": "warm start",
    "control": "control",
    "mappo": "MAPPO",
    "no_retrieval": "no retrieval",
    "plain_rag": "plain RAG",
}
SIGNIFICANT_P = 0.05
SHARE_FOR_MOSTLY = 0.5  # of the gain, that one agent has to account for to be named
SHARE_FOR_ALL = 0.9  # of the questions, that attribution has to cover to speak of all

CONTROL = (
    "The control is the warm start trained further, for as long as MAPPO, but by imitation: on supervised examples for "
    "every agent, made from labelled questions of the target domain. MAPPO sees the answers to its questions and "
    "nothing else. The control says what labels would have bought in the same time."
)


def label(scores: Scores, name: str) -> str:
    """What a system is called: "MAPPO", "MAPPO, selector + generator"."""
    system = scores.systems[name]
    if system.kind == "subset" and system.agents:
        return f"{LABELS.get(system.model, system.model)}, {' + '.join(system.agents)}"
    return LABELS.get(name, name)


def pair(scores: Scores, comparison: Comparison) -> str:
    return f"{label(scores, comparison.system)} − {label(scores, comparison.baseline)}"


def verdict(comparison: Comparison | None) -> str:
    """Raised or lowered only if the whole interval is on that side of zero and p is small, else same; "" without a
    comparison. With a handful of questions the interval alone says too much: of one it has no width."""
    if comparison is None:
        return ""
    if comparison.p_value is not None and comparison.p_value > SIGNIFICANT_P:
        return "same"
    return "raised" if comparison.low > 0 else "lowered" if comparison.high < 0 else "same"


def headline(scores: Scores) -> str:
    """The result in one plain sentence, whatever it is."""
    count = f"{scores.num_questions:,} held-out question{'s' if scores.num_questions != 1 else ''}"
    main = scores.main
    if main is None:
        found = ", ".join(f"{points(s.overall.f1)} ({label(scores, name)})" for name, s in scores.systems.items())
        return f"F1 on {count}: {found}."
    before, after = (points(scores.systems[name].overall.f1) for name in (main.baseline, main.system))
    unlikely = "" if verdict(main) != "same" or main.low <= 0 <= main.high else f", but p = {p_value(main.p_value)}"
    change = f"({signed(main.delta)}, 95 % interval {interval(main.low, main.high)}{unlikely})"
    agent = mostly_through(scores)
    end = f"{change}, mostly through the {agent}, on {count}." if agent else f"{change} on {count}."
    if (main.system, main.baseline) == ("mappo", "warm_start"):
        if verdict(main) == "same":
            return f"Joint training made no measurable difference: F1 {before} before, {after} after {end}"
        return f"Joint training {verdict(main)} F1 from {before} to {after} {end}"
    one, other = label(scores, main.system), label(scores, main.baseline)
    if verdict(main) == "same":
        return f"{one} and {other} do not differ measurably: F1 {after} and {before} {end}"
    return f"{one} reached F1 {after}, {other} {before} {end}"


def mostly_through(scores: Scores) -> str:
    """The agent that the main difference goes back to, or "" where attribution does not support naming one.

    It does where nearly all questions could be attributed, the agent speaks in both systems, the change of what is lost
    at it is at least half of the whole change, and the intervals of that loss before and after do not overlap.
    """
    main = scores.main
    if main is None or verdict(main) == "same":
        return ""
    before, after = scores.systems[main.baseline], scores.systems[main.system]
    if before.attribution is None or after.attribution is None:
        return ""
    if min(before.attribution.num_questions, after.attribution.num_questions) < SHARE_FOR_ALL * scores.num_questions:
        return ""
    earlier, later = lost(before.attribution), lost(after.attribution)
    saved = {agent: earlier[agent].delta - later[agent].delta for agent in earlier if agent in later}
    speaking = [agent for agent in saved if agent in before.agents and agent in after.agents]
    agent = max(speaking, key=lambda agent: saved[agent] * (1 if main.delta > 0 else -1), default="")
    if not agent or saved[agent] / main.delta < SHARE_FOR_MOSTLY:
        return ""
    first, second = earlier[agent], later[agent]
    return agent if first.low > second.high or first.high < second.low else ""


def lost(attribution: Attribution) -> dict[str, AttributionStep]:
    """By agent, the step that replaces its output; its delta is what is lost there."""
    return {step.agent: step for step in attribution.steps[1:]}


def control_sentence(scores: Scores) -> str:
    """How MAPPO stands against the control; "" without one."""
    against = scores.comparison("mappo", "control")
    if against is None or against == scores.main:
        return ""
    reached = f"The control reached F1 {points(scores.systems['control'].overall.f1)}"
    change = f"95 % interval {interval(against.low, against.high)}"
    if verdict(against) == "same":
        return f"{reached}, not measurably different from MAPPO ({signed(against.delta)}, {change})."
    side = "above" if against.delta > 0 else "below"
    return f"{reached}: MAPPO is {signed(abs(against.delta)).lstrip('+')} points {side} it ({change})."
