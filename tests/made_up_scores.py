"""Scores with everything in them that a report can show: systems of all kinds, costs, attribution, calibration."""

from __future__ import annotations

from evaluation.scores import Attribution, AttributionStep, Calibration, CalibrationBin, Cost, Scores, SystemScores

KINDS = {
    "no_retrieval": ("no_retrieval", "warm_start", ("generator",)),
    "plain_rag": ("plain_rag", "warm_start", ("generator",)),
    "warm_start": ("trained", "warm_start", ("rewriter", "selector", "generator")),
    "control": ("trained", "control", ("rewriter", "selector", "generator")),
    "mappo-selector-generator": ("subset", "mappo", ("selector", "generator")),
    "mappo-rewriter-generator": ("subset", "mappo", ("rewriter", "generator")),
    "mappo": ("trained", "mappo", ("rewriter", "selector", "generator")),
}


def enriched(scores: Scores) -> Scores:
    """`scores` of systems named as above, with all that `measure` alone does not give."""
    systems = {name: _system(name, system, i) for i, (name, system) in enumerate(scores.systems.items())}
    comparisons = tuple(c.model_copy(update={"p_value": 0.0004 if c.low > 0 else 0.3}) for c in scores.comparisons)
    hops = {1: scores.num_questions // 2, 2: scores.num_questions - scores.num_questions // 2}
    per_hop = tuple(
        c.model_copy(update={"hops": h}) for h in hops for c in comparisons if c.metric == "f1" and c.type is None
    )
    return scores.model_copy(
        update={
            "systems": systems,
            "comparisons": comparisons + per_hop,
            "hops": hops,
            "question_retrieval": _retrieval(0.4),
        }
    )


def _system(name: str, system: SystemScores, i: int) -> SystemScores:
    kind, model, agents = KINDS[name]
    m = system.overall.model_copy(
        update={
            "retrieval": {} if kind == "no_retrieval" else _retrieval(0.4 + 0.05 * i),
            "new_gold": 0.31 if "rewriter" in agents else None,
            "lost_gold": 0.07 if "rewriter" in agents else None,
            **(
                {f"selector_{what}": 0.5 + 0.05 * i for what in ("precision", "recall", "f1", "exact")} if i > 1 else {}
            ),
        }
    )
    cost = {
        agent: Cost(num_calls=1, num_prompt_tokens=321, num_response_tokens=6.5, seconds=0.0123) for agent in agents
    }
    trained = name in ("warm_start", "mappo")
    return system.model_copy(
        update={
            "kind": kind,
            "model": model,
            "agents": agents,
            "overall": m,
            "hops": {1: m, 2: m},
            "cost": cost | {"retriever": Cost(num_calls=2, num_prompt_tokens=0, num_response_tokens=0, seconds=0.004)},
            "attribution": attribution(m.f1, 0.24 if name == "warm_start" else 0.05) if trained else None,
            "calibration": _calibration(0.2 if name == "warm_start" else 0.05) if trained else None,
        }
    )


def attribution(f1: float, lost_at_selector: float, num_questions: int = 300) -> Attribution:
    """What is left after the selector's loss is shared by the others, a tenth of it gained at the retriever."""
    rest = 1 - f1 - lost_at_selector
    deltas = {"rewriter": 0.4 * rest, "retriever": -0.1 * rest, "selector": lost_at_selector, "generator": 0.7 * rest}
    steps = [_step("", (), f1, 0.0)]
    replaced: tuple[str, ...] = ()
    for agent, delta in deltas.items():
        replaced = (*replaced, agent)
        steps.append(_step(agent, replaced, steps[-1].f1 + delta, delta))
    return Attribution(num_questions=num_questions, steps=tuple(steps))


def _step(agent: str, replaced: tuple[str, ...], f1: float, delta: float) -> AttributionStep:
    around = {"low": delta - 0.03, "high": delta + 0.03} if agent else {"low": 0.0, "high": 0.0}
    alone = delta / 2 if agent in ("rewriter", "retriever", "selector") else None
    return AttributionStep(
        agent=agent, replaced=replaced, f1=f1, em=f1, accuracy=f1, delta=delta, alone=alone, **around
    )


def _retrieval(recall: float) -> dict[str, float]:
    metrics = ("recall", "mrr", "ndcg", "map", "answer")
    return {f"{metric}@{k}": min(1.0, recall + k / 25) for k in (1, 5, 10) for metric in metrics}


def _calibration(error: float) -> Calibration:
    bins = [
        CalibrationBin(
            low=i / 10,
            high=(i + 1) / 10,
            num_questions=10 + 12 * i,
            confidence=i / 10 + 0.05,
            exact=max(0.0, i / 10 + 0.05 - error),
            f1=0.5,
        )
        for i in range(2, 10)
    ]
    return Calibration(bins=tuple(bins), error=error)
