"""Evaluate a registered version, or any folder, on this project's prompts, and check it against the gates.

The results are those of `dvc repro`: the same programs on the same prompts with the same seed, with the leaderboard if
the recipe has one.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.graph import ABSENT
from juicer.registry.aliases import CHAMPION
from juicer.registry.gates import LIMIT, Judged, PromotionSettings, Verdict, as_markdown, judge, judge_code
from juicer.registry.per_prompt import per_prompt_of
from juicer.registry.promote import GATES
from juicer.registry.records import DATA, LOCK, PARAMS
from juicer.registry.restore import weights_of
from juicer.registry.versions import Registry, Version
from juicer.reporting.formatting import significant
from juicer.reporting.numbers import win_rate
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.runtime.process_groups import run_in_group
from juicer.stages.dvc_files import JUDGED_BY, DvcLock
from juicer.stages.hashes import md5_of

RESULTS, MODELS, LEADERBOARD = Path(".juicer/evaluations"), Path("evaluation/models"), Path("evaluation/leaderboard")
SFT_STAGE = "evaluate@sft"


@dataclass(frozen=True)
class Judgement:
    """The result of an evaluation."""

    name: str
    figures: dict[str, float]
    champion: Version | None
    """None if there is none, if it is this model, or if it was evaluated on other prompts."""
    note: str
    """Why there is no champion to compare with; else empty."""
    verdicts: list[Verdict]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        failed = [verdict.gate for verdict in self.verdicts if verdict.result == "failed"]
        against = f" (champion: {self.champion.uri})" if self.champion else f" ({self.note})"
        return f"{self.name}{against}: " + (f"fails {'; '.join(failed)}" if failed else "passes every gate")

    def as_markdown(self) -> str:
        """The verdict, every gate, and the figures beside the champion's."""
        theirs = self.champion.metrics if self.champion else {}
        rows = [
            f"| {key} | {value:.6g} | {f'{theirs[key]:.6g}' if key in theirs else '–'} |"
            for key, value in sorted(self.figures.items())
        ]
        table = "\n".join(["| metric | this | champion |", "|---|---|---|", *rows])
        return f"{self.line}\n\n## Gates\n\n{as_markdown(self.verdicts)}\n\n## Figures, held-out prompts\n\n{table}\n"


def evaluate(
    registry: Registry,
    reference: str,
    project: str,
    scratch: Path,
    line: Callable[[str], None],
    *,
    gates: Path = GATES,
    again: bool = True,
) -> Judgement:
    """Evaluate a model, record the metrics on its version, and compare it with the champion.

    Args:
        reference: models:/NAME/VERSION, models:/NAME@ALIAS or a folder.
        project: the registered model that a folder is compared within.
        scratch: folder for weights that have to be downloaded.
        line: called with each line that the evaluation prints.
        gates: the file that declares the gates.
        again: evaluate even if the version was already evaluated on these prompts.

    Raises:
        InputError: no such version or folder, the pipeline is not up to date here, or the evaluation fails.
    """
    settings = PromotionSettings.parse(read_yaml(gates), str(gates))
    version, folder = _located(registry, reference, project)
    judged_on = check_up_to_date()
    name = version.uri if version else reference
    if version and not again and _is_measured(version, judged_on):
        figures, rows = version.metrics, registry.per_prompt_of(version, version.tags["model"], version.metrics)
    else:
        weights = folder or weights_of(registry, _registered(version), scratch / "weights")
        tags = version.tags if version else _tags_of(weights)
        result = _measure(tags, weights, line)
        rows = per_prompt_of(result)
        figures = _figures(result) | measure_leaderboard(tags, weights, line)
        if version:
            registry.note_evaluation(version, figures, judged_on, result.samples, rows)
    champion, note = _champion(registry, version, project, judged_on)
    model = version.tags["model"] if version else name
    base, sft = _reference("base"), _reference("sft")
    named = settings.references - {"base", "sft"}
    others = {each: _reference(each) for each in named if (MODELS / f"{each}.json").is_file()}
    compared = None
    if champion:
        theirs = registry.per_prompt_of(champion, champion.tags["model"], champion.metrics)
        compared = Judged(champion.uri, champion.tags["model"], champion.metrics, theirs)
    verdicts = judge(settings, Judged(name, model, figures, rows), base, sft, compared, others)
    if version:
        verdicts = [*judge_code(settings, version.uri, version.tags), *verdicts]
    return Judgement(name, figures, champion, note, verdicts)


