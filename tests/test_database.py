"""Private text in databases: SQLite, and a real PostgreSQL where one is installed. No password and no text leaks."""

import logging
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.rows import group_by_client
from hf_pretext.data import read_sql

sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed: pip install 'hf_pretext[sql]'")
PASSWORD = "marzipan"
CONFIG = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5)


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE chats (customer, body TEXT, stars INTEGER)")
        rows = [(1, "quokka one\n  two", 5), ("1", "zebra", 4), (b"\x01", "three", 3), (2.5, "four", 2)]
        database.executemany("INSERT INTO chats VALUES (?, ?, ?)", rows)
    database.close()
    return f"sqlite:///{path}"


def refused(url, query, error=ValueError, columns=("text", "client_id")):
    """Return what reading says: no text, no password, and no other error that would."""
    with pytest.raises(error) as caught:
        read_sql(url, query, *columns)
    told = str(caught.value) + "".join(traceback.format_exception(caught.value)).replace(query, "")
    assert not any(word in told for word in ("quokka", "zebra", PASSWORD)) and caught.value.__context__ is None
    return str(caught.value)


def test_a_query_s_rows_are_read_as_those_of_files(chats, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    query = "SELECT customer AS client_id, body AS text, stars FROM chats ORDER BY stars DESC"
    found = read_sql(chats, query, "text", "client_id", other_columns=["stars"])
    assert found.to_list() == [
        {"text": "quokka one\n  two", "client_id": "1", "stars": "5"},
        {"text": "zebra", "client_id": "1", "stars": "4"},
        {"text": "three", "client_id": "01", "stars": "3"},
        {"text": "four", "client_id": "2.5", "stars": "2"},
    ]
    assert not found.cache_files and {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.warns(UserWarning, match="differ only in case"):
        assert set(group_by_client(found, CONFIG)) == {"1", "01", "2.5"}


def test_signs_of_a_query_are_not_parameters(chats):
    query = "SELECT customer AS client_id, ':x %s %(y)s ?' || body AS text FROM chats WHERE body LIKE '%bra'"
    assert read_sql(chats, query, "text", "client_id")["text"][:] == [":x %s %(y)s ?zebra"]


def test_rows_come_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_pretext.data.database.BATCH", 7)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99) "
    found = read_sql(
        "sqlite://", f"{numbers} SELECT 'text ' || i AS text, i % 10 AS client_id FROM n", "text", "client_id"
    )
    assert found["text"][:] == [f"text {number}" for number in range(100)] and len(set(found["client_id"])) == 10


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("SELECT nothing FROM chats", ValueError, "The query failed, with the error OperationalError"),
        ("SELECT 'quokka' FROM", ValueError, "The query failed, with the error OperationalError"),
        ("INSERT INTO chats VALUES (1, 'quokka', 1)", ValueError, "`query` returns no rows"),
        ("SELECT body AS text FROM chats", ValueError, r"no column 'client_id', but \['text'\]. Set `client_column`"),
        ("SELECT body AS text, 'my quokka is ill' FROM chats", ValueError, "2 others .not shown"),
        ("SELECT body AS text, customer AS client_id, 1 AS text FROM chats", ValueError, "several columns 'text'"),
        ("SELECT NULL AS text, customer AS client_id FROM chats", TypeError, "that are not strings"),
        ("SELECT stars AS text, customer AS client_id FROM chats", TypeError, "that are not strings"),
        (" ", ValueError, "`query` is missing"),
    ],
)
def test_queries_that_give_no_texts_are_named(chats, query, error, message):
    import re

    assert re.search(message, refused(chats, query, error))
    assert len(read_sql(chats, "SELECT body AS text FROM chats", "text")) == 4, "nothing was written"


def test_a_null_id_is_no_client(chats):
    found = read_sql(chats, "SELECT body AS text, NULL AS client_id FROM chats", "text", "client_id")
    with pytest.raises(ValueError, match="rows without a client"):
        group_by_client(found, CONFIG)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("sqlite:////no/such/file.db", FileNotFoundError, "There is no SQLite database"),
        (f"postgresql:me:{PASSWORD}@host", ValueError, "is not a URL of a database"),
        (f"nothing://me:{PASSWORD}@host/x", ValueError, "cannot be loaded, with the error NoSuchModuleError"),
        (f"postgresql+asyncpg://me:{PASSWORD}@host/x", ValueError, "cannot be loaded"),
        (f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:1/x", ValueError, "cannot be"),
        (f"postgresql+psycopg://me:p@{PASSWORD}@127.0.0.1:1/x?password={PASSWORD}", ValueError, "cannot be"),
    ],
)
def test_no_password_is_shown(url, error, message, caplog, capfd):
    with caplog.at_level(0):
        assert message in refused(url, "SELECT 1", error)
    assert PASSWORD not in caplog.text + "".join(capfd.readouterr())


