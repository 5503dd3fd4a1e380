"""The files that a comparison of methods leaves."""

import json
from pathlib import Path

from juicer.claim.methods import figure
from juicer.claim.methods.page import FIGURE, page, summary
from juicer.claim.methods.results import MethodComparison
from juicer.claim.power import after
from juicer.runtime.files import replace_text

RESULTS, PAGE = "results.json", "methods.md"


def publish(found: MethodComparison, folder: Path) -> list[str]:
    """Write results.json, the page and the picture; returns what to print."""
    replace_text(folder / RESULTS, json.dumps(found.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    pictures = figure.draw(found, folder / FIGURE)
    replace_text(folder / PAGE, page(found, pictured=bool(pictures)))
    written = [folder / PAGE, folder / RESULTS, *pictures]
    return [
        summary(found),
        "",
        "± is the 95% interval; * holds after Holm's correction for the declared comparisons.",
        *after(found),
        f"written: {', '.join(map(str, written))}",
    ]
