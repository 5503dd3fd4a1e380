"""The files that a comparison of methods leaves."""

from pathlib import Path

from juicer.claim.methods import figure
from juicer.claim.methods.page import FIGURE, page, summary
from juicer.claim.methods.results import MethodComparison
from juicer.claim.reporting import write

PAGE = "methods.md"


def publish(found: MethodComparison, folder: Path) -> list[str]:
    """Write results.json, the page and the picture; returns what to print."""
    pictures = figure.draw(found, folder / FIGURE)
    return write(found, folder, PAGE, page(found, pictured=bool(pictures)), pictures, summary(found))