def check_up_to_date() -> str:
    """The hash `evaluated_on` of this project: of its prompts, scorer and parameters of the evaluation.

    Raises:
        InputError: parameters, data, scorer, SFT model or the results to compare with differ from dvc.lock.
    """
    lock = DvcLock.read(Path(LOCK))
    if SFT_STAGE not in lock.stages:
        raise InputError(f"the stage {SFT_STAGE} has not run", where=LOCK, do="dvc repro")
    params = read_yaml(Path(PARAMS))
    locked = lock.stages[SFT_STAGE].get("params", {}).get(PARAMS, {})
    changed = [key for key in JUDGED_BY if key in locked and params.get(key) != locked[key]]
    judged_by = [DATA, _sft(lock), lock.argument(SFT_STAGE, "--scorer"), lock.argument(SFT_STAGE, "--judge")]
    judged_by += [str(MODELS / f"{name}.json") for name in ("base", "sft")]
    changed += [path for path in dict.fromkeys(judged_by) if path and _differs(lock, path)]
    if changed:
        do = "bring the project up to date: dvc repro, or dvc pull"
        raise InputError(f"these differ from {LOCK}: {', '.join(changed)}", do=do)
    return lock.evaluated_on(SFT_STAGE)


def _differs(lock: DvcLock, path: str) -> bool:
    """Whether `path` differs from what the evaluations read or wrote; False for a path that is not in dvc.lock."""
    read = {dependency["path"]: dependency.get("md5") for dependency in lock.stages[SFT_STAGE].get("deps", [])}
    wanted = read.get(path) or lock.md5(path)
    return wanted is not None and (not Path(path).exists() or md5_of(Path(path)) != wanted)


def _sft(lock: DvcLock) -> str:
    """The SFT model's folder."""
    return str(lock.argument(SFT_STAGE, "--policy"))


def _located(registry: Registry, reference: str, project: str) -> tuple[Version | None, Path | None]:
    """The version, and the folder if one was given; a folder with the weights of a version counts as that version."""
    folder = Path(reference)
    if reference.startswith("models:"):
        return registry.find(reference), None
    if not folder.is_dir():
        raise InputError("no such folder", where=reference, do="or write models:/NAME/VERSION, models:/NAME@ALIAS")
    return registry.find_by_md5(project, md5_of(folder)), folder


def _registered(version: Version | None) -> Version:
    assert version is not None, "without a folder there is a version"
    return version


def _tags_of(folder: Path) -> dict[str, str]:
    """Tags for a folder that is not a registered version."""
    return {"model": folder.name, "method": "folder", "round": "0", "dvc_md5": md5_of(folder)}


def _is_measured(version: Version, judged_on: str) -> bool:
    """Whether the version already has the metrics that an evaluation here would measure."""
    benchmarks = "leaderboard_average" in version.metrics or not _has_leaderboard()
    return benchmarks and version.tags.get("evaluated_on") == judged_on


def _has_leaderboard() -> bool:
    return bool(read_yaml(Path(PARAMS))["leaderboard"]["enabled"])


