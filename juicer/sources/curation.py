"""The parts of curation: length limits, the split by prompt or dialogue, the k best rows, and their statistics.

Pure functions and small accumulators, through which the stage `curate` streams rows.
"""

import heapq
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from juicer.data.template import Template
from juicer.runtime.errors import InputError
from juicer.settings.data import CurateSettings
from juicer.settings.preferences import Role
from juicer.sources.suitability import Rendered, survives

Split = Literal["train", "validation", "held_out"]
Side = Split | Role
"""Where a row goes: to a split of the demonstrations, or to the pairs that the scorer or the judge is trained on."""
BINS = 40


def place_of(split_hash: str, part: int = 0) -> float:
    """A number in [0, 1) that a hash alone decides; `part` 0 to 7 gives different ones."""
    return int(split_hash[8 * part : 8 * part + 8], 16) / 2**32


def split_of(split_hash: str, settings: CurateSettings, source_holds_out: bool) -> Split:
    """The split that a row belongs to, by a hash alone, so that adding or removing other rows never moves it.

    Args:
        split_hash: SHA-256 of the row's prompt or dialogue, hexadecimal (`Demonstration.split_hash`).
        settings: the shares.
        source_holds_out: whether the source holds out rows itself; if so, no others are held out.
    """
    place = place_of(split_hash)
    if place < settings.held_out_share:
        return "train" if source_holds_out else "held_out"
    return "validation" if place < settings.held_out_share + settings.validation_share else "train"


def side_of(
    split_hash: str, settings: CurateSettings, source_holds_out: bool, withheld: Mapping[Role, float] | None = None
) -> Side:
    """As `split_of`, with shares of the training prompts for the reward models that are trained on pairs.

    Args:
        withheld: share of all prompts for each of these models, in this order (`PreferencesSettings.withheld`).
    """
    split = split_of(split_hash, settings, source_holds_out)
    if split != "train" or not withheld:
        return split
    # From the upper end, so that the other splits are the same with and without them.
    place, above = place_of(split_hash), 1.0
    for role, share in withheld.items():
        above -= share
        if place >= above:
            return role
    return split


class Lengths:
    """Counts tokens under the recipe's template, without tokenising texts that are certain to be short enough.

    A byte-level tokenizer makes at most one token per UTF-8 byte, so a text with few bytes is within the limit. On
    Anthropic-HH this saves a quarter of the time.
    """

    def __init__(self, template: Template) -> None:
        self.template = template
        self.limits = template.settings
        self._byte_level = is_byte_level(template)
        self._lossless = self._byte_level and has_all_bytes(template)

    def prompts(self, texts: Sequence[str], exact: Collection[int] = ()) -> list[int]:
        """Tokens of rendered prompts: exact above the limit, and otherwise perhaps an upper bound, within it too.

        Args:
            exact: places in `texts` of those whose tokens are counted in any case.
        """
        limit = self.limits.max_prompt_tokens
        counts = [self._bound(text) for text in texts]
        unsure = [row for row, count in enumerate(counts) if count is None or count > limit or row in exact]
        tokens = self.template.tokens_of_prompts([texts[row] for row in unsure])
        found = dict(zip(unsure, map(len, tokens), strict=True))
        return [found.get(row, limit if count is None else count) for row, count in enumerate(counts)]

    def responses(self, rows: Sequence[Rendered], exact: Collection[int] = ()) -> list[int | None]:
        """Tokens of each response, with its end, exact or bounded as in `prompts`; None if they do not spell it."""
        limit = self.limits.max_response_tokens
        counts = [self._bound(row.rest) if self._is_kept(row.response) else None for row in rows]
        unsure = [place for place, count in enumerate(counts) if count is None or count > limit or place in exact]
        # Those that are certainly spelt are only counted, without their prompts, which takes half the time.
        starts = ["" if counts[place] is not None else rows[place].start for place in unsure]
        tokens = self.template.tokens_of_responses(
            [(start, rows[place].rest) for start, place in zip(starts, unsure, strict=True)]
        )
        for place, response in zip(unsure, tokens, strict=True):
            spelt = counts[place] is not None or survives(self.template, response, rows[place].response)
            counts[place] = len(response) if spelt else None
        return counts

    def _bound(self, text: str) -> int | None:
        # Unicode normalisation may lengthen other scripts, but never changes ASCII. The 3 are the beginning and the end
        # of a text, and a leading blank, which some tokenizers add.
        return len(text) + 3 if self._byte_level and text.isascii() else None

    def _is_kept(self, text: str) -> bool:
        """Whether it is certain that the tokens of `text` spell it."""
        return self._lossless and text.isascii() and not self.template.holds_added(text)


