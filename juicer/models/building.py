"""What building a model by transformers needs: silence, and one line for whatever its code raises."""

from collections.abc import Iterator
from contextlib import contextmanager

from juicer.runtime.errors import InputError


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and its report of missing tensors: what matters is raised as one error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def unbuildable(part: str, where: str, error: Exception) -> InputError:
    """The error for a model or tokenizer that transformers cannot build."""
    reason = " ".join(str(error).split())[:300]
    what = f"transformers cannot load the {part}: {type(error).__name__}: {reason}"
    return InputError(what, where=where, do="check that the folder is a whole model that transformers has")
