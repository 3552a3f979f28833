"""Notices a training that goes wrong: the policy runs away, closes up, falls apart, or earns less than it began with.

    watchdog = Watchdog(config.watchdog)
    verdict = watchdog.look(step, metrics)        # after every step
    if verdict.action == "roll_back": …           # the loop does what the verdict says; nothing is done here

Four limits, each on a mean over `window` steps. One that is crossed is a warning; still crossed a full window later, it
is the configured action. What it remembers is plain JSON (`state`, `restore`), so a resumed run behaves like one that
was never interrupted. After a roll-back the watchdog goes on as it is: its memory is not part of what is rolled back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jointrag.config.mappo import WatchdogConfig

Action = Literal["go", "warn", "stop", "roll_back"]
WATCHED = re.compile(r"mappo/(kl|entropy|reward|\w+/penalised)")


@dataclass(frozen=True)
class Verdict:
    """What the loop should do, and why, in a sentence (or several) with the numbers and the settings' names."""

    action: Action
    reason: str = ""


GO = Verdict("go")


class Watchdog:
    """Looks at every step's metrics: mappo/kl, mappo/entropy, mappo/reward and mappo/<agent>/penalised.

    A metric that is missing or NaN in a step counts as not measured; the mean is over the other steps of the window.
    """

    def __init__(self, config: WatchdogConfig) -> None:
        self.config = config
        self._recent: list[dict[str, float]] = []  # the watched metrics of the last `window` steps, oldest first
        self._num_seen = 0
        self._start_reward: float | None = None  # mean over the first window
        self._warned: dict[str, int] = {}  # limits that are crossed, and the step of the warning
        self._num_roll_backs = 0

    def look(self, step: int, metrics: dict[str, float]) -> Verdict:
        """The verdict on a finished step. Call it once for each step, in order."""
        self._remember(metrics)
        if len(self._recent) < self.config.window:
            return GO
        crossed = dict(self._crossed())
        self._warned = {limit: since for limit, since in self._warned.items() if limit in crossed}  # others recovered
        new = [limit for limit in crossed if limit not in self._warned]
        old = [limit for limit in crossed if step - self._warned.get(limit, step) >= self.config.window]
        self._warned |= dict.fromkeys(new, step)
        if old and self.config.action != "warn":
            return self._act(f"{crossed[limit]} (warned at step {self._warned[limit]})" for limit in old)
        return Verdict("warn", _joined(crossed[limit] for limit in new)) if new else GO

    def state(self) -> dict[str, Any]:
        """All it remembers, as JSON values."""
        return {
            "recent": [dict(row) for row in self._recent],
            "num_seen": self._num_seen,
            "start_reward": self._start_reward,
            "warned": dict(self._warned),
            "num_roll_backs": self._num_roll_backs,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; nothing changes if it is empty."""
        if not state:
            return
        self._recent = [dict(row) for row in state["recent"]]
        self._num_seen = state["num_seen"]
        self._start_reward = state["start_reward"]
        self._warned = dict(state["warned"])
        self._num_roll_backs = state["num_roll_backs"]

    def _remember(self, metrics: dict[str, float]) -> None:
        row = {name: float(value) for name, value in metrics.items() if WATCHED.fullmatch(name)}
        self._recent.append({name: value for name, value in row.items() if not math.isnan(value)})
        self._recent = self._recent[-self.config.window :]
        self._num_seen += 1
        if self._start_reward is None and len(self._recent) == self.config.window:
            self._start_reward = self._mean("mappo/reward")

    def _mean(self, name: str) -> float | None:
        """Over the window; None where it was never measured."""
        values = [row[name] for row in self._recent if name in row]
        return math.fsum(values) / len(values) if values else None

    def _crossed(self) -> Iterator[tuple[str, str]]:
        """Every limit that is crossed now, and what to tell about it."""
        config, over = self.config, f"over the last {self.config.window} steps"
        kl, entropy, reward = (self._mean(f"mappo/{name}") for name in ("kl", "entropy", "reward"))
        if config.max_kl is not None and kl is not None and kl > config.max_kl:
            yield (
                "max_kl",
                f"KL to the warm start is {kl:.3g} nats per response {over}, above mappo.watchdog.max_kl="
                f"{config.max_kl:g}; lower mappo.learning_rate or raise mappo.kl_coefficient",
            )
        if config.min_entropy is not None and entropy is not None and entropy < config.min_entropy:
            yield (
                "min_entropy",
                f"the policy's entropy is {entropy:.2g} nats per token {over}, below mappo.watchdog.min_entropy="
                f"{config.min_entropy:g}; raise mappo.entropy_coefficient or lower mappo.learning_rate",
            )
        if config.max_penalised is not None:
            yield from self._malformed(config.max_penalised, over)
        lowest = -math.inf
        if config.max_reward_drop is not None and self._start_reward is not None:
            lowest = self._start_reward - config.max_reward_drop
        if reward is not None and reward < lowest and self._num_seen >= 2 * config.window:
            yield (
                "max_reward_drop",
                f"the reward is {reward:.3f} {over}, and was {self._start_reward:.3f} over the first {config.window}: "
                f"more than mappo.watchdog.max_reward_drop={config.max_reward_drop:g} lower; lower "
                "mappo.learning_rate or raise mappo.kl_coefficient",
            )

    def _malformed(self, limit: float, over: str) -> Iterator[tuple[str, str]]:
        for name in sorted({name for row in self._recent for name in row if name.endswith("/penalised")}):
            share, agent = self._mean(name), name.split("/")[1]
            if share is not None and share > limit:
                yield (
                    f"max_penalised of {agent}",
                    f"{100 * share:.0f} % of the {agent}'s responses are malformed {over}, above "
                    f"mappo.watchdog.max_penalised={limit:g}; read the sampled episodes, then set a harsher "
                    f"agents.{agent}.penalty, raise mappo.kl_coefficient or lower mappo.learning_rate",
                )

    def _act(self, reasons: Iterable[str]) -> Verdict:
        """The configured action on what did not recover by itself."""
        reason = _joined(reasons)
        if self.config.action == "stop":
            return Verdict("stop", f"{reason}; training ends here")
        if self._num_roll_backs == self.config.max_roll_backs:
            times = f"mappo.watchdog.max_roll_backs={self.config.max_roll_backs}"
            return Verdict("stop", f"{reason}; training was rolled back as often as {times} allows and ends here")
        self._num_roll_backs += 1
        self._recent, self._warned = [], {}  # the windows start afresh; the start reward stays
        return Verdict("roll_back", f"{reason}; training goes back to its best checkpoint")


def _joined(reasons: Iterable[str]) -> str:
    return "; also: ".join(reasons)
