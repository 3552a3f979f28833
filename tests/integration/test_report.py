"""The report on made-up results: what it says in every case, and what a browser makes of it."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, browser

from evaluation import report, result_tables
from evaluation.measures import compare, measure, measure_types
from evaluation.scores import Scores, SystemScores
from jointrag.config import PipelineConfig, ReportConfig, TrackingConfig
from jointrag.jsonl import write_jsonl
from jointrag.types import Episode, Passage, Question, Turn
from tests.made_up_scores import KINDS, enriched

HOSTILE = "<img src=x onerror=\"document.title='hit'\"> <b>Bold</b> | `code` ![p](http://example.org/p.png)"
STAGES = [
    {"stage": "prepare", "seconds": 0.1, "cached": True, "metrics": {}},
    {
        "stage": "index",
        "seconds": 3.0,
        "cached": False,
        "metrics": {"index/passages": 12_345.0, "index/bytes": 6.5e6, "index/recall@10": 0.973},
    },
    {
        "stage": "mappo",
        "seconds": 424.0,
        "cached": False,
        "metrics": {"mappo/kl": 0.1, "mappo/kept_step": 40.0, "mappo/kept_dev_f1": 0.5},
    },
]


def answered(share_right: float, seed: int, num_questions: int) -> list[Episode]:
    """Episodes of a system that answers `share_right` of the questions; every text from the data is hostile."""
    rng = random.Random(seed)
    passages = [Passage(f"p{i}", HOSTILE, f"Passage {i}. " + "A long text. " * 40) for i in range(4)]
    episodes = []
    for i in range(num_questions):
        question = Question(
            f"q{i}", f"Who is {i}? {HOSTILE}", ("Ada Byron",), "bridge" if i % 2 else "one-hop", ("p0",)
        )
        right = rng.random() < share_right
        turns = (Turn("rewriter", "p", "r"), Turn("generator", "p", "r", penalty=0.0 if right else -0.5))
        episodes.append(
            Episode(
                question,
                (HOSTILE,),
                tuple(passages),
                selected=(0, 2) if right else (),
                answer="Ada Byron" if right else HOSTILE,
                turns=turns,
            )
        )
    return episodes


def make(
    tmp_path: Path, shares: dict[str, float], num_questions: int = 300, num_warnings: int = 1, full: bool = False
) -> Path:
    """Lay out an evaluation and a training history, write the report of them, return its folder. `full`: with
    attribution, calibration, costs and whatever else scores may have."""
    episodes = {name: answered(share, i, num_questions) for i, (name, share) in enumerate(shares.items())}
    names = list(episodes)
    scores = Scores(
        num_questions=num_questions,
        types=dict(sorted(Counter(episode.question.type for episode in episodes[names[0]]).items())),
        systems={n: SystemScores(overall=measure(e), types=measure_types(e), seconds=9) for n, e in episodes.items()},
        comparisons=tuple(
            comparison
            for i, system in enumerate(names)
            for baseline in names[:i]
            for comparison in compare(system, baseline, episodes, num_resamples=500, seed=0)
        ),
    )
    if full:
        scores = enriched(scores)
    for name, lines in episodes.items():
        write_jsonl(tmp_path / f"evaluation/predictions/{name}.jsonl", lines)
    (tmp_path / "evaluation/scores.json").write_text(scores.model_dump_json())
    history: list[dict[str, Any]] = [
        {"step": i, "mappo/reward": i / 100, "mappo/selector/kl": 0.1, "mappo/rewriter/kl": 0.2, "mappo/odd_one": 3.0}
        | ({"dev/f1": 0.5} if i % 20 == 0 else {})
        | ({"watchdog": f"warning {i}: {HOSTILE}"} if i <= num_warnings else {})
        for i in range(1, 61)
    ]
    write_jsonl(tmp_path / "mappo/history.jsonl", history)
    out = tmp_path / "out"
    out.mkdir()
    settings = PipelineConfig(tracking=TrackingConfig(mlflow_uri="http://me:secret@host:5000", experiment=HOSTILE))
    report.write(
        ReportConfig(num_examples=4),
        evaluation=tmp_path / "evaluation",
        mappo=tmp_path / "mappo",
        settings=settings.model_dump(mode="json"),
        stages=STAGES,
        out=out,
    )
    return out


def test_the_recall_of_the_index_is_shown(tmp_path: Path) -> None:
    out = make(tmp_path, {"warm_start": 0.4, "mappo": 0.6}, num_questions=30)
    markdown = (out / "report.md").read_text()
    assert "| passages | 12,345 |\n| on disk | 6.5 MB |\n| recall@10 against exact search | 97.3 |" in markdown
    page = (out / "report.html").read_text()
    assert "recall@10 against exact search" in page and "97.3" in page


@pytest.mark.parametrize(
    "shares, verdict, sentence",
    [
        ((0.3, 0.8), "raised", r"Joint training raised F1 from \d\d\.\d to \d\d\.\d \(\+\d\d\.\d, 95 % interval \+"),
        ((0.8, 0.3), "lowered", r"Joint training lowered F1 from \d\d\.\d to \d\d\.\d \(−\d\d\.\d, 95 % interval −"),
        (
            (0.5, 0.5),
            "same",
            r"Joint training made no measurable difference: F1 \S+ before, \S+ after \(.*interval −.*to \+",
        ),
    ],
)
def test_the_headline_tells_the_truth(tmp_path: Path, shares: tuple[float, float], verdict: str, sentence: str) -> None:
    out = make(tmp_path, {"warm_start": shares[0], "mappo": shares[1]})
    markdown, html = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert re.search(sentence, markdown)
    assert "on 300 held-out questions." in markdown
    assert re.search(sentence, html.replace("\u00a0", " "))
    assert f'<h1 class="{verdict}">' in html
    assert "control" not in markdown.split("## Time")[0]  # none was trained: none is talked about


def test_all_parts_agree_on_the_numbers(tmp_path: Path) -> None:
    out = make(tmp_path, {"warm_start": 0.3, "control": 0.9, "mappo": 0.7})
    scores = json.loads((tmp_path / "evaluation/scores.json").read_text())
    markdown, html = (out / "report.md").read_text(), (out / "report.html").read_text()
    console = result_tables.console(Scores.model_validate(scores))
    for system in scores["systems"].values():
        number = f"{100 * system['overall']['f1']:.1f}"
        assert number in markdown
        assert number in html
        assert number in console
    assert len(console.splitlines()) == 8
    assert all(len(line) < 130 for line in console.splitlines())
    assert re.search(r"The control reached F1 \S+: MAPPO is \S+ points below it", console)
    assert "further" in markdown
    assert "imitation" in html  # what the control is stands beside it
    for part in ("reused", "7 min 4 s", "num_epochs", "KL divergence per agent", "Questions won and lost", "Python"):
        assert part in markdown, part
        assert part in html, part
    assert len(html) < 1_000_000
    assert len(markdown) < 1_000_000
    for text in (markdown, html):
        assert "secret" not in text


class Markup(HTMLParser):
    """Collects the elements of a page and every address in their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.addresses += [url for _, value in attrs for url in re.findall(r"url\((.*?)\)", value or "")]


