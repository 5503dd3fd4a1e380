"""Votes of people on two models: the ballot, the order and the sides, the file, the tally, a session of the page."""

from pathlib import Path
from typing import Any

import pytest

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.significance import share_error
from juicer.judging.question import response_digest
from juicer.judging.results import JudgedPair, PairwiseRecord
from juicer.runtime.errors import InputError
from juicer.voting import votes
from juicer.voting.ballot import Ballot, ballot, on_the_left, order
from juicer.voting.evidence import judged, voted
from juicer.voting.opening import described
from juicer.voting.session import Session
from juicer.voting.tally import Judged, tally
from juicer.voting.votes import Vote
from tests.example_evaluations import evaluation

ROWS = [
    Demonstration.make([{"role": "user", "content": f"question {number}"}], f"answer {number}") for number in range(30)
]


def model(name: str, responses: list[str], ids: list[str] | None = None) -> EvaluatedModel:
    """An evaluation with these responses to the prompts of ROWS."""
    known = ids if ids is not None else [row.id for row in ROWS[: len(responses)]]
    count = len(known)
    rows = {
        "id": known,
        "demonstration_tokens": [3] * count,
        "gap": [None] * count,
        "gap_per_token": [None] * count,
        "kl": [0.0] * count,
        "response_tokens": [3] * count,
        "ended": [number != 1 for number in range(count)],
        "empty": [False] * count,
        "repeated": [False] * count,
        "response": responses,
    }
    return EvaluatedModel.parse({**evaluation(name, "sft", 0, quality=0.5), "held_out_rows": rows}, name)


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """The file of held-out prompts."""
    path = tmp_path / "held_out.jsonl"
    demonstrations.write(path, ROWS)
    return path


@pytest.fixture
def found(held_out: Path) -> Ballot:
    """Two models with 30 prompts, one of which both answer in the same way."""
    first = ["the same", *(f"one {number}" for number in range(1, 30))]
    second = ["the same", *(f"other {number}" for number in range(1, 30))]
    return ballot(model("sft", second), model("irft-r1", first), held_out)


def session(found: Ballot, path: Path, voter: str = "Ada", judged: Judged | None = None) -> Session:
    """A session whose votes all have one time."""
    return Session(found, voter, path, judged, now=lambda: "2026-01-02T03:04:05Z")


def test_a_ballot_has_the_prompts_that_both_have_answered_and_asks_about_those_that_differ(found: Ballot) -> None:
    assert (found.first, found.second, len(found.questions), len(found.asked), found.same) == (
        "irft-r1", "sft", 30, 29, 1,
    )  # fmt: skip
    assert found.asked[0].first.text == "one 1" and not found.asked[0].first.ended
    assert found.asked[0].prompt == ROWS[1].prompt and found.asked[0].demonstration == "answer 1"


def test_prompts_that_one_of_them_has_not_answered_are_left_out(held_out: Path) -> None:
    ids = [row.id for row in ROWS]
    found = ballot(model("a", ["x", "y"], ids[:2]), model("b", ["u", "v"], ids[1:3]), held_out)
    assert [each.id for each in found.questions] == [ids[1]]


def test_two_models_without_a_common_prompt_or_without_responses_are_refused(held_out: Path) -> None:
    ids = [row.id for row in ROWS]
    with pytest.raises(InputError, match="no held-out prompt in common"):
        ballot(model("a", ["x"], ids[:1]), model("b", ["u"], ids[1:2]), held_out)
    with pytest.raises(InputError, match="the evaluation of b has no responses"):
        ballot(model("a", ["x"], ids[:1]), model("b", [], ids[:1]), held_out)
    with pytest.raises(InputError, match="compared with itself"):
        ballot(model("a", ["x"]), model("a", ["x"]), held_out)


def test_every_voter_has_an_order_of_their_own_that_stays(found: Ballot) -> None:
    ada, bob = ([each.id for each in order(found.asked, name)] for name in ("Ada", "Bob"))
    assert ada == [each.id for each in order(list(reversed(found.asked)), "Ada")]
    assert sorted(ada) == sorted(bob) and ada != bob


def test_each_model_is_on_the_left_about_as_often(found: Ballot) -> None:
    many = [on_the_left(each, f"voter {number}") for each in found.asked for number in range(20)]
    assert 0.4 < many.count("first") / len(many) < 0.6


