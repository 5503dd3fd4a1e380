"""Stage curate: split the demonstrations into training, validation and held-out rows, and keep the best.

Streams the raw rows, drops duplicates and rows that are too long, splits by prompt (or by the dialogue that a prompt is
from) and keeps the k best by the scorer.
"""

import argparse
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from juicer import scorers
from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.evaluation.pairs_record import check_accuracy
from juicer.runtime.context import Progress, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_json, write_json
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, ScorerSettings, TemplateSettings
from juicer.settings.models import PolicySettings
from juicer.settings.preferences import PreferencesSettings, Role
from juicer.stages.launch import main
from juicer.stages.stage import Stage, optional_path

if TYPE_CHECKING:
    from juicer.sources.curation import Lengths, Split
    from juicer.sources.suitability import Unsuitable

T = TypeVar("T")
REPLACED = "template.name 'hh' replaces the model's own chat template (template.name: model keeps it)"
ADVICE = {
    "duplicate": "most rows are duplicates: check that the rows differ",
    "pairs_of_scorer": "lower preferences.scorer.share",
    "pairs_of_judge": "lower preferences.judge.share",
    "prompt_in_held_out": "most rows have a prompt that the source holds out: add other rows",
    "refused_by_template": "change template.system or the turns of the rows, or set template.name to hh",
    "refused_by_scorer": "change the turns of the rows, or use a scorer whose template takes them",
    "markup_in_text": "remove special tokens and marks of turns from the texts of the rows",
    "changed_by_template": "change the texts of the rows, or set template.name to hh",
    "changed_by_tokenizer": "use a model whose tokenizer has all characters of the rows",
}
"""What to do if most rows were dropped for one reason."""
CHUNK = 1024
"""Number of rows whose lengths are counted together."""
SCORED_BATCHES = 32
"""Number of batches that are sorted by length together: enough to need little padding, few enough to stream."""
EXAMPLES = 5
"""Number of rows that are named for each reason why rows are unsuitable."""
HELD_OUT = re.compile(rb'"held_out":\s*true')
"""Matches only the key: inside a JSON string the quotes would be escaped."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder that fetch wrote")
    parser.add_argument("--policy", type=Path, required=True, help="base model: its tokenizer counts tokens")
    parser.add_argument("--scorer", type=optional_path, required=True, help="scorer folder")
    parser.add_argument("--out", type=Path, default=Path("data/curated"), help="folder to write")


def run(stage: Stage) -> str:
    # Two threads halve the tokenizer's time without changing any token.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    from juicer.models.digest import check_digest
    from juicer.models.folder import context_of
    from juicer.models.loading import load_template
    from juicer.sources.curation import Lengths, check_context

    given = stage.arguments
    settings = stage.read("curate", CurateSettings)
    if settings.validation_share + settings.held_out_share >= 1:
        raise InputError("curate.validation_share + held_out_share leave no rows to train on", do="lower one of them")
    # Here again, because a folder can change after the recipe was read.
    check_digest(given.policy, stage.read("policy", PolicySettings).digest)
    template = load_template(given.policy, stage.read("template", TemplateSettings))
    positions = context_of(read_json(given.policy / "config.json"))
    check_context(positions, template, str(given.policy))
    if template.replaced and stage.is_main:
        print(f"{stage.name}: {REPLACED}", file=sys.stderr)
    scoring = stage.read("scorer", ScorerSettings)
    check_accuracy(given.scorer, "scorer", accept_chance=scoring.accept_chance)
    scorer = scorers.load(scoring, given.scorer, stage.read("compute", ComputeSettings))

    raw = given.raw / "demonstrations.jsonl"
    with stage.publish(given.out) as out, ExitStack() as files:
        out.mkdir()
        names: tuple[Split, ...] = ("train", "validation", "held_out")
        opened = {name: files.enter_context((out / f"{name}.jsonl").open("wb")) for name in names}
        context = stage.context
        if scorer:
            context = replace(context, memo=files.enter_context(stage.memo()))
        withheld = stage.read_optional("preferences", PreferencesSettings)
        shares = withheld.withheld if withheld else {}
        curation = Curation(settings, scoring, scorer, Lengths(template), positions, opened, context, shares)
        curation.take(raw, stage.progress)
        write_json(out / "curation.json", curation.finish())
    if stage.is_main:
        for notice in [*curation.notices(), *curation.length_lines()]:
            print(f"{stage.name}: {notice}", file=sys.stderr)
    stage.record(rows=curation.read)
    kept = ", ".join(f"{curation.kept[name]} {name.replace('_', '-')}" for name in names)
    return f"kept {kept} of {curation.read} rows{curation.losses()}"


class Candidate(NamedTuple):
    """A row that is new."""

    row: Demonstration
    split: "Split"
    place: str
    """File and line."""
    sampled: bool
    """Whether its length is one of those measured."""


class Curation:
    """One pass over the raw rows.

    Args:
        settings: which rows are kept.
        scoring: how they are scored, recorded in curation.json.
        scorer: scores training rows; None keeps them in the order of the source.
        lengths: counts tokens.
        positions: the policy's context in tokens; None if it has no limit.
        files: the open output file of each split.
        context: of the scoring; its memo keeps scored batches.
        withheld: shares of the prompts whose pairs train the scorer or the judge.
    """

    def __init__(
        self,
        settings: CurateSettings,
        scoring: ScorerSettings,
        scorer: scorers.Scorer | None,
        lengths: "Lengths",
        positions: int | None,
        files: "Mapping[Split, BinaryIO]",
        context: WorkContext,
        withheld: Mapping[Role, float],
    ) -> None:
        from juicer.sources.curation import Best
        from juicer.sources.lengths import LengthStatistics

        self.settings, self.scoring, self.scorer = settings, scoring, scorer
        self.lengths, self.files, self.context = lengths, files, context
        self.positions, self.withheld = positions, withheld
        self.statistics = LengthStatistics()
        self.total = self.read = 0
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.rejected_too_long = 0
        self.rejected_unsuitable = 0
        self.stripped = 0
        self.unsuitable: dict[str, list[str]] = {}
        self.shortest_prompt: int | None = None
        self.best = Best(settings.keep) if scorer and settings.keep else None
        self.scores, self.kept_scores = array("d"), array("d")
        self._waiting: list[Demonstration] = []
        self._seen: set[int] = set()
        self._held_out_prompts: set[int] = set()
        self._source_holds_out = False

    def take(self, raw: Path, shown: Callable[[int, str], AbstractContextManager[Progress]]) -> None:
        """Stream the raw rows.

        Args:
            shown: shows a progress bar for so many units, which are called so.

        Raises:
            InputError: there are no rows, or none are held out.
        """
        self.total = self._find_held_out(raw)
        if not self.total:
            raise InputError("no demonstrations", where=str(raw), do="check fetch.source, then run dvc repro fetch")
        if not self._source_holds_out and not self.settings.held_out_share:
            what = "no rows to report on: curate.held_out_share is 0, and the source holds out no rows"
            raise InputError(what, where="curate", do="raise curate.held_out_share")
        with shown(self.total, "row") as progress:
            for chunk in _chunks(demonstrations.read(raw), CHUNK):
                self.read += len(chunk)
                self._sort_out(chunk, f"{raw}:")
                progress(len(chunk))
            self._score_waiting()

    def notices(self) -> list[str]:
        """A line for every reason why rows were unsuitable, with the first of them; and what the template strips."""
        lines = [
            f"{rows[0]}; {self.dropped[reason]} such row{'' if self.dropped[reason] == 1 else 's'} dropped ({reason})"
            for reason, rows in sorted(self.unsuitable.items())
        ]
        stripped = f"the template strips the white space around {self.stripped:,} of the responses"
        return [*lines, stripped] if self.stripped else lines

    def length_lines(self) -> list[str]:
        """The percentiles of the lengths, and what the limits drop."""
        rows = f"{len(self.statistics):,}" + (f" of {self.total:,}" if len(self.statistics) < self.total else "")
        return self.statistics.lines(self.lengths.limits, f"{rows} rows", self.positions)

    def finish(self) -> dict[str, Any]:
        """Write the best rows, check that every split has rows, and return the content of curation.json.

        Raises:
            InputError: a split is empty, or there are fewer training rows than curate.keep; names the reason.
        """
        from juicer.sources.curation import score_statistics

        self._check_available()
        if self.best is not None:
            for score, line in self.best.rows():
                self._write("train", line)
                self.kept_scores.append(score)
            self.dropped["not_among_best"] = len(self.scores) - len(self.kept_scores)
        elif self.scorer is not None:
            self.kept_scores = self.scores
        used = {"kind", "model", "revision", "end_of_text"} if self.scorer else {"kind"}
        return {
            "read": self.read,
            "kept": {name: self.kept[name] for name in self.files},
            "dropped": {reason: rows for reason, rows in sorted(self.dropped.items()) if rows},
            "rejected_responses_too_long": self.rejected_too_long,
            **({"rejected_responses_unsuitable": self.rejected_unsuitable} if self.rejected_unsuitable else {}),
            **({"responses_stripped": self.stripped} if self.stripped else {}),
            **({"unsuitable": self.unsuitable} if self.unsuitable else {}),
            "lengths": self.statistics.summary(self.lengths.limits).model_dump() if len(self.statistics) else None,
            "held_out_by_source": self._source_holds_out,
            "scorer": self.scoring.model_dump(mode="json", include=used),
            "scores": score_statistics(self.scores, self.kept_scores) if self.scorer else None,
        }

    def losses(self) -> str:
        """Number of dropped rows by reason, for the result line; a warning if many exceed the template's limits."""
        if not (reasons := self._reasons()):
            return ""
        if not (advice := self._advice_on_limits()):
            return f" (dropped: {reasons})"
        what = f"{self._too_long() / self.read:.0%} of the rows are longer than the limits of template"
        return f" (dropped: {reasons}); warning: {what}: {advice}"

    def _too_long(self) -> int:
        return self.dropped["prompt_too_long"] + self.dropped["response_too_long"]

    def _advice_on_limits(self) -> str:
        """Limits to set, if many rows are too long for those of the recipe; otherwise empty."""
        from juicer.sources.lengths import MANY_TOO_LONG

        return self.statistics.advice(self.positions) if self._too_long() > MANY_TOO_LONG * self.read else ""

    def _reasons(self) -> str:
        return ", ".join(f"{rows} {reason}" for reason, rows in sorted(self.dropped.items()) if rows)

    def _find_held_out(self, raw: Path) -> int:
        """Collect the prompts that the source holds out, anywhere in the file; returns the number of rows."""
        if not raw.is_file():
            raise InputError("no such file", where=str(raw), do="run the stage that makes it: dvc repro fetch")
        total = 0
        with raw.open("rb") as lines:
            for total, line in enumerate(lines, 1):  # noqa: B007
                # An invalid line is reported, with its number, when the rows are read.
                if HELD_OUT.search(line) and (row := _row(line)) is not None and row.held_out:
                    # Another source may have rows of the same dialogue that do not name it.
                    self._held_out_prompts |= {_key(row.split_hash()), _key(row.prompt_hash())}
        self._source_holds_out = bool(self._held_out_prompts)
        return total

    def _sort_out(self, chunk: list[Demonstration], file: str) -> None:
        """Drop the rows that cannot be used, and pass each of the others to its split.

        Args:
            chunk: the last rows that were read.
            file: what stands before the number of a line where the place of a row is named.
        """
        rows = list(self._scorable(list(self._fitting(list(self._new(chunk, file))))))
        for row, split in rows:
            if split == "train":
                self._train(row)
        lines = self._evaluated([row for row, split in rows if split != "train"])
        for split, line in zip((split for _, split in rows if split != "train"), lines, strict=True):
            self._write(split, line)

    def _new(self, chunk: list[Demonstration], file: str) -> "Iterator[Candidate]":
        """Rows that are not duplicates and whose dialogue is in one split only, each with its split and place."""
        from juicer.sources.curation import side_of
        from juicer.sources.lengths import in_sample

        for number, row in enumerate(chunk, self.read - len(chunk) + 1):
            split: Split = "held_out"
            if not row.held_out:
                split_hash = row.split_hash()
                prompt_hash = split_hash if row.dialogue is None else row.prompt_hash()
                if not self._held_out_prompts.isdisjoint({_key(split_hash), _key(prompt_hash)}):
                    self.dropped["prompt_in_held_out"] += 1
                    continue
                side = side_of(split_hash, self.settings, self._source_holds_out, self.withheld)
                if side == "scorer" or side == "judge":
                    self.dropped[f"pairs_of_{side}"] += 1
                    continue
                split = side
            if (key := _key(row.id)) in self._seen:
                self.dropped["duplicate"] += 1
                continue
            self._seen.add(key)
            yield Candidate(row, split, f"{file}{number}", in_sample(number, self.total))

    def _fitting(self, rows: "list[Candidate]") -> "Iterator[Candidate]":
        """Rows that the template and the tokenizer keep as they are, within the template's limits."""
        from juicer.sources.suitability import BY_TOKENIZER, Rendered, Unsuitable, rendered

        limits, usable = self.lengths.limits, list[tuple[Candidate, Rendered]]()
        for each in rows:
            found = rendered(self.lengths.template, each.row.prompt, each.row.response)
            if isinstance(found, Rendered):
                usable.append((each, found))
            else:
                self._leave_out(each, found)
        sampled = {place for place, (each, _) in enumerate(usable) if each.sampled}
        prompts = self.lengths.prompts([text.start for _, text in usable], sampled)
        if prompts:
            shortest = min(prompts)
            self.shortest_prompt = shortest if self.shortest_prompt is None else min(self.shortest_prompt, shortest)
        # The response to a prompt that is too long is only of interest for the percentiles.
        counted = [row for row, count in enumerate(prompts) if count <= limits.max_prompt_tokens or row in sampled]
        exact = {place for place, row in enumerate(counted) if row in sampled}
        counts = self.lengths.responses([usable[row][1] for row in counted], exact)
        responses = dict(zip(counted, counts, strict=True))
        for row, (each, text) in enumerate(usable):
            count = responses.get(row)
            if count is not None and row in sampled:
                self.statistics.add(prompts[row], count)
            if prompts[row] > limits.max_prompt_tokens:
                self.dropped["prompt_too_long"] += 1
            elif count is None:
                self._leave_out(each, Unsuitable(BY_TOKENIZER, "the tokens of the response do not spell it"))
            elif count > limits.max_response_tokens:
                self.dropped["response_too_long"] += 1
            else:
                self.stripped += text.stripped
                yield each

    def _scorable(self, rows: "list[Candidate]") -> "Iterator[tuple[Demonstration, Split]]":
        """Rows that the scorer's template takes; an evaluation scores answers to those that are not trained on."""
        from juicer.sources.suitability import Unsuitable

        asked = [(each.row.prompt, each.row.response) for each in rows]
        reasons = [None] * len(rows) if self.scorer is None else self.scorer.refusals(asked)
        for each, reason in zip(rows, reasons, strict=True):
            if reason is None:
                yield each.row, each.split
            else:
                self._leave_out(each, Unsuitable("refused_by_scorer", reason))

    def _leave_out(self, candidate: "Candidate", found: "Unsuitable") -> None:
        """Count an unsuitable row, and keep its place if it is one of the first."""
        self.dropped[found.reason] += 1
        named = self.unsuitable.setdefault(found.reason, [])
        if len(named) < EXAMPLES:
            named.append(f"{candidate.place}: {found.what}")

    def _train(self, row: Demonstration) -> None:
        """Pass on a training row, without the rejected response, which is never trained on."""
        row = row.model_copy(update={"rejected": None})
        if self.scorer is not None:
            self._waiting.append(row)
            if len(self._waiting) >= SCORED_BATCHES * self.scoring.batch_size:
                self._score_waiting()
        elif self.settings.keep is None or self.kept["train"] < self.settings.keep:
            self._write("train", row.line())
        else:
            self.dropped["beyond_keep"] += 1

    def _score_waiting(self) -> None:
        rows, self._waiting = self._waiting, []
        if self.scorer is None or not rows:
            return
        scores = self.scorer.score([(row.prompt, row.response) for row in rows], self.context)
        for row, score in zip(rows, scores, strict=True):
            line = row.model_copy(update={"score": score}).line()
            if self.best is None:
                self._write("train", line)
            else:
                self.best.offer(score, row.id, len(self.scores), line)
            self.scores.append(score)

    def _evaluated(self, rows: list[Demonstration]) -> Iterator[bytes]:
        """Lines of validation and held-out rows, which keep their rejected response unless it cannot be used."""
        from juicer.sources.suitability import Rendered, rendered

        template = self.lengths.template
        pairs = [None if row.rejected is None else rendered(template, row.prompt, row.rejected) for row in rows]
        counts = iter(self.lengths.responses([pair for pair in pairs if isinstance(pair, Rendered)]))
        for row, pair in zip(rows, pairs, strict=True):
            count = next(counts) if isinstance(pair, Rendered) else None
            if pair is not None and count is None:
                self.rejected_unsuitable += 1
            elif count is not None and count > self.lengths.limits.max_response_tokens:
                self.rejected_too_long += 1
                count = None
            yield (row if count is not None else row.model_copy(update={"rejected": None})).line()

    def _write(self, split: "Split", line: bytes) -> None:
        self.files[split].write(line)
        self.kept[split] += 1

    def _check_available(self) -> None:
        limits, too_long = self.lengths.limits, self._advice_on_limits()
        unsuitable = sum(self.dropped[reason] for reason in self.unsuitable)
        unsuitable += sum(self.dropped[f"pairs_of_{role}"] for role in self.withheld)
        fresh = self.read - self.dropped["duplicate"] - self.dropped["prompt_in_held_out"] - unsuitable
        if fresh and self.dropped["prompt_too_long"] == fresh:
            what = (
                f"all {fresh} prompts are longer than template.max_prompt_tokens = {limits.max_prompt_tokens}; "
                f"the shortest has {self.shortest_prompt} tokens"
            )
            raise InputError(what, where="curate", do=self.statistics.advice(self.positions))
        of = f"of {self.read} read (dropped: {self._reasons() or 'none'})"
        available = len(self.scores) if self.scorer else self.kept["train"]
        if not available:
            raise self._none_left(f"no rows are left to train on {of}")
        if self.settings.keep is not None and available < self.settings.keep:
            what = f"curate.keep is {self.settings.keep}, but only {available} training rows are left {of}"
            do = "lower curate.keep, or set it to null to keep all"
            raise InputError(what, where="curate", do=f"{do}; or {too_long}" if too_long else do)
        for name in ("validation", "held_out"):
            if not self.kept[name]:
                what = f"no {name.replace('_', '-')} rows are left {of}"
                do = f"raise curate.{name}_share, or add rows"
                raise InputError(what, where="curate", do=f"{do}; or {too_long}" if too_long else do)

    def _none_left(self, what: str) -> InputError:
        """The error for a source of which nothing can be trained on; its advice follows the most frequent reason."""
        limits = self.lengths.limits
        rows = Counter({reason: rows for reason, rows in self.dropped.items() if not reason.endswith("_too_long")})
        rows["too_long"] = self._too_long()
        (most, count), *_ = rows.most_common(1)
        if not count:
            return InputError(what, where="curate", do="lower curate.validation_share or held_out_share")
        if most == "too_long":
            what += f": the limits are template.max_prompt_tokens = {limits.max_prompt_tokens}"
            what += f" and template.max_response_tokens = {limits.max_response_tokens}"
            return InputError(what, where="curate", do=self.statistics.advice(self.positions))
        first = f"; {named[0]}" if (named := self.unsuitable.get(most)) else ""
        return InputError(f"{what}{first}", where="curate", do=ADVICE[most])


def _row(line: bytes) -> Demonstration | None:
    try:
        return Demonstration.model_validate_json(line)
    except ValueError:
        return None


def _key(hexadecimal: str) -> int:
    """The first 8 bytes of a hash: enough to tell rows apart, small enough to keep for all of them."""
    return int(hexadecimal[:16], 16)


def _chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk


if __name__ == "__main__":
    main(run, arguments, __doc__)