def test_texts_from_the_data_are_only_text(tmp_path: Path) -> None:
    out = make(tmp_path, {"warm_start": 0.3, "mappo": 0.7})
    found = Markup((out / "report.html").read_text())
    assert not found.elements & {"img", "b", "script", "iframe"}
    assert len(found.addresses) > 10
    assert [address for address in found.addresses if not address.startswith(("#", "data:"))] == []
    markdown = re.sub(r"^    .*$", "", (out / "report.md").read_text(), flags=re.MULTILINE)  # indented lines are code
    assert not re.search(r"<(img|b|script)\b", markdown)
    assert "](http" not in markdown.replace("\\](http", "")  # HOSTILE's picture is there, but escaped


def test_what_happened_in_training_is_told(tmp_path: Path) -> None:
    kept = "The weights of step 40 of 60 were kept (F1 50.0): later ones answered the dev questions clearly worse."
    for num_warnings in (0, 1, 25):
        folder = tmp_path / str(num_warnings)
        folder.mkdir()
        out = make(folder, {"warm_start": 0.3, "mappo": 0.7}, num_questions=20, num_warnings=num_warnings)
        for text in ((out / "report.md").read_text(), (out / "report.html").read_text()):
            assert kept in text
            assert ("What the watchdog said" in text) == (num_warnings > 0)
            assert len(re.findall(r"step \d+: warning \d+: ", text)) == min(num_warnings, 10)
            assert ("15 before them are in history.jsonl" in text) == (num_warnings == 25)
            if num_warnings == 25:
                assert "warning 25:" in text and "warning 15:" not in text  # the last ones count


