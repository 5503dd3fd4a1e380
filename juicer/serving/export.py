"""`juicer export`: a model as a folder, a repository of the hub, a GGUF file or an adapter."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from juicer.serving import gguf, hub
from juicer.serving.named import LOCAL, Named, found, predecessor
from juicer.serving.portable import publish, shown_size, size_of, write_copy

if TYPE_CHECKING:
    from juicer.models.adapters import Adapter

EXPORTS = Path("exports")
Say = Callable[[str], None]


def to_folder(named: Named, out: Path | None, *, dry_run: bool, say: Say) -> None:
    """Write a folder that transformers, vLLM and llama.cpp's converter load.

    Raises:
        InputError: the place is taken or too small, or the template cannot be written for other programs.
    """
    from juicer.serving.card import card_for

    out, size = out or EXPORTS / named.name, size_of(named.folder)
    if dry_run:
        say(f"would write {named.title} to {out}: {shown_size(size)}")
        return
    publish(out, size, lambda path: write_copy(named, path, card_for(named)))
    say(f"{named.title} is in {out} ({shown_size(size)}), with its model card README.md")


def to_hub(named: Named, repo: str, *, public: bool, dry_run: bool, say: Say) -> None:
    """Upload the same folder to the hub.

    Raises:
        InputError: as `to_folder` and `hub.upload`.
    """
    from juicer.serving.card import card_for

    hub.check_repo(repo)
    if not dry_run:
        hub.token()  # before work that would be for nothing
    with _scratch() as scratch:
        write_copy(named, scratch / named.name, card_for(named), link=True)
        if dry_run:
            seen = "public" if public else "private"
            say(f"would upload {named.title} to {hub.endpoint()}/{repo} (new ones are {seen}):")
            for path in sorted((scratch / named.name).iterdir()):
                say(f"  {shown_size(path.stat().st_size):>10}  {path.name}")
            return
        address = hub.upload(scratch / named.name, repo, public=public)
    say(f"{named.title} is in {repo}: {address}")


def to_gguf(named: Named, out: Path | None, converter: Path | None, kind: str, *, dry_run: bool, say: Say) -> None:
    """Write a GGUF file for llama.cpp and what builds on it.

    Raises:
        InputError: there is no converter, or it fails, or the place is taken or too small.
    """
    program = gguf.find_converter(converter)
    out = out or EXPORTS / f"{named.name}.gguf"
    if dry_run:
        say(f"would convert {named.title} by {program} to {out}")
        return
    said = ""

    def write(path: Path) -> None:
        nonlocal said
        with _scratch() as scratch:
            write_copy(named, scratch / named.name, link=True)
            said = gguf.convert(program, scratch / named.name, path, kind)

    publish(out, size_of(named.folder), write)
    say(f"{named.title} is in {out} ({shown_size(out.stat().st_size)}): {said}")


def to_adapter(
    named: Named, out: Path | None, base: str | None, standing: Callable[[str], Path], *, dry_run: bool, say: Say
) -> None:
    """Write the difference from the model that it was trained from as a peft adapter.

    Args:
        base: the model that the adapter is for; None for the one that it was trained from.
        standing: the folder that a word of the command line would be.

    Raises:
        InputError: the difference is not low-rank, or there is no such base, or the place is taken or too small.
    """
    from juicer.models.adapters import write_adapter

    with _base(named, base, standing) as before:
        difference = _difference(named.folder, before.folder)
        out = out or EXPORTS / f"{named.name}-adapter"
        numbers = sum(a.numel() + b.numel() for a, b in difference.factors.values())
        what = (
            f"{len(difference.factors)} layers, rank {difference.rank}, {numbers:,} numbers; "
            f"the largest rest is {difference.error:.1e} of a layer's change"
        )
        if dry_run:
            say(f"would write the adapter of {named.title} for {before.title} to {out}: {what}")
            return
        publish(out, 4 * numbers, lambda path: write_adapter(difference, _shown_base(named, before), path))
    say(f"the adapter of {named.title} for {before.title} is in {out}: {what}")


def _difference(model: Path, base: Path) -> "Adapter":
    """The adapter that makes `base` into `model`: the one that is kept, if it is for this base model."""
    from juicer.models.adapters import checked_base, read_adapter
    from juicer.models.folder import base_record
    from juicer.models.loading import whole_folder
    from juicer.serving.adapter import difference

    record = base_record(model)
    if record is not None and record.ranks and checked_base(model, record).resolve() == base.resolve():
        return read_adapter(model)
    with whole_folder(model, LOCAL) as after, whole_folder(base, LOCAL) as before:
        return difference(after, before)


@contextmanager
def _base(named: Named, base: str | None, standing: Callable[[str], Path]) -> Iterator[Named]:
    if base is not None:
        with found(base, standing(base)) as given:
            yield given
        return
    with predecessor(named) as before:
        yield before


def _shown_base(named: Named, before: Named) -> str:
    """The base model as another machine knows it: its id of the hub, else its folder in the project, else its name."""
    policy = named.recipe.get("policy") or {}
    if before.name == "base" and policy.get("revision"):
        return str(policy["model"])
    inside = not before.folder.is_absolute() and before.folder.parts[0] != LOCAL.name
    return str(before.folder) if inside else before.name


@contextmanager
def _scratch() -> Iterator[Path]:
    LOCAL.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LOCAL, prefix="export-") as folder:
        yield Path(folder)
