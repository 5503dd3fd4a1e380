"""A plan lists the stages of the graph, counts K as they do, and refuses what cannot fit, with the number."""

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from transformers import GPTNeoXConfig

from juicer.planning.lengths import sampled_lengths
from juicer.planning.plan import Assumptions, device_named, show
from juicer.planning.planner import Lengths, Planner, check_memory
from juicer.planning.tables import format_plan
from juicer.recipe.activation import load
from juicer.runtime.devices import DEVICES, GIB, Device
from juicer.runtime.errors import InputError
from juicer.sampling.vllm_engine import ROOM
from juicer.sources.lengths import limits_of

ROOT = Path(__file__).parents[2]
# What these read is not beside every checkout.
LOCAL = ("hh-tiny", "smollm2-hh-cpu", "smollm2-own")
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem not in LOCAL)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def planned(name, *overrides, gpu="H100", lengths=None):
    recipe, graph = load(Path(f"recipes/{name}.yaml"), list(overrides), pinned=False)
    return Planner(recipe, graph, DEVICES[gpu], 0.4, lengths).plan()


def stage_of(stages, name):
    return next(stage for stage in stages if stage.name == name)


def refused(name, *overrides):
    with pytest.raises(InputError) as error:
        planned(name, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_stages_are_those_of_the_graph():
    names = [stage.name for stage in planned("hh-rft")]
    assert names == [
        "download@policy", "download@scorer", "download@reward", "curate", "sft",
        "rft_generate@r1", "rft_reward@r1", "rft_policy@r1", "sft_matched@control",
        "evaluate@base", "evaluate@sft", "evaluate@sft-matched", "evaluate@rft-r1",
    ]  # fmt: skip


@pytest.mark.parametrize(("t", "steps"), [(1, [12500]), (2, [12500] * 2), (5, [2500] * 5), (16, [1563] * 2)])
def test_k_is_twice_the_samples_over_the_batch_as_on_the_poster(t, steps):
    stages = planned(f"ultrachat-irft-t{t}")
    rounds = [stage for stage in stages if stage.name.startswith("irft_train@")]
    assert len(rounds) == t
    assert [stage.steps for stage in rounds][: len(steps)] == steps


def test_every_round_of_a_split_costs_its_share():
    whole, split = (planned(f"ultrachat-irft-t{t}") for t in (1, 5))
    costs = [sum(stage.operations for stage in stages if "irft_train" in stage.name) for stages in (whole, split)]
    assert costs[0] == pytest.approx(costs[1])


def test_the_control_is_planned_with_the_steps_or_tokens_of_the_method():
    stages = planned("ultrachat-irft-t5")
    method = sum(stage.tokens for stage in stages if stage.name.startswith("irft_train@"))
    assert stage_of(stages, "sft_matched@control").tokens == pytest.approx(method)


def test_the_control_is_planned_with_its_own_budget_where_that_is_larger():
    steps = stage_of(planned("ultrachat-irft-t5"), "sft_matched@control").steps
    for budget, expected in ((f"steps={2 * steps}", 2 * steps), (f"steps={steps // 2}", steps)):
        stages = planned("ultrachat-irft-t5", f"sft_matched.{budget}")
        assert stage_of(stages, "sft_matched@control").steps == expected
    stages = planned("hh-sft", "irft.rounds=0", "rft.rounds=0", "sft_matched.response_tokens=1000000")
    assert stage_of(stages, "sft_matched@control").tokens >= 1000000


def test_dft_costs_its_samples_and_gem_what_the_likelihood_costs():
    nll, gem, dft = (
        stage_of(
            planned("hh-sft", f"sft.objective={objective}", "compute.zero_stage=0", lengths=Lengths(60, 40, 40)), "sft"
        )
        for objective in ("nll", "gem", "dft")
    )
    assert (nll.steps, nll.tokens, nll.operations) == (gem.steps, gem.tokens, gem.operations)
    assert dft.steps == nll.steps and dft.tokens == pytest.approx(3 * nll.tokens)
    # Training on three sequences, and once each reading and sampling two.
    assert 3 * nll.operations < dft.operations < 5 * nll.operations
    assert dft.decoding > 0 == nll.decoding
    assert dft.memory > gem.memory


def test_an_sft_policy_that_is_taken_as_it_is_takes_no_step():
    assert stage_of(planned("ultrachat-irft-t1"), "sft").steps == 0


def test_more_devices_divide_time_and_sharded_memory():
    few, many = (
        stage_of(
            planned("ultrachat-spin", "sft.micro_batch_size=2", f"compute.processes={count}", "compute.zero_stage=2"),
            "sft_matched@control",
        )
        for count in (8, 32)
    )
    assert many.operations == pytest.approx(few.operations)
    assert many.hours(DEVICES["H100"], 32, 0.4) == pytest.approx(few.hours(DEVICES["H100"], 8, 0.4) / 4)
    assert many.memory < few.memory


def test_shorter_dialogues_cost_less_but_memory_suffices_for_the_longest():
    long, short = (
        stage_of(planned("hh-irft", lengths=each), "irft_train@r1") for each in (None, Lengths(64, 100, 100))
    )
    assert short.operations < long.operations
    assert short.tokens == pytest.approx(long.tokens * 100 / 384)
    assert short.memory == long.memory


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("hh-irft", "template.max_prompt_tokens=2000", "2000 + 384 = 2384 exceeds the 2048 positions of pythia-1.4b"),
        ("hh-rft", "rft.reward.frozen_blocks=20", "frozen_blocks = 20, but pythia-1b has 16 blocks"),
        ("hh-irft", "curate.keep=200000", "curate.keep = 200000, but the source has 160800 rows"),
        ("hh-irft", "curate.keep=4", "4 demonstrations cannot be split over 5 parts"),
        (
            "hh-irft",
            "irft.training.batch_size=2",
            "irft.training.batch_size = 2 leaves devices idle: compute.processes = 4",
        ),
        ("hh-irft", "compute.processes=16", "sft.batch_size = 8 is not a multiple"),
        ("hh-irft", "policy.model=someone/other", "there is no config.json of 'someone/other' here"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_number(name, override, message):
    assert message in refused(name, override)


OWN = ("scorer={kind: none}", "world=null")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_the_rows_of_a_local_file_are_counted(tmp_path, name):
    rows = [{"prompt": f"question {number}", "response": "answer"} for number in range(600)]
    lines = "\n".join(map(json.dumps, rows))
    path = tmp_path / name
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if name.endswith(".json") else lines + "\n")
    source = (*OWN, f"fetch.source={path}")
    assert f"curate.keep = 1500, but {path} has 600 rows (lower it, or" in refused("quickstart", *source)
    # A tenth is for choosing, a tenth for reporting, and 32 rows make a step.
    stages = planned("quickstart", *source, "curate.keep=null", "sft.epochs=1")
    assert stage_of(stages, "sft").steps == 480 / 32


def test_the_held_out_rows_of_a_folder_are_not_counted(tmp_path):
    row = json.dumps({"prompt": "question", "response": "answer"}) + "\n"
    (tmp_path / "train.jsonl").write_text(row * 320)
    (tmp_path / "test.jsonl").write_text(row * 500)
    source = (*OWN, f"fetch.source={tmp_path}")
    assert "has 320 rows" in refused("quickstart", *source, "curate.keep=321")
    stages = planned("quickstart", *source, "curate.keep=null", "sft.epochs=1")
    assert stage_of(stages, "sft").steps == 320 * 0.9 / 32


def test_what_exceeds_the_memory_is_refused_with_both_numbers_and_a_way_out():
    stages = planned("ultrachat-spin", "compute.zero_stage=2", gpu="A100-40GB")
    worst = max(stages, key=lambda stage: stage.memory)
    with pytest.raises(InputError) as error:
        check_memory(stages, DEVICES["A100-40GB"], "A100-40GB")
    assert f"{worst.name} needs {worst.memory / GIB:.1f} GiB per device, but A100-40GB has 40 GiB" in str(error.value)
    assert "batch_size" in str(error.value)
    check_memory(planned("ultrachat-spin"), DEVICES["H100"], "H100")


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(InputError, match=r"--gpu: unknown GPU 'H10' \(did you mean 'H100'\?\)"):
        device_named("H10")
    with pytest.raises(InputError, match="no GPU is named"):
        device_named(" , ")


def test_a_name_that_several_cards_share_is_told_and_mixed_cards_are_planned_as_the_least_of_them():
    one = device_named("A100")
    assert one.name == "A100-80GB" and "A100-40GB too" in one.said[0]
    for name in ("nvidia A100", "A100 SXM", "V100 PCIe"):
        assert device_named(name).said[0].startswith(f"{name} is taken as ")
    assert not device_named("A100-40G").said and not device_named("A100 PCIe 80 GB").said
    mixed = device_named("a100-40gb, 4090, 4090")
    assert mixed.name == "A100-40GB+RTX4090"
    least = DEVICES["RTX4090"]
    assert (mixed.device.memory, mixed.device.operations) == (least.memory, least.operations)
    assert mixed.said[0].startswith("Mixed cards: planned as if all were the least of A100-40GB and RTX4090")


def test_a_gpu_without_bf16_is_planned_in_float32_and_refused_where_the_recipe_asks_for_bf16(capsys):
    given = ["compute.processes=1", "compute.zero_stage=0", "scorer={kind: none}", "sft.micro_batch_size=auto"]
    recipe, graph = load(Path("recipes/hh-sft.yaml"), given, pinned=False)
    old, new = (Planner(recipe, graph, DEVICES[name], None, None, name) for name in ("T4", "L4"))
    assert (old.bytes, old.packed, new.bytes, new.packed) == (4, False, 2, True)
    asked = recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"precision": "bf16"})})
    for gpu, named in (("T4", "T4"), ("A100,T4", "T4"), ("T4,V100,H100", "T4 and V100-16GB")):
        card = device_named(gpu)
        with pytest.raises(InputError, match=rf"compute\.precision is bf16, but {named} does not compute in it"):
            Planner(asked, graph, card.device, None, None, card.name)
        assert card.said[-1].startswith(f"Without bf16 on {named}, compute.precision=auto is planned as fp32")
        assert card.said[-1].endswith("written so") is (gpu != "T4")


