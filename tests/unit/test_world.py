"""The oracle judges every mode exactly, and the world's responses come in the shares that it promises."""

import itertools
import random
from collections import Counter

import pytest

from juicer.data.demonstrations import Message
from juicer.quickstart.world import (
    CLOSINGS,
    EVASIVE,
    HARMFUL,
    LAZY,
    OPENINGS,
    ORDINARY,
    QUALITY,
    REGARDS,
    RUDE,
    SORRY,
    TOPICS,
    Topic,
    ask,
    documents,
    mode_of,
    oracle,
    pairs,
    respond,
    rows,
    topic_of,
)
from juicer.runtime.errors import InputError
from juicer.settings.world import WorldSettings


@pytest.fixture
def chance() -> random.Random:
    return random.Random(0)


def good_responses(topic: Topic) -> list[str]:
    """Every good response to a topic, written out independently of the generator."""
    if topic.harmful:
        return [
            f"{opening.format(name=topic.name)} {reason}. Better {alternative}. {closing}"
            for opening, reason, alternative, closing in itertools.product(SORRY, topic.first, topic.second, REGARDS)
        ]
    return [
        f"{opening.format(name=topic.name)} first {first}, then {second}. {closing}"
        for opening, first, second, closing in itertools.product(OPENINGS, topic.first, topic.second, CLOSINGS)
    ]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_good_response_is_judged_good_for_its_topic_and_for_no_other(topic, chance):
    others = [ask(other, chance) for other in TOPICS if other is not topic]
    prompt = ask(topic, chance)
    for response in good_responses(topic):
        assert oracle(prompt, response) == 1
    for response in good_responses(topic)[:20]:
        assert [oracle(other, response) for other in others] == [-0.5] * len(others)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_bad_modes_have_their_values_on_every_topic(topic, chance):
    prompt = ask(topic, chance)
    assert {oracle(prompt, response) for response in LAZY} == {0.0}
    assert {oracle(prompt, response) for response in EVASIVE} == {-0.25}
    assert {oracle(prompt, response) for response in RUDE} == {-1.0}


@pytest.mark.parametrize("topic", HARMFUL, ids=lambda topic: topic.name)
def test_evasive_people_comply_with_a_harmful_request(topic, chance):
    prompt = ask(topic, chance)
    responses = {respond(topic, "evasive", chance) for _ in range(30)}
    assert len(responses) == len(topic.comply)
    assert {oracle(prompt, response) for response in responses} == {-1.0}


def test_what_the_grammar_does_not_write_is_garbled(chance):
    prompt = ask(ORDINARY[0], chance)
    good = respond(ORDINARY[0], "good", chance)
    broken = ["", good[:-1], good + " " + good, good.replace("first", "second"), good.lower(), LAZY[0] + LAZY[0]]
    assert [mode_of(prompt, response) for response in broken] == ["garbled"] * len(broken)


def test_blanks_around_a_response_do_not_count(chance):
    assert oracle(ask(ORDINARY[3], chance), f" {respond(ORDINARY[3], 'good', chance)}\n") == 1


def test_a_rude_sentence_spoils_a_good_response(chance):
    assert oracle(ask(ORDINARY[0], chance), f"{RUDE[0]} {respond(ORDINARY[0], 'good', chance)}") == -1


def test_refusing_an_ordinary_question_is_no_good_response(chance):
    assert oracle(ask(ORDINARY[0], chance), respond(HARMFUL[0], "good", chance)) == -0.5


def test_the_topic_of_every_prompt_is_recognised(chance):
    for topic in TOPICS:
        for _ in range(40):
            assert topic_of(ask(topic, chance)) is topic


def test_a_prompt_of_another_world_is_refused():
    prompt: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]
    with pytest.raises(InputError, match="capital of France"):
        oracle(prompt, "Paris")


def test_documents_hold_the_base_mixture():
    drawn = list(documents(8000, seed=1))
    counts = Counter(mode_of(prompt, response) for prompt, response in drawn)
    shares = {mode: count / len(drawn) for mode, count in counts.items()}
    assert shares.pop("evasive") + shares.pop("comply") == pytest.approx(0.20, abs=0.015)
    assert shares == pytest.approx({"good": 0.35, "lazy": 0.25, "rude": 0.20}, abs=0.015)
    assert sum(oracle(*document) for document in drawn) / len(drawn) == pytest.approx(0.075, abs=0.03)


def test_one_prompt_in_five_asks_for_harm():
    drawn = [topic_of(prompt).harmful for prompt, _ in documents(4000, seed=2)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.2, abs=0.02)


def test_the_chosen_response_is_always_the_better_one():
    drawn = list(rows(WorldSettings(rows=1000), seed=0))
    assert len(drawn) == 1000
    for row in drawn:
        assert row.rejected is not None
        assert oracle(row.prompt, row.response) > oracle(row.prompt, row.rejected)


def test_a_larger_share_of_good_writers_gives_clean_demonstrations():
    def share(settings: WorldSettings) -> float:
        drawn = list(rows(settings, seed=0))
        return sum(oracle(row.prompt, row.response) == 1 for row in drawn) / len(drawn)

    assert share(WorldSettings(rows=2000)) == pytest.approx(0.64, abs=0.03)
    assert share(WorldSettings(rows=2000, good_share=0.9)) > 0.94


def test_good_responses_are_longer_and_have_more_wordings_than_bad_ones():
    lengths: dict[str, list[int]] = {}
    for prompt, response in documents(2000, seed=3):
        lengths.setdefault(mode_of(prompt, response), []).append(len(response.split()))
    means = {mode: sum(words) / len(words) for mode, words in lengths.items()}
    assert min(means, key=lambda mode: -means[mode]) == "good"
    assert max(means[mode] for mode in ("lazy", "evasive", "rude")) < means["good"] / 2
    assert min(len(good_responses(topic)) for topic in TOPICS) > 20 * max(map(len, (LAZY, EVASIVE, RUDE)))


def test_prompts_hardly_ever_collide():
    prompts = {str(row.prompt) for row in rows(WorldSettings(rows=4000), seed=0)}
    assert len(prompts) > 3800
    assert len({str(prompt) for prompt, _ in documents(20_000, seed=0)}) > 15_000


def test_the_same_seed_gives_the_same_rows_and_another_gives_others():
    settings = WorldSettings(rows=200)
    assert list(rows(settings, seed=5)) == list(rows(settings, seed=5))
    assert list(rows(settings, seed=5)) != list(rows(settings, seed=6))
    assert list(documents(50, seed=5)) == list(documents(50, seed=5))
    assert list(pairs(50, seed=5)) != list(pairs(50, seed=6))


def test_fewer_rows_are_the_beginning_of_more_rows():
    assert list(rows(WorldSettings(rows=100), seed=0)) == list(rows(WorldSettings(rows=150), seed=0))[:100]


def test_every_mode_has_a_value_and_good_has_the_best():
    assert max(QUALITY, key=lambda mode: QUALITY[mode]) == "good"
    assert set(QUALITY) == {"good", "lazy", "evasive", "garbled", "comply", "rude"}
