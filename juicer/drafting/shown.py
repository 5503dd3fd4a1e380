"""Rows on a terminal, as they are understood and as the policy will see them, with what is trained on marked."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from juicer.data.demonstrations import Demonstration
from juicer.data.template import Template
from juicer.drafting.counted import counted
from juicer.drafting.survey import Placed, SourceSurvey, Survey
from juicer.sources.formats import LeftOut
from juicer.sources.suitability import Unsuitable, rendered

LONGEST = 600
"""Characters of a text that are shown."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BOLD, _PLAIN = "\x1b[1;32m", "\x1b[0m"


def marks() -> tuple[str, str]:
    """What stands around a text that is trained on: colour on a terminal, signs elsewhere."""
    return (_BOLD, _PLAIN) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else (">>>", "<<<")


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text without control characters, and without its middle if it is long."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(text) <= longest:
        return text
    start, end = text[: longest * 2 // 3], text[-longest // 3 :]
    return f"{start} [... {len(text) - len(start) - len(end):,} characters ...] {end}"


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Lines of a name and a text, the texts below each other."""
    pairs = list(lines)
    width = max((len(name) for name, _ in pairs), default=0) + 2
    return "\n".join(f"{name.ljust(width)}{_indented(text, width)}".rstrip() for name, text in pairs)


def _indented(text: str, width: int) -> str:
    return text.replace("\n", "\n" + " " * width)


def described(source: SourceSurvey) -> Iterator[tuple[str, str]]:
    """What a source is, as lines of a name and a text."""
    files = "" if len(source.files) == 1 else f" in {len(source.files)} files"
    rows = (
        counted(source.rows, "row") + files
        if source.whole
        else f"the first {counted(source.rows, 'row')}{files} (it is large)"
    )
    yield "data", source.path
    yield "format", f"{source.format}, {rows}"
    if source.demonstrations != source.rows or source.rejected or source.held_out:
        parts = [counted(source.demonstrations, "demonstration")]
        parts += [f"{source.rejected:,} with a worse response"] if source.rejected else []
        parts += [f"{source.held_out:,} held out by the source"] if source.held_out else []
        yield "", ", ".join(parts) + _named(source.held_out_files)
    if source.ignored:
        yield "", source.ignored
    if source.unread:
        keys = ", ".join(f"{key} ({count:,})" for key, count in source.unread.most_common(10))
        yield "not read", f"{shortened(keys)}{' and more' if len(source.unread) > 10 else ''}"
    for reason, count in source.left_out.most_common():
        first = source.first[reason]
        places = "; ".join(f"{_place(each, source.path)}{_detail(each)}" for each in first)
        places = f"{shortened(places)}{' ...' * (count > len(first))}"
        yield "left out", f"{counted(count, 'row')}: {first[0].explanation}\n{places}"


def _place(row: LeftOut, path: str) -> str:
    """Where a row is, inside its source."""
    inside = row.where.removeprefix(path).lstrip(":/ ")
    return f"line {inside}" if inside.isdecimal() else inside


def _detail(row: LeftOut) -> str:
    return f" ({row.detail})" if row.detail else ""


def _named(files: Sequence[str]) -> str:
    return f": {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}" if files else ""


def summary(found: Survey) -> Iterator[tuple[str, str]]:
    """What each source is, and then all of them together."""
    for source in found.sources:
        yield from described(source)
    if len(found.sources) > 1:
        yield "all data", f"{counted(found.rows, 'row')}, {counted(found.demonstrations, 'demonstration')}"
    several = sum(rows for turns, rows in found.turns.items() if turns > 1)
    if several:
        yield "turns", f"{counted(several, 'dialogue')} with several answers, up to {max(found.turns)}"
    again = f", {counted(found.duplicates, 'duplicate')}" if found.duplicates else ""
    yield "prompts", f"{counted(found.prompts, 'different one')}{again}"


def as_understood(placed: Placed) -> str:
    """A row, role by role, with the response marked."""
    row, (start, end) = placed.row, marks()
    turns = [(turn["role"], shortened(turn["content"])) for turn in row.prompt]
    lines = [*turns, ("response", f"{start}{shortened(row.response)}{end}")]
    lines += [("rejected", shortened(row.rejected))] if row.rejected is not None else []
    held_out = " (held out)" if row.held_out else ""
    return f"--- {shortened(placed.where)}{held_out}\n{aligned(lines)}"


def as_seen(template: Template, placed: Placed, *, lengths: bool) -> str:
    """A row as the policy will see it: the text of its tokens, those that are trained on marked.

    Args:
        lengths: whether the template's tokenizer is the model's, so that its tokens can be counted.
    """
    head = f"--- {shortened(placed.where)}{' (held out)' if placed.row.held_out else ''}"
    found = rendered(template, placed.row.prompt, placed.row.response)
    if isinstance(found, Unsuitable):
        return f"{head}: will be dropped, because {found.what}"
    prompt, response = template.tokens_of_prompts([found.start])[0], _response(template, placed.row)
    counted = f": prompt {len(prompt):,} tokens, response {len(response):,}" if lengths else ""
    start, end = marks()
    return f"{head}{counted}\n{shortened(_text(template, prompt))}{start}{shortened(_text(template, response))}{end}"


def _response(template: Template, row: Demonstration) -> list[int]:
    return template.response(row.prompt, row.response)


def _text(template: Template, tokens: list[int]) -> str:
    return str(template.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
