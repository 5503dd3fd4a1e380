"""The digest of a model's weights, by which a recipe names the exact model that it is for."""

import hashlib
from functools import lru_cache
from pathlib import Path

from juicer.models.folder import weight_files
from juicer.models.published import published_as
from juicer.runtime.errors import InputError
from juicer.runtime.files import sha256_of_file


def weights_digest(folder: Path) -> str:
    """The SHA-256 of a model's weights, hexadecimal.

    Of one safetensors file it is that of the file. Of several it is that of the lines that `sha256sum *.safetensors`
    prints, in the order of the names: a hash, two blanks and the name of the file, each with a line break.

    Raises:
        InputError: there are no weights, or one of the files is missing.
    """
    files = weight_files(folder)
    hashes = {path.name: sha256_of_file(path) for path in files}
    if len(files) == 1:
        return hashes[files[0].name]
    lines = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def unchanged_digest(folder: Path) -> str:
    """As `weights_digest`; computed once in a process for files that have not changed since."""
    states = tuple((path.name, (state := path.stat()).st_size, state.st_mtime_ns) for path in weight_files(folder))
    return _digest_of(folder.absolute(), states)


@lru_cache(maxsize=32)
def _digest_of(folder: Path, states: tuple[tuple[str, int, int], ...]) -> str:
    return weights_digest(folder)


def check_digest(folder: Path, expected: str | None) -> None:
    """Check that a policy's weights are those that the recipe is for.

    Args:
        expected: the recipe's policy.digest; None accepts any weights.

    Raises:
        InputError: the weights have another digest; names both.
    """
    if expected is None or (found := weights_digest(folder)) == expected:
        return
    known = published_as(expected)
    again = f"remove it and fetch it again: {known.command(folder)}" if known else "fetch the model again"
    what = f"the digest of the weights is {found}, but policy.digest is {expected}"
    raise InputError(what, where=str(folder), do=f"{again}; or change policy.digest if you mean this model")
