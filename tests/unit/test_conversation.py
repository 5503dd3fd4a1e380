"""Talking to a model: what a terminal and the page show of it, and what is sent back with the next turn."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import httpx
import pytest

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError
from juicer.runtime.local_page import TOKEN_HEADER, LocalPage
from juicer.serving.conversation import Said, Speaker, side_by_side, visible
from juicer.serving.page import make
from juicer.serving.terminal import Conversation, talk
from juicer.settings.training import SamplingSettings


class Stub:
    """A model that says what it is told to, and keeps what it was asked."""

    def __init__(self, name: str, says: str, *, cut: bool = False, fails: str = "", note: str = "") -> None:
        self.name, self.title, self.sampling, self.longest_response = name, f"{name} (here)", SamplingSettings(), 40
        self.says, self.cut, self.fails, self.noted = says, cut, fails, note
        self.asked: list[tuple[list[Message], int]] = []

    def note(self, turns: Sequence[Message]) -> str:
        return self.noted

    def respond(self, turns: Sequence[Message], seed: int) -> Iterator[Said]:
        self.asked.append((list(turns), seed))
        for end in range(1, len(self.says) + 1):
            yield Said(self.says[:end], end)
            if self.fails:
                raise InputError(self.fails)
        yield Said(self.says, len(self.says), done=True, cut=self.cut)


def speakers(*stubs: Stub) -> list[Speaker]:
    return cast(list[Speaker], list(stubs))


def lines(*words: str) -> Callable[[str], str]:
    """Someone who types these lines and then ends the input."""
    waiting = list(words)

    def read(prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return read


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünï, 你好\n\ttext", "plain, ünï, 你好\n\ttext"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\x08c\x7f", r"a\rb\x08c\x7f"),
        ("\x9b31mred", r"\x9b31mred"),
        ("left\u202etfel", r"left\u202etfel"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_control_characters_are_written_out_so_that_a_terminal_only_shows_them(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_a_model_says_never_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    talk(speakers(Stub("sft", "safe \x1b]52;c;ZXZpbA==\x07 text")), 0, lines("hello"))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert r"safe \x1b]52;c;ZXZpbA==\x07 text" in shown


def test_a_conversation_goes_on_with_what_each_model_said_itself(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Stub("irft-r2", "one"), Stub("sft", "two")
    talk(speakers(first, second), 5, lines("hello", "and then?"))
    for stub in (first, second):
        turns, seed = stub.asked[1]
        assert [turn["content"] for turn in turns] == ["hello", stub.says, "and then?"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert seed == 5
    assert "irft-r2> one" in capsys.readouterr().out


def test_reset_forgets_the_conversation_and_seed_changes_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub("sft", "yes")
    talk(speakers(stub), 0, lines("hello", "/reset", "/seed 7", "again", "/quit", "never asked"))
    assert stub.asked == [([{"role": "user", "content": "hello"}], 0), ([{"role": "user", "content": "again"}], 7)]


def test_a_mistyped_command_is_no_question_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub("sft", "yes")
    talk(speakers(stub), 0, lines("/rest", "/seed x", "/help"))
    shown = capsys.readouterr().out
    assert "there is no command /rest (did you mean '/reset'?)" in shown
    assert "write a whole number: /seed 1" in shown
    assert "begin a new conversation" in shown
    assert stub.asked == []


def test_an_exchange_that_failed_is_not_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub("sft", "yes", fails="the conversation is too long")
    talk(speakers(stub), 0, lines("hello", "again"))
    assert [len(turns) for turns, _ in stub.asked] == [1, 1]
    assert capsys.readouterr().out.count("error: the conversation is too long") == 2


def test_a_response_that_was_cut_or_is_empty_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    talk(speakers(Stub("sft", "on and", cut=True), Stub("base", "", note="90 tokens")), 0, lines("hello"))
    shown = capsys.readouterr().out
    assert "sft> on and [cut after 6 tokens]" in shown
    assert "base> [no text]" in shown
    assert "(base: 90 tokens)" in shown


def test_a_wide_terminal_shows_two_models_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    conversation = Conversation(speakers(Stub("irft-r2", "left \x1b[2J"), Stub("sft", "right")), 0)
    conversation._console = Console(width=120, force_terminal=True, highlight=False, color_system=None)
    conversation.run(lines("hello"))
    shown = capsys.readouterr().out
    last = [line for line in shown.splitlines() if "left" in line][-1]
    assert r"left \x1b[2J" in last and "right" in last


def test_responses_side_by_side_take_turns() -> None:
    stubs = [Stub("a", "xy"), Stub("b", "z")]
    order = [place for place, _ in side_by_side([each.respond([], 0) for each in stubs])]
    assert order == [0, 1, 0, 1, 0]


@pytest.fixture
def page() -> Iterator[LocalPage]:
    served = make(speakers(Stub("irft-r2", "yes <b>", note="90 tokens"), Stub("sft", "no")), seed=3)
    thread = served.start()
    yield served
    served.close()
    thread.join()


def ask(page: LocalPage, action: str, **values: object) -> httpx.Response:
    headers = {TOKEN_HEADER: page.token}
    return httpx.post(f"http://127.0.0.1:{page.port}/{action}", json=values, headers=headers, trust_env=False)


def test_the_page_learns_the_models_and_the_seed(page: LocalPage) -> None:
    found = ask(page, "models").json()
    assert found["seed"] == 3
    assert [each["name"] for each in found["models"]] == ["irft-r2", "sft"]


def test_the_page_gets_both_responses_as_they_come(page: LocalPage) -> None:
    turns = [[{"role": "user", "content": "hello"}]] * 2
    said = [json.loads(line) for line in ask(page, "say", turns=turns, seed=1).text.splitlines()]
    assert said[0] == {"side": 0, "note": "90 tokens"}
    assert [each["text"] for each in said[1:] if each["side"] == 1] == ["n", "no", "no"]
    assert said[-1]["done"] and said[-1]["text"] == "yes <b>"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"turns": [[{"role": "user", "content": "hello"}]], "seed": 0}, "there are 2 conversations"),
        ({"turns": [[], []], "seed": 0}, "there are 2 conversations"),
        ({"turns": [[{"role": "user", "content": "a"}]] * 2, "seed": -1}, "the seed is below 0"),
        ({"turns": [[{"role": "king", "content": "a"}]] * 2, "seed": 0}, "request"),
        ({"turns": "all", "seed": 0}, "request"),
    ],
)
def test_a_request_that_is_none_of_the_page_s_is_refused(page: LocalPage, values: dict[str, object], why: str) -> None:
    answer = ask(page, "say", **values)
    assert answer.status_code == 400
    assert why in answer.json()["error"]
