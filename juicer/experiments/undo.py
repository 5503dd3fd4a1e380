"""Take back what was done to params.yaml since Juicer wrote it: by hand, or by `dvc exp run -S`."""

from pathlib import Path

from juicer.recipe.origin import WRITTEN
from juicer.runtime.errors import InputError
from juicer.runtime.files import replace_text
from juicer.stages.git import git


def taken_back(params: Path) -> str:
    """Make `params` what it was when Juicer last wrote it, or, as in a fresh clone, what it is in the last commit.

    Returns:
        What was done, in one line.

    Raises:
        InputError: nothing is known of an earlier `params`.
    """
    written = params.parent / WRITTEN
    if written.is_file():
        text, of = written.read_text(encoding="utf-8"), "as juicer last wrote it"
    else:
        try:
            text, of = git("show", f"HEAD:./{params.name}", cwd=params.parent) + "\n", "as in the last commit"
        except InputError as error:
            do = "write it anew: juicer use RECIPE"
            raise InputError("nothing is known of an earlier one", where=str(params), do=do) from error
    if params.is_file() and params.read_text(encoding="utf-8") == text:
        return f"{params} is {of}; nothing was changed"
    replace_text(params, text)
    return f"{params} is {of} again"
