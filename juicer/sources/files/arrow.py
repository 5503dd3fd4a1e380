"""Rows of parquet files, and of Arrow's own files and streams (.arrow, which `datasets` writes)."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from juicer.runtime.errors import InputError
from juicer.sources.files.compression import unpacked
from juicer.sources.files.looks import HEAD, refuse_pointer, unlike
from juicer.sources.files.rows import RATIO, UNPACKED, Row

if TYPE_CHECKING:
    import pyarrow

BATCH = 64 * 2**20
"""Largest batch of rows, in bytes."""
ROWS = 1000
"""Largest number of rows that are Python's values at a time."""
_MAGIC, _END = b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"
"""The start of an Arrow file, and the end of a stream."""


def rows_of_parquet(path: Path, name: str) -> Iterator[Row]:
    """Stream the rows of a parquet file.

    Raises:
        InputError: the file cannot be read, or unpacks to far more than it holds.
    """
    return _rows(_parquet_batches(path, name), path, name, "parquet")


def rows_of_arrow(path: Path, name: str) -> Iterator[Row]:
    """Stream the rows of an Arrow file or stream.

    Raises:
        InputError: the file cannot be read, or unpacks to far more than it holds.
    """
    return _rows(_arrow_batches(path, name), path, name, "arrow")


def rows_in_parquet(path: Path, name: str) -> int:
    """Number of rows of a parquet file, by its footer.

    Raises:
        InputError: as `rows_of_parquet`.
    """
    import pyarrow
    from pyarrow import parquet

    refuse_pointer(path, name)
    try:
        with unpacked(path, name) as source:
            metadata = parquet.read_metadata(source)
            _check_parquet(metadata, source, path.stat().st_size, name)
        return int(metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise _not_readable(error, path, "parquet", name) from error


def _parquet_batches(path: Path, name: str) -> Iterator["pyarrow.RecordBatch"]:
    from pyarrow import parquet

    # Otherwise whole row groups are in memory, and a file may be one.
    streamed = {"pre_buffer": False, "buffer_size": 2**16}
    with unpacked(path, name) as source:
        together = _check_parquet(parquet.read_metadata(source), source, path.stat().st_size, name)
        file = parquet.ParquetFile(source, **streamed)
        yield from file.iter_batches(batch_size=together, use_threads=False)


def _arrow_batches(path: Path, name: str) -> Iterator["pyarrow.RecordBatch"]:
    from pyarrow import ipc

    with unpacked(path, name) as source:
        is_file = source.read(len(_MAGIC)) == _MAGIC
        source.seek(0)
        if is_file:
            with ipc.open_file(source) as file:
                yield from (file.get_batch(number) for number in range(file.num_record_batches))
            return
        with ipc.open_stream(source) as stream:
            yield from stream
        # A stream that is cut off between two batches reads like a whole one, but for its end.
        source.seek(-len(_END), 2)
        if source.read() != _END:
            raise OSError("the stream is truncated")


def _rows(batches: Iterator["pyarrow.RecordBatch"], path: Path, name: str, kind: str) -> Iterator[Row]:
    """The rows of all batches."""
    import pyarrow

    number, unpacked_size, size = 0, 0, path.stat().st_size
    try:
        for batch in batches:
            unpacked_size += batch.nbytes
            if unpacked_size > max(UNPACKED, RATIO * size):
                what = f"the file of {size:,} bytes unpacks to more than {RATIO} times as much"
                raise InputError(what, where=f"{name}: row {number + 1}")
            if len(set(batch.schema.names)) < batch.num_columns:
                raise ValueError(f"two columns have one name, of {', '.join(batch.schema.names)}")
            together = _together(batch)
            for start in range(0, batch.num_rows, together):
                for values in batch.slice(start, together).to_pylist():
                    number += 1
                    yield Row(values, f"{name}: row {number}")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _not_readable(error, path, kind, f"{name}: row {number + 1}" if number else name) from error


def _not_readable(error: Exception, path: Path, kind: str, where: str) -> InputError:
    reason = " ".join(str(error).split())[:200]
    with unpacked(path, where) as source:
        return unlike(f"not a readable {kind} file: {reason}", source.read(HEAD), path.name, where)


def _together(batch: "pyarrow.RecordBatch") -> int:
    """Rows to convert at a time. One text of a dictionary may stand in every row."""
    import pyarrow

    shared = [each.dictionary.nbytes for each in batch.columns if isinstance(each, pyarrow.DictionaryArray)]
    largest = max(1, batch.nbytes // max(1, batch.num_rows), *shared)
    return max(1, min(ROWS, BATCH // largest))


def _check_parquet(metadata: Any, source: IO[bytes], size: int, name: str) -> int:
    """Rows to read at a time, so that a batch stays below 64 MiB.

    A column with a dictionary may stand for as much in every row as the whole dictionary holds.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    unpacked_size = sum(column.total_uncompressed_size for column in columns)
    limit = max(UNPACKED, RATIO * size)
    if unpacked_size > limit or metadata.num_rows > limit:
        what = f"the file of {size:,} bytes unpacks to {unpacked_size:,} bytes and {metadata.num_rows:,} rows"
        raise InputError(f"{what}, more than {RATIO} times as much", where=name)
    widest = max((_dictionary_size(column, source) for column in columns if column.has_dictionary_page), default=0)
    rows = max(1, metadata.num_rows)
    return max(1, min(ROWS, BATCH // max(1, unpacked_size // rows), BATCH // max(1, min(widest, BATCH // 8))))


def _dictionary_size(column: Any, source: IO[bytes]) -> int:
    """Unpacked bytes of a column's dictionary, which the header of its page has and the file's footer has not.

    The header is in Thrift's compact protocol: field 1, the type of the page, and field 2, the size, are numbers in
    groups of seven bits, each after a byte 0x15.
    """
    source.seek(column.dictionary_page_offset)
    header = source.read(16)
    if header[:1] != b"\x15" or header[2:3] != b"\x15":
        return int(column.total_uncompressed_size)
    size = 0
    for place, byte in enumerate(header[3:]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    return size >> 1  # the lowest bit is the sign
