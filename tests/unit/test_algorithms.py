"""The algorithms in memory give the weights that the stages give, which put files in between."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.methods.algorithms import algorithm_1, algorithm_2
from juicer.methods.reward import load_reward
from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template, save_policy
from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from juicer.runtime.seeding import derive
from juicer.stages.stage import Stage
from tasks import irft_generate, irft_train, rft_generate, rft_policy, rft_reward

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
DATA, SFT = Path("data"), Path("models/sft")
ROWS = [
    Demonstration.make([{"role": "user", "content": f"hello {number}"}], f"very well {number % 3}")
    for number in range(12)
]


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
        given = ["compute.device=cpu", *small, *overrides]
        recipe, graph = load(QUICKSTART, given)
        Path("params.yaml").write_text(dump(recipe, graph))
        save_policy(policy, Template(tokenizer, recipe.template), SFT, None)
        return recipe

    return activate


def run(program, name, **arguments):
    """Run a stage program in this process."""
    parser = argparse.ArgumentParser()
    program.arguments(parser)
    optional = {action.dest: action.default for action in parser._actions if not action.required}
    program.run(Stage(name, argparse.Namespace(params=Path("params.yaml"), **{**optional, "data": DATA, **arguments})))


def assert_same_weights(model, saved):
    assert model.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(one, saved.state_dict()[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    ("reference", "slices", "more"),
    [
        ("round", "split", []),
        ("initial", "all", []),
        ("initial", "split", ["irft.replay=0.5"]),
        ("round", "all", ["irft.replay=0.25", "irft.sampling.samples_per_prompt=2"]),
    ],
)
def test_algorithm_2_gives_the_weights_of_its_stages(recipe, reference, slices, more):
    settings = recipe("irft.rounds=2", f"irft.training.reference={reference}", f"irft.slice={slices}", *more)
    template = load_template(SFT, settings.template)
    policy, start = (load_policy(SFT, settings.compute, TRAINING_DTYPE) for _ in range(2))
    records = algorithm_2(policy, ROWS, template, settings.irft, settings.compute, settings.seed)

    previous, earlier = SFT, None
    for name, part in zip(("r1", "r2"), settings.irft.parts, strict=True):
        samples, out = Path(f"{name}.jsonl"), Path(f"models/{name}")
        run(irft_generate, f"irft_generate@{name}", round=name, part=part, policy=previous, earlier=earlier,
            out=samples)  # fmt: skip
        earlier = samples
        run(irft_train, f"irft_train@{name}", round=name, policy=previous, initial=SFT, samples=samples, out=out)
        previous = out
    assert_same_weights(policy, load_policy(previous, settings.compute, TRAINING_DTYPE))
    assert any(not torch.equal(one, two) for one, two in zip(policy.parameters(), start.parameters(), strict=True))
    pairs = settings.irft.sampling.samples_per_prompt * (6 if slices == "split" else 12)
    assert [record.facts["pairs"] for record in records] == [pairs, pairs]


def test_the_number_of_rounds_has_to_be_known(recipe, tmp_path):
    settings = recipe("irft.rounds=auto", "rft.rounds=auto", "irft.slice=all", "rft.slice=all")
    template, policy = load_template(SFT, settings.template), load_policy(SFT, settings.compute, TRAINING_DTYPE)
    common = ROWS, template
    with pytest.raises(InputError, match=r"irft\.rounds: the number of rounds has to be known here"):
        algorithm_2(policy, *common, settings.irft, settings.compute, 0)
    with pytest.raises(InputError, match=r"rft\.rounds: the number of rounds has to be known here"):
        algorithm_1(policy, policy, SFT, *common, settings.rft, settings.compute, 0, tmp_path)


@pytest.mark.parametrize("contrast", ["round", "initial"])
def test_algorithm_1_gives_the_weights_of_its_stages(recipe, tmp_path, contrast):
    small = ["rft.policy.steps=3", "rft.policy.prompts_per_step=2"]
    settings = recipe("rft.rounds=2", "rft.slice=split", f"rft.contrast={contrast}", "rft.replay=0.4", *small)
    compute, seed = settings.compute, settings.seed
    template = load_template(SFT, settings.template)
    policy, start = (load_policy(SFT, compute, TRAINING_DTYPE) for _ in range(2))
    reward = load_reward(SFT, compute, derive(seed, "rft", "head"), TRAINING_DTYPE)
    records = algorithm_1(policy, reward, SFT, ROWS, template, settings.rft, compute, seed, tmp_path / "scratch")

    previous, learnt, earlier = SFT, SFT, None
    for name, part in zip(("r1", "r2"), settings.rft.parts, strict=True):
        samples, judge, out = Path(f"{name}.jsonl"), Path(f"models/{name}/reward"), Path(f"models/{name}/policy")
        sampled = SFT if contrast == "initial" else previous
        run(rft_generate, f"rft_generate@{name}", round=name, part=part, policy=sampled, earlier=earlier, out=samples)
        earlier = samples
        run(rft_reward, f"rft_reward@{name}", round=name, policy=previous, reward=learnt,
            samples=samples, out=judge)  # fmt: skip
        run(rft_policy, f"rft_policy@{name}", round=name, policy=previous, initial=SFT, reward=judge,
            samples=samples, out=out)  # fmt: skip
        previous, learnt = out, judge
    assert_same_weights(policy, load_policy(previous, compute, TRAINING_DTYPE))
    assert_same_weights(reward, load_reward(learnt, compute, seed, TRAINING_DTYPE))
    assert any(not torch.equal(one, two) for one, two in zip(policy.parameters(), start.parameters(), strict=True))
    assert [aligned.steps for _, aligned in records] == [3, 3]


def test_a_reward_with_another_tokenizer_reads_text_and_keeps_its_tokenizer(recipe, policy, tokenizer):
    settings = recipe("rft.rounds=1", "rft.policy.steps=2", "rft.policy.prompts_per_step=2")
    # The ids of two common letters change places.
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    vocabulary["e"], vocabulary["h"] = vocabulary["h"], vocabulary["e"]
    names = {"eos_token": tokenizer.eos_token, "bos_token": tokenizer.bos_token, "pad_token": tokenizer.pad_token}
    made = type(tokenizer.backend_tokenizer).from_str(json.dumps(pipeline))
    other = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    trunk, judge, samples, out = (Path(name) for name in ("trunk", "judge", "samples.jsonl", "policy"))
    save_policy(policy, Template(other, settings.template), trunk, None)
    run(rft_generate, "rft_generate@r1", round="r1", part="all", policy=SFT, out=samples)
    run(rft_reward, "rft_reward@r1", round="r1", policy=SFT, reward=trunk, samples=samples, out=judge)
    assert json.loads((judge / "training.json").read_text())["facts"]["reads"] == "text"
    assert (judge / "tokenizer.json").read_bytes() == (trunk / "tokenizer.json").read_bytes()
    run(rft_policy, "rft_policy@r1", round="r1", policy=SFT, initial=SFT, reward=judge, samples=samples, out=out)
    assert (out / "tokenizer.json").read_bytes() == (SFT / "tokenizer.json").read_bytes()
