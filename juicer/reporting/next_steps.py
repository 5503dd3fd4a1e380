"""What stands below the table when a run has ended: where the champion is, and the commands that go on from there."""

from collections.abc import Collection
from pathlib import Path

from juicer.reporting.contract import Summary
from juicer.runtime.files import read_yaml, value_at


def next_steps(summary: Summary, params: Path, commands: Collection[str], *, registered: bool = True) -> list[str]:
    """The lines, with commands that exist only.

    Args:
        summary: what the run has found.
        params: the params.yaml that it was made with.
        commands: names of the commands of `juicer`.
        registered: whether the run has registered its models, so that they can be promoted.
    """
    champion = summary.champion.name
    folder = value_at(read_yaml(params), "graph.models", {}).get(champion, {}).get("path")
    other = summary.control if summary.control != champion else "base"
    steps = [
        ("report", "juicer report --open", "look at the report"),
        ("chat", f"juicer chat {champion}", "talk to the champion"),
        ("compare", f"juicer compare {other} {champion}", "judge responses yourself, blind"),
        ("export", f"juicer export {champion}", "take it away"),
        ("promote", "juicer promote --dry-run", "would it become the registry's champion? the numbers of every gate"),
    ]
    known = [(command, why) for name, command, why in steps if name in commands and (registered or name != "promote")]
    width = max((len(command) for command, _ in known), default=0)
    where = [] if folder is None else [f"Champion: {champion}, {Path(folder).resolve()}"]
    return [*where, "Next:", *(f"  {command.ljust(width)}  # {why}" for command, why in known)]
