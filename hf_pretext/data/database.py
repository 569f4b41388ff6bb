"""Private text in a database, read into memory by a query.

What a database or its driver says may quote texts, the query or a password. So errors name the step that failed, the
type of the error and its standard code, and nothing else. The loggers of SQLAlchemy, which show rows at the level
DEBUG, are silent here.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .columns import MissingColumnError, WantedColumns, gather, roots_of, shown_names

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000
"""Rows that are fetched at a time."""

_LOGGERS = "hf_pretext.private"


class _StepFailed(Exception):
    """What may be said of a failure."""


def read_sql(
    url: Any,
    query: str,
    text_column: str | Sequence[str] | None,
    client_column: str | None = None,
    *,
    other_columns: Sequence[str] = (),
) -> "Dataset":
    """Read private texts, and whose they are, from a database. It needs `pip install 'hf_pretext[sql]'`.

    The rows are fetched in batches, with a cursor on the server's side where the database has one, and only the
    wanted columns are kept, in memory. Nothing is written to a disk, and the transaction is rolled back.

    Args:
        url (`str` or `sqlalchemy.URL`):
            The database, such as `"postgresql+psycopg://me@host/chats"`. The driver is a package of its own, here
            `psycopg`. A password had better be where the driver looks for one, such as `~/.pgpass` or `PGPASSWORD`.
        query (`str`):
            A query that returns the columns, such as `"SELECT customer AS client_id, body AS text FROM chats"`.
            It goes to the database as it is.
        text_column (`str` or `Sequence[str]`, *optional*): As in `read_dataset`. A path leads into columns of JSON.
        client_column (`str`, *optional*): As in `read_dataset`: ids of any type are read as strings.
        other_columns (`Sequence[str]`, *optional*): As in `read_dataset`.

    Returns:
        `datasets.Dataset`: These columns, in memory.

    Raises:
        ImportError: SQLAlchemy or the driver is not installed.
        FileNotFoundError: There is no such SQLite file.
        ValueError: The database cannot be reached, the query fails, or it lacks a column.
        TypeError: Some texts are not strings.
    """
    if not isinstance(query, str) or not query.strip():
        raise ValueError("`query` is missing: the query in SQL whose rows are the private texts.")
    wanted = WantedColumns.of(text_column, client_column, other_columns)
    values, problem = None, ""
    try:
        values = _fetch(url, query, wanted)
    except _StepFailed as error:
        problem = str(error)
    except MissingColumnError as error:
        problem = wanted.without("`query`", error.name)
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:
        problem = f"Reading from the database failed, with the error {type(error).__name__}."
    if values is None:
        # Raised out here, without the other error and its frames.
        raise ValueError(problem)
    return wanted.dataset("`query`", values)


def _fetch(url: Any, query: str, wanted: WantedColumns) -> dict[str, list[Any]]:
    from contextlib import closing

    sqlalchemy = _sqlalchemy()
    address = _step("`private` is not a URL of a database, such as 'sqlite:///chats.db'", sqlalchemy.make_url, url)
    file = address.database
    if address.get_backend_name() == "sqlite" and file and not file.startswith((":", "file:")):
        if not Path(file).is_file():  # SQLite would make it.
            raise FileNotFoundError(f"There is no SQLite database {file!r}.")
    engine = _engine(sqlalchemy, address)
    options = {"stream_results": True, "yield_per": BATCH, "no_parameters": True}
    try:
        with closing(_step("The database cannot be reached", engine.connect)) as connection:
            running = connection.execution_options(**options)
            result = _step("The query failed", lambda: running.exec_driver_sql(query))
            if not result.returns_rows:
                raise _StepFailed("`query` returns no rows. It has to be a SELECT, or another query that does.")
            names = list(result.keys())
            _check_names(names, wanted)
            return gather(_rows(result, names), wanted.names)
    finally:
        engine.dispose()


def _rows(result: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    parts = result.partitions(BATCH)
    while True:
        part = _step("Fetching of rows failed", lambda: next(parts, None))
        if part is None:
            return
        yield from (dict(zip(names, row, strict=True)) for row in part)


def _check_names(names: list[str], wanted: WantedColumns) -> None:
    for name in wanted.names:
        if not roots_of([name], names):
            raise _StepFailed(
                f"`query` returns no column {name!r}, but {shown_names(names)}. Set `{wanted.role(name)}`, or name "
                f"the column so in the query: `SELECT ... AS {name}`."
            )
        if names.count(name) > 1:
            raise _StepFailed(f"`query` returns several columns {name!r}. Give each a name of its own with AS.")


def _step(what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do a step, and say of its failure only what may be said."""
    try:
        return work(*arguments)
    except ModuleNotFoundError as error:
        problem = f"{what}: the driver {error.name!r} is not installed."
    except Exception as error:
        problem = (
            f"{what}, with the error {type(error).__name__}{_code(error)}. What it said may hold a password or texts, "
            "so it is not shown. Try the same URL and query in a client of the database."
        )
    raise _StepFailed(problem)


def _code(error: Any) -> str:
    """Return the standard code of an error, such as SQLSTATE 28P01: the password is wrong."""
    try:
        return f" (SQLSTATE {error.orig.sqlstate})" if error.orig.sqlstate else ""
    except AttributeError:
        return ""


def _engine(sqlalchemy: Any, address: Any) -> Any:
    for name in ("sqlalchemy.engine.Engine", "sqlalchemy.pool.impl.NullPool"):
        logging.getLogger(f"{name}.{_LOGGERS}").setLevel(logging.CRITICAL + 1)
    names = {"logging_name": _LOGGERS, "pool_logging_name": _LOGGERS}
    return _step(
        "The driver of the database cannot be loaded",
        lambda: sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, hide_parameters=True, **names),
    )


def _sqlalchemy() -> Any:
    try:
        import sqlalchemy
    except ImportError:
        raise ImportError("Reading from a database needs SQLAlchemy: `pip install 'hf_pretext[sql]'`.") from None
    return sqlalchemy
