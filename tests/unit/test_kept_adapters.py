"""Models that are kept as adapters: loaded they are what merging after each round gives, and no other base will do."""

import argparse
import copy
import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.evaluation.leaderboard import language_model
from juicer.methods.algorithms import algorithm_1, algorithm_2
from juicer.methods.reward import load_reward
from juicer.models.folder import base_record, check_folder
from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template, save_policy, whole_folder, write_whole
from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.serving import export, portable
from juicer.serving.named import Named
from juicer.settings.compute import ComputeSettings
from juicer.settings.leaderboard import HarnessSettings
from juicer.settings.training import LoraSettings
from juicer.stages.stage import Stage
from juicer.training.adapters import add_adapters, frozen_weights, merge_adapters, save_trained
from tasks import irft_generate, irft_train, rft_generate, rft_policy, rft_reward, sft

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
DATA, BASE, SFT = Path("data"), Path("models/base"), Path("models/sft")
CPU = ComputeSettings(device="cpu", precision="fp32")
TOKENS = torch.arange(24).reshape(2, 12)
LORA = "{r: 4, alpha: 8}"
ROUNDING = 2e-6
"""Largest difference of a weight (all are below 1) that float32 leaves between merging once and after each round."""
ROWS = [
    Demonstration.make([{"role": "user", "content": f"hello {number}"}], f"very well {number % 3}")
    for number in range(12)
]


@pytest.fixture
def base(policy, template, tmp_path, monkeypatch):
    """The folder of a whole model, seen from a project's root."""
    monkeypatch.chdir(tmp_path)
    save_policy(policy, template, BASE, None)
    return BASE


def taken(start: Path, template: Template, out: Path, lora: LoraSettings, seed: int = 0) -> torch.nn.Module:
    """Train adapters for some large steps and save them; returns the model in memory, merged where it is float32."""
    model = load_policy(start, CPU, TRAINING_DTYPE, frozen_weights(lora, CPU))
    handle = add_adapters(model, lora, seed)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    merge_adapters(handle)
    save_trained(model, template, out, {"facts": {}}, lora, start)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=TOKENS).logits.float()


