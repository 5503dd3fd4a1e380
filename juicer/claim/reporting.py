"""What a claim says before it runs, and the files that it leaves."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from juicer.claim import figure, power
from juicer.claim.copies import Plan, digest_of, files
from juicer.claim.page import FIGURE, differences, page
from juicer.claim.results import Claim, Found
from juicer.runtime.files import replace_text

RESULTS, PAGE = "results.json", "claim.md"
HERE = Path("evaluation/models")


def announced(plan: Plan) -> list[str]:
    """The runs of a plan, which of them have finished, and what they can show."""
    code = digest_of(files(plan.work))
    counts = {"variant": len(plan.variants), "seed": len(plan.seeds), "run": len(plan.jobs)}
    counted = ", ".join(f"{number} {name}{'s' if number != 1 else ''}" for name, number in counts.items())
    lines = [f"{plan.recipe.name}: {counted} in {plan.work}"]
    for name, overrides in plan.variants.items():
        states = [
            f"{job.seed} (finished)" if job.is_up_to_date(code) else str(job.seed)
            for job in plan.jobs
            if job.variant == name
        ]
        changes = f" {' '.join(overrides)}" if overrides else ""
        lines.append(f"  {name}: seeds {', '.join(states)};{changes or ' the recipe as it is'}")
    known = next((found for each in _evaluations(plan) if (found := power.known_deviation(each)) is not None), None)
    return [*lines, power.before(plan.recipe.evaluation.prompts, known)]


def _evaluations(plan: Plan) -> Iterator[Path]:
    yield from (job.folder / HERE for job in plan.jobs if job.is_measured)


def publish(claim: Claim, folder: Path) -> list[str]:
    """Write results.json, the page and the picture; returns what to print."""
    pictures = figure.draw(claim, folder / FIGURE)
    return write(claim, folder, PAGE, page(claim, pictured=bool(pictures)), pictures, differences(claim))


def write(found: Found, folder: Path, name: str, text: str, pictures: Sequence[Path], tables: str) -> list[str]:
    """Write results.json and the page beside the pictures; returns what to print.

    Args:
        name: the page's file name.
        text: the page.
        tables: what is printed first.
    """
    replace_text(folder / RESULTS, json.dumps(found.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    replace_text(folder / name, text)
    written = [folder / name, folder / RESULTS, *pictures]
    return [
        tables,
        "",
        "± is the 95% interval; * holds after Holm's correction for the declared comparisons.",
        *power.after(found),
        f"written: {', '.join(map(str, written))}",
    ]
