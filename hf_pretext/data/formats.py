"""Files as rows: CSV, JSON, JSON Lines and Parquet, read strictly. Errors name lines, and quote nothing."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from .columns import MissingColumnError, roots_of

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")

_MARKED = {
    # The longer marks first: that of UTF-32 begins with that of UTF-16.
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HIGH = re.compile(rb"[\x80-\xff]")
_FOREIGN_WORD = re.compile(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*")


class MalformedError(ValueError):
    """What is wrong with a file, where, and how to mend it. It quotes nothing of the file."""


def rows_of(file: BinaryIO, suffix: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the rows of a file.

    Args:
        file (`BinaryIO`): The file, open.
        suffix (`str`): One of `SUFFIXES`.
        columns (`Sequence[str]`): Columns that are wanted. Others may be left out.

    Yields:
        `dict`: One per row.

    Raises:
        MalformedError: The file is not what its suffix says. Other errors may quote the file.
    """
    if suffix == ".parquet":
        yield from _read_parquet(file, columns)
        return
    text = _decode(file.read())
    if suffix == ".csv":
        yield from _read_csv(text, columns)
        return
    # Other line breaks, which `splitlines` knows, may be in texts.
    yield from map(_as_row, _read_json(text) if suffix == ".json" else _read_json_lines(io.StringIO(text)))


