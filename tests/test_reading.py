"""Files and folders of every form: what they are is said, nothing of them is quoted, and what is certain is read."""

import contextlib
import json
import math
import sqlite3
import traceback
from decimal import Decimal

import pandas
import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.rows import group_by_client
from hf_pretext.data import list_texts, open_dataset, read_dataset, read_texts
from hf_pretext.data.columns import WantedColumns
from hf_pretext.data.sources import read_private

ROWS = [{"client_id": "ann", "text": "Grüße, aus Köln"}, {"client_id": "bob", "text": "quokka größer für Öl"}]
CHATS = [
    {"who": {"id": 7}, "message": {"body": "quokka", "parts": [{"role": "user", "content": "\ud83d hi"}]}, "label": 1},
    {"who": {"id": "a"}, "message": {"body": "zebra", "parts": []}, "label": 2},
]


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(path, error=ValueError, columns=("text", "client_id"), **options):
    """Return what reading says. It quotes no text, and the error keeps no other one, which would."""
    with pytest.raises(error) as caught:
        read_dataset(path, *columns, **options)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(word in told for word in ("quokka", "zebra", "Köln")) and caught.value.__context__ is None
    return str(caught.value)


CSV = "client_id,text\n" + "".join(f'{row["client_id"]},"{row["text"]}"\n' for row in ROWS)
RUSSIAN = "client_id,text\nann,Где мой заказ\n"
ENCODINGS = {
    "cp1252": (CSV.replace("Öl", "“Öl”").encode("cp1252"), r"line 2 .*looks like Windows-1252 \(cp1252\)"),
    "latin-1": (CSV.encode("latin-1"), r"looks like Latin-1 or Windows-1252.*encoding='cp1252'"),
    "cp1251": (RUSSIAN.encode("cp1251"), "Windows-1251"),
    "shift-jis": ("client_id,text\nann,注文はどこですか\n".encode("shift-jis"), "Shift JIS"),
    "utf-16 without a mark": (CSV.encode("utf-16-le"), "UTF-16 without a byte order mark.*'utf-16-le'"),
    "utf-16 that is cut off": (CSV.encode("utf-16")[:-1], "says utf-16, but it is not"),
    "damaged": (CSV.encode()[:-4] + b"\xff" + CSV.encode()[-4:], "line 3.*may be damaged"),
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_that_is_not_certain_is_named(tmp_path, name, suffix):
    import re

    content, message = ENCODINGS[name]
    (tmp_path / f"data{suffix}").write_bytes(content)
    told = refused(tmp_path / f"data{suffix}")
    assert re.search(message, told), told


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_is_certain_is_read(tmp_path, encoding):
    (tmp_path / "data.csv").write_bytes(CSV.encode(encoding))
    (tmp_path / "data.jsonl").write_bytes("\n".join(map(json.dumps, ROWS)).encode(encoding))
    for name in ("data.csv", "data.jsonl"):
        assert read_dataset(tmp_path / name, "text", "client_id").to_list() == [
            {"text": row["text"], "client_id": row["client_id"]} for row in ROWS
        ]


@pytest.mark.parametrize(("separator", "words"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
@pytest.mark.parametrize("names", [("client_id", "text"), ("id", "body")])
@pytest.mark.parametrize("quoting", [0, 1])
def test_separators_are_named(tmp_path, separator, words, names, quoting):
    frame = pandas.DataFrame(ROWS).set_axis(names, axis=1)
    frame.to_csv(tmp_path / "data.csv", sep=separator, index=False, quoting=quoting)
    told = refused(tmp_path / "data.csv")
    assert f"separated by {words}, not by commas" in told and f"sep={separator!r}" in told
    # The fix that the message gives works.
    pandas.read_csv(tmp_path / "data.csv", sep=separator, dtype=str).to_csv(tmp_path / "data.csv", index=False)
    assert (
        read_dataset(tmp_path / "data.csv", names[1], names[0])["text" if names[1] == "text" else "body"][1]
        == (ROWS[1]["text"])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sep=;\nclient_id;text\nann;quokka\n", "Its first line says that semicolons"),
        ("client_id, text\nann, quokka\n", "blanks around the names"),
        ("ann,quokka; one\nbob,zebra; two\n", "rows without the column 'text'"),
        ("quokka\nzebra\n", "rows without the column 'text'"),
    ],
)
def test_other_first_lines_are_named(tmp_path, content, message):
    (tmp_path / "data.csv").write_text(content)
    assert message in refused(tmp_path / "data.csv")


def test_a_text_full_of_semicolons_is_no_separator(tmp_path):
    (tmp_path / "data.csv").write_text("client_id,text\nann,one; two; three\nbob,four; five; six\n")
    assert len(read_dataset(tmp_path / "data.csv", "text", "client_id")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"text": "quokka"}\n{"text": "zebra"}\n', "name the file .jsonl"),
        ("a.json", '{"text": {"0": "quokka"}}', "orient='records'"),
        ("a.json", '["quokka"]', "has to be an object"),
        ("a.jsonl", '[{"text": "quokka"}]', "name the file .json."),
        ("a.jsonl", '{"text": "quokka"}\n\n{"text": "zebra"},\n', "Line 3 is not a record"),
        ("a.jsonl", '{"text": "quokka"}\n"zebra"\n', "has to be an object"),
        ("a.jsonl", "[" * 100_000, "name the file .json"),
        ("a.json", "[" * 100_000, "one list of records"),
    ],
)
def test_json_of_another_form_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in refused(tmp_path / name, columns=("text",))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_nested_fields_are_paths(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    path.write_text(json.dumps(CHATS) if suffix == ".json" else "\n".join(map(json.dumps, CHATS)))
    found = read_dataset(path, "message.body", "who.id", other_columns=["message.parts", "label"]).to_list()
    assert found == [
        {
            "message.body": "quokka",
            "who.id": "7",
            "message.parts": [{"role": "user", "content": "? hi"}],
            "label": "1",
        },
        {"message.body": "zebra", "who.id": "a", "message.parts": [], "label": "2"},
    ]
    assert "without the column 'message.title'" in refused(path, columns=("message.title",))
    assert "without the column 'label.x'" in refused(path, columns=("label.x",))
    assert "not strings" in refused(path, TypeError, columns=("message",))


def test_nested_fields_of_parquet_and_of_saved_datasets(tmp_path):
    rows = [
        {"message": {"body": "quokka"}, "m.body": "zebra", "big": "x"},
        {"message": None, "m.body": "y", "big": "z"},
    ]
    data = Dataset.from_list(rows)
    data.to_parquet(tmp_path / "data.parquet")
    data.select([0]).to_parquet(tmp_path / "one.parquet")
    data.select([0]).save_to_disk(tmp_path / "one")
    # A column that is itself called so, and one that leads inside.
    assert read_dataset(tmp_path / "data.parquet", "m.body").to_list() == [{"m.body": "zebra"}, {"m.body": "y"}]
    for path in ("one.parquet", "one"):
        assert read_dataset(tmp_path / path, "message.body").to_list() == [{"message.body": "quokka"}]
        assert "message.title" in refused(tmp_path / path, columns=("message.title",))
    # A missing struct has missing fields: a text that is missing, as anywhere.
    assert "not strings" in refused(tmp_path / "data.parquet", TypeError, columns=("message.body",))
    found = read_dataset(tmp_path / "data.parquet", "big", "message.body")
    assert found["message.body"][:] == ["quokka", None]


def test_several_text_columns_and_others_come_as_they_are(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"title": "a", "text": "b\n  c", "stars": 5, "client_id": 1}])
    found = read_dataset(path, ["title", "text"], "client_id", other_columns=["stars", "title"])
    assert found.to_list() == [{"title": "a", "text": "b\n  c", "client_id": "1", "stars": "5"}]
    assert read_dataset(path, None, other_columns=["stars"]).to_list() == [{"stars": "5"}]
    mixed = write_json_lines(tmp_path / "b.jsonl", [{"text": "a", "stars": 5}, {"text": "b", "stars": ["quokka"]}])
    with pytest.raises(TypeError, match="several types") as error:
        read_dataset(mixed, "text", other_columns=["stars"])
    assert "quokka" not in str(error.value) and error.value.__context__ is None