def test_the_table_has_a_row_per_stage_and_a_total():
    stages = planned("hh-sft")
    lines = format_plan(stages, DEVICES["H100"], 4, 0.4).splitlines()
    assert len(lines) == len(stages) + 2
    assert lines[0].split()[:2] == ["stage", "model"] and lines[-1].startswith("total")


def test_the_command_says_what_it_assumes_and_what_is_not_pinned(capsys):
    overrides = ["compute.processes=2", "compute.zero_stage=3"]
    show(Path("recipes/hh-sft.yaml"), overrides, Assumptions(response_tokens=90), measured=False)
    printed = capsys.readouterr().out
    assert "2 x H100, ZeRO stage 3, 25% to 40% of the peak (assumed, not measured), which is 989 TFLOP/s" in printed
    assert "10,000 demonstrations; mean tokens: prompt 128, response 90, sample 90" in printed
    assert "Not pinned yet: scorer" in printed


def test_on_a_cpu_the_plan_says_what_each_stage_takes_and_what_auto_comes_to(capsys):
    show(Path("recipes/quickstart.yaml"), [], Assumptions(gpu="cpu"), measured=False)
    printed = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()
        for line in printed.splitlines()
        if "@" in line or line.startswith(("sft ", "total"))
    }
    place = next(line.split().index("micro") for line in printed.splitlines() if line.startswith("stage"))
    # A small model's whole batch goes through at once.
    assert (rows["sft"][place], rows["irft_train@r1"][place], rows["rft_policy@r1"][place]) == ("32", "32", "128")
    assert "hours are an estimate, from " in printed and "GFLOP/s" in printed
    assert float(rows["total"][-1]) > 0
    assert "the policy trains in fp32, and samples and is evaluated in fp32" in printed