def stream_rows(file: BinaryIO, suffix: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the rows of a `.jsonl` file in UTF-8, or of a `.parquet` file, with only a few of them in memory.

    Raises:
        MalformedError: The file is not what its suffix says.
        UnicodeError: It is not in UTF-8.
    """
    if suffix == ".parquet":
        yield from _read_parquet(file, columns)
    else:
        yield from map(_as_row, _read_json_lines(io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")))


def _as_row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError('Each record has to be an object with names, such as {"text": "..."}.')
    return value


def _read_parquet(file: BinaryIO, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    # `read_table` would take a folder's name such as `client_id=5` for a column.
    table = pyarrow.parquet.ParquetFile(file)
    roots = roots_of(columns, table.schema_arrow.names)
    labels = _names_of_labels(table.schema_arrow.metadata or {})
    num_read = 0
    for batch in table.iter_batches(columns=roots):
        num_read += batch.num_rows
        rows: Iterable[dict[str, Any]] = batch.to_pylist() if roots else ({} for _ in range(batch.num_rows))
        for row in rows:
            for name in labels.keys() & row.keys():
                if isinstance(row[name], int):
                    row[name] = labels[name].get(row[name], row[name])
            yield row
    if num_read != table.metadata.num_rows:  # Otherwise rows would be left out without a word.
        raise MalformedError(f"It has {num_read} rows, but says {table.metadata.num_rows}. It is damaged.")


def _names_of_labels(metadata: Mapping[bytes, bytes]) -> dict[str, dict[Any, str]]:
    """Return the names of the numbers in each column of class labels, which `datasets` notes in its files."""
    noted = _parsed(metadata.get(b"huggingface", b"").decode(errors="replace"))
    try:
        features = noted["info"]["features"]
        return {
            column: dict(enumerate(feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (TypeError, KeyError, AttributeError):  # Another writer's, or none.
        return {}


def _read_json(text: str) -> list[Any]:
    rows = _parsed(text)
    if isinstance(rows, list):
        return rows
    if rows is None and isinstance(_parsed(text.strip().partition("\n")[0]), dict):
        raise MalformedError("It holds one record per line. That is JSON Lines: name the file .jsonl.")
    raise MalformedError(
        'It has to hold one list of records, such as [{"text": "..."}], and nothing else. With pandas: '
        "`frame.to_json(path, orient='records')`."
    )


def _read_json_lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == 1 and line.lstrip().startswith("["):
            raise MalformedError("It begins with a list. If all of it is one list of records, name the file .json.")
        row = _parsed(line)
        if row is None:
            raise MalformedError(
                f"Line {number} is not a record in JSON. Each line has to be one, without a comma after it."
            )
        yield row


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_csv(text: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read rows that have exactly the fields that the first line names.

    A comma or quotation mark that is not quoted moves a part of a text into the next column, or the next rows into a
    text. Rows would then count as other clients than they are, and the cap on samples per client would be void. So
    nothing is guessed.
    """
    _check_separator(text, columns)
    limit = csv.field_size_limit(2**31 - 1)  # The standard library refuses texts of more than 128 KB.
    reader, start = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    names: list[str] = []
    has_rows = False
    try:
        for row in reader:
            if not row:
                pass  # A blank line is no row.
            elif not names:
                names = row
                _check_names(names, columns)
            elif len(row) == len(names):
                has_rows = True
                yield dict(zip(names, row, strict=True))
            else:
                raise MalformedError(
                    f"The row that begins in line {start} has {len(row)} fields, but the first line names "
                    f"{len(names)} columns. A text with a comma in it needs quotation marks around it, and those in "
                    "it are doubled. Programs that write .csv do that, such as `pandas.DataFrame.to_csv`."
                )
            start = reader.line_num + 1
    except csv.Error:
        raise MalformedError(
            f"The row that begins in line {start} has a quotation mark that is not closed, or that text follows. A "
            "text that begins with a quotation mark needs others around it, and those in it are doubled. Programs "
            "that write .csv do that, such as `pandas.DataFrame.to_csv`."
        ) from None
    finally:
        csv.field_size_limit(limit)
    if not has_rows:  # No row will lack a column.
        _check_header(names, columns)


def _check_header(names: list[str], columns: Sequence[str]) -> None:
    """Refuse a first line that is missing, or that lacks a column."""
    if not names:
        raise MalformedError("It is empty. Its first line must hold the names of the columns.")
    if missing := [column for column in columns if column not in names]:
        raise MissingColumnError(missing[0])


def _check_names(names: list[str], columns: Sequence[str]) -> None:
    named = list(filter(None, names))
    if len(set(named)) < len(named):
        raise MalformedError("The first line names a column twice. Give each column a name of its own.")
    if any(column not in names for column in columns) and {*columns} <= {name.strip() for name in names}:
        raise MalformedError("The first line has blanks around the names of columns. Take them out.")


def _check_separator(text: str, columns: Sequence[str]) -> None:
    """Refuse fields that something else than commas separates, which the first lines show."""
    lines = [line for line in text[:100_000].splitlines()[:10] if line.strip()]
    if not lines or set(columns) <= set(_fields(lines[0], ",")):
        return
    fix = (
        "Write the file with commas: `pandas.read_csv(path, sep={!r}, dtype=str, keep_default_na=False)"
        ".to_csv(path, index=False)`."
    )
    for separator, words in _SEPARATORS.items():
        if lines[0].strip().lower() == f"sep={separator}":
            raise MalformedError(
                f"Its first line says that {words} separate its fields, and has to hold the names of the columns. "
                f"Delete that line. {fix.format(separator)}"
            )
        names = {name.strip() for name in _fields(lines[0], separator)}
        counts = {len(_fields(line, separator)) for line in lines}
        looks_like_it = len(_fields(lines[0], ",")) < 2 and len(counts) == 1 and min(counts) > 1
        if {*columns} <= names or (looks_like_it and len(lines) > 1):
            raise MalformedError(f"Its fields are separated by {words}, not by commas. {fix.format(separator)}")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _decode(content: bytes) -> str:
    """Decode UTF-8, or what a byte order mark names. Any other encoding would be a guess, so it is only named."""
    encoding = next((name for mark, name in _MARKED.items() if content.startswith(mark)), None)
    text = _decoded(content, encoding or "utf-8")
    if encoding and text is None:
        raise MalformedError(f"Its byte order mark says {encoding}, but it is not. Is it cut off? Write it as UTF-8.")
    fix = "Write it as UTF-8: `Path(path).write_text(Path(path).read_text(encoding={!r}), encoding='utf-8')`."
    start = content[:10_000]
    zeros = [start[offset::2].count(0) for offset in (0, 1)]
    if encoding is None and 4 * sum(zeros) > len(start):
        found = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        raise MalformedError(f"It seems to be UTF-16 without a byte order mark. {fix.format(found)}")
    if text is None:
        raise MalformedError(f"{_what_it_may_be(content)} {fix.format('cp1252')}")
    return text


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeError:
        return None


def _what_it_may_be(content: bytes) -> str:
    """Say in which line a file is not UTF-8, and what its bytes look like."""
    valid = content.decode("utf-8", "ignore").encode()
    start = next((n for n, pair in enumerate(zip(content, valid, strict=False)) if pair[0] != pair[1]), len(valid))
    told = f"It is not UTF-8: line {content.count(bytes([10]), 0, start) + 1} has a byte that is not valid."
    words = _FOREIGN_WORD.findall(content)
    num_high = sum(len(_HIGH.findall(word)) for word in words)
    if len(content) - len(valid) < num_high / 4:
        return f"{told} Most of the file is UTF-8, so that line may be damaged. If the file is in another encoding:"
    if num_high < sum(map(len, words)) / 2:
        # Western European words are mostly ASCII. Latin-1 has no printable signs from 80 to 9f.
        is_windows = re.search(rb"[\x80-\x9f]", content) is not None
        return f"{told} It looks like {'Windows-1252' if is_windows else 'Latin-1 or Windows-1252'} (cp1252)."
    return (
        f"{told} It may be Windows-1251 (Cyrillic), GB18030 (Chinese), Shift JIS (Japanese), or another encoding, "
        "whose name belongs in place of 'cp1252'."
    )