def test_a_vote_for_a_side_is_one_for_the_model_that_stands_there(found: Ballot, tmp_path: Path) -> None:
    path = tmp_path / "votes/irft-r1--sft.jsonl"
    mine = session(found, path)
    for number in range(len(found.asked)):
        state: Any = mine.next({})
        question = state["question"]
        # The better one is always irft-r1's, wherever it stands.
        side = "left" if question["left"]["text"].startswith("one") else "right"
        after: Any = mine.vote({"id": question["id"], "pressed": side, "seconds": 1.26})
        assert after["done"] == number + 1
    assert after["question"] is None
    given = votes.read(path)
    assert {vote.choice for vote in given} == {"first"} and {vote.left for vote in given} == {"first", "second"}
    assert given[0].time == "2026-01-02T03:04:05Z" and given[0].seconds == 1.3
    assert after["tally"]["win_rate"] == 1.0 and after["tally"]["votes"] == 29


def test_a_question_does_not_say_whose_response_is_whose(found: Ballot, tmp_path: Path) -> None:
    state: Any = session(found, tmp_path / "v.jsonl").next({})
    assert set(state["question"]) == {"id", "prompt", "demonstration", "left", "right"}
    assert set(state["question"]["left"]) == {"text", "ended"}


def test_a_session_goes_on_where_the_voter_stopped(found: Ballot, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    first: Any = session(found, path).next({})
    session(found, path).vote({"id": first["question"]["id"], "pressed": "skip"})
    again: Any = session(found, path).next({})
    assert again["done"] == 1 and again["question"]["id"] != first["question"]["id"]
    other: Any = session(found, path, "Bob").next({})
    assert other["done"] == 0


def test_going_back_shows_the_last_question_and_the_latest_answer_counts(found: Ballot, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    mine = session(found, path)
    first: Any = mine.next({})
    mine.vote({"id": first["question"]["id"], "pressed": "left"})
    back: Any = mine.back({})
    assert back["question"]["id"] == first["question"]["id"]
    mine.vote({"id": first["question"]["id"], "pressed": "tie"})
    assert [vote.choice for vote in votes.read(path)][1:] == ["tie"] and len(votes.read(path)) == 2
    assert tally(found, votes.read(path)).win_rate == 0.5


def test_what_the_page_cannot_mean_is_refused_and_not_recorded(found: Ballot, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    mine = session(found, path)
    with pytest.raises(InputError, match="no such question"):
        mine.vote({"id": "x", "pressed": "left"})
    with pytest.raises(InputError, match="a vote is one of left, right, tie, skip"):
        mine.vote({"id": found.asked[0].id, "pressed": "first"})
    assert not path.exists()


def given(found: Ballot, place: int, choice: Any, voter: str = "Ada", **changed: Any) -> Vote:
    """A vote on the question at this place."""
    question = found.asked[place]
    values = {
        "id": question.id,
        "choice": choice,
        "voter": voter,
        "time": "2026-01-02T03:04:05Z",
        "left": "first",
        "first": question.first.digest,
        "second": question.second.digest,
        **changed,
    }
    return Vote.parse(values, "a test")


def test_the_win_rate_is_the_mean_over_prompts_with_ties_as_halves(found: Ballot) -> None:
    some = [
        given(found, 0, "first"),
        given(found, 0, "second", "Bob"),
        given(found, 1, "first"),
        given(found, 2, "tie"),
        given(found, 3, "skip"),
    ]
    counted = tally(found, some)
    assert counted.win_rate == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert (counted.votes, counted.prompts, counted.voters) == (4, 3, 2)
    assert counted.low is not None and counted.high is not None
    assert 0 <= counted.low < counted.win_rate < counted.high <= 1


def test_without_votes_there_is_no_win_rate_and_with_one_no_interval(found: Ballot) -> None:
    assert tally(found, []).win_rate is None
    one = tally(found, [given(found, 0, "first")])
    assert (one.win_rate, one.low, one.error) == (1.0, None, None)


def test_the_error_of_a_unanimous_vote_is_not_0(found: Ballot) -> None:
    counted = tally(found, [given(found, number, "first") for number in range(20)])
    assert counted.win_rate == counted.high == 1.0
    assert counted.error == pytest.approx(share_error(1.0, 20)) and counted.low is not None and 0.7 < counted.low < 0.95


def test_votes_count_for_the_model_whose_row_it_is_whichever_name_comes_first(held_out: Path, tmp_path: Path) -> None:
    first, second = (
        model("rft-r1", [f"mine {n}" for n in range(30)]),
        model("control", [f"other {n}" for n in range(30)]),
    )
    found = ballot(first, second, held_out)
    assert voted(first, second, held_out, tmp_path) is None, "nobody has voted"
    for number in range(10):
        votes.append(
            votes.file_of("control", "rft-r1", tmp_path), given(found, number, "second" if number < 8 else "tie")
        )
    mine, theirs = voted(first, second, held_out, tmp_path), voted(second, first, held_out, tmp_path)
    assert mine is not None and theirs is not None
    assert (mine.against, mine.win_rate, mine.prompts, mine.voters) == ("control", 0.9, 10, 1)
    assert theirs.win_rate == pytest.approx(0.1) and theirs.win_rate_sem == mine.win_rate_sem


def test_votes_agree_with_the_pairwise_judge_where_it_compared_the_two(held_out: Path) -> None:
    first, second = model("rft-r1", ["mine"] * 30), model("control", ["other"] * 30)
    found = ballot(first, second, held_out)
    ids = [each.id for each in found.questions]
    digests = {"response": response_digest("mine"), "other": response_digest("other")}
    pairs = [
        JudgedPair(id=ids[0], first="win", second="win", **digests),
        JudgedPair(id=ids[1], first="loss", second="loss", **digests),
        JudgedPair(id=ids[2], first="win", second="loss", **digests),
        JudgedPair(id=ids[3], first="win", second="win", **{**digests, "other": response_digest("an earlier one")}),
    ]
    record = PairwiseRecord.model_construct(model="rft-r1", against="control", pairs=pairs)
    opinions = judged(found, first, second, record)
    some = [given(found, number, "second") for number in range(4)]
    agreement = tally(found, some, opinions).with_judge
    assert agreement is not None and (agreement.prompts, agreement.share) == (2, 0.5)
    elsewhere = record.model_copy(update={"against": "sft"})
    assert judged(found, first, second, elsewhere) is None


def test_votes_on_responses_that_have_changed_are_kept_and_not_counted(found: Ballot, held_out: Path) -> None:
    some = [given(found, 0, "first"), given(found, 1, "second", first="0" * 16), given(found, 2, "first", id="gone")]
    counted = tally(found, some)
    assert (counted.votes, counted.outdated, counted.win_rate) == (1, 2, 1.0)
    assert "2 votes are on responses that have changed" in described(counted)


def test_skipped_and_replaced_votes_are_not_outdated_ones(found: Ballot) -> None:
    before = {"first": "0" * 16}
    some = [given(found, 0, "first", **before), given(found, 0, "tie", **before), given(found, 1, "skip", **before)]
    assert tally(found, some).outdated == 1


def test_agreement_is_between_voters_on_the_same_prompt_and_with_the_judge_where_it_decides(found: Ballot) -> None:
    ids = [each.id for each in found.asked]
    judged = Judged({ids[0]: 2.0, ids[1]: 2.0, ids[2]: 1.0}, {ids[0]: 1.0, ids[1]: 1.0, ids[2]: 1.0})
    some = [
        given(found, 0, "first"),
        given(found, 0, "first", "Bob"),
        given(found, 1, "second"),
        given(found, 1, "tie", "Bob"),
        given(found, 2, "first"),
    ]
    counted = tally(found, some, judged)
    assert counted.between_voters is not None and counted.with_judge is not None
    assert (counted.between_voters.prompts, counted.between_voters.share) == (2, 0.5)
    # Not the tie, and not the prompt on which the judge cannot tell.
    assert (counted.with_judge.prompts, counted.with_judge.share) == (3, pytest.approx(2 / 3))
    assert "the judge agrees with 67% of 3 votes" in described(counted)


def test_the_file_only_grows_and_a_damaged_line_is_named(found: Ballot, tmp_path: Path) -> None:
    path = votes.file_of(found.first, found.second, tmp_path / "votes")
    assert path.name == "irft-r1--sft.jsonl" and votes.read(path) == []
    votes.append(path, given(found, 0, "first"))
    before = path.read_bytes()
    votes.append(path, given(found, 1, "tie"))
    assert path.read_bytes().startswith(before) and len(votes.read(path)) == 2
    path.write_bytes(before + b'{"id": "x"}\n')
    with pytest.raises(InputError, match=r"irft-r1--sft\.jsonl:2: the key 'choice' is missing"):
        votes.read(path)
    path.write_bytes(before + b"{\n")
    with pytest.raises(InputError, match=r":2: invalid JSON"):
        votes.read(path)


def test_a_full_disk_leaves_no_part_of_a_vote(found: Ballot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.jsonl"
    votes.append(path, given(found, 0, "first"))
    before = path.read_bytes()
    write = votes.os.write
    monkeypatch.setattr(votes.os, "write", lambda handle, line: write(handle, line[:7]))
    with pytest.raises(OSError, match="No space left"):
        votes.append(path, given(found, 1, "tie"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", " ", "a" * 61, "a\nb\x00", "<b>"])
def test_a_name_that_cannot_stand_in_the_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a voter"):
        votes.check_voter(name)


def test_a_voter_s_name_is_kept_without_extra_spaces() -> None:
    assert votes.check_voter("  Ada  Lovelace ") == "Ada Lovelace"
