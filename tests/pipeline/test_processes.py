"""Stages on two processes of this machine: what one process gives, by copies and by DeepSpeed's ZeRO-2 and ZeRO-3.

The first use of ZeRO on a machine compiles an operation of DeepSpeed, about a minute; torch keeps it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.quickstart import world
from juicer.quickstart.random_models import write_random_model
from juicer.recipe.activation import activate
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings
from tests.fake_vllm_python import fake_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "template={max_prompt_tokens: 64, max_response_tokens: 12}",
    "sft.epochs=2",
    "sft.batch_size=16",
    # Neither the batches nor the last one divide evenly.
    "irft.training.batch_size=15",
    "irft.training.micro_batch_size=5",
    "irft.sampling.batch_size=16",
    "rft.sampling.batch_size=16",
    "rft.reward.batch_size=15",
    "rft.policy.steps=3",
    "rft.policy.prompts_per_step=4",
    "evaluation.prompts=12",
    "evaluation.sampling.batch_size=5",
    "scorer.kind=none",
]
DATA = ["--data", "data/curated"]
ROUND = ["--round", "r1", *DATA]
STAGES = {
    "irft_generate": [*ROUND, "--policy", "models/start"],
    "evaluate": ["--name", "start", "--method", "sft", "--round", "0", "--policy", "models/start", "--sft",
                 "models/other", "--scorer", "models/start", *DATA],
    "irft_train": [*ROUND, "--policy", "models/start", "--initial", "models/start", "--samples", "samples.jsonl"],
    "sft": ["--policy", "models/start", *DATA],
    "rft_reward": [*ROUND, "--policy", "models/start", "--reward", "models/start", "--samples", "samples.jsonl"],
    "rft_policy": [*ROUND, "--policy", "models/start", "--initial", "models/start", "--reward", "reward",
                   "--samples", "samples.jsonl"],
}  # fmt: skip


def params(folder: Path, name: str, *overrides: str) -> str:
    """Write a params file of its own for one way of running; returns its name."""
    activate(folder / "recipes/quickstart.yaml", [*SMALL, *overrides], folder / name)
    return name


def call(folder: Path, stage: str, out: str, params: str, check: bool = True, **environment: str):
    words = ["-m", f"tasks.{stage}", *STAGES[stage], "--params", params, "--out", out]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def group_of(machines: int) -> list[dict[str, str]]:
    """What each of several machines, all of them this one, has in its environment; nothing for one."""
    if machines == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        {"JUICER_MACHINES": str(machines), "JUICER_MACHINE_RANK": str(rank), "JUICER_MAIN_ADDRESS": address}
        for rank in range(machines)
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-NeoX, 32 demonstrations, and what one process makes of them in every stage."""
    folder = tmp_path_factory.mktemp("processes")
    for name in ("juicer", "tasks", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # So few that the processes' chunks of logits differ in number: with sharded weights they must not.
    module = folder / "juicer/models/log_probability.py"
    assert "LOGITS_AT_ONCE = 2**24" in module.read_text()
    module.write_text(module.read_text().replace("LOGITS_AT_ONCE = 2**24", "LOGITS_AT_ONCE = 2**13"))
    pairs = list(world.pairs(60, seed=0))
    template = TemplateSettings(max_prompt_tokens=64, max_response_tokens=12)
    for seed, name in enumerate(("start", "other")):
        write_random_model(
            folder / "recipes/models/pythia-1b.json",
            [text for _, *texts in pairs for text in texts],
            template,
            TinySettings(),
            seed,
            folder / "models" / name,
        )
    rows = [Demonstration.make(prompt, good[:40], rejected=bad[:40]) for prompt, good, bad in pairs]
    (folder / "data/curated").mkdir(parents=True)
    for split, part in (("train", rows[:32]), ("validation", rows[32:44]), ("held_out", rows[44:])):
        demonstrations.write(folder / f"data/curated/{split}.jsonl", part)
    one = params(folder, "one.yaml")
    call(folder, "irft_generate", "samples.jsonl", one)
    call(folder, "rft_reward", "reward", one)
    with ThreadPoolExecutor(2) as together:
        stages = ("evaluate", "irft_train", "sft", "rft_policy")
        for _ in together.map(lambda stage: call(folder, stage, f"one/{stage}", one), stages):
            pass
    shutil.move(folder / "samples.jsonl", folder / "one/irft_generate")
    shutil.copy(folder / "one/irft_generate", folder / "samples.jsonl")
    shutil.copytree(folder / "reward", folder / "one/rft_reward")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in [out, *out.rglob("*")] if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.mark.parametrize("stage", ["irft_generate", "evaluate"])
def test_what_is_sampled_and_scored_does_not_depend_on_the_number_of_processes(project, stage):
    call(project, stage, f"two/{stage}", params(project, f"{stage}.yaml", "compute.processes=2"))
    assert (project / "two" / stage).read_bytes() == (project / "one" / stage).read_bytes()


@pytest.mark.parametrize(("stage", "zero_stage"), [("irft_train", 3), ("rft_policy", 3), ("sft", 2), ("rft_reward", 0)])
def test_two_processes_take_the_steps_of_one(project, stage, zero_stage):
    way = params(project, f"{stage}.yaml", "compute.processes=2", f"compute.zero_stage={zero_stage}")
    done = call(project, stage, f"two/{stage}", way)
    assert done.stdout.count("\n") == 1, "one line for the user, not one per process"
    one, two = (json.loads((project / way / stage / "training.json").read_text()) for way in ("one", "two"))
    for name, curve in one["curves"].items():
        assert two["curves"][name]["step"] == curve["step"]
        assert two["curves"][name]["value"] == pytest.approx(curve["value"], rel=1e-4, abs=1e-4), name
    assert {key: two[key] for key in ("steps", "total_steps", "response_tokens")} == {
        key: one[key] for key in ("steps", "total_steps", "response_tokens")
    }
    weights = [load_file(project / way / stage / "model.safetensors") for way in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("irft_train", ["compute.zero_stage=3"]),
        ("irft_train", []),
        ("irft_train", ["compute.precision=bf16", "compute.weights=bf16"]),
        ("sft", []),
        ("sft", ["compute.zero_stage=2"]),
        ("rft_reward", []),
    ],
)
def test_two_processes_take_the_steps_of_one_on_packed_rows(project, stage, more):
    """At an equal global batch in tokens: a process's passes have half of the tokens."""
    name = f"packed-{stage}-{'-'.join(each.split('=')[1] for each in more)}"
    alone = [each for each in more if "zero" not in each]
    outs = []
    for processes, tokens, given in ((1, 400, alone), (2, 200, more)):
        packed = ["compute.packing=true", f"compute.tokens_per_pass={tokens}", f"compute.processes={processes}"]
        out = f"{name}-{processes}"
        call(project, stage, out, params(project, f"{out}.yaml", *packed, *given))
        outs.append(project / out)
    one, two = (json.loads((out / "training.json").read_text()) for out in outs)
    assert (one["facts"]["tokens_per_pass"], two["facts"]["tokens_per_pass"]) == (400, 200)
    exact = "compute.precision=bf16" not in more
    if "compute.zero_stage=2" in more:
        del one["curves"]["validation_nll"]  # a sharded policy is not watched
    for curve, points in one["curves"].items():
        tolerance = 1e-4 if exact else 0.05
        if exact or curve != "accuracy":
            assert two["curves"][curve]["value"] == pytest.approx(points["value"], rel=tolerance, abs=tolerance), curve
    assert one["curves"].keys() == two["curves"].keys()
    assert one["response_tokens"] == two["response_tokens"]
    weights = [load_file(out / "model.safetensors") for out in outs]
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, atol=2e-4 if exact else 2e-3, rtol=1e-3)


