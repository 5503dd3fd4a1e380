"""A copy of a model that other programs use as Juicer does: the weights, the tokenizer, how it was trained to be asked.

The weights keep their bytes; adapters are merged into their base model. The chat template is written so that every
program makes the same tokens
(`juicer.serving.chat_template`), and generation_config.json samples as the recipe evaluates.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from juicer.models.folder import PICKLED, base_record, check_folder, read_small_json
from juicer.runtime.errors import InputError
from juicer.runtime.files import temporary_beside
from juicer.serving.named import CHAT_TEMPLATE, Named

CARD, GENERATION, TOKENIZER = "README.md", "generation_config.json", "tokenizer_config.json"
WRITTEN = (CHAT_TEMPLATE, GENERATION, TOKENIZER)
"""Files of a copy that are written anew; the others are the model's own."""


def write_copy(named: Named, into: Path, card: str | None = None, *, link: bool = False) -> None:
    """Write a model's copy.

    Args:
        into: the folder to create.
        card: text of the model card; None keeps the model's own README.md, if it has one.
        link: whether weights are symbolic links, for a copy that is used on this machine only.

    Raises:
        InputError: the model is not whole, or its template cannot be written for other programs.
    """
    check_folder(named.folder)
    if base_record(named.folder) is not None:
        from juicer.models.loading import whole_folder

        with whole_folder(named.folder, into.parent) as merged:
            _write(replace(named, folder=merged), into, card, lambda path, place: path.replace(place))
        return
    _write(
        named,
        into,
        card,
        lambda path, place: place.symlink_to(path.resolve()) if link else shutil.copyfile(path, place),
    )


def _write(named: Named, into: Path, card: str | None, put: Callable[[Path, Path], object]) -> None:
    """As `write_copy`, of a whole model; `put` brings a file of weights to its place."""
    from juicer.models.loading import load_template, sampling_config
    from juicer.serving.chat_template import plain_chat_template

    template = load_template(named.folder, named.template)
    chat_template, sampling = plain_chat_template(template), named.evaluation.sampling
    into.mkdir(parents=True)
    for path in own_files(named.folder):
        if path.suffix == ".safetensors":
            put(path, into / path.name)
        else:
            shutil.copyfile(path, into / path.name)
    settings = sampling_config(template)
    settings.temperature, settings.top_p = sampling.temperature, sampling.top_p
    settings.save_pretrained(into)
    (into / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
    if (kept := named.folder / TOKENIZER).is_file():
        values = read_small_json(kept)
        values.pop("chat_template", None)  # some programs would read this one
        (into / TOKENIZER).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if card is not None:
        (into / CARD).write_text(card, encoding="utf-8")


def own_files(folder: Path) -> list[Path]:
    """The files of a model that a copy takes as they are: no hidden ones, no pickled weights, no folders."""
    pickled = {path for kind in PICKLED for path in folder.glob(kind)}
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name not in WRITTEN and path not in pickled
    ]


def size_of(folder: Path) -> int:
    """Bytes of the files of a model's copy."""
    if base_record(folder) is not None:
        return 4 * sum(math.prod(shape) for shape in check_folder(folder).values())
    return sum(path.stat().st_size for path in own_files(folder))


def shown_size(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def publish(out: Path, needed: int, write: Callable[[Path], None]) -> None:
    """Write an output beside its place and move it there when it is whole; nothing is left of one that fails.

    Args:
        out: the file or folder to create; it must not exist, or be an empty folder.
        needed: bytes that it takes, roughly.
        write: is given the path to write to.

    Raises:
        InputError: something is there already, or the disk has too little space.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        what = "the folder is not empty" if out.is_dir() else "something is there already"
        raise InputError(what, where=str(out), do="name a new one: --out PATH")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        what = "a file is in the place of a folder"
        raise InputError(what, where=str(out.parent), do="name another place: --out PATH") from error
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        what = f"the copy takes {shown_size(needed)}, but only {shown_size(free)} are free"
        raise InputError(what, where=str(out), do="free some disk space, or name another disk: --out PATH")
    with temporary_beside(out) as temporary:
        write(temporary)
        if out.exists():
            out.rmdir()
        temporary.replace(out)
