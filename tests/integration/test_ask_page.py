"""The page in a real browser: asked with the keyboard alone, watched while the parts arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, Page, browser

from tests.answering import Said, answering
from tests.asking import QUESTION, SAID, Scripted, serving, system
from tests.serving import wait_until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
AFTER = SAID | {"selector": "Document2", "generator": "Zavrazhye"}
BEFORE = {
    "rewriter": QUESTION,
    "selector": "",
    "generator": "<img src=x onerror=\"document.title='hit'\"> Moscow",
}
TEXT = "document.querySelectorAll('article')[%d].innerText"
STICKING_OUT = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".hidden")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))
"""
LUMINANCE = """
(() => { const [r, g, b] = getComputedStyle(document.%s).%s.match(/[0-9.]+/g).map(Number);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; })()
"""


def press(page: Page, key: str, *, shift: bool = False) -> None:
    codes = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}
    code, text = codes[key]
    event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
    page.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
    page.call("Input.dispatchKeyEvent", type="keyUp", **event)


def write(page: Page, text: str) -> None:
    page.call("Input.insertText", text=text)


def until(page: Page, condition: str) -> None:
    wait_until(lambda: bool(page.evaluate(condition)))


def focus(page: Page) -> str:
    return page.evaluate("document.activeElement.value || document.activeElement.id || document.activeElement.tagName")


def test_with_the_keyboard_alone_and_part_by_part(tmp_path: Path) -> None:
    llm = Scripted(AFTER)
    llm.held |= {"selector", "generator"}
    with serving(system("mappo", llm), system("warm_start", Scripted(BEFORE))) as url, browser() as page:
        page.open(url, width=1200)
        until(page, "document.querySelectorAll('input').length == 2")
        assert page.evaluate("document.activeElement.id") == "question"
        write(page, QUESTION)
        press(page, "Enter")

        until(page, "document.querySelectorAll('article').length == 2")
        until(page, TEXT % 0 + ".includes('Where was Andrei Tarkovsky born?')")  # the sub-questions are there
        assert page.evaluate("document.querySelectorAll('article')[0].querySelectorAll('.read, .left').length") == 0
        assert "Zavrazhye." in page.evaluate(TEXT % 0)  # the passages, too
        assert "The rewriter has spoken" in page.evaluate(TEXT % 0)
        until(page, TEXT % 1 + ".includes('Moscow')")  # the other one does not wait for it
        page.screenshot(tmp_path / "after-the-rewriter.png")

        llm.release("selector")
        until(page, "document.querySelectorAll('article')[0].querySelectorAll('.read').length == 1")
        assert page.evaluate("document.querySelector('article .read').textContent").startswith("read: [3] Andrei")
        assert page.evaluate("document.querySelector('article').querySelectorAll('.answer').length") == 0
        assert page.evaluate("document.getElementById('ask').disabled && !document.getElementById('stop').hidden")

        llm.release("generator")
        until(page, "document.querySelector('article .answer')?.textContent == 'Zavrazhye'")
        until(page, "!document.getElementById('ask').disabled")
        spoken = "document.querySelector('article [role=status][aria-live=polite]').textContent"
        assert page.evaluate(spoken).startswith("Answer: Zavrazhye, after ")
        left, right = (
            page.evaluate(f"document.querySelectorAll('article')[{i}].getBoundingClientRect().left") for i in (0, 1)
        )
        assert right > left + 300  # side by side
        assert page.evaluate("document.title") == "Ask JointRAG"  # an answer is only text
        assert page.evaluate("document.querySelectorAll('article img').length") == 0
        assert page.evaluate("document.querySelectorAll('article')[1].querySelectorAll('.left').length") == 4

        press(page, "Tab")  # on to the checkpoints: the second one is to be left out
        assert focus(page) == "mappo"
        press(page, "Tab")
        assert focus(page) == "warm_start"
        press(page, " ")
        press(page, "Tab")
        assert focus(page) == "ask"
        press(page, "Enter")
        until(page, "document.querySelectorAll('article').length == 1 && !document.getElementById('ask').disabled")
        assert page.errors == []
        assert {request.split("/")[2] for request in page.requests if not request.startswith("data:")} == {url[7:]}


