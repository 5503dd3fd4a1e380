"""Percentiles of lengths, what limits drop, and limits that keep most rows."""

import random
from itertools import pairwise

import pytest

from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.settings.data import TemplateSettings
from juicer.sources.lengths import LengthStatistics, Limits, in_sample, measured

SETTINGS = TemplateSettings(max_prompt_tokens=64, max_response_tokens=40)


def spread(rows: int) -> LengthStatistics:
    chance = random.Random(rows)
    return LengthStatistics(*([chance.randint(1, 200) for _ in range(rows)] for _ in range(2)))


def test_percentiles_are_the_smallest_limits_that_keep_such_a_share() -> None:
    found = LengthStatistics(range(1, 101), reversed(range(101, 201))).summary(SETTINGS)
    assert found.prompts.model_dump() == {"mean": 50.5, "p50": 50, "p90": 90, "p95": 95, "p99": 99, "longest": 100}
    assert (found.responses.p50, found.responses.longest) == (150, 200)
    assert (found.rows, found.too_long) == (100, 100)


@pytest.mark.parametrize("rows", [1, 2, 3, 19, 20, 300, 1001])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_limits_that_keep_a_share_keep_it_and_lower_ones_do_not(rows: int, share: float) -> None:
    lengths = spread(rows)
    limits = lengths.keeping(share)
    assert len(lengths.within(limits)) >= share * rows - 1e-6
    lower = [
        Limits(prompt=prompt, response=response)
        for prompt, response in zip(sorted(lengths.prompts), sorted(lengths.responses), strict=True)
        if prompt < limits.prompt or response < limits.response
    ]
    assert all(len(lengths.within(each)) < share * rows for each in lower)


def test_a_row_is_dropped_for_either_limit() -> None:
    lengths = LengthStatistics([64, 65, 64, 65], [40, 40, 41, 41])
    assert lengths.too_long(Limits(prompt=64, response=40)) == 0.75
    assert (lengths.within(Limits(prompt=64, response=40)).prompts) == [64]
    assert LengthStatistics().too_long(Limits(prompt=1, response=1)) == 0


def test_the_lines_are_aligned_and_name_limits_to_set() -> None:
    lines = LengthStatistics(range(1, 101), [1000] * 100).lines(SETTINGS, "100 rows", positions=1100)
    assert lines == [
        "tokens of 100 rows        mean      50%      90%      95%      99%  longest",
        "  prompts, limit 64         50       50       90       95       99      100",
        "  responses, limit 40    1,000    1,000    1,000    1,000    1,000    1,000",
        "  warning: the limits drop 100.0% of these rows",
        "  to keep 95%: template.max_prompt_tokens=95 template.max_response_tokens=1000",
        "  to keep 99%: template.max_prompt_tokens=99 template.max_response_tokens=1000",
    ]
    assert LengthStatistics().lines(SETTINGS, "no rows", None) == []


@pytest.mark.parametrize(
    ("positions", "advice"),
    [
        (None, "set template.max_prompt_tokens=95 template.max_response_tokens=9 to keep 95%, or template.max_"),
        (105, "set template.max_prompt_tokens=95 template.max_response_tokens=9 to keep 95%"),
        (100, "95% of the rows need 95 + 9 tokens, more than the policy's context of 100: "),
    ],
)
def test_no_limits_are_advised_that_the_policy_s_context_refuses(positions: int | None, advice: str) -> None:
    found = LengthStatistics(range(1, 101), [9] * 100).advice(positions)
    assert found.startswith(advice) and (" to keep 99%" in found) == (positions is None)


@pytest.mark.parametrize(("total", "sampled"), [(1, 1), (50, 50), (51, 50), (99, 50), (1234, 50)])
def test_rows_are_sampled_evenly_over_the_file(total: int, sampled: int) -> None:
    places = [number for number in range(1, total + 1) if in_sample(number, total, 50)]
    assert len(places) == sampled and places[-1] == total
    steps = {after - before for before, after in pairwise(places)}
    assert not steps or max(steps) - min(steps) <= 1


def test_lengths_are_those_of_the_template_and_rows_that_it_does_not_take_are_left_out(template: Template) -> None:
    rows = [
        Demonstration.make([{"role": "user", "content": "hello " * number}], "very well" * number)
        for number in (1, 7, 30)
    ]
    refused = Demonstration.make([{"role": "user", "content": "a<|endoftext|>b"}], "no")
    found = measured(template, [*rows, refused])
    assert found.prompts == [len(template.prompt(row.prompt)) for row in rows]
    assert found.responses == [len(template.response(row.prompt, row.response)) for row in rows]