def test_loggers_show_no_rows(chats, caplog, capfd):
    """At the level DEBUG, SQLAlchemy logs every row."""
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "sqlalchemy"):
        read_sql(chats, "SELECT body AS text, customer AS client_id FROM chats WHERE body <> 'zebra'", "text")
    assert not any(word in caplog.text + "".join(capfd.readouterr()) for word in ("quokka", "zebra", "SELECT"))


def test_without_sqlalchemy_the_extra_is_named(monkeypatch, chats):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_pretext\[sql\]'"):
        read_sql(chats, "SELECT 1", "text")


def find_postgres():
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [str(folder) for folder in folders if (folder / "initdb").is_file()]
    return found[0] if found else None


@pytest.fixture(scope="module")
def postgres():
    """A cluster of its own, in a temporary folder, on a socket in it, which asks for a password."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="The driver is not installed: pip install 'psycopg[binary]'")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    # PostgreSQL refuses to run as root.
    prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if prefix:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    (folder / "password").write_text(PASSWORD)

    def run(program, *arguments):
        subprocess.run(
            [*prefix, f"{programs}/{program}", *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder
        )

    (folder / "password").chmod(0o644)
    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "tester", "--auth=scram-sha-256", f"--pwfile={folder}/password", "--no-sync")
    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c log_statement=all"
    run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", settings, "start")
    try:
        yield f"postgresql+psycopg://tester:{PASSWORD}@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def filled(postgres):
    engine = sqlalchemy.create_engine(postgres)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE chats (who uuid, number numeric, raw bytea, at timestamptz, doc jsonb, body text)",
            "INSERT INTO chats SELECT gen_random_uuid(), i % 50, decode(lpad(to_hex(i % 50), 2, '0'), 'hex'), "
            "'2024-01-01Z'::timestamptz + (i % 50) * interval '1 day', "
            "jsonb_build_object('text', 'quokka ' || i, 'turns', jsonb_build_array('a', 'b')), 'text ' || i "
            "FROM generate_series(0, 4999) AS i",
        ):
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)
    engine.dispose()
    return postgres


@pytest.mark.parametrize("column", ["number", "raw", "at"])
def test_postgres_ids_of_any_type_are_strings(filled, column):
    found = read_sql(filled, f"SELECT {column}, body FROM chats ORDER BY body", "body", column)
    assert len(found) == 5000 and len(set(found[column])) == 50
    assert all(isinstance(each, str) for each in found[column])


def test_postgres_json_columns_have_paths(filled):
    query = "SELECT doc, who::text AS client_id FROM chats WHERE number = 7"
    found = read_sql(filled, query, "doc.text", "client_id", other_columns=["doc.turns"])
    assert len(found) == 100 and found["doc.text"][0].startswith("quokka") and found["doc.turns"][0] == ["a", "b"]
    assert "without the column 'doc.body'" in refused(filled, query, columns=("doc.body", "client_id"))


def test_postgres_is_read_by_a_cursor_of_the_server(filled, monkeypatch):
    """The client never holds more than a batch of what it does not want."""
    import psycopg

    used = []
    fetch = psycopg.ServerCursor.fetchmany
    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", lambda self, size=0: used.append(size) or fetch(self, size))
    assert len(read_sql(filled, "SELECT body, number FROM chats", "body", "number")) == 5000
    assert len(used) >= 5 and max(used) <= 1000


def test_postgres_errors_show_no_password_and_no_text(filled, caplog, capfd):
    wrong = filled.replace(PASSWORD, f"{PASSWORD}-x")
    with caplog.at_level(0), caplog.at_level(0, "sqlalchemy"), caplog.at_level(0, "psycopg"):
        assert "cannot be reached, with the error OperationalError" in refused(wrong, "SELECT 1")
        told = refused(filled, "SELECT body::int AS text, number AS client_id FROM chats")
        assert "(SQLSTATE 22P02)" in told  # What PostgreSQL says here quotes the text.
        assert "(SQLSTATE 42P01)" in refused(filled, "SELECT * FROM nothing")
        assert "The query failed" in refused(
            filled, "INSERT INTO chats (body) VALUES ('quokka') RETURNING body AS text"
        )
        read_sql(filled, "SELECT body AS text, number AS client_id FROM chats", "text", "client_id")
    output = caplog.text + "".join(capfd.readouterr())
    assert not any(word in output for word in (PASSWORD, "quokka", "text 1"))