STARS = [{"stars": stars, "text": f"of {stars}"} for stars in (5, -2, 0, 10**15)]


def from_json(rows, path):
    path.write_text(json.dumps(rows))
    return read_private(str(path), None, "client_id", other_columns=["stars", "text"])


def from_parquet(rows, path):
    pandas.DataFrame(rows).to_parquet(path)
    return read_private(str(path), None, "client_id", other_columns=["stars", "text"])


def from_database(rows, path):
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE rows (client_id, stars, text)")
        file.executemany("INSERT INTO rows VALUES (:client_id, :stars, :text)", rows)
    columns = {"other_columns": ["stars", "text"], "query": "SELECT * FROM rows"}
    return read_private(f"sqlite:///{path}", None, "client_id", **columns)


def from_memory(rows, path):
    return Dataset.from_pandas(pandas.DataFrame(rows))


def from_decimals(rows, path):
    """A column of numbers with as many decimals as its longest one."""
    rows = [{**row, "stars": None if row["stars"] is None else Decimal(row["stars"])} for row in rows]
    return from_parquet(rows, path)


NUMBERS = [4.5, math.nan, None, -0.0, 1e300, 7]


@pytest.mark.parametrize(
    ("made", "name", "value"),
    [
        *((from_json, "rows.json", value) for value in [*NUMBERS, "many", True]),
        *((from_database, "rows.db", value) for value in [*NUMBERS, "many", True]),
        *((from_parquet, "rows.parquet", value) for value in NUMBERS),
        *((from_memory, "", value) for value in NUMBERS),
        *((from_decimals, "rows.parquet", value) for value in ("4.25", "100", "-0.0", None)),
        *((from_database, "rows.db", value) for value in (2.5, 1e-7)),
    ],
)
def test_no_row_changes_how_the_numbers_of_others_are_read(tmp_path, made, name, value):
    """In a column of whole numbers, one 4.5 makes floats of all of them. Each client's text would be another one."""
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-5, text_column=["stars", "text"])

    def texts(folder, *more):
        folder.mkdir()
        rows = [{"client_id": f"c{number}", **row} for number, row in enumerate([*STARS, *more])]
        samples = group_by_client(made(rows, folder / name), config)
        return [samples[f"c{number}"] for number in range(len(STARS))]

    alone = texts(tmp_path / "alone")
    assert texts(tmp_path / "among", {"stars": value, "text": "e"}) == alone
    assert alone[0] == ["stars: 5\ntext: of 5"]


