"""A pipeline under real git and DVC whose stages copy a tiny model and write down given figures, in seconds.

What comes after a pipeline (registering, restoring, promoting) sees files and a dvc.lock like those of a real one.
"""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from juicer.recipe.activation import dump, load
from juicer.registry.ensure import ensure
from juicer.registry.records import collect
from juicer.registry.store import project_uri
from juicer.reporting.contract import Summary
from tests import python
from tests.example_evaluations import metrics
from tests.stub_models import write_stub

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"base": ("base", 0), "sft": ("sft", 0), "irft-r1": ("irft", 1), "irft-r2": ("irft", 2)}
BASE = metrics(
    prompts=100, reward_mean=0.0, reward_sem=0.1, preference_accuracy=0.5, preference_gap=0.0, preference_gap_sem=0.5,
    response_tokens=20.0, ended=0.9, kl_to_sft=1.0, distinct_2=0.3, pairs=100,
)  # fmt: skip
NUMBERS: dict[str, dict[str, Any]] = {
    "base": BASE,
    "sft": {**BASE, "reward_mean": 1.0, "ended": 1.0, "kl_to_sft": 0.0},
    "irft-r1": {**BASE, "reward_mean": 2.0, "ended": 1.0, "preference_accuracy": 0.8, "preference_gap": 4.0},
    "irft-r2": {**BASE, "reward_mean": 1.9, "ended": 1.0, "preference_accuracy": 0.7, "preference_gap": 3.0},
}
ROW = {
    "prompt": [{"role": "user", "content": "How do I fly a kite?"}], "response": "Hold the line.", "rejected": "No.",
    "held_out": True, "score": None,
}  # fmt: skip
RECIPE = [
    "fetch={source: rows.jsonl, licence: mine}", "world=null", "pretrain=null", "policy.model=./models/world",
    "scorer={kind: none}", "template={name: hh, max_prompt_tokens: 48, max_response_tokens: 16}",
]  # fmt: skip
MAKE = """
import json, shutil, sys
from pathlib import Path

option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out = Path(option["--out"])
out.parent.mkdir(parents=True, exist_ok=True)
if sys.argv[1] == "curate":
    out.mkdir()
    for name in ("held_out", "validation"):
        shutil.copy("rows.jsonl", out / f"{name}.jsonl")
elif sys.argv[1] == "model":
    shutil.copytree(option["--policy"], out)
    (out / "training.json").write_text(json.dumps({"stage": option["--stage"], "steps": 3, "response_tokens": 30}))
elif sys.argv[1] == "evaluate":
    numbers = json.loads(Path("numbers.json").read_text())[option["--name"]]
    result = {"name": option["--name"], "method": option["--method"], "round": int(option["--round"])}
    result |= {"path": option["--policy"], "held_out": numbers, "held_out_scores": [numbers["reward_mean"]] * 4}
    out.write_text(json.dumps(result))
else:
    rows = [json.loads(path.read_text()) for path in sorted(Path("evaluation/models").glob("*.json"))]
    models = [{key: row[key] for key in ("name", "method", "round", "path")} | row["held_out"] for row in rows]
    order = ["base", "sft", "irft-r1", "irft-r2"]
    for model in models:
        model |= {"validation_reward_mean": model["reward_mean"], "reward_difference": None}
    models.sort(key=lambda model: order.index(model["name"]))
    chosen = {"champion": {"name": "irft-r1", "criterion": None}, "control": "sft"}
    out.write_text(json.dumps({"recipe": "quickstart", "seed": 0, "models": models, **chosen}))
"""
GRAPH = """
stages:
  curate:
    cmd: python make.py curate --out data/curated
    deps: [make.py, rows.jsonl]
    params: [seed]
    outs: [data/curated]
  pretrain:
    cmd: python make.py model --stage pretrain --policy source --out models/world
    deps: [make.py, source]
    meta: {run: training}
    outs: [models/world]
  sft:
    cmd: python make.py model --stage sft --policy models/world --out models/sft
    deps: [make.py, models/world, data/curated]
    params: [sft]
    meta: {run: training}
    outs: [models/sft]
  irft_train:
    foreach: {r1: models/sft, r2: models/irft/r1}
    do:
      cmd: python make.py model --stage irft_train@${key} --policy ${item} --out models/irft/${key}
      deps: [make.py, "${item}", data/curated]
      meta: {run: training}
      outs: ["models/irft/${key}"]
  evaluate:
    foreach:
      base: {path: models/world, method: base, round: 0}
      sft: {path: models/sft, method: sft, round: 0}
      irft-r1: {path: models/irft/r1, method: irft, round: 1}
      irft-r2: {path: models/irft/r2, method: irft, round: 2}
    do:
      cmd: >-
        python make.py evaluate --name ${key} --method ${item.method} --round ${item.round} --policy ${item.path}
        --scorer models/world --data data/curated --out evaluation/models/${key}.json
      deps: [make.py, numbers.json, "${item.path}", models/world, data/curated]
      params: [seed, template, scorer, evaluation]
      meta: {run: evaluation}
      outs: ["evaluation/models/${key}.json"]
  report:
    cmd: python make.py report --out metrics/summary.json
    deps:
      [make.py, evaluation/models/base.json, evaluation/models/sft.json, evaluation/models/irft-r1.json,
       evaluation/models/irft-r2.json]
    outs: [metrics/summary.json]
"""