def test_on_a_phone_and_in_the_dark(tmp_path: Path) -> None:
    with serving(system("mappo", Scripted(AFTER)), system("warm_start", Scripted(BEFORE))) as url, browser() as page:
        for width in (390, 1200):
            for dark in (False, True):
                page.open(url, width=width, dark=dark)
                until(page, "document.querySelectorAll('#examples button').length == 2")
                page.screenshot(tmp_path / f"empty-{width}-{'dark' if dark else 'light'}.png")
                page.evaluate("document.querySelector('#examples button').click()")
                until(page, "document.querySelectorAll('article .answer').length == 2")
                until(page, "!document.getElementById('ask').disabled")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
                assert page.evaluate(STICKING_OUT) == []
                back, ink = (page.evaluate(LUMINANCE % ("body", name)) for name in ("backgroundColor", "color"))
                assert (back < 60 and ink > 190) if dark else (back > 240 and ink < 60)
                box = page.evaluate(LUMINANCE % ("querySelector('textarea')", "backgroundColor"))
                assert abs(box - back) < 40
                assert "That is all." not in page.evaluate(TEXT % 0)  # a long passage is folded
                page.evaluate("document.querySelector('article summary').focus()")
                press(page, "Enter")
                until(page, TEXT % 0 + ".includes('That is all.')")
                assert page.evaluate(STICKING_OUT) == []
                page.screenshot(tmp_path / f"answers-{width}-{'dark' if dark else 'light'}.png")
        assert page.evaluate("[...document.querySelectorAll('input, textarea')].every(e => e.labels.length == 1)")
        assert page.errors == []


FROM_ELSEWHERE = """
fetch("%s/v1/chat/completions", {method: "POST", body: JSON.stringify({messages: [{role: "user", content: "Who?"}]}),
  headers: {"Content-Type": "application/json", "Authorization": "Bearer none"}})
  .then(reply => reply.json())
  .then(said => document.title = said.choices[0].message.content, () => document.title = "no")
"""


def test_a_page_elsewhere_may_ask_only_if_it_is_allowed() -> None:
    with answering(lambda asked: Said("<title>chat</title>", headers={"Content-Type": "text/html"})) as chat:
        for origins, said in (
            ([], "no"),
            (["http://other.example"], "no"),
            ([chat], "Zavrazhye"),
            (["*"], "Zavrazhye"),
        ):
            with serving(system(), origins=origins) as url, browser() as page:
                page.open(chat, width=1200)
                page.evaluate("document.title = ''")
                page.evaluate(FROM_ELSEWHERE % url + "; 0")
                until(page, "document.title")
                assert page.evaluate("document.title").split(" ")[0] == said, origins


def test_mistakes_and_failures_are_said(tmp_path: Path) -> None:
    llm = Scripted()
    problem = "document.getElementById('problem').textContent"
    status = "document.querySelector('article .status').textContent"
    with browser() as page:
        with serving(system("mappo", llm), max_waiting=0) as url:
            page.open(url, width=390)
            until(page, "document.getElementById('run').textContent == 'Run demo-run'")
            assert page.evaluate("document.getElementById('checkpoints').hidden")  # there is no choice
            write(page, " ")
            press(page, "Enter")
            until(page, f"{problem} == 'Write a question.'")

            llm.error = RuntimeError("out of memory")
            write(page, QUESTION)
            press(page, "Enter")
            until(page, f"document.querySelector('article .failed') && {status}.includes('out of memory')")
            assert page.evaluate(problem) == ""

            llm.error = None
            llm.held.add("generator")
            press(page, "Enter")
            until(page, "document.querySelectorAll('article .read').length == 2")
            page.evaluate("document.getElementById('stop').focus()")
            press(page, "Enter")
            until(page, f"{status} == 'Stopped.'")
            assert focus(page) == "ask"
            llm.release("generator")
            wait_until(lambda: llm.num_speaking == 0)
        press(page, "Enter")  # the server is gone
        until(page, f"document.querySelector('article .failed') && {status} == 'The server cannot be reached.'")
