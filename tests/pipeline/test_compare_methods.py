"""`juicer compare-methods` with two methods and a control, in copies of a project whose stages write given figures."""

import json
from pathlib import Path

import pytest

from juicer.claim.methods.results import MethodComparison
from juicer.runtime.files import read_yaml
from tests.example_evaluations import evaluation, training_of
from tests.stub_project import call, make_project, ran

RECIPE = """
extends: quickstart.yaml
name: mine
fetch: {source: rows.jsonl, licence: mine}
pretrain: null
policy: {model: models/mine}
scorer: {kind: none, model: null}
template: {max_prompt_tokens: 48, max_response_tokens: 16}
methods:
  seeds: [0]
  variants: {imperfect: [], clean: []}
  compared:
"""
MAKE = """
import json, os, sys
from pathlib import Path

stage, out = sys.argv[1], Path(sys.argv[2])
with Path(os.environ["RAN"]).open("a") as ran:
    ran.write(f"{stage} {out.stem} {Path.cwd().parent.name}\\n")
if os.environ.get("FAILS") == f"{stage} {out.stem}":
    sys.exit("error: no more paper")
out.parent.mkdir(parents=True, exist_ok=True)
if stage == "report":
    names, keys = sorted(Path("evaluation/models").glob("*.json")), ("name", "method", "round", "path")
    models = [{key: json.loads(path.read_text())[key] for key in keys} for path in names]
    Path("report").mkdir(exist_ok=True)
    Path("report/report.html").touch()
    chosen = {"champion": {"name": "sft", "criterion": None}, "control": "sft"}
    out.write_text(json.dumps({"recipe": "mine", "seed": 0, "models": models, **chosen}))
elif stage == "evaluate":
    made = json.loads((Path("figures") / out.name).read_text())
    if out.stem == "sft-matched":
        steps, tokens = map(int, Path("models/sft-matched/weights").read_text().split())
        used = {"total_steps": steps, "total_response_tokens": tokens}
        made["training"] = {"stage": "sft_matched", "steps": 1, "response_tokens": 1, **used}
    out.write_text(json.dumps(made))
elif stage == "compare":
    name, _, number = out.stem.partition("-r")
    earlier = out.with_name(f"{name}-r{int(number) - 1}.json")
    before = json.loads(earlier.read_text())["rounds"] if earlier.is_file() else []
    row = {"method": name, "round": int(number), "before": "x", "criterion": "preferences", "improved": number == "1"}
    row |= {"value": 0.5, "value_before": 0.4, "difference": 0.1, "low": 0.0, "high": 0.2}
    out.write_text(json.dumps({"rounds": [*before, row | {"count": 100, "most": 3, "kl_to_sft": 1.0}]}))
elif stage == "tabulate":
    out.write_text("{}")
else:
    from ruamel.yaml import YAML
    given = YAML(typ="safe").load(Path("params.yaml"))["sft_matched"]
    out.mkdir()
    if stage == "irft":
        name = f"irft_train@{out.stem}"
        Path(".juicer/costs").mkdir(parents=True, exist_ok=True)
        Path(f".juicer/costs/{name}.json").write_text(json.dumps({"stage": name, "seconds": 60.0}))
    (out / "weights").write_text(f"{given['steps']} {given['response_tokens']}" if stage == "control" else stage)
"""
GRAPH = """
stages:
  sft:
    cmd: python make.py sft models/sft
    deps: [make.py, "${graph.base}"]
    params: [seed, sft]
    outs: [models/sft]
  irft_train:
    foreach: ${graph.irft}
    do:
      cmd: python make.py irft models/irft/${key}
      deps: [make.py, "${item.previous}"]
      params: [seed, irft.training]
      outs: ["models/irft/${key}"]
  rft_policy:
    foreach: ${graph.rft}
    do:
      cmd: python make.py rft models/rft/${key}/policy
      deps: [make.py, "${item.previous}"]
      params: [seed, rft.policy]
      outs: ["models/rft/${key}/policy"]
  sft_matched:
    foreach: ${graph.sft_matched}
    do:
      cmd: python make.py control models/sft-matched
      deps: [make.py, models/sft, "${item.irft}", "${item.rft}"]
      params: [seed, sft_matched]
      outs: [models/sft-matched]
  evaluate:
    foreach: ${graph.models}
    do:
      cmd: python make.py evaluate evaluation/models/${key}.json
      deps: [make.py, figures, "${item.path}"]
      outs: ["evaluation/models/${key}.json"]
  tabulate:
    foreach: ${graph.models}
    do:
      cmd: python make.py tabulate evaluation/tables/${key}.json
      deps: [make.py, "evaluation/models/${key}.json", "${item.previous}"]
      outs: ["evaluation/tables/${key}.json"]
  compare_round:
    foreach: ${graph.comparisons}
    do:
      cmd: python make.py compare evaluation/rounds/${key}.json
      deps: [make.py, "evaluation/models/${key}.json", "${item.before}", "${item.earlier}"]
      outs: ["evaluation/rounds/${key}.json"]
  report:
    cmd: python make.py report metrics/summary.json
    deps: [make.py, "${graph.table}"]
    outs: [metrics/summary.json, report/report.html]
"""


