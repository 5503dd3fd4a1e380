"""Samples meet the demonstrations they answer; slices of the data are disjoint and complete."""

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.data.dialogues import Sample
from juicer.methods.pairs import make_pairs, part_of
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