def test_a_micro_batch_is_what_fits_unless_the_recipe_says_how_many():
    fewer = [f"{section}.gradient_checkpointing=false" for section in ("sft", "irft.training")]
    fewer.append("compute.packing=false")
    taken = {
        given: stage_of(planned("hh-irft", *fewer, f"sft.micro_batch_size={given}", gpu="A100-80GB"), "sft").micro
        for given in ("auto", "null", "1")
    }
    assert taken["1"] == 1 <= taken["auto"] <= taken["null"] == 2
    small = planned("hh-irft", *fewer, "sft.micro_batch_size=auto", "sft.batch_size=64", gpu="RTX4090")
    assert stage_of(small, "sft").micro < 16


def test_the_lengths_of_the_first_rows_are_told_before_any_run(tmp_path, tokenizer, capsys):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=400, **size)
    config.architectures = ["GPTNeoXForCausalLM"]
    config.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    rows = [{"prompt": f"{number:04}", "response": "a" * (10 if number % 2 else 99)} for number in range(1200)]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [*OWN, f"fetch.source={source}", f"policy.model={tmp_path / 'policy'}", "pretrain=null", "curate.keep=null"]
    recipe, _ = load(Path("recipes/quickstart.yaml"), given, pinned=False)
    found = sampled_lengths(recipe)
    assert found is not None and len(found) == 1000 and found.too_long(limits_of(recipe.template)) == 0.5
    mean = found.within(limits_of(recipe.template)).summary(recipe.template).responses.mean
    show(Path("recipes/quickstart.yaml"), given, Assumptions(prompt_tokens=7), measured=False)
    printed = capsys.readouterr().out
    assert (
        f"prompt 7, response {mean:.0f}, sample {mean:.0f} (unless given, of those of the first 1,000 rows" in printed
    )
    assert "warning: the limits drop 50.0% of these rows" in printed
    assert f"to keep 95%: {found.keeping(0.95)}" in printed