@pytest.fixture
def methods() -> str:
    """The lines of the methods that are compared."""
    return "    irft: [irft.rounds=2, rft.rounds=0]\n    rft-t1: [irft.rounds=0, rft.rounds=1]\n"


@pytest.fixture
def project(methods: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which IRFT's rounds take most tokens and RFT's round takes most steps."""
    longer = {**training_of("irft_train", 20, 40, 1, ("loss",)), "total_response_tokens": 90_000}
    figures = {
        "base": evaluation("base", "base", 0, quality=0.0),
        "sft": evaluation("sft", "sft", 0, quality=0.3, training=training_of("sft", 9, 0, 0, ("loss",))),
        "sft-matched": evaluation("sft-matched", "sft-matched", 0, quality=0.4),
        "irft-r1": evaluation("irft-r1", "irft", 1, quality=0.5, training=training_of("a", 20, 20, 1, ("loss",))),
        "irft-r2": evaluation("irft-r2", "irft", 2, quality=0.4, training=longer),
        "rft-r1": evaluation("rft-r1", "rft", 1, quality=0.9, training=training_of("b", 25, 55, 1, ("loss",))),
        "rft-r2": evaluation("rft-r2", "rft", 2, quality=0.1, training=training_of("b", 25, 80, 1, ("loss",))),
    }
    folder = make_project(tmp_path / "project", RECIPE + methods, GRAPH, MAKE, figures)
    monkeypatch.chdir(folder)
    return folder


def test_a_control_gets_what_the_methods_used_and_nothing_runs_twice(project: Path) -> None:
    one = ("compare-methods", "mine", "--variants", "imperfect", "--methods", "irft", "rft-t1")
    failed = call(project, *one, code=1, FAILS="rft policy")
    assert "imperfect, rft-t1, seed 0: failed" in failed.stdout
    assert "1 of 3 runs failed: imperfect, rft-t1, seed 0" in failed.stderr.splitlines()[-1]
    stages = ran(project)
    # The SFT of a seed is the same for all, and the control waits for the methods.
    assert [each for each in stages if each.startswith("sft")] == ["sft sft irft"]
    assert stages.index("irft r2 irft") < stages.index("control sft-matched sft-matched")
    first = MethodComparison.read(project / ".juicer/methods/mine/results.json")
    assert first.missing == {"imperfect": {"rft-t1": [0]}}

    done = call(project, *one)
    assert "1 of 3 runs have finished before" in done.stdout
    # RFT has more steps than IRFT, so the control is trained for longer than before.
    assert {"rft policy rft-t1", "control sft-matched sft-matched"} <= set(stages := ran(project))
    assert not any(each.startswith(("sft", "irft")) for each in stages)
    found = MethodComparison.read(project / ".juicer/methods/mine/results.json")
    efforts = {each.method: (each.steps, each.response_tokens) for each in found.efforts}
    assert efforts == {"irft": ([40], [90_000]), "rft-t1": ([55], [38_500]), "sft-matched": ([55], [90_000])}
    params = read_yaml(project / ".juicer/methods/mine/imperfect/sft-matched/seed-0/params.yaml")
    assert (params["sft_matched"]["steps"], params["sft_matched"]["response_tokens"]) == (55, 90_000)
    assert found.missing == {"imperfect": {}} and found.starts == {"imperfect": True}
    assert "are better than sft-matched" in found.headlines[0] and found.headlines[0] in done.stdout
    assert [each.seconds for each in found.efforts] == [[120.0], [None], [None]]
    written = {path.name for path in (project / ".juicer/methods/mine").iterdir()}
    assert {"methods.md", "methods.png", "methods.svg"} <= written

    assert "3 of 3 runs have finished before" in call(project, *one).stdout
    assert ran(project) == []
    again = call(project, "compare-methods", "mine", "--variants", "imperfect", "--methods", "irft", "--again")
    assert ran(project) == [] and "irft" in again.stdout and "rft-t1" not in again.stdout


AUTO = "[irft.rounds=0, rft.rounds=auto, rft.slice=all, rft.auto.most=3, rft.auto.criterion=preferences]"


@pytest.mark.slow
@pytest.mark.parametrize("methods", [f"    irft: [irft.rounds=1, rft.rounds=0]\n    rft-auto: {AUTO}\n"])
def test_a_method_that_finds_its_rounds_is_compared_by_those_it_kept_and_the_control_equals_all(project: Path) -> None:
    rows = [{"prompt": f"Is {number} even?", "chosen": "Yes.", "rejected": "No."} for number in range(0, 100, 2)]
    (project / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    one = ("compare-methods", "mine", "--variants", "imperfect")
    done = call(project, *one)
    assert {"rft policy rft-auto", "compare rft-r2 rft-auto"} <= set(ran(project)), done.stdout
    found = MethodComparison.read(project / ".juicer/methods/mine/results.json")
    assert found.missing == {"imperfect": {}} and [each.rounds for each in found.of("imperfect")][-1] == [1]
    efforts = {each.method: each.steps for each in found.efforts}
    assert efforts == {"irft": [20], "rft-auto": [80], "sft-matched": [80]}
    assert "3 of 3 runs have finished before" in call(project, *one).stdout
    assert ran(project) == []