def test_markdown_renders_to_tables_and_a_picture(tmp_path: Path) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    text = (make(tmp_path, {"warm_start": 0.3, "control": 0.5, "mappo": 0.7}) / "report.md").read_text()
    page = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    assert page.count("<table>") == 9
    assert page.count("<img") == 1
    assert '<img src="data:image/png;base64,' in page


def test_a_system_on_its_own_and_too_few_examples(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    markdown = (make(tmp_path / "one", {"mappo": 0.5}, num_questions=7) / "report.md").read_text()
    assert re.search(r"F1 on 7 held-out questions: \S+ \(MAPPO\)\.", markdown)
    assert "won and lost" not in markdown
    (tmp_path / "perfect").mkdir()
    html = (make(tmp_path / "perfect", {"warm_start": 0.0, "mappo": 1.0}, num_questions=1) / "report.html").read_text()
    assert "Shown: 1 of the first and 0 of the second" in html
    assert "no measurable difference" in html  # of one question nothing follows
    assert "100.0, but p = 1.000) on 1 held-out question." in html


def test_checkpoints_of_any_name_are_compared_without_curves(tmp_path: Path) -> None:
    make(tmp_path, {"before": 0.3, "after": 0.8})
    (tmp_path / "plain").mkdir()
    found = report.write(
        ReportConfig(num_examples=4), evaluation=tmp_path / "evaluation", settings={}, stages=[], out=tmp_path / "plain"
    )
    assert found["report/num_won"] > found["report/num_lost"] > 0
    markdown, html = ((tmp_path / "plain" / name).read_text() for name in ("report.md", "report.html"))
    assert re.search(
        r"after reached F1 \S+, before \S+ \(\+.*95 % interval \+.*\) on 300 held-out questions\.", markdown
    )
    assert '<h1 class="raised">' in html
    for text in (markdown, html):
        assert "Differences to after on the same questions" in text
        assert text.count("after − before") >= 2  # over all questions and per type
        assert "Learning curves" not in text
        assert "Questions won and lost" in text
        assert "MAPPO" not in text and "warm start" not in text
    assert "- **before**: " in markdown and "<h4>after answers</h4>" in html


def test_broken_history_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"warm_start": 0.3, "mappo": 0.7})
    (tmp_path / "mappo/history.jsonl").write_text('{"step": 1, "mappo/kl": NaN}\n{"step": 2,\n')
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2"):
        report.write(
            ReportConfig(),
            evaluation=tmp_path / "evaluation",
            mappo=tmp_path / "mappo",
            settings={},
            stages=STAGES,
            out=tmp_path / "out",
        )


# elements that stick out of the window, those in a box that scrolls by itself aside
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, .hidden, svg")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))
"""
LUMINANCE = """
(() => { const [r, g, b] = getComputedStyle(document.body).%s.match(/[0-9.]+/g).map(Number);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; })()
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_in_a_browser(tmp_path: Path) -> None:
    shares = dict(zip(KINDS, (0.1, 0.2, 0.3, 0.5, 0.4, 0.35, 0.7), strict=True))
    page_file = make(tmp_path, shares, full=True) / "report.html"
    with browser() as page:
        for width in (390, 1200):
            for dark in (False, True):
                page.open(page_file, width=width, dark=dark)
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
                assert page.evaluate(STICKING_OUT) == []
                back, ink = (page.evaluate(LUMINANCE % name) for name in ("backgroundColor", "color"))
                assert (back < 60 and ink > 190) if dark else (back > 240 and ink < 60)
                page.screenshot(tmp_path / f"report-{width}-{'dark' if dark else 'light'}.png")
        assert page.evaluate("document.title") == "JointRAG report"  # no script of the data's ran
        assert page.evaluate("document.querySelectorAll('main b, main img, script').length") == 0
        assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption.textContent)")
        assert page.evaluate("[...document.querySelectorAll('figure [role=img]')].every(f => f.ariaLabel.length > 20)")
        assert page.evaluate("document.querySelectorAll('figure svg').length") == 7
        curve = "getComputedStyle(document.querySelector('.curves svg path[style*=series-1]')).stroke"
        assert page.evaluate(curve) == "rgb(116, 169, 255)"  # the dark palette reaches the drawings
        assert {request.split(":")[0] for request in page.requests} <= {"file", "data"}
        assert [request for request in page.requests if not request.startswith("data:")] == [page_file.as_uri()] * 4
        assert page.errors == []
