"""How files spell rows: one reader per format, each yielding rows and the rows it cannot read."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.dataset_sources import Csv, Format
from finetune_trainer.findings import Problem, shortened

EXTENSIONS = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
}
DELIMITERS = ",;\t|"
EXCERPT = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, counted from 1 without the header."""

    number: int
    cells: dict[str, Any]


Read = Iterator[Row | Problem]
Reader = Callable[[Path, str, Csv], Read]


def format_of(name: str) -> Format | None:
    """Return the format that a file name's extension says, or None."""
    plain = name.removesuffix(".gz")
    return EXTENSIONS.get(Path(plain).suffix.lower())


def rows_of(path: Path, name: str, format: Format, options: Csv) -> Read:  # noqa: A002
    """Yield the rows of a file; `name` is what messages call it."""
    yield from READERS[format](path, name, options)


def read_jsonl(path: Path, name: str, _options: Csv) -> Read:
    """Yield one row per line; blank lines are no rows."""
    number = 0
    with path.open("rb") as stream:
        for line_number, line in enumerate(stream, 1):
            content = line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line
            if content.strip():
                number += 1
                yield _json_row(content, name, number, line_number)


def _json_row(content: bytes, name: str, number: int, line: int) -> Row | Problem:
    excerpt = shortened(content.decode("utf-8", "replace").strip(), EXCERPT)
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"line {line}, byte {error.start + 1}"
        return Problem("NotUtf8", name, number, detail=detail, excerpt=excerpt)
    except (ValueError, RecursionError) as error:
        detail = f"line {line}: {_json_fault(error)}"
        return Problem("ParseError", name, number, detail=detail, excerpt=excerpt)
    if not isinstance(value, dict):
        detail = f"line {line} is a {type(value).__name__}, not an object"
        return Problem("ParseError", name, number, detail=detail, excerpt=excerpt)
    return Row(number, value)


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    return "nested too deeply or not JSON"


def read_json(path: Path, name: str, _options: Csv) -> Read:
    """Yield one row per object of the list that the file is."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Problem("NotUtf8", name, 1, detail=f"byte {error.start + 1}")
        return
    except (ValueError, RecursionError) as error:
        yield Problem("ParseError", name, 1, detail=_json_fault(error))
        return
    if not isinstance(value, list):
        kind = type(value).__name__
        yield Problem("ParseError", name, 1, detail=f"the file is a {kind}, not a list of objects")
        return
    for number, cells in enumerate(value, 1):
        if isinstance(cells, dict):
            yield Row(number, cells)
        else:
            detail = f"element {number} is a {type(cells).__name__}, not an object"
            yield Problem("ParseError", name, number, detail=detail)


def read_csv(path: Path, name: str, options: Csv) -> Read:
    """Yield one row per record below the header; the delimiter is detected when not given."""
    yield from _delimited(path, name, options, options.delimiter)


def read_tsv(path: Path, name: str, options: Csv) -> Read:
    """Yield one row per record below the header of a file separated by tabs."""
    yield from _delimited(path, name, options, options.delimiter or "\t")


def _delimited(path: Path, name: str, options: Csv, delimiter: str | None) -> Read:
    csv.field_size_limit(sys.maxsize)
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that only their rows are findings.
        with path.open(encoding=options.encoding, errors="surrogateescape", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.reader(
                _without_bom(stream),
                delimiter=delimiter or _delimiter(head),
                quotechar=options.quote or '"',
                strict=True,
            )
            yield from _csv_rows(reader, name)
    except LookupError:
        detail = f"encoding {options.encoding!r} is unknown"
        yield Problem("ParseError", name, 1, detail=detail)
    except UnicodeError:
        detail = f"content is not {options.encoding}"
        yield Problem("NotUtf8", name, 1, detail=detail)


def _csv_rows(reader: Any, name: str) -> Read:
    header: list[str] = [_plain(cell) for cell in next(reader, [])]
    yield from _header_problems(header, name)
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield Problem("ParseError", name, number, detail=f"line {reader.line_num}: {error}")
            continue
        if cells:
            number += 1
            yield _csv_row(cells, header, name, number, reader.line_num)


def _csv_row(
    cells: list[str], header: list[str], name: str, number: int, line: int
) -> Row | Problem:
    if len(cells) != len(header):
        detail = f"line {line} has {len(cells)} fields, the header has {len(header)}"
        return Problem("ParseError", name, number, detail=detail, excerpt=_plain(" | ".join(cells)))
    if not all(map(is_text, cells)):
        excerpt = _plain(" | ".join(cells))
        return Problem("NotUtf8", name, number, detail=f"line {line}", excerpt=excerpt)
    plain = (cell.replace("\r\n", "\n") for cell in cells)
    return Row(number, dict(zip(header, plain, strict=True)))


def _header_problems(header: list[str], name: str) -> Iterator[Problem]:
    for place, column in enumerate(header, 1):
        if not column.strip():
            yield Problem("EmptyColumnName", name, detail=str(place))
        elif header.index(column) < place - 1:
            yield Problem("DuplicateColumn", name, column=column)


def is_text(text: str) -> bool:
    """Tell whether a text can be written as UTF-8: a lone surrogate cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    return shortened(text.encode("utf-8", "replace").decode(), EXCERPT)


def _delimiter(head: str) -> str:
    return max(DELIMITERS, key=head.count)


def _without_bom(stream: io.TextIOBase) -> Iterator[str]:
    for number, line in enumerate(stream):
        yield line.removeprefix("\ufeff") if number == 0 else line


def read_text(path: Path, name: str, _options: Csv) -> Read:
    """Yield the whole file as one row with the column `text`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Problem("NotUtf8", name, 1, detail=f"byte {error.start + 1}")
        return
    yield Row(1, {"text": text.replace("\r\n", "\n")})


def read_parquet(path: Path, name: str, _options: Csv) -> Read:
    """Yield the rows of a Parquet file."""
    import pyarrow  # noqa: PLC0415 - half a second that text formats need not pay
    from pyarrow import parquet  # noqa: PLC0415

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(number, cells)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        detail = f"not a readable Parquet file ({type(error).__name__})"
        yield Problem("ParseError", name, number + 1, detail=detail)


READERS: dict[Format, Reader] = {
    Format.CSV: read_csv,
    Format.TSV: read_tsv,
    Format.JSON: read_json,
    Format.JSONL: read_jsonl,
    Format.PARQUET: read_parquet,
    Format.TEXT: read_text,
}
