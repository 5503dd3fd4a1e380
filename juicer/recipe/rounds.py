"""`rounds: auto`: how many rounds run and are kept, by the comparisons of those that ran, and params.yaml with them.

Bring the stage DECIDES up to date, then `advance`, until it has nothing to say; then run the rest of the graph.
"""

from collections.abc import Sequence
from pathlib import Path

from juicer.evaluation.rounds import RoundComparison, RoundComparisons
from juicer.recipe.activation import dump
from juicer.recipe.checks import validate
from juicer.recipe.graph import FoundRounds, Graph, Method, graph_of
from juicer.recipe.origin import origin_of, written_from
from juicer.runtime.files import read_yaml, replace_text, value_at

DECIDES = "compare_round"
"""The stage that compares the rounds."""
AFTER = ("report", "register")
"""The stages that need to know which rounds are kept. The others that depend on it are run for these."""


def are_open(params: Path, until: str = "") -> bool:
    """Whether a run has to find the number of rounds of a method first.

    Args:
        until: the stage that the run ends with; empty for the last one.
    """
    return until in ("", *AFTER) and bool(value_at(read_yaml(params), "graph.rounds", None))


def decided(found: FoundRounds, improved: Sequence[bool], most: int) -> FoundRounds:
    """What the comparisons of the rounds that ran come to.

    The first round that does not improve is the last one that runs, and is discarded, unless it is the only one. If all
    improve, one more round runs, up to `most`.

    Args:
        improved: of each round that ran, in order.
    """
    if len(improved) != found.ran:
        raise ValueError(f"{len(improved)} comparisons of {found.ran} rounds")
    if False in improved:
        last = improved.index(False) + 1
        return FoundRounds(ran=last, kept=max(1, last - 1))
    ran = found.ran + 1 if found.ran < most else found.ran
    return FoundRounds(ran=ran, kept=ran)


def advance(params: Path) -> str | None:
    """Write params.yaml anew if the comparisons change its rounds.

    The stage DECIDES has to be up to date.

    Returns:
        What was changed, in one line; None if nothing was, so that the rounds are found.

    Raises:
        InputError: params.yaml is not valid, or the comparisons are missing.
    """
    values = read_yaml(params)
    recipe, graph = validate(values, str(params)), Graph.parse(values["graph"], f"{params}: graph")
    if graph.decisions is None:
        return None
    comparisons = RoundComparisons.read(Path(graph.decisions))
    rounds, said = dict[Method, FoundRounds](), list[str]()
    for method, found in graph.rounds.items():
        ran = comparisons.of(method)
        rounds[method] = decided(found, [each.improved for each in ran], getattr(recipe, method).auto.most)
        if rounds[method] != found:
            said.append(_said(method, ran, found, rounds[method]))
    if not said:
        return None
    before = origin_of(params)
    replace_text(params, dump(recipe, graph_of(recipe, kept=graph.kept, rounds=rounds)))
    written_from(params, (), False, params, before)
    return f"{params}: {'; '.join(said)}"


def _said(method: Method, ran: Sequence[RoundComparison], before: FoundRounds, after: FoundRounds) -> str:
    if after.ran > before.ran:
        return f"{method}-r{before.ran} improves on {ran[-1].before}, so {method}-r{after.ran} is tried"
    last = ran[after.ran - 1]
    if after.kept == last.round and last.improved:
        return f"{method}-r{last.round} improves on {last.before}, and {method}.auto.most allows no further round"
    kept = f"{after.kept} rounds are" if after.kept > 1 else "1 round is"
    return f"{method}-r{last.round} does not improve on {last.before} beyond noise, so {kept} kept"
