"""One person's session on the page: the next question, a vote, the tally so far."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

from pydantic import JsonValue

from juicer.runtime.errors import InputError
from juicer.runtime.local_page import Action, Request
from juicer.voting import votes
from juicer.voting.ballot import Ballot, Question, Response, on_the_left, order
from juicer.voting.tally import Judged, Tally, tally
from juicer.voting.votes import Choice, Vote

Pressed = Literal["left", "right", "tie", "skip"]


@dataclass
class Session:
    """The questions of one voter, and where the votes go."""

    ballot: Ballot
    voter: str
    path: Path
    """The file of votes."""
    judged: Judged | None = None
    seed: int = 0
    now: Callable[[], str] = votes.now

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._by_id = {each.id: each for each in self.ballot.asked}
        self._order = order(self.ballot.asked, self.voter, self.seed)

    def actions(self) -> dict[str, Action]:
        """What the page can ask for."""
        return {"next": self.next, "vote": self.vote, "back": self.back}

    def next(self, request: Request) -> JsonValue:
        """The first question without an answer of this voter; null when there is none."""
        with self._lock:
            return self._state(votes.read(self.path))

    def vote(self, request: Request) -> JsonValue:
        """Record a vote, and return the next question.

        The request has the question's `id`, what was pressed (left, right, tie or skip), and `seconds`.
        """
        question, choice = self._question(request), self._choice(request)
        seconds = request.get("seconds")
        given = Vote(
            id=question.id,
            choice=choice,
            voter=self.voter,
            time=self.now(),
            left=on_the_left(question, self.voter, self.seed),
            first=question.first.digest,
            second=question.second.digest,
            seconds=round(float(seconds), 1) if isinstance(seconds, int | float) and 0 <= seconds < 86_400 else None,
        )
        with self._lock:
            votes.append(self.path, given)
            return self._state(votes.read(self.path))

    def back(self, request: Request) -> JsonValue:
        """The question that this voter answered last, to answer it anew; the latest answer counts."""
        with self._lock:
            given = votes.read(self.path)
            mine = [vote for vote in given if vote.voter == self.voter and vote.id in self._by_id]
            return self._state(given, self._by_id[mine[-1].id] if mine else None)

    def _question(self, request: Request) -> Question:
        question = self._by_id.get(str(request.get("id")))
        if question is None:
            raise InputError("there is no such question", do="reload the page")
        return question

    def _choice(self, request: Request) -> Choice:
        pressed = request.get("pressed")
        if pressed not in get_args(Pressed):
            raise InputError(f"a vote is one of {', '.join(get_args(Pressed))}")
        if pressed in ("tie", "skip"):
            return "tie" if pressed == "tie" else "skip"
        left = on_the_left(self._question(request), self.voter, self.seed)
        if pressed == "left":
            return left
        return "second" if left == "first" else "first"

    def _state(self, given: list[Vote], again: Question | None = None) -> JsonValue:
        mine = {vote.id for vote in given if vote.voter == self.voter and self._is_current(vote)}
        left = [each for each in self._order if each.id not in mine]
        question = again or (left[0] if left else None)
        return {
            "voter": self.voter,
            "done": len(mine),
            "all": len(self._order),
            "tally": _shown(tally(self.ballot, given, self.judged)),
            "question": None if question is None else self._asked(question),
        }

    def _is_current(self, vote: Vote) -> bool:
        question = self._by_id.get(vote.id)
        return question is not None and vote.is_about(question)

    def _asked(self, question: Question) -> JsonValue:
        """A question as the page shows it: it does not say whose response is whose."""
        first, second = (_response(each) for each in (question.first, question.second))
        left, right = (first, second) if on_the_left(question, self.voter, self.seed) == "first" else (second, first)
        return {
            "id": question.id,
            "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in question.prompt],
            "demonstration": question.demonstration,
            "left": left,
            "right": right,
        }


def _response(response: Response) -> JsonValue:
    return {"text": response.text, "ended": response.ended}


def _shown(found: Tally) -> JsonValue:
    return found.model_dump()
