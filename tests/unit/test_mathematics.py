"""docs/mathematics.md names functions and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs/mathematics.md").read_text(encoding="utf-8"))))


def test_the_page_names_functions_and_tests() -> None:
    assert {path.split("/")[0] for path, _ in NAMED} == {"juicer", "tests"}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_what_the_page_names_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {getattr(node, "name", None) for node in tree.body}