def has_all_bytes(template: Template) -> bool:
    """Whether a byte-level tokenizer has a token for every byte, and puts the bytes of tokens together again."""
    from tokenizers.pre_tokenizers import ByteLevel

    backend = template.tokenizer.backend_tokenizer
    decoder = json.loads(backend.to_str()).get("decoder") or {"type": None}
    return decoder["type"] == "ByteLevel" and set(ByteLevel.alphabet()) <= set(backend.get_vocab())


def is_byte_level(template: Template) -> bool:
    """Whether the tokenizer is known to make at most one token per byte of an ASCII text.

    True for byte-level BPE whose normaliser, if any, is a Unicode normal form; nothing is assumed of other tokenizers.
    """
    backend = getattr(template.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    pipeline: dict[str, Any] = json.loads(backend.to_str())
    normaliser = (pipeline.get("normalizer") or {"type": "NFC"})["type"]
    before = pipeline.get("pre_tokenizer") or {"type": None}
    steps = before.get("pretokenizers", [before])
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    return byte_level and normaliser in ("NFC", "NFD", "NFKC", "NFKD") and pipeline["model"]["type"] == "BPE"


class Best:
    """The k highest-scored rows of a stream, in O(k) memory; of equal scores the smaller id wins."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._heap: list[tuple[float, int, int, bytes]] = []

    def offer(self, score: float, identity: str, place: int, line: bytes) -> None:
        """Add a row, which may displace another.

        Args:
            score: higher is better.
            identity: the demonstration's id, hexadecimal.
            place: the row's number in the stream; kept rows are returned in this order.
            line: the bytes to keep.
        """
        entry = (score, -int(identity, 16), place, line)
        if len(self._heap) < self.keep:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[tuple[float, bytes]]:
        """Score and bytes of the kept rows, in the order of the stream."""
        return [(score, line) for score, _, _, line in sorted(self._heap, key=lambda entry: entry[2])]


def score_statistics(scores: Sequence[float], kept: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and histogram, with common edges, of all scores and of the kept ones.

    Returns:
        {"threshold": the lowest kept score, "all": {...}, "kept": {...}, "histogram": {"edges": 41 numbers,
        "all": 40 counts, "kept": 40 counts}}.
    """
    import numpy

    edges = numpy.histogram_bin_edges(numpy.asarray(scores), bins=BINS)
    return {
        "threshold": float(min(kept)),
        "all": _moments(scores),
        "kept": _moments(kept),
        "histogram": {
            "edges": edges.tolist(),
            "all": numpy.histogram(scores, edges)[0].tolist(),
            "kept": numpy.histogram(kept, edges)[0].tolist(),
        },
    }


def _moments(scores: Sequence[float]) -> dict[str, float | int]:
    import numpy

    values = numpy.asarray(scores, dtype=numpy.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "sd": sd,
        "min": float(values.min()),
        "max": float(values.max()),
    }


def check_context(context: int | None, template: Template, where: str) -> None:
    """Refuse length limits that exceed the policy's context.

    Args:
        context: the policy's, in tokens; None if it has no limit.
        template: has the limits.
        where: the policy's folder, as errors name it.

    Raises:
        InputError: max_prompt_tokens + max_response_tokens exceeds the context; gives the numbers.
    """
    limits = template.settings
    longest = limits.max_prompt_tokens + limits.max_response_tokens
    if context is not None and longest > context:
        what = (
            f"template.max_prompt_tokens + max_response_tokens = {limits.max_prompt_tokens} + "
            f"{limits.max_response_tokens} = {longest} exceeds the policy's context of {context} tokens"
        )
        raise InputError(what, where=where, do="lower one of the two limits")