def save_tiny_model(folder: Path) -> None:
    """A random GPT-NeoX as our stages save it."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from juicer.data import hh
    from juicer.data.template import Template
    from juicer.models.loading import save_policy
    from juicer.quickstart.pretraining import train_tokenizer
    from juicer.settings.data import TemplateSettings

    tokenizer = train_tokenizer(["How do I fly a kite? Hold the line and run into the wind."] * 20, 300, hh.TURNS)
    template = Template(tokenizer, TemplateSettings(name="hh", max_prompt_tokens=48, max_response_tokens=16))
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    save_policy(GPTNeoXForCausalLM(config), template, folder, None)


def make_project(folder: Path, graph: str = GRAPH, code: Mapping[str, str] = MappingProxyType({})) -> None:
    """Make the project in `folder` and run its pipeline.

    Args:
        graph: its dvc.yaml.
        code: further files, by path, for the stages to depend on.
    """
    for name, text in code.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    save_tiny_model(folder / "source")
    (folder / "make.py").write_text(MAKE)
    # A project has these; the stages here need neither.
    for name in ("tasks", "flows"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "dvc.yaml").write_text(graph)
    (folder / "numbers.json").write_text(json.dumps(NUMBERS))
    rows = [{**ROW, "id": str(number), "rejected": None if number == 3 else ROW["rejected"]} for number in range(4)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    stub = write_stub(folder / "models/world")
    with contextlib.chdir(folder):
        (folder / "params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", RECIPE)))
    shutil.rmtree(stub)
    for name in (".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    commit(folder, "first")
    repro(folder)


def git(folder: Path, *arguments: str) -> str:
    """Run git there; returns what it prints."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, message: str) -> None:
    """Commit all that there is."""
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def repro(folder: Path) -> None:
    """Bring the pipeline up to date."""
    run(folder, "dvc", "repro", "--quiet")


def register(folder: Path) -> str:
    """Register what the pipeline made; the working directory has to be `folder`. Returns what was done, in words."""
    summary = Path("metrics/summary.json")
    records = collect(Summary.read(folder / summary), summary, Path("dvc.lock"), "quickstart")
    return ensure(records, project_uri(), "quickstart", "quickstart")


def run(folder: Path, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` there, with the code of this repository."""
    return python.run(folder, module, *arguments, environment=python.environment(ROOT), check=check)
