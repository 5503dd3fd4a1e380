"""The results of the trials: as JSON, and as a table for the terminal and docs/reliability.md."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dev.faults.workload import ROOT

RESULTS = ROOT / "bench/results/faults.json"
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- table: python -m dev.faults --table -->", "<!-- end of table -->"
VERDICTS = ("right", "wrong", "manual", "skipped")


@dataclass(frozen=True)
class Result:
    """One trial, as it is written down."""

    kind: str
    number: int
    kill: bool
    verdict: str
    why: list[str]
    hit: str
    seconds: float


def as_json(results: Sequence[Result], about: dict[str, Any]) -> str:
    """The results with what they were found on. Of trials that ended right, only the counts."""
    rows = [{"kind": kind, **counts} for kind, counts in _rows(results)]
    failures = [asdict(result) for result in results if result.verdict in ("wrong", "manual")]
    return json.dumps({**about, "kinds": rows, "total": _counts(results), "failures": failures}, indent=1) + "\n"


def _counts(results: Sequence[Result]) -> dict[str, int]:
    found = Counter(result.verdict for result in results)
    kills = sum(result.kill for result in results if result.verdict != "skipped")
    return {"tried": len(results) - found["skipped"], **{each: found[each] for each in VERDICTS}, "kills": kills}


def _rows(results: Sequence[Result]) -> list[tuple[str, dict[str, int]]]:
    kinds = list(dict.fromkeys(result.kind for result in results))
    return [(kind, _counts([each for each in results if each.kind == kind])) for kind in kinds]


def as_text(results: Sequence[Result]) -> str:
    """The table for a terminal, and a line for every failure."""
    rows = [*_rows(results), ("all", _counts(results))]
    width = max(len(kind) for kind, _ in rows)
    columns = ("tried", *VERDICTS)
    lines = [f"{'':{width}}" + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{kind:{width}}" + "".join(f"{counts[column]:9}" for column in columns) for kind, counts in rows]
    bad = [each for each in results if each.verdict in ("wrong", "manual")]
    lines += [f"{each.verdict}: {each.kind} {each.number} ({each.hit}): {'; '.join(each.why)}" for each in bad]
    return "\n".join(lines)


def as_markdown(found: dict[str, Any]) -> str:
    """The table for the page, from what `as_json` has written."""
    total = found["total"]
    lines = ["| Fault | tried | right | wrong | manual |", "| --- | ---: | ---: | ---: | ---: |"]
    rows = [*found["kinds"], {"kind": "**all**", **total}]
    for row in rows:
        name = row["kind"] + (f" ({row['skipped']} skipped)" if row["skipped"] else "")
        lines.append(f"| {name} | {row['tried']} | {row['right']} | {row['wrong']} | {row['manual']} |")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    about = f"{total['kills']} kills among {total['tried']} trials, in {found['seconds'] / 60:.0f} minutes on "
    about += f"{found['cores']} cores; {found['date']}, commit {found['commit'][:8]}; {versions}."
    return "\n".join([*lines, "", about])


def write_page() -> str:
    """Bring the table in docs/reliability.md up to date with the results; returns what was done."""
    text, table = PAGE.read_text(encoding="utf-8"), as_markdown(json.loads(RESULTS.read_text(encoding="utf-8")))
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return f"{Path(PAGE).relative_to(ROOT)} written from {RESULTS.relative_to(ROOT)}"
