"""The page of `juicer chat` in a real browser: typing, streaming, two models, a narrow window, light and dark."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError
from juicer.runtime.local_page import LocalPage
from juicer.serving.conversation import Said, Speaker
from juicer.serving.page import make
from juicer.settings.training import SamplingSettings
from tests.chromium import Browser, browser

BAD = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


class Scripted:
    """A model that repeats what it is asked, waits where it is told to, and fails on request."""

    longest_response, sampling = 40, SamplingSettings()

    def __init__(self, name: str) -> None:
        self.name, self.title = name, f"{name} (models/{name})"
        self.goes_on = threading.Event()
        self.asked: list[list[Message]] = []

    def note(self, turns: Sequence[Message]) -> str:
        return "many tokens" if len(turns) > 1 else ""

    def respond(self, turns: Sequence[Message], seed: int) -> Iterator[Said]:
        self.asked.append(list(turns))
        words = turns[-1]["content"]
        if words == "fail":
            raise InputError("the conversation is too long")
        yield Said(f"{self.name} {seed}", 2)
        if words == "wait":
            self.goes_on.wait(60)
        yield Said(f"{self.name} {seed}: {words}", 3, done=True, cut=words == "long")


@pytest.fixture
def models() -> list[Scripted]:
    return [Scripted("irft-r2"), Scripted("sft")]


@pytest.fixture
def page(models: list[Scripted]) -> Iterator[LocalPage]:
    served = make(cast(list[Speaker], models), seed=3)
    thread = served.start()
    yield served
    for model in models:
        model.goes_on.set()
    served.close()
    thread.join()


@pytest.fixture
def window(page: LocalPage, tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as found:
        found.resize(1200)
        found.go(page.url)
        found.until("document.querySelectorAll('section').length == 2")
        yield found


def said(window: Browser, side: int) -> list[str]:
    found = f"[...document.querySelectorAll('section')[{side}].querySelectorAll('li.model')].map(e => e.innerText)"
    return list(window.value(found))


def ask(window: Browser, words: str) -> None:
    window.value("document.getElementById('words').focus()")
    window.type(words + "\n")


def test_two_models_answer_on_the_page_and_it_holds_in_every_window(
    window: Browser, models: list[Scripted], page: LocalPage
) -> None:
    ask(window, "wait")
    window.until("[...document.querySelectorAll('li.model')].every(e => e.innerText.includes(' 3'))")
    assert (said(window, 0), said(window, 1)) == (["irft-r2 3"], ["sft 3"]), "what has come is shown"
    for model in models:
        model.goes_on.set()
    window.until("!document.getElementById('send').disabled")
    assert (said(window, 0), said(window, 1)) == (["irft-r2 3: wait"], ["sft 3: wait"])

    ask(window, BAD)
    window.until("!document.getElementById('send').disabled")
    assert said(window, 0)[1] == f"irft-r2 3: {BAD}\nmany tokens", "text from a model is text"
    assert window.value("document.title") == "Juicer chat"
    assert window.value("document.querySelectorAll('li img, li script').length") == 0
    assert [turn["content"] for turn in models[1].asked[1]] == ["wait", "sft 3: wait", BAD]

    ask(window, "fail")
    window.until("document.getElementById('problem').innerText.includes('the conversation is too long')")
    assert len(said(window, 0)) == 2
    assert window.value("document.getElementById('words').value") == "fail", "the words come back, to be changed"
    window.value("document.getElementById('words').value = ''")
    ask(window, "long")
    window.until("!document.getElementById('send').disabled && !document.getElementById('problem').innerText")
    assert "cut after 3 tokens" in said(window, 0)[-1]
    assert len(models[0].asked[-1]) == 5, "what failed is forgotten"

    narrow = "document.documentElement.scrollWidth <= innerWidth"
    tops = "[...document.querySelectorAll('section')].map(e => e.getBoundingClientRect().top)"
    assert window.value(narrow) and len(set(window.value(tops))) == 1, "side by side"
    window.resize(400)
    assert window.value(narrow) and len(set(window.value(tops))) == 2, "one below the other"
    bottom = "document.getElementById('reset').getBoundingClientRect().bottom <= innerHeight"
    assert window.value(bottom), "the form stays in the window"
    grounds = set()
    for scheme in ("light", "dark"):
        window.prefer(scheme)
        grounds.add(window.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(255, 255, 255)", "rgb(22, 24, 27)"}

    window.value("document.getElementById('reset').click()")
    assert said(window, 0) == []
    ask(window, "again")
    window.until("document.querySelectorAll('li.model').length == 2 && !document.getElementById('send').disabled")
    assert len(models[0].asked[-1]) == 1


def test_a_response_can_be_stopped_and_the_next_one_comes(window: Browser, models: list[Scripted]) -> None:
    ask(window, "wait")
    window.until("!document.getElementById('stop').disabled")
    window.value("document.getElementById('stop').click()")
    window.until("document.getElementById('problem').innerText.includes('stopped')")
    for model in models:
        model.goes_on.set()
    window.value("document.getElementById('words').value = ''")
    ask(window, "hello")
    window.until("document.querySelectorAll('li.model').length == 2 && !document.getElementById('send').disabled")
    assert said(window, 1) == ["sft 3: hello"]
