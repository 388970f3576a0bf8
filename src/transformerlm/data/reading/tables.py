"""Rows of Parquet and Arrow files: one column of strings, a few megabytes at a time.

pyarrow reads them, the extra `transformerlm[parquet]`. Folders written by `datasets.save_to_disk` hold such
files.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from transformerlm.config import CorpusConfig
from transformerlm.data.kinds import ARROW, PARQUET
from transformerlm.data.reading.csv_rows import missing_column
from transformerlm.data.reading.record import Record
from transformerlm.errors import DataError, one_line

_BATCH_BYTES: Final = 2**22
_MAX_ROWS: Final = 4096
"""Rows that are read at once, at most."""


def has_reader() -> bool:
    """Return True if pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def column_problem(path: str, kind: str, config: CorpusConfig) -> str:
    """Return why the column that [data].text_field names cannot be read; "" if it can.

    Raises:
        DataError: the file is damaged.
    """
    with _opened(path, kind) as table:
        names = table.schema.names
        if config.field_name not in names:
            return missing_column(config.field_name, names)
        found = table.schema.field(names.index(config.field_name)).type
        if _is_text(found):
            return ""
        return f'expected text in column "{config.field_name}", got {one_line(str(found))[:80]}'


def table_rows(path: str, kind: str, config: CorpusConfig) -> Iterator[Record]:
    """Yield the text of each row in the column that [data].text_field names; a row without text has none.

    Args:
        kind: "parquet", "arrow" or "arrow_stream".

    Raises:
        DataError: there is no such column, its type is not text, or the file is damaged.
    """
    if problem := column_problem(path, kind, config):
        raise DataError(f"{path}: {problem}; --data.text_field=NAME names another")
    num_bytes = Path(path).stat().st_size
    number = 0
    with _opened(path, kind) as table:
        for column, fraction in table.batches(config.field_name):
            for utf8 in _texts(column):
                yield Record(_checked(utf8, path, number, config), int(num_bytes * fraction))
                number += 1


class _Table(NamedTuple):
    """An open table."""

    schema: Any
    batches: Callable[[str], Iterator[tuple[Any, float]]]
    """Function of the column's name that yields arrays and the fraction of the file up to their end."""


@contextmanager
def _opened(path: str, kind: str) -> Iterator[_Table]:
    """Open a table; errors of pyarrow within become a DataError."""
    import pyarrow

    try:
        with pyarrow.OSFile(path) as file:
            yield {PARQUET: _parquet, ARROW: _arrow}.get(kind, _arrow_stream)(file)
    except (pyarrow.ArrowException, OSError, MemoryError, OverflowError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged, or not what it says it is: {one_line(str(error))[:200]}") from None


def _parquet(file: Any) -> _Table:
    from pyarrow.parquet import ParquetFile

    # Without pre_buffer pages are read one after the other, and not a whole row group.
    table = ParquetFile(file, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
    total = max(1, table.metadata.num_rows)

    def batches(name: str) -> Iterator[tuple[Any, float]]:
        done = 0
        for group in range(table.metadata.num_row_groups):
            about = table.metadata.row_group(group)
            row_bytes = max(1, about.total_byte_size // max(1, about.num_rows))
            size = max(1, min(_MAX_ROWS, _BATCH_BYTES // row_bytes))
            for batch in table.iter_batches(size, [group], [name], use_threads=False):
                done += len(batch)
                yield batch.column(0), min(1.0, done / total)

    return _Table(table.schema_arrow, batches)


def _arrow(file: Any) -> _Table:
    from pyarrow import ipc

    schema = ipc.open_file(file).schema

    def batches(name: str) -> Iterator[tuple[Any, float]]:
        reader = ipc.open_file(file, options=ipc.IpcReadOptions(included_fields=[schema.names.index(name)]))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number).column(0), (number + 1) / reader.num_record_batches

    return _Table(schema, batches)


def _arrow_stream(file: Any) -> _Table:
    from pyarrow import ipc

    schema, size = ipc.open_stream(file).schema, max(1, file.size())

    def batches(name: str) -> Iterator[tuple[Any, float]]:
        file.seek(0)
        options = ipc.IpcReadOptions(included_fields=[schema.names.index(name)])
        for batch in ipc.open_stream(file, options=options):
            yield batch.column(0), min(1.0, file.tell() / size)

    return _Table(schema, batches)


def _is_text(found: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(found):
        found = found.value_type
    return any(
        is_kind(found)
        for is_kind in (
            *(types.is_string, types.is_large_string, types.is_string_view),
            *(types.is_binary, types.is_large_binary, types.is_binary_view),
        )
    )


def _texts(column: Any) -> Iterator[bytes]:
    """Yield the bytes of each row; b"" for a row without text."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        words = list(_texts(column.dictionary))
        for index in column.indices.to_pylist():
            if index is not None and not 0 <= index < len(words):
                raise pyarrow.ArrowInvalid(f"there is no entry {index} in a dictionary of {len(words)}")
            yield b"" if index is None else words[index]
        return
    binary = column.view(_bytes_type(column.type))
    binary.validate(full=True)  # a damaged file may say that its strings lie elsewhere in memory
    for start in range(0, len(binary), _MAX_ROWS):
        yield from (utf8 or b"" for utf8 in binary.slice(start, _MAX_ROWS).to_pylist())


def _bytes_type(found: Any) -> Any:
    """Return the type of bytes with the layout of a type of text."""
    import pyarrow

    types = pyarrow.types
    if types.is_large_string(found) or types.is_large_binary(found):
        return pyarrow.large_binary()
    is_view = types.is_string_view(found) or types.is_binary_view(found)
    return pyarrow.binary_view() if is_view else pyarrow.binary()


def _checked(utf8: bytes, path: str, row: int, config: CorpusConfig) -> bytes:
    """Return a row's text; bytes that are not UTF-8 are treated according to [data].encoding_errors."""
    if config.encoding_errors == "keep":
        return utf8
    try:
        utf8.decode()
    except UnicodeDecodeError as error:
        if config.encoding_errors == "replace":
            return utf8.decode(errors="replace").encode()
        what = f"expected UTF-8 in row {row}, but byte {error.start} of it is 0x{utf8[error.start]:02x}"
        raise DataError(f'{path}: {what}; [data].encoding_errors = "replace" reads U+FFFD for it') from None
    return utf8