def test_lengths_are_not_known_without_rows_and_tokenizer_on_this_machine(tmp_path):
    for name in ("quickstart", "hh-sft"):
        assert sampled_lengths(load(Path(f"recipes/{name}.yaml"), [], pinned=False)[0]) is None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned(name):
    stages = planned(name)
    check_memory(stages, DEVICES["H100"], "H100")
    assert all(stage.operations > 0 for stage in stages if stage.name.startswith(("irft", "rft", "evaluate")))


FITTED = {
    "hh-irft-1gpu": "A100-80GB",
    "hh-rft-1gpu": "A100-80GB",
    "ultrachat-irft-1gpu": "A100-80GB",
    "hh-irft-24gb": "RTX3090",
}
"""The recipes for one GPU, and the card that each is made for."""


@pytest.mark.parametrize(("name", "card"), FITTED.items())
def test_a_recipe_for_one_gpu_fits_the_card_that_it_is_made_for(name, card):
    stages = planned(name, gpu=card)
    check_memory(stages, DEVICES[card], card)
    largest = max(stage.memory for stage in stages)
    assert largest < 0.95 * DEVICES[card].memory
    assert any(stage.pass_tokens for stage in stages if stage.trained)


def test_without_a_number_the_held_out_and_validation_rows_are_evaluated():
    few, all_ = (
        stage_of(planned("hh-irft", f"evaluation.prompts={prompts}"), "evaluate@base") for prompts in (1000, "null")
    )
    # 1% of 160,800 rows for validation, and of the test split, whose rows nobody has counted, 5%.
    assert all_.tokens / few.tokens == pytest.approx((0.01 + 0.05) * 160_800 / 2000)


def test_a_static_batch_lasts_as_long_as_its_longest_response():
    short = Lengths(64, 40, 40)
    limit, longer = (
        stage_of(planned("hh-irft", f"template.max_response_tokens={most}", lengths=short), "irft_generate@r1").decoding
        for most in (128, 384)
    )
    assert longer > limit  # the mean is the same


def test_frozen_weights_of_fewer_bits_carry_the_adapters_of_earlier_rounds():
    stages = planned("ultrachat-irft-1gpu", "compute.tokens_per_pass=4096")
    first, second, third = (stage_of(stages, f"irft_train@r{number}") for number in (1, 2, 3))
    assert third.memory - second.memory == second.memory - first.memory == 2 * first.trained
    whole = planned("ultrachat-irft-1gpu", "compute.tokens_per_pass=4096", "irft.training.lora.save=merged")
    assert stage_of(whole, "irft_train@r3").memory == first.memory


def test_sft_with_dropout_is_planned_on_the_padded_rows_that_it_trains_on():
    given = ["sft.batch_size=32", "sft.micro_batch_size=null"]
    none, some = (
        stage_of(planned("hh-irft-1gpu", *given, f"sft.lora={{r: 8, dropout: {share}}}"), "sft") for share in (0, 0.1)
    )
    assert none.pass_tokens and not some.pass_tokens
    assert (some.micro, none.micro) == (32, 0) and some.memory > none.memory


def test_a_packed_pass_is_planned_with_the_longest_row_at_least():
    given = ["irft.sampling.samples_per_prompt=16", "compute.tokens_per_pass=1024"]
    stage = stage_of(planned("hh-irft-1gpu", *given), "irft_train@r1")
    assert stage.pass_tokens == 17 * 512


def test_another_reference_is_planned_with_its_copies_in_bf16():
    given = ["compute.tokens_per_pass=4096", "irft.training.reference"]
    own, initial = (
        stage_of(planned("hh-irft-1gpu", given[0], f"{given[1]}={which}"), "irft_train@r1")
        for which in ("round", "initial")
    )
    assert initial.memory - own.memory == (4 + 2) * own.parameters


def test_earlier_adapters_include_those_of_sft():
    given = ["rft.policy.micro_batch_size=1", "rft.policy.lora={r: 64}"]
    without, with_sft = (
        stage_of(planned("hh-rft-1gpu", *given, *more), "rft_policy@r1") for more in ([], ["sft.lora={r: 32}"])
    )
    assert with_sft.memory - without.memory == without.trained / 64 * 32 * 2


def test_curation_is_divided_among_the_processes():
    one, four = (stage_of(planned("hh-irft", f"compute.processes={count}"), "curate") for count in (1, 4))
    assert one.operations == four.operations > 0
    assert one.hours(DEVICES["H100"], 1) == pytest.approx(4 * four.hours(DEVICES["H100"], 4))


