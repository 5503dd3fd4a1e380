"""Samples meet the demonstrations they answer; slices of the data are disjoint and complete."""

from dataclasses import replace

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Sample, read_samples, write_samples
from juicer.methods.pairs import contrasts_of, make_pairs, part_of, response_tokens, with_replay
from juicer.runtime.errors import InputError

ROWS = [Demonstration.make([{"role": "user", "content": f"hello {i}"}], "well") for i in range(10)]


def sample_of(row, response=(4, 5), index=0):
    return Sample(row.id, index, [1, 2], list(response), ended=False, log_probability=-1.0)


def test_slices_are_disjoint_and_complete():
    parts = [part_of(ROWS, f"{i}/3", seed=1) for i in (1, 2, 3)]
    assert sorted(row.id for part in parts for row in part) == sorted(row.id for row in ROWS)
    assert {len(part) for part in parts} == {3, 4}


def test_all_is_every_row_in_order():
    assert part_of(ROWS, "all", seed=1) == ROWS


def test_a_split_over_more_rounds_than_rows_is_refused():
    with pytest.raises(InputError, match="cannot be split"):
        part_of(ROWS, "1/11", seed=1)


def test_a_cut_sample_keeps_its_tokens_and_gets_no_end_of_text(template):
    pair = make_pairs(ROWS, [sample_of(ROWS[0], [7, 8, 9])], template)[0]
    assert pair.sample.response == [7, 8, 9]
    assert pair.demonstration.response[-1] == template.end_of_text
    assert pair.demonstration.prompt == pair.sample.prompt == [1, 2]


def test_a_sample_of_an_unknown_demonstration_is_refused(template):
    stranger = Demonstration.make([{"role": "user", "content": "who?"}], "me")
    with pytest.raises(InputError, match=stranger.id):
        make_pairs(ROWS, [sample_of(stranger)], template)


def test_the_same_sample_twice_is_refused(template):
    with pytest.raises(InputError, match="twice"):
        make_pairs(ROWS, [sample_of(ROWS[0]), sample_of(ROWS[0])], template)


def test_no_samples_at_all_are_refused(template):
    with pytest.raises(InputError, match="no demonstration/sample pairs"):
        make_pairs(ROWS, [], template)


def test_slices_are_of_shuffled_rows_each_in_the_rows_order_and_follow_from_the_seed():
    slices = [[ROWS.index(row) for row in part_of(ROWS, "1/2", seed)] for seed in (1, 1, 2)]
    assert slices[0] == slices[1] == sorted(slices[0]) != slices[2] == sorted(slices[2])
    assert slices[0] != list(range(5))


def test_as_many_rounds_as_rows_have_a_row_each():
    rows = [part_of(ROWS, f"{number}/10", seed=1) for number in range(1, 11)]
    assert [len(row) for row in rows] == [1] * 10
    assert {row[0].id for row in rows} == {row.id for row in ROWS}


def test_a_pair_keeps_the_log_probability_that_was_recorded_while_sampling(template):
    assert make_pairs(ROWS, [sample_of(ROWS[0])], template)[0].sample_log_probability == -1.0


def test_pairs_come_in_the_order_of_the_samples_which_may_be_several_for_a_prompt(template):
    samples = [sample_of(ROWS[1], [7]), sample_of(ROWS[0], [8]), sample_of(ROWS[1], [9], index=1)]
    pairs = make_pairs(ROWS, samples, template)
    assert [pair.sample.response for pair in pairs] == [[7], [8], [9]]
    for pair, row in zip(pairs, (ROWS[1], ROWS[0], ROWS[1]), strict=True):
        assert pair.demonstration.response == template.response(row.prompt, row.response)


def test_response_tokens_are_those_of_both_sides_each_time_that_a_pair_is_trained_on(template):
    pairs = make_pairs(ROWS, [sample_of(ROWS[0], [7, 8, 9]), sample_of(ROWS[1], [7])], template)
    demonstration = len(template.response(ROWS[0].prompt, "well"))
    assert response_tokens(pairs, [[0], [1, 0]]) == 3 * demonstration + 3 + 1 + 3


def test_samples_of_one_demonstration_are_one_contrast(template):
    samples = [sample_of(ROWS[row], index=index) for row in (3, 1) for index in (0, 1)]
    pairs = make_pairs(ROWS, samples, template)
    assert contrasts_of(pairs) == [[0, 1], [2, 3]]
    assert contrasts_of([replace(pair, contrast=None) for pair in pairs]) == [[0], [1], [2], [3]]
    assert response_tokens(pairs, [[1], [1]], contrasts_of(pairs)) == 2 * (len(pairs[0].demonstration.response) + 4)


def test_an_earlier_sample_of_a_demonstration_is_a_contrast_of_its_own_and_is_not_recorded(template):
    samples = [sample_of(ROWS[0]), replace(sample_of(ROWS[0]), earlier=1)]
    pairs = make_pairs(ROWS, samples, template)
    assert contrasts_of(pairs) == [[0], [1]]
    assert [pair.sample_log_probability for pair in pairs] == [-1.0, None]


def earlier_and_own(rounds, samples=1):
    return [
        replace(sample_of(row, index=index), earlier=earlier)
        for earlier in range(rounds)
        for row in ROWS
        for index in range(samples)
    ]


def test_replay_takes_a_share_of_the_contrasts_from_all_earlier_rounds_and_keeps_their_number():
    samples = earlier_and_own(rounds=3, samples=2)
    chosen = with_replay(samples, 0.4, seed=0)
    assert len(chosen) == 20
    assert [sample.earlier for sample in chosen].count(0) == 12
    assert {sample.earlier for sample in chosen} == {0, 1, 2}
    assert all(one.id == other.id for one, other in zip(chosen[::2], chosen[1::2], strict=True))
    assert chosen == with_replay(samples, 0.4, seed=0) != with_replay(samples, 0.4, seed=1)


@pytest.mark.parametrize(("rounds", "share"), [(1, 0.5), (2, 0.0)])
def test_without_replay_the_round_trains_on_its_own_samples_in_their_order(rounds, share):
    samples = earlier_and_own(rounds)
    assert with_replay(samples, share, seed=0) == samples[: len(ROWS)]


def test_samples_remember_how_many_rounds_ago_they_were_drawn(tmp_path):
    samples = earlier_and_own(rounds=2)
    write_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(tmp_path / "samples.jsonl") == samples
    assert "earlier" not in (tmp_path / "samples.jsonl").read_text().splitlines()[0]