def test_a_folder_of_parquet_files_is_read_without_its_names(tmp_path):
    """A folder called `client_id=5` would else be another client than the file's own column says."""
    for number, client in enumerate(("ann", "bob")):
        place = tmp_path / "data" / f"client_id={number}" / "year=2024"
        place.mkdir(parents=True)
        Dataset.from_list([{"text": f"text {number}", "client_id": client}]).to_parquet(place / "part-0.parquet")
    for hidden in ("_temporary", ".backup"):
        (tmp_path / "data" / hidden).mkdir()
        Dataset.from_list([{"text": "hidden", "client_id": "x"}]).to_parquet(tmp_path / "data" / hidden / "p.parquet")
    (tmp_path / "data" / "_SUCCESS").write_text("")
    found = read_dataset(tmp_path / "data", "text", "client_id")
    assert found.to_list() == [{"text": "text 0", "client_id": "ann"}, {"text": "text 1", "client_id": "bob"}]
    assert not found.cache_files
    assert "without the column 'year'" in refused(tmp_path / "data", columns=("text", "year"))
    (tmp_path / "empty").mkdir()
    assert "has no .parquet files" in refused(tmp_path / "empty")


def test_a_folder_with_splits_needs_one(tmp_path):
    train, test = (Dataset.from_list([{"text": name, "client_id": "x"}]) for name in ("train", "test"))
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "dict")
    (tmp_path / "clone" / "data").mkdir(parents=True)
    for name, part in (("train", train), ("test", test)):
        part.to_parquet(tmp_path / "clone" / "data" / f"{name}-00000-of-00001.parquet")
    for folder in (tmp_path / "dict", tmp_path / "clone"):
        assert "holds the splits ['test', 'train']. Choose one by `split`" in refused(folder)
        assert "`split`='dev' is not a split" in refused(folder, split="dev")
        for name in ("train", "test"):
            assert read_dataset(folder, "text", "client_id", split=name)["text"][:] == [name]
            assert read_texts(folder, "text", split=name)["text"][:] == [name]
    assert f"or name its folder: '{tmp_path}/dict/train'" in refused(tmp_path / "dict")
    assert read_dataset(tmp_path / "dict" / "train", "text")["text"][:] == ["train"]
    train.save_to_disk(tmp_path / "one")
    assert "has no splits" in refused(tmp_path / "one", split="train")
    # What has no splits is read by its name alone, whatever the split of a repository would be called.
    assert read_texts(tmp_path / "one", "text", split="test")["text"][:] == ["train"]
    assert load_from_disk(tmp_path / "dict")["train"].cache_files
    # A single one can only be that one.
    DatasetDict(dev=test).save_to_disk(tmp_path / "single")
    assert read_dataset(tmp_path / "single", "text")["text"][:] == ["test"]
    assert "which has ['dev']" in refused(tmp_path / "single", split="train")