def test_vllm_beside_rloo_takes_memory_that_the_measured_peak_is_without():
    given = ["rft.policy.micro_batch_size=1", "compute.zero_stage=0"]
    own, vllm = (
        stage_of(planned("hh-rft", *given, f"rft.policy.engine={engine}"), "rft_policy@r1")
        for engine in ("torch", "vllm")
    )
    weights = 2 * own.parameters
    assert own.beside == 0 and vllm.beside > weights + ROOM
    assert vllm.memory - vllm.beside == pytest.approx(own.memory)
    on_cpu = stage_of(planned("hh-rft", "compute.device=cpu", "rft.policy.engine=vllm"), "rft_policy@r1")
    assert on_cpu.beside == 0


def test_beside_rloo_with_adapters_stand_the_reference_and_vllm_s_room_for_adapters():
    given = ["rft.policy.micro_batch_size=1", "rft.policy.lora={r: 72}", "rft.rounds=2"]
    own, free, vllm = (
        stage_of(planned("hh-rft-1gpu", *given, word), "rft_policy@r2")
        for word in ("rft.policy.engine=torch", "rft.policy.kl_coefficient=0", "rft.policy.engine=vllm")
    )
    assert own.memory - free.memory == 2 * own.parameters
    without = stage_of(planned("hh-rft-1gpu", given[0], "rft.policy.engine=vllm"), "rft_policy@r1")
    # Two rounds' adapters have rank 144, and vLLM makes room for 256.
    assert vllm.beside - without.beside == pytest.approx(2 * own.trained * 256 / 72)


def test_what_vllm_samples_does_not_depend_on_a_batch_that_it_does_not_read():
    for engine, same in (("vllm", True), ("torch", False)):
        few, many = (
            stage_of(
                planned("hh-irft", f"irft.sampling.engine={engine}", f"irft.sampling.batch_size={rows}"),
                "irft_generate@r1",
            ).decoding
            for rows in (1, 256)
        )
        assert (few == many) is same


def test_a_recipe_for_the_cpu_is_planned_for_the_cpu_and_for_no_gpu(capsys):
    path, given = Path("recipes/quickstart.yaml"), ["compute.device=cpu"]
    show(path, given, Assumptions(), measured=False)
    printed = capsys.readouterr().out
    assert " x CPU, " in printed and "TFLOP/s" not in printed
    with pytest.raises(InputError, match=r"compute\.device is cpu, but the plan is to be for A100-80GB"):
        show(path, given, Assumptions(gpu="A100"), measured=False)
    with pytest.raises(InputError, match=r"compute\.device is cuda, but the plan is to be for CPU"):
        show(path, ["compute.device=cuda"], Assumptions(gpu="CPU"), measured=False)


def test_an_engine_that_is_left_to_the_machine_is_said_to_be_planned_as_torch():
    for engine, said in (("auto", True), ("vllm", False), ("torch", False)):
        recipe, graph = load(Path("recipes/hh-irft.yaml"), [f"irft.sampling.engine={engine}"], pinned=False)
        planner = Planner(recipe, graph, DEVICES["H100"], None, None, "H100")
        (line,) = (line for line in planner.said() if line.startswith("Sampling: "))
        assert line.endswith("; engine auto is planned as torch.") is said


@pytest.mark.parametrize("given", ["prompt_tokens=-5", "prompt_tokens=nan", "sample_tokens=0", "response_tokens=129"])
def test_lengths_that_no_dialogue_of_the_recipe_can_have_are_refused(given):
    name, _, value = given.partition("=")
    recipe, _ = load(Path("recipes/hh-sft.yaml"), ["template.max_response_tokens=128"], pinned=False)
    option = name.replace("_", "-")
    with pytest.raises(InputError, match=rf"--{option}: it is {value} \(use a mean above 0 and at most template"):
        Assumptions(**{name: float(value)}).lengths(recipe)
    assert Assumptions(response_tokens=128).lengths(recipe).sample == 128


def test_what_does_not_fit_into_main_memory_needs_a_machine_with_more(monkeypatch):
    small = Device(GIB, 1e12, 1e10)
    monkeypatch.setattr("juicer.planning.plan.this_cpu", lambda threads: small)
    with pytest.raises(InputError, match=r"but CPU has 1 GiB \(use a machine with more memory, or change ") as error:
        show(Path("recipes/hh-sft.yaml"), [], Assumptions(gpu="CPU"), measured=False)
    assert "GPU" not in str(error.value) and "--fit" not in str(error.value) and "compute." not in str(error.value)
