"""The arithmetic of bench/: ratios, exponents, operations and the floor; what the ways are given; tables of results."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench import arithmetic, empty_graph, results_file, round_tables, sizes, spin, stock
from bench.generation import generate
from bench.measure import Timings, exponent, ratio, total
from bench.part import bf16_support
from bench.round import add, chosen
from bench.spin_steps import IGNORED, Work, spin_log_probabilities
from bench.stock import Floor
from juicer.data.dialogues import Dialogue
from juicer.methods.pairs import Pair
from juicer.models.log_probability import Batch, response_log_probabilities
from juicer.settings.training import SamplingSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_that_power(power):
    sizes = [10, 40, 160]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_a_ratio_is_of_medians_so_one_disturbed_repeat_does_not_move_it():
    ours, stock = Timings(wall=[2.0, 2.0, 90.0], cpu=[1.0, 1.0, 1.5]), Timings(wall=[6.0] * 3, cpu=[5.0, 4.0, 4.0])
    found = ratio(ours, {"stock": stock, "matched": ours}, 2.5)
    assert (found["ratio"], found["stock_cpu"], found["stock_wall"], found["matched_cpu"]) == (4.0, 4.0, 3.0, 1.0)
    assert found["seconds"]["stock"]["cpu"] == [5.0, 4.0, 4.0]


def test_parts_are_added_repeat_by_repeat():
    both = total([Timings([1.0, 2.0], [0.5, 0.5]), Timings([10.0, 20.0], [5.0, 6.0])])
    assert (both.wall, both.cpu) == ([11.0, 22.0], [5.5, 6.5])


def test_a_piece_of_work_is_timed_by_both_clocks_and_returned():
    times = Timings()
    assert times.time(lambda: 7) == 7
    assert len(times.wall) == len(times.cpu) == 1


def test_the_floor_holds_every_dialogue_once_and_no_padding():
    dialogues = [Dialogue([2, 3], [4] * (1 + number % 3)) for number in range(10)]
    floor = Floor.of(dialogues, padding=0, device=torch.device("cpu"), batch_size=2)
    assert all(bool(batch.attention.all()) for batch in floor.batches)
    assert sum(len(batch.tokens) for batch in floor.batches) == len(dialogues)
    assert sum(batch.tokens.numel() for batch in floor.batches) == floor.tokens == sum(map(len, dialogues))


def test_the_goal_is_against_the_faster_of_the_judged_ways_and_the_fastest_of_all_is_named():
    times = {"bf16": 8.0, "fp32": 6.0, "matched": 3.0}
    found = ratio(
        Timings([1.0], [2.0]), {name: Timings([1.0], [cpu]) for name, cpu in times.items()}, 2.5, ("bf16", "fp32")
    )
    assert (found["against"], found["ratio"], found["best"], found["ratio_to_best"]) == ("fp32", 3.0, "matched", 1.5)


def test_every_way_of_trl_trains_in_the_precision_of_its_name_and_half_of_them_precompute():
    found = stock.ways(sizes.SIZES["10M"].training)
    for name, options in found.items():
        assert options.get("bf16", True) == name.endswith("_bf16")
        assert options.get("precompute_ref_log_probs", False) == ("precomputed" in name)
    assert set(stock.STOCK) <= set(found)


@pytest.mark.parametrize(
    ("flags", "support"),
    [("avx2 avx512f avx512_bf16", "hardware"), ("amx_tile amx_bf16", "hardware"), ("avx2 fma avx512_vbmi", "emulated")],
)
def test_bf16_is_the_hardwares_only_where_the_processor_says_so(flags, support):
    assert bf16_support(flags) == support


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The subject of random weights that is small enough for tests."""
    return sizes.make("toy", 5, cache=tmp_path_factory.mktemp("cache"))


def test_sampling_and_generate_both_end_where_they_are_made_to(toy):
    policy = toy.policy()
    samples = toy.sample(policy, SamplingSettings())
    made = generate(policy, toy.template, [prompt for _, prompt in toy.prompts], 2, 0, toy.wanted, multiple=8)
    assert [len(sample.response) for sample in samples] == [len(response) for response in made] == toy.wanted
    assert len(set(toy.wanted)) > 1
    assert all(response[-1] == toy.template.end_of_text for response in made)
    assert all(pair.demonstration.response[-1] == toy.template.end_of_text for pair in toy.pairs(samples))


