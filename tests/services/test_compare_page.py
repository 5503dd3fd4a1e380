"""The page of `juicer compare` in a real browser: it is blind, its keys vote, and nothing that a model wrote acts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.runtime.local_page import LocalPage
from juicer.voting import opening, votes
from juicer.voting.ballot import Ballot, Question, Response, on_the_left
from juicer.voting.session import Session
from tests.chromium import Browser, browser

MARKUP = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


def question(number: int) -> Question:
    """A prompt with two responses, one of them with markup in it."""
    row = Demonstration.make([{"role": "user", "content": f"question {number} {MARKUP}"}], "an answer")
    return Question(row.id, row.prompt, row.response, Response(f"one {MARKUP}", True), Response("two", False))


BALLOT = Ballot("irft-r1", "sft-matched", tuple(question(number) for number in range(3)))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session of three questions."""
    return Session(BALLOT, "Ada", tmp_path / "votes/a--b.jsonl")


@pytest.fixture
def page(session: Session, tmp_path: Path) -> Iterator[Browser]:
    """The page in the browser, with its first question."""
    served = LocalPage(opening.PAGE.read_text(encoding="utf-8"), session.actions())
    thread = served.start()
    with browser(tmp_path / "profile") as shown:
        shown.go(served.url)
        shown.until("document.querySelector('#question:not([hidden])') !== null")
        yield shown
    served.close()
    thread.join(timeout=10)


def answered(page: Browser, count: int) -> None:
    """Wait until so many questions have been answered."""
    page.until(f"document.getElementById('place').textContent.startsWith('{count} of 3')")


def test_the_keys_vote_and_the_tally_grows(page: Browser, session: Session) -> None:
    assert page.value("document.getElementById('tally').textContent").startswith("Win rateno votes yet")
    for count, key in enumerate("12=", 1):
        page.press(key)
        answered(page, count)
    assert page.until("!document.getElementById('done').hidden")
    given = votes.read(session.path)
    by_id = {each.id: each for each in BALLOT.questions}
    left = [on_the_left(by_id[vote.id], "Ada") for vote in given]
    other = {"first": "second", "second": "first"}
    assert [vote.choice for vote in given] == [left[0], other[left[1]], "tie"]
    assert "3 on 3 prompts by 1 person" in page.value("document.getElementById('tally').textContent")
    assert page.errors == []


def test_s_skips_b_goes_back_and_a_reload_goes_on(page: Browser, session: Session) -> None:
    first = page.value("document.getElementById('prompt').textContent")
    page.press("s")
    answered(page, 1)
    page.press("b")
    page.until(f"document.getElementById('prompt').textContent === {first!r}")
    page.press("1")
    page.until("document.getElementById('tally').textContent.includes('1 on 1 prompts')")
    page.value("location.reload()")
    page.until("document.querySelector('#question:not([hidden])') !== null")
    answered(page, 1)
    assert votes.read(session.path)[0].choice == "skip"


def test_the_page_is_blind_and_shows_markup_as_text(page: Browser) -> None:
    shown = page.value("document.getElementById('question').textContent")
    assert "irft-r1" not in shown and "sft-matched" not in shown
    assert MARKUP in shown and "Cut at the length limit" in shown
    assert page.value("document.title") == "Which response is better?"
    assert page.value("document.images.length") == 0 and page.errors == []


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window(page: Browser, width: int, dark: bool, tmp_path: Path) -> None:
    page.resize(width)
    page.prefer("dark" if dark else "light")
    page.picture(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
    assert page.value("document.documentElement.scrollWidth") <= width
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(251, 250, 247)")
