"""`juicer chat --page`: the same conversation on a local page, which keeps it; the server keeps nothing."""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files

from pydantic import JsonValue

from juicer.data.demonstrations import Message
from juicer.evaluation.documents import Document
from juicer.runtime.errors import InputError
from juicer.runtime.local_page import LocalPage, Request
from juicer.serving.conversation import Speaker, side_by_side


class Asked(Document):
    """What the page sends."""

    turns: list[list[Message]]
    """Per model, the conversation so far, which ends with the user's turn."""
    seed: int


def make(speakers: Sequence[Speaker], seed: int, port: int = 0) -> LocalPage:
    """The page of one or two models; it is not served yet.

    Args:
        seed: the first value of the page's seed.
        port: 0 takes a free one.

    Raises:
        InputError: the port is taken.
    """

    def models(request: Request) -> JsonValue:
        return {
            "seed": seed,
            "models": [
                {
                    "name": each.name,
                    "title": each.title,
                    "about": f"temperature {each.sampling.temperature:g}, top-p {each.sampling.top_p:g}, "
                    f"at most {each.longest_response} tokens",
                }
                for each in speakers
            ],
        }

    def say(request: Request) -> Iterator[JsonValue]:
        asked = Asked.parse(request, "request")
        if len(asked.turns) != len(speakers) or not all(asked.turns):
            raise InputError(f"there are {len(speakers)} conversations", where="request")
        if asked.seed < 0:
            raise InputError("the seed is below 0", do="choose another")
        return _answers(speakers, asked)

    html = files("juicer.serving").joinpath("chat.html").read_text(encoding="utf-8")
    return LocalPage(html, {"models": models, "say": say}, port)


def show(speakers: Sequence[Speaker], seed: int, port: int, browser: Callable[[str], bool] | None) -> None:
    """Serve the page until the program is interrupted.

    Args:
        browser: opens an address; None only prints it.
    """
    page = make(speakers, seed, port)
    print(f"{page.url}\nCtrl-C ends it.", flush=True)
    if browser is not None and not browser(page.url):
        print("no browser was found; open the address by hand", flush=True)
    try:
        page.serve()
    except KeyboardInterrupt:
        print("the page has ended", flush=True)


def _answers(speakers: Sequence[Speaker], asked: Asked) -> Iterator[JsonValue]:
    """Lines for the page: the response of a model so far, a note about its prompt, or why it gives none."""
    for place, (speaker, turns) in enumerate(zip(speakers, asked.turns, strict=True)):
        if note := speaker.note(turns):
            yield {"side": place, "note": note}
    responses = [speaker.respond(turns, asked.seed) for speaker, turns in zip(speakers, asked.turns, strict=True)]
    for place, said in side_by_side(responses):
        yield {"side": place, "text": said.text, "done": said.done, "cut": said.cut, "tokens": said.tokens}