def test_every_size_is_as_large_as_its_name_says():
    for name, millions in (("10M", 10.5), ("135M", 134.5)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(sizes.SIZES[name].config, trust_remote_code=False)
        assert round(sum(each.numel() for each in model.parameters()) / 1e6, 1) == millions


def test_a_prompt_that_both_responses_share_counts_once_and_reading_is_a_third_of_training(toy, monkeypatch):
    policy = toy.policy()
    one = Pair(Dialogue([2] * 10, [3] * 4), Dialogue([2] * 10, [4] * 6))
    alone = [arithmetic.operations(policy, [each]) for each in (one.demonstration, one.sample)]
    prompt = arithmetic.operations(policy, [Dialogue([2] * 11, [3])]) - arithmetic.operations(
        policy, [Dialogue([2], [3])]
    )
    read = arithmetic.operations(policy, [one.sample], arithmetic.READ)
    assert read == pytest.approx(alone[1] / 3) == pytest.approx(arithmetic.of_sampling(policy, [one.sample]))
    for forks in (False, True):
        monkeypatch.setattr(arithmetic, "forks_are_faster", lambda *_, forks=forks: forks)
        passes = sum(alone) - (prompt if forks else 0)
        assert arithmetic.of_training(policy, [one], 2, captured=True) == pytest.approx(2 * passes + alone[0] / 3)
        assert arithmetic.of_training(policy, [one], 2, captured=False) == pytest.approx(2 * passes + sum(alone) / 3)


def test_spins_log_probabilities_are_ours(toy):
    policy, dialogues = toy.policy(), [Dialogue([5, 6, 7], [8, 9, 0]), Dialogue([5], [8, 0])]
    tokens = torch.full((2, 6), toy.template.padding)
    attention, labels = torch.zeros_like(tokens), torch.full_like(tokens, IGNORED)
    for row, each in enumerate(dialogues):
        tokens[row, : len(each)] = torch.tensor(each.prompt + each.response)
        attention[row, : len(each)] = 1
        labels[row, len(each.prompt) : len(each)] = torch.tensor(each.response)
    with torch.no_grad():
        found = spin_log_probabilities(policy, {"input_ids": tokens, "attention_mask": attention, "labels": labels})
        expected = response_log_probabilities(policy, Batch.of(dialogues, toy.template.padding, policy.device))
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_spin_way_generates_800_prompts_a_process_and_hands_over_by_files(toy, tmp_path):
    assert spin.steps("spin", 1000) == [("generate", 0), ("generate", 1), ("convert", 0), ("train", 0)]
    assert spin.steps("ours_small", 1000) == [("ours-generate", 0), ("ours-train", 0)]
    given = spin.work_of(toy, spin.ways(16)["spin"])
    given.write(tmp_path)
    assert Work.read(tmp_path) == given
    assert [row.wanted for row in given.rows] == toy.wanted


def test_stages_that_do_nothing_have_the_entries_of_the_lock(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert empty_graph.make(tmp_path / "project", tmp_path / "dvc.lock") == 2
    graph = json.loads((tmp_path / "project/dvc.yaml").read_text())["stages"]
    assert list(graph) == ["first-a", "second"]
    assert graph["second"]["deps"] == ["made/a/part", "code"]
    assert graph["second"]["params"] == [{"params.yaml": ["seed", "data.keep"]}]
    assert graph["first-a"]["cmd"] == "mkdir -p made/a && echo first@a > made/a/part"
    assert json.loads((tmp_path / "project/params.yaml").read_text()) == {"seed": 1, "data": {"keep": None}}
    assert sorted(path.name for path in (tmp_path / "project/code").iterdir()) == ["file0", "file1"]
    assert not (tmp_path / "project/made").exists()


LOCK = """
schema: '2.0'
stages:
  first@a:
    cmd: python -m tasks.first
    outs:
    - {path: made/a, hash: md5, md5: 1a.dir, nfiles: 3}
  second:
    cmd: python -m tasks.second
    deps:
    - {path: made/a/part, hash: md5, md5: 2b, size: 3}
    - {path: code, hash: md5, md5: 3c.dir, nfiles: 2}
    params:
      params.yaml: {seed: 1, data.keep: null}
    outs:
    - {path: out.json, hash: md5, md5: 4d, size: 3}
"""


@pytest.mark.parametrize("name", ["latest.json", "claim.json"])
def test_results_go_where_git_ignores_them_unless_they_are_to_be_kept(name):
    parser = argparse.ArgumentParser()
    results_file.add_arguments(parser, name)
    assert parser.parse_args([]).out == ROOT / "bench/out" / name
    assert parser.parse_args(["--keep"]).out == ROOT / "bench/results" / name
    assert parser.parse_args(["--out", "x.json"]).out == Path("x.json")
    assert "/bench/out/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_documented_tables_of_a_round_are_those_of_the_stored_results(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(round_tables.PAGE.read_text())
    round_tables.write(page)
    assert page.read_text() == round_tables.PAGE.read_text()


def test_a_goal_that_is_missed_is_marked_and_what_was_not_measured_is_left_out():
    def row(value):
        return {"ratio": value, "goal": 2.5, "stock_fp32_cpu": value, "matched_fp32_cpu": 1.5}

    results = {"sizes": {"10M": {"round_vs_stock": row(2.4)}, "135M": {"round_vs_stock": row(2.6)}}}
    first, second = round_tables.rows(results)
    assert (first.figure, first.value, first.goal, first.missed) == (
        "10M: round, against stock",
        "2.40x",
        ">= 2.5",
        True,
    )
    assert not second.missed and second.beside == "stock_fp32 2.60, matched_fp32 1.50"
    assert "| ≥ 2.5, missed |" in round_tables.markdown(results)
    assert "! misses its goal" in round_tables.terminal(results)


def test_parts_are_measured_at_every_size_that_is_asked_for_and_added_in_their_place():
    assert list(chosen(("speed", "growth"), ("0.5M", "10M"))) == [("speed", "0.5M"), ("speed", "10M"), ("growth", None)]
    results = {"sizes": {"10M": {"spin": 1}}}
    add(results, "speed", "10M", {"round_vs_stock": 2, "machine": "this"}, {"seconds": 3})
    add(results, "growth", None, {"growth_exponents": 4, "machine": "this"}, {"seconds": 5})
    assert results["sizes"] == {"10M": {"spin": 1, "round_vs_stock": 2}}
    assert results["growth_exponents"] == 4
    assert results["parts"]["speed 10M"] == {"seconds": 3, "machine": "this"}
