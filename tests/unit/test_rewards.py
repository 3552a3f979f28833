"""Rewards by name, weighted, and by functions of the user's own: found where the run starts, checked before it does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from jointrag import preflight
from jointrag.agents import build_chain
from jointrag.own_code import load_function, source_file
from jointrag.presets import ConfigError, resolve
from jointrag.types import Episode, Passage, Question
from tests.tiny import AGENTS, QUESTIONS
from trainers.mappo.rewards import answer_rewards, check_rewards, example_episode, load_reward

QUESTION = Question("q7", "Where?", ("Oslo", "Oslo , Norway"))
EPISODE = Episode(QUESTION, ("Where?",), (Passage("p", "", "text"),), answer="in Oslo")
CODE = """
from jointrag.metrics import f1

SCALE = 2.0

def brevity(episode):
    return 1 / len(episode.answer.split())

def whole(episode):
    return episode.answer == "in Oslo"

def text(episode):
    return "0.5" * 100

def nothing(episode):
    pass

def odd(episode):
    return float("nan")

def broken(episode):
    return episode.turns[3].penalty

def careful(episode):
    assert episode.sub_questions and episode.candidates and episode.passages and episode.turns[-1].response
    return f1(episode.answer, episode.question.answers)

def of_two(episode, other):
    return 0.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is not on Python's path; returns its name."""
    name = f"of_{tmp_path.name}"  # another one for every test: modules are imported once
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_metrics_and_weighted_sums() -> None:
    assert answer_rewards([EPISODE], "em") == [0.0]
    assert answer_rewards([EPISODE], "accuracy") == [1.0]
    assert answer_rewards([EPISODE], "f1") == [pytest.approx(2 / 3)]  # the best gold answer counts
    assert answer_rewards([EPISODE, EPISODE], {"f1": 0.3, "accuracy": 0.5}) == [pytest.approx(0.7)] * 2


def test_a_function_of_the_users_own(here: str) -> None:
    assert answer_rewards([EPISODE], f"{here}:brevity") == [0.5]
    assert answer_rewards([EPISODE], {f"{here}:brevity": 2.0, "accuracy": 1.0, f"{here}:whole": 0.25}) == [2.25]


@pytest.mark.parametrize(
    "function, complaint",
    [
        ("text", "on question 'q7' it returned '0.50.5"),
        ("nothing", "it returned None, a NoneType; return a float"),
        ("odd", "it returned nan; return a finite number"),
        ("broken", "it failed with IndexError: tuple index out of range ({file}, line 22)"),
        ("of_two", "it failed with TypeError: of_two() missing 1 required positional argument: 'other'"),
        ("brevty", "{file} has no 'brevty'; did you mean {module}:brevity?"),
        ("quite_another", "{file} has no 'quite_another'"),
        ("SCALE", "SCALE in {file} is a float, no function"),
    ],
)
def test_functions_that_do_not_work(here: str, tmp_path: Path, function: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^mappo.reward={here}:{function}: ") as caught:
        check_rewards({"f1": 0.5, f"{here}:{function}": 0.5}, EPISODE)
    message = str(caught.value)
    assert complaint.format(file=tmp_path / f"{here}.py", module=here) in message
    assert len(message) < 400


def test_modules_that_are_not_there_or_do_not_import(here: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"there is no module 'no_such_module' in {re.escape(str(tmp_path))} nor"):
        load_reward("no_such_module:f")
    with pytest.raises(ValueError, match=r"that holds no_such_package\.py, or add that folder to PYTHONPATH"):
        load_reward("no_such_package.module:f")
    with pytest.raises(ValueError, match=f"there is no module '{here}.inner'"):
        load_reward(f"{here}.inner:f")
    for name, code, complaint in (
        ("needs_another", "import not_installed_at_all", "failed: ModuleNotFoundError: No module named 'not_installed"),
        ("misspelt", "def f(:\n  pass", "failed: SyntaxError: invalid syntax (misspelt.py, line 1)"),
        ("divides", "\nx = 1 / 0", "failed: ZeroDivisionError: division by zero ({file}, line 2)"),
        ("leaves", "import sys; sys.exit(3)", "failed: SystemExit: 3"),
    ):
        file = tmp_path / f"{name}.py"
        file.write_text(code)
        with pytest.raises(ValueError, match=re.escape(f"importing {name} {complaint.format(file=file)}")):
            load_reward(f"{name}:f")


def test_the_example_is_a_whole_episode(here: str) -> None:
    """A function may look at anything that training's episodes have."""
    for agents in (("rewriter", "selector", "generator"), ("generator",)):
        chain = build_chain(AGENTS.model_copy(update={"chain": agents}))
        example = example_episode(QUESTIONS[0], chain)
        assert [turn.agent for turn in example.turns] == list(agents)
        check_rewards(f"{here}:careful", example)


def test_the_file_behind_a_function(here: str, tmp_path: Path) -> None:
    assert source_file(f"{here}:brevity") == tmp_path / f"{here}.py"
    assert source_file("no_such_module:f") is None
    assert source_file("no_such_package.module:f") is None
    assert source_file("sys:exit") is None
    assert source_file("jointrag.metrics:f1") == Path(str(sys.modules["jointrag.metrics"].__file__))


def test_a_module_written_after_the_first_look_is_found(here: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no module 'written_later'"):
        load_function("written_later:f")
    (tmp_path / "written_later.py").write_text("def f(episode):\n    return 1")
    assert load_function("written_later:f")(None) == 1


def test_preflight_knows_before_the_first_stage(here: str) -> None:
    def problems(*overrides: str) -> list[str]:
        try:
            preflight.preflight(resolve("smoke", overrides))
        except ConfigError as error:
            return str(error).splitlines()
        return []

    assert problems(f"mappo.reward={here}:brevity") == []
    assert problems(f"mappo.reward={{f1: 0.5, '{here}:brevity': 0.5}}") == []
    (found,) = problems(f"mappo.reward={{f1: 0.5, '{here}:brevty': 0.5}}")
    assert found.startswith(f"mappo.reward={here}:brevty: ") and "did you mean" in found