def distance(model: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference of a parameter."""
    theirs = dict(other.named_parameters())
    assert dict(model.named_parameters()).keys() == theirs.keys()
    return max(float((p - theirs[name]).detach().abs().max()) for name, p in model.named_parameters())


def test_two_rounds_of_adapters_are_the_model_that_was_merged_after_each_round(base, template):
    lora = LoraSettings(r=4, alpha=8)
    start = load_policy(base, CPU, TRAINING_DTYPE)
    first = taken(base, template, Path("r1"), lora)
    second = taken(Path("r1"), template, Path("r2"), LoraSettings(r=2, alpha=8), seed=1)
    assert distance(load_policy(Path("r1"), CPU), first) < ROUNDING
    assert distance(load_policy(Path("r2"), CPU), second) < ROUNDING
    assert distance(first, start) > 1000 * ROUNDING
    assert distance(first, second) > 1000 * ROUNDING
    record = base_record(Path("r2"))
    assert (record.base, record.ranks) == ("models/base", [4, 2])
    assert sorted(path.name for path in Path("r2").glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert json.loads(Path("r2/config.json").read_text())["architectures"] == ["GPTNeoXForCausalLM"]


def test_weights_that_are_stored_transposed_are_merged_too(template, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128)
    save_policy(GPT2LMHeadModel(config).eval(), template, BASE, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft notices the transposition itself, and says so
        merged = taken(BASE, template, Path("r1"), LoraSettings(r=4))
    assert distance(load_policy(Path("r1"), CPU), merged) < ROUNDING
    beside = load_policy(Path("r1"), CPU, TRAINING_DTYPE, "bf16")
    moved = float((logits(merged) - logits(load_policy(BASE, CPU))).abs().max())
    assert float((logits(beside) - logits(merged)).abs().max()) < moved / 10


def test_any_program_with_peft_loads_all_rounds_over_the_one_base_model(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4, alpha=2))
    taken(Path("r1"), template, Path("r2"), LoraSettings(r=2, alpha=8), seed=1)
    plain = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    theirs = logits(PeftModel.from_pretrained(plain, "r2"))
    assert (theirs - logits(load_policy(Path("r2"), CPU))).abs().max() < 1e-4
    assert json.loads(Path("r2/adapter_config.json").read_text())["base_model_name_or_path"] == "models/base"


def test_the_bytes_of_kept_adapters_are_the_same_each_time(base, template):
    for out in ("one", "two"):
        taken(base, template, Path(out), LoraSettings(r=4))
    files = sorted(path.name for path in Path("one").iterdir())
    assert {"adapter_model.safetensors", "adapter_config.json", "base.json"} <= set(files)
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in files)
    names = json.loads(Path("one/adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)


def test_a_base_with_other_weights_is_refused(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    other = load_policy(base, CPU)
    with torch.no_grad():
        next(iter(other.parameters())).add_(1e-3)
    shutil.rmtree(base)
    save_policy(other, template, base, None)
    check_folder(Path("r1"))  # looks at headers alone
    with pytest.raises(InputError, match=r"r1: the adapters are for models/base with the digest .*, but its digest is"):
        load_policy(Path("r1"), CPU)
    with pytest.raises(InputError, match="dvc checkout models/base"):
        taken(Path("r1"), template, Path("r2"), LoraSettings(r=4))


def test_adapters_without_their_base_are_refused_with_what_to_do(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    shutil.move(base, "elsewhere")
    with pytest.raises(
        InputError, match=r"r1: the base model of these adapters, models/base, is not here \(.*dvc pull"
    ):
        check_folder(Path("r1"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "r1"}, "the base model of these adapters, r1, is no whole model, but adapters too"),
        ({"digest": "12"}, "base.json: parameter 'digest'"),
        ({"bases": "x"}, "base.json: unknown parameter 'bases'"),
    ],
)
def test_a_damaged_record_of_the_base_is_refused(base, template, values, message):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    record = json.loads(Path("r1/base.json").read_text())
    Path("r1/base.json").write_text(json.dumps(record | values))
    with pytest.raises(InputError, match=message):
        load_policy(Path("r1"), CPU)


def test_adapters_of_a_layer_that_the_base_does_not_have_are_refused(base, template, policy):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    from safetensors.torch import load_file, save_file

    tensors = load_file("r1/adapter_model.safetensors")
    save_file({name.replace("layers.0", "layers.7"): tensor for name, tensor in tensors.items()},
              "r1/adapter_model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=r"the base model has no gpt_neox.layers.7.* as the adapters have it"):
        load_policy(Path("r1"), CPU)


def test_merged_weights_are_rounded_once(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    exact, rounded = load_policy(Path("r1"), CPU), load_policy(Path("r1"), CPU, torch.bfloat16, "fp32")
    assert rounded.dtype == rounded.config.dtype == torch.bfloat16
    theirs = dict(rounded.named_parameters())
    assert all(torch.equal(p.to(torch.bfloat16), theirs[name]) for name, p in exact.named_parameters())


def test_adapters_stay_beside_weights_that_are_loaded_in_bf16(base, template):
    """Merged, a difference below half a step of bf16's grid would be lost: a base is on that grid."""
    taken(base, template, Path("r1"), LoraSettings(r=4))
    start, model = load_policy(base, CPU, torch.bfloat16), load_policy(Path("r1"), CPU, torch.bfloat16)
    theirs = dict(model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in start.named_parameters())
    exact = logits(load_policy(Path("r1"), CPU))
    assert float((logits(model) - exact).abs().mean()) < 0.2 * float((logits(start) - exact).abs().mean())


def test_a_whole_model_is_kept_where_the_recipe_says_so(base, template):
    model = taken(base, template, Path("r1"), LoraSettings(r=4, save="merged"))
    assert base_record(Path("r1")) is None
    assert distance(load_policy(Path("r1"), CPU), model) == 0
    # The model in memory has bf16 weights; what is kept was added to the float32 ones.
    taken(base, template, Path("low"), LoraSettings(r=4, save="merged", base="bf16"))
    taken(base, template, Path("beside"), LoraSettings(r=4, base="bf16"))
    assert base_record(Path("low")) is None
    assert distance(load_policy(Path("low"), CPU), load_policy(Path("beside"), CPU)) == 0


def test_adapters_are_merged_into_an_ordinary_folder_for_other_programs(base, template, tmp_path):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    write_whole(Path("r1"), Path("whole"))
    plain = AutoModelForCausalLM.from_pretrained("whole", local_files_only=True)
    assert distance(plain, load_policy(Path("r1"), CPU)) == 0
    assert not {"base.json", "adapter_config.json"} & {path.name for path in Path("whole").iterdir()}
    assert Path("whole/training.json").read_bytes() == Path("r1/training.json").read_bytes()
    with whole_folder(base) as same, whole_folder(Path("r1"), tmp_path) as made:
        assert same == base
        assert distance(load_policy(made, CPU), plain) == 0
    assert not made.exists()


def named(folder: Path, template: Template) -> Named:
    return Named(folder.name, str(folder), folder, {}, template.settings)


def test_an_exported_model_is_whole_and_leaves_nothing_beside_it(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    expected = load_policy(Path("r1"), CPU)
    lines = list[str]()
    export.to_folder(named(Path("r1"), template), Path("copies/r1"), dry_run=True, say=lines.append)
    for link in (False, True):
        out = Path("copies", str(link))
        portable.write_copy(named(Path("r1"), template), out, link=link)
        assert distance(AutoModelForCausalLM.from_pretrained(out, local_files_only=True), expected) == 0
        assert not {"base.json", "adapter_config.json"} & {path.name for path in out.iterdir()}
    size = sum(4 * p.numel() for p in expected.parameters())
    assert portable.size_of(Path("r1")) == pytest.approx(size, rel=0.01)
    assert portable.shown_size(portable.size_of(Path("r1"))) in lines[0]
    assert {path.name for path in Path("copies").iterdir()} == {"False", "True"}


def test_the_adapter_is_exported_as_it_is_or_as_the_difference_of_two_rounds(base, template):
    taken(base, template, Path("r1"), LoraSettings(r=4))
    taken(Path("r1"), template, Path("r2"), LoraSettings(r=2), seed=1)
    Path("params.yaml").write_text(dump(*load(QUICKSTART, [])))
    lines = list[str]()
    for before, out in ((base, "all"), (Path("r1"), "last")):
        export.to_adapter(named(Path("r2"), template), Path(out), str(before), Path, dry_run=False, say=lines.append)
    assert "rank 6" in lines[0] and "the largest rest is 0.0e+00" in lines[0]
    assert "rank 2" in lines[1]
    plain = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    assert (logits(PeftModel.from_pretrained(plain, "all")) - logits(load_policy(Path("r2"), CPU))).abs().max() < 1e-4


def test_the_leaderboard_measures_the_merged_model(base, template):
    from lm_eval.api.instance import Instance

    taken(base, template, Path("r1"), LoraSettings(r=4))
    write_whole(Path("r1"), Path("whole"))
    asked = [Instance("loglikelihood", {}, ("hello, how", " are you?"), 0)]
    found = [
        language_model(Path(folder), template, HarnessSettings(batch_size=1), CPU, bars=False).loglikelihood(asked)
        for folder in ("r1", "whole", base)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_base_in_bf16_trains_float32_adapters_and_keeps_those_of_earlier_rounds_exact(
    base, template, precision
):
    compute = CPU.model_copy(update={"precision": precision})
    lora = LoraSettings(r=4, alpha=8, base="bf16")
    taken(base, template, Path("r1"), lora)
    frozen = load_policy(Path("r1"), compute, TRAINING_DTYPE, "bf16")
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    plain, exact = load_policy(base, CPU, torch.bfloat16), load_policy(Path("r1"), CPU)
    # The weights are the base's, and what earlier rounds added is in what the layers compute.
    assert distance(frozen, plain) == 0
    moved = float((logits(exact) - logits(load_policy(base, CPU))).abs().max())
    assert float((logits(frozen) - logits(exact)).abs().max()) < moved / 10
    taken(Path("r1"), template, Path("r2"), lora, seed=1)
    assert base_record(Path("r2")).ranks == [4, 4]
    assert distance(load_policy(Path("r2"), CPU), exact) > 1e-3


def test_auto_is_float32_on_a_cpu_and_under_zero():
    auto = LoraSettings(r=4)
    assert frozen_weights(None, CPU) == frozen_weights(auto, CPU) == "fp32"
    assert frozen_weights(auto, CPU.model_copy(update={"precision": "bf16"})) == "fp32"
    assert frozen_weights(LoraSettings(r=4, base="bf16"), CPU) == "bf16"


def test_quantisation_without_its_package_is_refused_with_the_command(base, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package bitsandbytes.*pip install 'juicer\[qlora\]'"):
        load_policy(base, CPU, TRAINING_DTYPE, "nf4")


@pytest.fixture
def recipe(policy, tokenizer, tmp_path, monkeypatch):
    """Activates a recipe with overrides in a fresh folder that holds demonstrations and pi_0; returns the recipe."""
    monkeypatch.chdir(tmp_path)
    DATA.mkdir()
    demonstrations.write(DATA / "train.jsonl", ROWS)
    for split in ("validation", "held_out"):
        demonstrations.write(DATA / f"{split}.jsonl", [])

    def activate(*overrides):
        small = ["template.max_response_tokens=16", "irft.training.batch_size=4", "rft.reward.batch_size=4"]
        found, graph = load(QUICKSTART, ["compute.device=cpu", *small, *overrides])
        Path("params.yaml").write_text(dump(found, graph))
        if not SFT.is_dir():
            save_policy(policy, Template(tokenizer, found.template), SFT, None)
        return found

    return activate


def run(program, name, **arguments):
    """Run a stage program in this process."""
    parser = argparse.ArgumentParser()
    program.arguments(parser)
    optional = {action.dest: action.default for action in parser._actions if not action.required}
    program.run(Stage(name, argparse.Namespace(params=Path("params.yaml"), **{**optional, "data": DATA, **arguments})))


def test_the_stages_of_irft_keep_adapters_and_give_the_weights_of_algorithm_2(recipe):
    settings = recipe("irft.rounds=2", f"irft.training.lora={LORA}", "irft.training.optimiser.learning_rate=1e-3")
    template = load_template(SFT, settings.template)
    policy = load_policy(SFT, settings.compute, TRAINING_DTYPE)
    algorithm_2(policy, ROWS, template, settings.irft, settings.compute, settings.seed)

    previous = SFT
    for name, part in zip(("r1", "r2"), settings.irft.parts, strict=True):
        samples, out = Path(f"{name}.jsonl"), Path(f"models/{name}")
        run(irft_generate, f"irft_generate@{name}", round=name, part=part, policy=previous, out=samples)
        run(irft_train, f"irft_train@{name}", round=name, policy=previous, initial=SFT, samples=samples, out=out)
        previous = out
    assert base_record(previous).ranks == [4, 4]
    saved = load_policy(previous, settings.compute, TRAINING_DTYPE)
    assert distance(policy, saved) < ROUNDING
    assert distance(saved, load_policy(SFT, settings.compute, TRAINING_DTYPE)) > 1000 * ROUNDING
    # peft's own files and no weights of the base model
    assert sum(p.stat().st_size for p in previous.glob("*.safetensors")) < (SFT / "model.safetensors").stat().st_size


def test_the_stages_of_rft_keep_adapters_and_give_the_weights_of_algorithm_1(recipe, tmp_path):
    small = ["rft.policy.steps=3", "rft.policy.prompts_per_step=2", "rft.policy.optimiser.learning_rate=1e-3"]
    lora = [f"rft.reward.lora={LORA}", f"rft.policy.lora={LORA}"]
    settings = recipe("rft.rounds=2", "rft.slice=split", "rft.reward.optimiser.learning_rate=1e-3", *small, *lora)
    compute, seed = settings.compute, settings.seed
    template = load_template(SFT, settings.template)
    policy = load_policy(SFT, compute, TRAINING_DTYPE)
    reward = load_reward(SFT, compute, derive(seed, "rft", "head"), TRAINING_DTYPE)
    start, trunk = copy.deepcopy(policy), copy.deepcopy(reward)
    algorithm_1(policy, reward, SFT, ROWS, template, settings.rft, compute, seed, tmp_path / "scratch")

    previous, learnt = SFT, SFT
    for name, part in zip(("r1", "r2"), settings.rft.parts, strict=True):
        samples, judge, out = Path(f"{name}.jsonl"), Path(f"models/{name}/reward"), Path(f"models/{name}/policy")
        run(rft_generate, f"rft_generate@{name}", round=name, part=part, policy=previous, out=samples)
        run(rft_reward, f"rft_reward@{name}", round=name, policy=previous, reward=learnt, samples=samples, out=judge)
        run(rft_policy, f"rft_policy@{name}", round=name, policy=previous, initial=SFT, reward=judge,
            samples=samples, out=out)  # fmt: skip
        previous, learnt = out, judge
    saved, judged = load_policy(previous, compute, TRAINING_DTYPE), load_reward(learnt, compute, seed, TRAINING_DTYPE)
    assert base_record(previous).ranks == base_record(learnt).ranks == [4, 4]
    assert distance(policy, saved) < ROUNDING
    assert distance(reward, judged) < ROUNDING
    assert distance(saved, start) > 1000 * ROUNDING
    # The scalar head trains whole, the embedding does not.
    assert not torch.equal(judged.score.weight, trunk.score.weight)
    assert torch.equal(judged.get_input_embeddings().weight, trunk.get_input_embeddings().weight)


QUANTISES = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.filterwarnings("ignore")  # of bitsandbytes, about the CPU
@pytest.mark.parametrize(
    "kind", ["bf16", pytest.param("nf4", marks=pytest.mark.skipif(not QUANTISES, reason="bitsandbytes is missing"))]
)
def test_every_stage_trains_over_frozen_weights_of_fewer_bits(recipe, kind):
    lora = f"{{r: 4, alpha: 8, base: {kind}}}"
    small = ["sft.epochs=1", "sft.batch_size=4", "rft.policy.steps=2", "rft.policy.prompts_per_step=2"]
    sections = ["sft", "irft.training", "rft.reward", "rft.policy"]
    recipe(*small, "irft.slice=all", "rft.slice=all", *(f"{each}.lora={lora}" for each in sections))
    first, samples, reward = Path("models/first"), Path("s.jsonl"), Path("reward")
    run(sft, "sft", policy=SFT, out=first)
    run(irft_generate, "irft_generate@r1", round="r1", part="all", policy=first, out=samples)
    run(irft_train, "irft_train@r1", round="r1", policy=first, initial=first, samples=samples, out=Path("r1"))
    run(rft_reward, "rft_reward@r1", round="r1", policy=first, reward=first, samples=samples, out=reward)
    run(rft_policy, "rft_policy@r1", round="r1", policy=first, initial=first, reward=reward, samples=samples,
        out=Path("aligned"))  # fmt: skip
    assert [base_record(out).ranks for out in (first, Path("r1"), reward, Path("aligned"))] == [[4], *[[4, 4]] * 3]
    assert {base_record(out).base for out in (first, Path("r1"), reward, Path("aligned"))} == {str(SFT)}
    for out in (Path("r1"), Path("aligned")):
        assert distance(load_policy(out, CPU), load_policy(first, CPU)) > 0
    # Sampling starts from the merged weights; pi_0 and pi_t are the same in round 1.
    kl = json.loads(Path("aligned/training.json").read_text())["curves"]["kl_per_token"]["value"]
    assert abs(kl[0]) < 1e-6


def test_the_kl_reference_of_the_second_round_is_the_sft_policy(recipe):
    """At the first step of round 2 the KL term is that of pi_1 to pi_0: with a reference pi_1 it would be zero."""
    one = ["rft.rounds=2", "rft.slice=all", "rft.policy.steps=1", "rft.policy.prompts_per_step=2"]
    recipe(*one, f"rft.policy.lora={LORA}", "rft.policy.optimiser={learning_rate: 1e-2, warmup_ratio: 0.0}")
    run(rft_generate, "rft_generate@r1", round="r1", part="all", policy=SFT, out=Path("s.jsonl"))
    run(rft_reward, "rft_reward@r1", round="r1", policy=SFT, reward=SFT, samples=Path("s.jsonl"), out=Path("reward"))
    given = {"initial": SFT, "reward": Path("reward"), "samples": Path("s.jsonl")}
    run(rft_policy, "rft_policy@r1", round="r1", policy=SFT, out=Path("r1"), **given)
    run(rft_policy, "rft_policy@r2", round="r2", policy=Path("r1"), out=Path("r2"), **given)
    first, second = (
        json.loads(Path(name, "training.json").read_text())["curves"]["kl_per_token"]["value"][0]
        for name in ("r1", "r2")
    )
    assert abs(first) < 1e-6
    assert abs(second) > 1e-3
    # Without adapters of its own, but with a reference that is kept as adapters, the term is the same kind of thing.
    recipe(*one)
    given["initial"] = Path("r1")
    run(rft_policy, "rft_policy@r2", round="r2", policy=Path("r1"), out=Path("whole"), **given)
    record = json.loads(Path("whole/training.json").read_text())
    assert abs(record["curves"]["kl_per_token"]["value"][0]) < 1e-6
    assert base_record(Path("whole")) is None


def test_an_sft_policy_that_is_the_base_itself_takes_no_space_of_its_own(recipe):
    settings = recipe("sft.epochs=0", f"sft.lora={LORA}")
    run(sft, "sft", policy=SFT, out=Path("models/same"))
    assert base_record(Path("models/same")).ranks == []
    assert not list(Path("models/same").glob("*.safetensors"))
    same = load_policy(Path("models/same"), settings.compute, TRAINING_DTYPE)
    assert distance(same, load_policy(SFT, settings.compute, TRAINING_DTYPE)) == 0


def test_sft_keeps_its_adapters(recipe):
    settings = recipe("sft.epochs=1", "sft.batch_size=4", f"sft.lora={LORA}", "sft.optimiser.learning_rate=1e-2")
    run(sft, "sft", policy=SFT, out=Path("models/tuned"))
    assert base_record(Path("models/tuned")).ranks == [4]
    tuned, start = (load_policy(each, settings.compute, TRAINING_DTYPE) for each in (Path("models/tuned"), SFT))
    assert distance(tuned, start) > 1e-3
    assert json.loads(Path("models/tuned/training.json").read_text())["steps"] > 0


def refused(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(QUICKSTART, list(overrides))
    return str(caught.value)


def test_adapters_that_cannot_be_are_refused():
    assert "rft.reward': frozen_blocks is 1, but with lora" in refused(
        f"rft.reward.lora={LORA}", "rft.reward.frozen_blocks=1"
    )
    assert "lora.dropout must be 0" in refused("rft.reward.lora={r: 4, dropout: 0.1}")
    assert "dropout must be 0: the KL term" in refused("rft.policy.lora={r: 4, dropout: 0.1}")
    assert "rft.optimiser 'ppo' trains all weights" in refused("rft.optimiser=ppo", f"rft.policy.lora={LORA}")
    assert "irft.training.lora.base is nf4, but compute.zero_stage 2 shards the weights" in refused(
        "irft.training.lora={r: 4, base: nf4}", "compute.zero_stage=2"
    )


@pytest.mark.parametrize(
    ("overrides", "adapted", "reward"),
    [
        ([], None, None),
        (["irft.training.lora={r: 4}"], "models/sft", None),
        (["irft.training.lora={r: 4, save: merged}"], None, None),
        (["sft.lora={r: 4}", "irft.training.lora={r: 4}"], "models/world/policy", None),
        (["rft.reward.lora={r: 4}"], None, "models/sft"),
        (["sft.lora={r: 4}", "rft.reward.lora={r: 4}"], "models/world/policy", "models/world/policy"),
        (["irft.training.lora={r: 4}", "irft.rounds=0"], None, None),
    ],
)
def test_the_graph_names_the_base_model_that_stages_need_beside_adapters(overrides, adapted, reward):
    _, graph = load(QUICKSTART, overrides)
    assert (graph.adapted, graph.adapted_reward) == (adapted, reward)