def measure_leaderboard(tags: dict[str, str], weights: Path, line: Callable[[str], None]) -> dict[str, float]:
    """Scores in per cent and their standard errors, by the gates' names; empty if the recipe has no leaderboard.

    Args:
        tags: `model`, `method`, `round` and `dvc_md5`, as of a version.
        weights: the model's folder.
        line: called with each line that is printed.

    Raises:
        InputError: the evaluation fails.
    """
    if not _has_leaderboard():
        return {}
    out = _result(tags, "-leaderboard")
    mirror = read_yaml(Path(PARAMS))["graph"]["benchmarks"]
    _run("tasks.leaderboard", tags, {"policy": weights, "mirror": mirror, "out": out}, line)
    return _scores(out / "results.json")


def _scores(path: Path) -> dict[str, float]:
    """The leaderboard's scores in a results.json, by the names of the gates."""
    results = BenchmarkedModel.read(path)
    found = {f"leaderboard_{name}": column.score for name, column in results.columns.items()}
    found |= {
        f"leaderboard_{name}_sem": column.error for name, column in results.columns.items() if column.error is not None
    }
    if results.limit is not None:
        found[LIMIT] = float(results.limit)
    return {**found, "leaderboard_average": results.average}


def _measure(tags: dict[str, str], weights: Path, line: Callable[[str], None]) -> EvaluatedModel:
    lock, out = DvcLock.read(Path(LOCK)), _result(tags, ".json")
    slots = {slot: str(lock.argument(SFT_STAGE, f"--{slot}") or ABSENT) for slot in ("scorer", "judge")}
    given = {"policy": weights, "sft": _sft(lock), **slots, "data": DATA, "out": out}
    _run("tasks.evaluate", tags, given, line)
    return EvaluatedModel.read(out)


def _result(tags: dict[str, str], suffix: str) -> Path:
    """Path of a result that DVC does not track."""
    return RESULTS / f"{tags['dvc_md5'].removesuffix('.dir')}{suffix}"


def _run(module: str, tags: dict[str, str], given: Mapping[str, object], line: Callable[[str], None]) -> None:
    """Run a stage's own program."""
    # Evaluations that run at the same time keep their checkpoints apart.
    stage = f"evaluate-version-{tags['dvc_md5'][:8]}"
    model = {"stage": stage, "name": tags["model"], "method": tags["method"], "round": tags["round"]}
    # In one word with its option, whatever the value looks like: see juicer/stages/words.py.
    words = [f"--{option}={value}" for option, value in {**model, **given}.items()]
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        line(text)

    if run_in_group([sys.executable, "-m", module, *words], note):
        raise InputError((said or ["the evaluation failed"])[-1].removeprefix("error: "), where=module)


def _figures(result: EvaluatedModel) -> dict[str, float]:
    """Held-out metrics of an evaluation, with the win rate against sft."""
    figures = {key: float(value) for key, value in result.held_out.numbers().items()}
    wins = win_rate(result.held_out_scores, EvaluatedModel.read(MODELS / "sft.json").held_out_scores)
    return figures if wins is None else {**figures, "win_rate_vs_sft": significant(wins) or 0.0}


def _reference(model: str) -> Judged:
    """base, sft or sft-matched as this project evaluated it, with the leaderboard's scores if there are any."""
    scores, evaluated = LEADERBOARD / model / "results.json", EvaluatedModel.read(MODELS / f"{model}.json")
    figures = _figures(evaluated) | (_scores(scores) if scores.is_file() else {})
    return Judged(model, model, figures, per_prompt_of(evaluated))


def _champion(registry: Registry, version: Version | None, project: str, judged_on: str) -> tuple[Version | None, str]:
    name = version.name if version else project
    number = registry.aliases_of(name).now().get(CHAMPION)
    if number is None:
        return None, "there is no champion yet"
    champion = registry.find(f"models:/{name}/{number}")
    if version and version.number == number:
        return None, "it is the champion"
    if champion.tags.get("evaluated_on") != judged_on:
        return None, f"the champion, {champion.uri}, was not evaluated on these prompts; evaluate it too"
    return champion, ""
