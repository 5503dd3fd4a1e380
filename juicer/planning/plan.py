"""What a recipe will cost, without weights and without a network; refuses what cannot fit.

python -m juicer.planning.plan recipes/ultrachat-irft-t5.yaml
python -m juicer.planning.plan recipes/ultrachat-irft-t5.yaml compute.processes=8 --gpu A100-80GB --utilisation 0.35
python -m juicer.planning.plan recipes/quickstart.yaml --measured     # beside what a finished run left in this folder
"""

import argparse
import sys
from pathlib import Path

from juicer.planning.comparison import compare, measured_lengths
from juicer.planning.planner import Lengths, Planner, check_memory
from juicer.planning.tables import format_comparison, format_plan
from juicer.recipe.activation import existing, load
from juicer.runtime.command import guarded
from juicer.runtime.devices import DEVICES, Device
from juicer.runtime.errors import InputError, did_you_mean


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted key and YAML value")
    parser.add_argument("--tiny", action="store_true", help="plan the recipe scaled down")
    parser.add_argument("--gpu", default="H100", help=f"one of: {', '.join(DEVICES)}; default %(default)s")
    parser.add_argument("--devices", type=int, help="the same as compute.processes=N")
    parser.add_argument("--zero", type=int, choices=(0, 2, 3), help="the same as compute.zero_stage=N")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak; default %(default)s")
    parser.add_argument("--prompt-tokens", type=float, help="mean length; default template.max_prompt_tokens")
    parser.add_argument("--response-tokens", type=float, help="mean length; default template.max_response_tokens")
    parser.add_argument("--sample-tokens", type=float, help="mean length of samples; default --response-tokens")
    parser.add_argument("--measured", action="store_true", help="compare with what a finished run left here")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def device_named(name: str) -> Device:
    """The type of device called `name`.

    Raises:
        InputError: it is unknown; suggests the most similar name.
    """
    if name not in DEVICES:
        raise InputError(f"unknown GPU {name!r}", where="--gpu", do=did_you_mean(name, DEVICES, cutoff=0.3))
    return DEVICES[name]


def show(given: argparse.Namespace) -> None:
    """Print the plan of a recipe, and refuse one that does not fit into memory."""
    device = device_named(given.gpu)
    if not 0 < given.utilisation <= 1:
        raise InputError(f"--utilisation is {given.utilisation}", do="use a share above 0 and at most 1")
    overrides = list(given.overrides)
    overrides += [f"compute.processes={given.devices}"] if given.devices is not None else []
    overrides += [f"compute.zero_stage={given.zero}"] if given.zero is not None else []
    recipe, graph = load(existing(given.recipe), overrides, tiny=given.tiny, pinned=False)
    limits = recipe.template
    response = given.response_tokens or limits.max_response_tokens
    lengths = Lengths(given.prompt_tokens or limits.max_prompt_tokens, response, given.sample_tokens or response)
    if given.measured:
        lengths = measured_lengths(recipe, graph)
    planner = Planner(recipe, graph, device, given.utilisation, lengths)
    stages = planner.plan()
    print(f"Recipe {recipe.name}: {planner.devices} x {given.gpu}, ZeRO stage {planner.zero}, ", end="")
    print(f"{given.utilisation:.0%} of {device.operations / 1e12:.0f} TFLOP/s and {device.bandwidth / 1e12:.2f} TB/s")
    print(f"{planner.rows:,} demonstrations; mean tokens: prompt {lengths.prompt:.0f}, ", end="")
    print(f"response {lengths.response:.0f}, sample {lengths.sample:.0f}\n")
    print(format_plan(stages, device, planner.devices, given.utilisation))
    unpinned = [name for name, each in graph.downloads.items() if not each.revision]
    print(f"\nNot pinned yet: {', '.join(unpinned)}. " if unpinned else "\n", end="")
    print("Not counted: the leaderboard. Disk: the outputs once; DVC's cache holds them once more.")
    if given.measured:
        print("\n" + format_comparison(compare(stages, graph)))
    check_memory(stages, device, given.gpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m juicer.planning.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments(parser)
    given = parser.parse_intermixed_args()
    sys.exit(guarded(lambda: show(given), debug=given.debug, name="plan"))


if __name__ == "__main__":
    main()
