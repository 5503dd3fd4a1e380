"""The bytes of files, unpacked if they are compressed, as far as they stay in proportion to the file."""

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from juicer.runtime.errors import InputError
from juicer.sources.files.looks import head_of, unlike
from juicer.sources.files.rows import RATIO, UNPACKED
from juicer.sources.suffixes import Packing, type_of

BUFFER = 2**17
_MAGIC: dict[Packing, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}


class _TruncatedError(Exception):
    """A compressed file ends too early."""


class _DamagedError(Exception):
    """A compressed file is not what was written."""


class _BombError(Exception):
    """A file unpacks to far more than it holds."""


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, as far as it stays in proportion to the file. Counts lines, for errors."""

    def __init__(self, path: Path, packing: Packing) -> None:
        self._packed = path.open("rb")
        self._unpack = _unpacker(self._packed, packing)
        self.size = self.lines = 0

    def readable(self) -> bool:
        """True, as io asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack the next bytes."""
        try:
            data = self._unpack(len(buffer))
        except EOFError as error:
            raise _TruncatedError from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _DamagedError(str(error)) from error
        except OSError as error:  # Arrow's have no class of their own
            if "Truncated" in str(error):
                raise _TruncatedError from error
            if "ZSTD" in str(error):
                raise _DamagedError(str(error)) from error
            raise
        buffer[: len(data)] = data
        self.size += len(data)
        self.lines += data.count(b"\n")
        if self.size > max(UNPACKED, RATIO * self._packed.tell()):
            raise _BombError(self._packed.tell())
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._packed.close()
        super().close()


def _unpacker(file: IO[bytes], packing: Packing) -> Callable[[int], bytes]:
    """A function that unpacks at most so many bytes more."""
    if packing == "gzip":
        return gzip.GzipFile(fileobj=file).read1
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd").read


@contextmanager
def opened(path: Path, name: str) -> Iterator["io.BufferedReader[Any]"]:
    """The bytes of a file, unpacked if its name says that it is compressed.

    Raises:
        InputError: in the block, for a compressed file that is truncated, damaged, or unpacks to more than is read;
            gives the line.
    """
    type_ = type_of(path.name)
    if type_ is None or type_.packing is None:
        with io.BufferedReader(path.open("rb", buffering=0), BUFFER) as plain:
            yield plain
        return
    packing, raw = type_.packing, _Unpacked(path, type_.packing)
    with io.BufferedReader(raw, BUFFER) as file:
        try:
            yield file
        except _TruncatedError as error:
            what, do = f"the {packing} file is truncated after line {raw.lines}", "download or copy it again"
            raise InputError(what, where=f"{name}:{raw.lines + 1}", do=do) from error
        except _DamagedError as error:
            raise _damaged(path, packing, error, f"{name}:{raw.lines + 1}") from error
        except _BombError as error:
            what = f"the first {error} bytes of the file unpack to more than {RATIO} times as much"
            do = "unpack it yourself, if it is what it should be"
            raise InputError(what, where=f"{name}:{raw.lines + 1}", do=do) from error


def _damaged(path: Path, packing: Packing, error: Exception, where: str) -> InputError:
    what, head = f"the {packing} file is damaged: {error}", head_of(path)
    if head.startswith(_MAGIC[packing]):
        return InputError(what, where=where, do="download or copy it again")
    return unlike(what, head, "", where, do=f"take {path.suffix} off its name, if it is not compressed")


@contextmanager
def unpacked(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The bytes of a file that is read in any order; a compressed one is unpacked into a temporary file.

    Raises:
        InputError: as `opened`.
    """
    type_ = type_of(path.name)
    if type_ is None or type_.packing is None:
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:
        with opened(path, name) as file:
            shutil.copyfileobj(file, whole, BUFFER)
        whole.seek(0)
        yield whole