@pytest.mark.parametrize("stage", ["irft_train", "sft", "rft_reward", "rft_policy"])
def test_two_processes_train_adapters_as_one_does_without_zero(project, stage):
    section = {"irft_train": "irft.training", "sft": "sft"}.get(stage, stage.replace("_", "."))
    given = [f"{section}.lora={{r: 4, alpha: 8}}", f"{section}.optimiser.learning_rate=1e-3"]
    outs = []
    for name, more in ((f"lora-{stage}-one", []), (f"lora-{stage}-two", ["compute.processes=2"])):
        call(project, stage, name, params(project, f"{name}.yaml", *given, *more))
        outs.append(project / name)
    one, two = (json.loads((out / "training.json").read_text()) for out in outs)
    assert one["curves"].keys() == two["curves"].keys()
    for name, curve in one["curves"].items():
        assert two["curves"][name]["value"] == pytest.approx(curve["value"], rel=1e-3, abs=1e-3), name
    records = [json.loads((out / "base.json").read_text()) for out in outs]
    assert records[0] == records[1] and records[0]["base"] == "models/start"
    weights = [load_file(out / "adapter_model.safetensors") for out in outs]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("objective", ["gem", "dft"])
def test_two_processes_fine_tune_by_another_objective_as_one(project, objective):
    # The last batch has one row, so that a process only pads its share.
    given = [f"sft.objective={objective}", "sft.epochs=2.03", "sft.micro_batch_size=2"]
    outs = []
    for name, more in ((f"{objective}-one", []), (f"{objective}-two", ["compute.processes=2"])):
        call(project, "sft", name, params(project, f"{name}.yaml", *given, *more))
        outs.append(project / name)
    one, two = (json.loads((out / "training.json").read_text()) for out in outs)
    assert one["steps"] == two["steps"] == 5
    assert one["response_tokens"] == two["response_tokens"]
    for name, curve in one["curves"].items():
        assert two["curves"][name]["value"] == pytest.approx(curve["value"], rel=1e-3, abs=2e-4), name
    normalisers = [each["facts"]["mean_log_normaliser"] for each in (one, two) if objective == "dft"]
    assert normalisers[1:] == pytest.approx(normalisers[:1], rel=1e-3, abs=2e-4)
    weights = [load_file(out / "model.safetensors") for out in outs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("stage", "zero_stage", "machines", "killed"),
    [
        ("irft_train", 3, 1, True),
        ("sft", 2, 2, False),
        ("rft_policy", 0, 1, False),
        ("irft_generate", 0, 1, True),
    ],
)
def test_several_processes_that_were_ended_go_on_to_the_same_bytes(project, stage, zero_stage, machines, killed):
    longer = ["irft.training.epochs=20", "sft.epochs=20", "rft.policy.steps=20", "irft.sampling.batch_size=1"]
    way = params(project, f"long-{stage}.yaml", "compute.processes=2", f"compute.zero_stage={zero_stage}", *longer)
    call(project, stage, f"whole/{stage}", way)
    out = project / "ended" / stage
    running = [
        subprocess.Popen(
            [sys.executable, "-m", f"tasks.{stage}", *STAGES[stage], "--params", way, "--out", out],
            cwd=project,
            env={**os.environ, **machine, "JUICER_CHECKPOINT_SECONDS": "0.1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in group_of(machines)
    ]
    states = project / ".juicer/checkpoints" / stage
    while not list(states.glob("*/*/[0-9]*")):
        assert all(each.poll() is None for each in running), [each.communicate() for each in running]
        time.sleep(0.02)
    started = psutil.Process(running[0].pid).children(recursive=True)
    if killed:
        started[0].kill()
    else:
        running[0].terminate()
    errors = [each.communicate(timeout=600)[1] for each in running]
    psutil.wait_procs(started, timeout=60)
    assert not any(process.is_running() for process in started)
    assert all(each.returncode != 0 for each in running)
    assert not out.exists()
    if not killed:
        resumes = "the same command resumes from the checkpoint"
        assert errors[0] == f"{stage}: cancelled by SIGTERM; no output was written; {resumes}\n"

    with ThreadPoolExecutor(machines) as together:
        first, *_ = together.map(lambda machine: call(project, stage, out, way, **machine), group_of(machines))
    assert "resuming from the checkpoint" in first.stdout
    assert contents(out) == contents(project / "whole" / stage)
    assert not states.exists()


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_what_bf16_passes_change_is_saved_in_full(project, zero_stage):
    size = 2 if zero_stage else 1
    steps = ["irft.training.optimiser.name=rmsprop", "irft.training.optimiser.learning_rate=5e-7"]
    spread = [f"compute.processes={size}", f"compute.zero_stage={zero_stage}"]
    way = params(project, f"bf16-{zero_stage}.yaml", "compute.precision=bf16", *steps, *spread)
    exact = params(project, "fp32.yaml", *steps)
    before = load_file(project / "models/start/model.safetensors")
    changes = []
    for each in (exact, way):
        out = f"precision/{each}"
        if not (project / out).exists():
            call(project, "irft_train", out, each)
        after = load_file(project / out / "model.safetensors")
        assert {weight.dtype for weight in after.values()} == {torch.float32}
        changes.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    # Rounded to bf16, a weight would change by none or by thousands of such steps.
    assert (changes[1].abs() < 1e-4).all()
    shares = [float((change != 0).float().mean()) for change in changes]  # tokens that do not occur never change
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert torch.cosine_similarity(*changes, dim=0) > 0.9


def test_a_later_round_is_held_against_the_sft_policy_where_the_recipe_says_so(project):
    later = [word.replace("start", "other") if word == "models/start" else word for word in STAGES["irft_train"]]
    later[later.index("--initial") + 1] = "models/start"
    margins = {}
    for reference in ("round", "initial"):
        way = params(project, f"{reference}.yaml", f"irft.training.reference={reference}")
        words = [*later, "--params", way, "--out", f"reference/{reference}"]
        subprocess.run([sys.executable, "-m", "tasks.irft_train", *words], cwd=project, check=True, timeout=600)
        record = json.loads((project / f"reference/{reference}/training.json").read_text())
        margins[reference] = record["curves"]["margin"]["value"][0]
    assert margins["round"] == pytest.approx(0.0, abs=1e-5)
    assert abs(margins["initial"]) > 1e-3


def test_a_policy_that_zero_3_trained_is_an_ordinary_folder(project):
    folder = project / "two/irft_train"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    before, after = (load_file(each / "model.safetensors") for each in (project / "models/start", folder))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    prompt = tokenizer("Hello", return_tensors="pt", return_token_type_ids=False)
    assert model.generate(**prompt, max_new_tokens=3).shape[1] > prompt["input_ids"].shape[1]


def test_two_machines_share_a_stage_and_the_first_one_writes(project):
    way = params(project, "machines.yaml", "compute.processes=2")
    with ThreadPoolExecutor(2) as together:
        first, second = together.map(
            lambda machine: call(project, "irft_generate", "machines.jsonl", way, **machine), group_of(2)
        )
    assert (project / "machines.jsonl").read_bytes() == (project / "one/irft_generate").read_bytes()
    assert "32 responses" in first.stdout
    assert second.stdout == ""


def test_a_failure_on_several_processes_is_one_line(project):
    (project / "two").mkdir(exist_ok=True)
    (project / "two/kept.jsonl").write_text("old")
    way = params(project, "broken.yaml", "compute.processes=2")
    curated = project / "data/curated"
    curated.rename(project / "data/elsewhere")
    try:
        done = call(project, "irft_generate", "two/kept.jsonl", way, check=False)
    finally:
        (project / "data/elsewhere").rename(curated)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: data/curated/train.jsonl: no such file")
    assert (project / "two/kept.jsonl").read_text() == "old"


def test_by_vllm_each_process_has_its_own_and_samples_and_steps_are_those_of_one(project, tmp_path):
    python = {"JUICER_VLLM_PYTHON": str(fake_python(tmp_path))}
    engines = ("irft.sampling.engine=vllm", "rft.policy.engine=vllm", "rft.policy.temperature=1.0")
    for count in (1, 2):
        way = params(project, f"vllm-{count}.yaml", f"compute.processes={count}", *engines)
        for stage in ("irft_generate", "rft_policy"):
            done = call(project, stage, f"vllm-{count}/{stage}", way, **python)
            assert done.stdout.count("\n") == 1, "one line for the user, not one per process"
    one, two = (project / f"vllm-{count}" for count in (1, 2))
    assert (one / "irft_generate").read_bytes() == (two / "irft_generate").read_bytes()
    assert (one / "irft_generate").read_bytes() != (project / "one/irft_generate").read_bytes()
    records = [json.loads((way / "rft_policy/training.json").read_text()) for way in (one, two)]
    assert [record["facts"]["engine"] for record in records] == ["vllm 0.0"] * 2
    assert max(record["facts"]["engine_difference"] for record in records) < 1e-4
    for name, curve in records[0]["curves"].items():
        assert records[1]["curves"][name]["value"] == pytest.approx(curve["value"], rel=1e-4, abs=1e-4), name
