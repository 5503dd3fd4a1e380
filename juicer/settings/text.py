"""Texts of a recipe: one line each, of characters that every file and every command takes as they are.

No shell reads them, so that a name may contain blanks, quotes and dollar signs. Refused is what cannot work: control
characters, a leading dash, which programs take for an option, and URLs with a password, which would be kept in
params.yaml, dvc.lock and the registry.
"""

import re
import unicodedata
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from juicer.settings.bounds import shortened

LONGEST = 1000
"""Longest line, in characters."""
LONGEST_TEXT = 20_000
"""Longest text of several lines, in characters."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
SECRET = re.compile(r"(?i)(?:^|[?&;])[^=&;]*(?:token|secret|password|passwd|pwd|api_?key|access_?key|sig)[^=&;]*=")


def _line(value: str) -> str:
    if len(value) > LONGEST:
        raise ValueError(f"{len(value):,} characters, more than {LONGEST:,}")
    if bad := _unprintable(value, ""):
        raise ValueError(f"{shortened(value)} contains {bad}; write one line of printable text")
    return value


def _text(value: str) -> str:
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{len(value):,} characters, more than {LONGEST_TEXT:,}")
    if bad := _unprintable(value, "\n\t"):
        raise ValueError(f"{shortened(value)} contains {bad}; write printable text")
    return value


def _word(value: str) -> str:
    """Text that a program may get as an argument, or a library as a name."""
    if not value.strip():
        raise ValueError("must not be empty")
    if value != value.strip():
        raise ValueError(f"{shortened(value)} begins or ends with a blank")
    if value.startswith("-"):
        raise ValueError(f"{shortened(value)} begins with a dash, which programs take for an option; put ./ before it")
    return value


def _place(value: str) -> str:
    if "://" in value:
        raise ValueError("is a URL; name a file or folder, or an id of the Hugging Face hub")
    if len(value.encode()) > LONGEST or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError(f"{shortened(value)} is longer than the name of a file can be")
    return value


def _commit(value: str) -> str:
    if not COMMIT.fullmatch(value):
        raise ValueError(f"revision {shortened(value)} is not a commit, so it can move; use the commit, 40 hex digits")
    return value


def _digest(value: str) -> str:
    if not SHA256.fullmatch(value):
        raise ValueError(f"{shortened(value)} is not a SHA-256: 64 hex digits, in lower case")
    return value


def _registered(value: str) -> str:
    if "/" in value or ":" in value:
        raise ValueError(f"{shortened(value)} contains / or :, which MLflow does not allow in a name")
    return value


def _store(value: str) -> str:
    try:
        parts = urlsplit(value)
        password = parts.password is not None or (parts.username and parts.scheme.startswith("http"))
    except ValueError as error:
        raise ValueError("is not a valid URI") from error
    if password or SECRET.search(parts.query) or SECRET.search(parts.fragment):
        raise ValueError(
            "contains a password or token, which params.yaml, dvc.lock and the registry would keep; leave it out, and "
            "set MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, in the environment"
        )
    return value


def _unprintable(value: str, allowed: str) -> str | None:
    """What a text must not contain, in words; None if it has nothing of it."""
    for character in value:
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cs", "Zl", "Zp") and character not in allowed:
            return "a line break" if character in "\n\r\v\f\x85\u2028\u2029" else f"the character {character!a}"
    return None


Line = Annotated[str, AfterValidator(_line)]
"""One line of printable text, perhaps empty."""
Text = Annotated[str, AfterValidator(_text)]
"""Printable text, of several lines perhaps."""
Word = Annotated[str, AfterValidator(_line), AfterValidator(_word)]
"""A name that another program or library gets."""
Place = Annotated[str, AfterValidator(_line), AfterValidator(_word), AfterValidator(_place)]
"""A file or folder, or an id of the hub."""
Commit = Annotated[str, AfterValidator(_commit)]
"""A commit of a repository of the hub."""
Digest = Annotated[str, AfterValidator(_digest)]
"""A SHA-256."""
RegisteredName = Annotated[str, AfterValidator(_line), AfterValidator(_word), AfterValidator(_registered)]
"""Name of a registered model."""
Store = Annotated[str, AfterValidator(_line), AfterValidator(_word), AfterValidator(_store)]
"""URI of a store, without a password."""
