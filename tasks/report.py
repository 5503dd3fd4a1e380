"""Turn the table of evaluations into metrics/summary.json, report/report.html and the series of `dvc plots`.

Seconds and peak memory differ from run to run, so they go to report/costs.html, beside the versioned page; the commit
and the versions of libraries, which differ between machines, go to report/environment.html.
"""

import argparse
from pathlib import Path

from pydantic import JsonValue

from juicer.evaluation.benchmark_results import BenchmarkedModel
from juicer.evaluation.results import EvaluatedModel
from juicer.evaluation.rounds import RoundComparisons
from juicer.reporting import costs, environment
from juicer.reporting.findings import findings
from juicer.reporting.leaderboard_table import leaderboard_of
from juicer.reporting.numbers import flat, summarise
from juicer.reporting.page import Content, render
from juicer.reporting.plots import Curation, training_curves, write_plots
from juicer.reporting.provenance import Recipe
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, write_json
from juicer.settings.choice import ChoiceSettings
from juicer.settings.data import JudgeSettings, ScorerSettings, TemplateSettings
from juicer.settings.evaluation import EvaluationSettings
from juicer.settings.irft import IrftSettings
from juicer.settings.models import PolicySettings
from juicer.settings.report import ReportSettings
from juicer.settings.rft import RftSettings
from juicer.settings.sft import SftMatchedSettings, SftSettings
from juicer.stages.stage import Stage, main, optional_path
from tasks.tabulate import read_table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, required=True, help="table of all evaluations")
    parser.add_argument("--leaderboard", type=optional_path, help="table of the benchmarks")
    parser.add_argument("--rounds", type=optional_path, help="comparisons of the rounds of methods on auto")
    parser.add_argument("--raw", type=Path, required=True, help="raw data: its provenance.json")
    parser.add_argument("--data", type=Path, required=True, help="curated data: its curation.json")
    parser.add_argument("--report", type=Path, default=Path("report"), help="folder of the page, default report")
    parser.add_argument("--metrics", type=Path, default=Path("metrics"), help="folder of the metrics, default metrics")


def run(stage: Stage) -> str:
    given = stage.arguments
    table = read_table(given.table, EvaluatedModel)
    matters = stage.read("report", ReportSettings).matters
    recipe = Recipe(
        name=stage.value("name"),
        seed=stage.value("seed"),
        policy=stage.read("policy", PolicySettings),
        template=stage.read("template", TemplateSettings),
        scorer=stage.read("scorer", ScorerSettings),
        judge=stage.read("judge", JudgeSettings),
        sft=stage.read("sft", SftSettings),
        sft_matched=stage.read("sft_matched", SftMatchedSettings),
        irft=stage.read("irft", IrftSettings),
        rft=stage.read("rft", RftSettings),
        evaluation=stage.read("evaluation", EvaluationSettings),
    )
    criteria = stage.read("choice", ChoiceSettings).criteria
    summary = summarise(table, recipe.name, recipe.seed, matters, criteria)
    paper, rounds = stage.value("leaderboard.paper"), recipe.irft.rounds
    if rounds == "auto":
        last_round = max((model.round for model in table.models if model.method == "irft"), default=0)
    else:
        last_round = rounds
    if given.rounds is not None:
        summary = summary.model_copy(update={"rounds": RoundComparisons.read(given.rounds).rounds})
    if benchmarks := read_table(given.leaderboard, BenchmarkedModel).models:
        board = leaderboard_of(benchmarks, paper=paper, rounds=last_round)
        summary = summary.model_copy(update={"leaderboard": board})
    curves, curation = training_curves(table), Curation.read(given.data / "curation.json")
    content = Content(
        description=stage.value("description"),
        summary=summary,
        table=table,
        curves=curves,
        curation=curation,
        provenance=_mapping(given.raw / "provenance.json"),
        recipe=recipe,
    )
    page = render(content)
    with stage.publish(given.metrics / "summary.json") as path:
        write_json(path, summary.as_json())
    with stage.publish(given.metrics / "metrics.json") as path:
        write_json(path, flat(summary).as_json())
    with stage.publish(given.report / "plots") as path:
        write_plots(path, summary, curves, curation.scores)
    with stage.publish(given.report / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    rows = costs.refresh(given.report)
    environment.record(given.report, [row.cost for row in rows if row.cost])
    stage.record(models=len(summary.models))
    return f"{findings(summary).headline}. {given.report / 'report.html'}"


def _mapping(path: Path) -> dict[str, JsonValue]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError("this is not a JSON object", where=str(path), do="run the stage that makes it: dvc repro")
    return values


if __name__ == "__main__":
    main(run, arguments, __doc__)