def test_a_saved_dict_opens_as_one_of_its_splits(tmp_path):
    parts = {name: Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "dict"))
    assert open_dataset(tmp_path / "dict")["text"][:] == ["train"]
    assert open_dataset(tmp_path / "dict", split="test")["text"][:] == ["test"]
    with pytest.raises(ValueError, match="`split`='dev' is not a split of"):
        open_dataset(tmp_path / "dict", split="dev")
    parts["test"].save_to_disk(str(tmp_path / "one"))
    assert open_dataset(tmp_path / "one")["text"][:] == ["test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "It is empty"), ("\n\n", "It is empty"), ("who,body\n", "without the column 'text'")],
)
def test_a_file_without_rows_is_asked_for_its_columns(tmp_path, content, message):
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_dataset(tmp_path / "data.csv", "text", "who")
    (tmp_path / "data.csv").write_text("who,text\n")
    assert len(read_dataset(tmp_path / "data.csv", "text", "who")) == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_of_files_leave_nothing_behind(tmp_path, suffix, monkeypatch):
    """Neither in the cache of `datasets` nor among temporary files."""
    for name in ("HF_DATASETS_CACHE", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "HF_DATASETS_CACHE")
    frame = pandas.DataFrame(ROWS)
    path = tmp_path / f"data{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_json(path, orient="records", lines=True)
    assert not read_dataset(path, "text", "client_id").cache_files
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [path.name]


def test_ids_of_any_kind_are_strings_of_their_own(tmp_path):
    path = write_json_lines(
        tmp_path / "a.jsonl", [{"text": "a", "client_id": each} for each in (1, 1.5, "1", True, "\\")]
    )
    assert read_dataset(path, "text", "client_id")["client_id"][:] == ["1", "1.5", "1", "True", "\\\\"]
    # A driver's object may show its address: then every row would be another client's, and the cap void.
    columns = WantedColumns.of("text", "client_id")
    for values in ([object()], ["a", object()], [memoryview]):
        with pytest.raises(ValueError, match="no fixed form as a string"):
            columns.dataset("`query`", {"text": ["quokka"] * len(values), "client_id": values})
    views = [memoryview(b"a"), b"a", None, float("nan"), [1]]
    found = columns.dataset("`query`", {"text": ["quokka"] * 5, "client_id": views})
    assert found["client_id"][:] == ["61", "61", None, None, "[1]"]


@pytest.mark.parametrize(
    "content",
    [
        'client_id,text\nc1,a\n" c1",b\n',
        "client_id,text\nC1,a\nc1,b\n",
        '{"client_id": 1, "text": "a"}\n{"client_id": 1.0, "text": "b"}\n',
        '{"client_id": "1", "text": "a"}\n{"client_id": 1.0, "text": "b"}\n',
    ],
)
def test_ids_of_files_that_look_alike_are_warned_of(tmp_path, content):
    path = tmp_path / ("a.csv" if content.startswith("client_id") else "a.jsonl")
    path.write_text(content)
    config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5)
    with pytest.warns(UserWarning, match="differ only in case, blanks, the form of a number"):
        assert len(group_by_client(read_dataset(path, "text", "client_id"), config)) == 2


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (["id", "body", "created_at"], True),
        (["c17", "my test came back positive"], False),
        (["c17", "Hilfe!"], False),
        (["身份", "我的检查结果是阳性"], False),
        (["a" * 41], False),
        (["ann@example.com", "id"], False),
        (["0171234567", "id"], False),
    ],
)
def test_names_of_columns_that_may_be_a_text_are_not_shown(tmp_path, columns, shown):
    """Without a header line, pandas and `load_dataset` make the first row the names."""
    data = Dataset.from_dict({name: ["quokka"] for name in columns})
    config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5)
    data.save_to_disk(tmp_path / "saved")
    for call in (
        lambda: group_by_client(data, config),
        lambda: list_texts(data, "text", "dataset"),
        lambda: read_dataset(tmp_path / "saved", "text"),
        lambda: group_by_client(data.add_column("text", ["a"]), config),
    ):
        with pytest.raises(ValueError, match="no column 'text'|is not a column of `private`") as caught:
            call()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
        assert all((name in told) == shown for name in columns if name != "id"), told
        assert shown or "not shown" in told
