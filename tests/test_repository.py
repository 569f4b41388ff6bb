"""Private text in a repository of the Hub: read over HTTP by the unmodified client, and nothing of it on a disk."""

import io
import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from datasets import Dataset

from hf_pretext.data.repository import card_configs, files_of_splits, read_repository
from support.hub_server import HubServer
from support.tiny import random_texts

READ = """
import json, os, sys, tempfile
from pathlib import Path
tempfile.gettempdir()  # It tries the folder out.
opened = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        opened.append(os.fsdecode(arguments[0]))
sys.addaudithook(watch)
from hf_pretext.data import read_repository
def told(**arguments):
    try:
        return read_repository(**{"text_column": "text", "client_column": "client_id", **arguments}).to_list()
    except Exception as error:
        return [type(error).__name__, str(error), repr(error.__context__)]
found = {
    "train": told(name="me/chats"),
    "test": told(name="me/chats", split="test"),
    "no split": told(name="me/chats", split="dev"),
    "no column": told(name="me/chats", client_column="who"),
    "csv": told(name="me/csv"),
    "csv test": told(name="me/csv", split="test"),
    "unquoted": told(name="me/unquoted"),
    "nested": told(name="me/nested", text_column="message.body"),
    "archive": told(name="me/archive"),
    "no repository": told(name="me/nothing"),
    "wrong token": told(name="me/chats", token="hf_wrong"),
    "no such commit": told(name="me/chats", revision="abc"),
}
places = [Path(os.environ[name]) for name in ("HF_HOME", "TMPDIR", "XDG_CACHE_HOME")]
files = [str(path) for place in places for path in place.rglob("*") if path.is_file()]
written = [path for path in opened if path != os.devnull and not path.endswith(".pyc") and "__pycache__" not in path]
from hf_pretext.cli import read_private_source, read_public_source, read_run, source_of
from hf_pretext.configuration import PrivateEvolutionConfig
def by_yaml(**keys):
    Path(sys.argv[2]).write_text(json.dumps({"delta": 1e-3, "epsilon": 1, **keys}))
    run, settings = read_run(Path(sys.argv[2]), needs=())
    config = PrivateEvolutionConfig(**settings)
    try:
        if "private" in run:
            return read_private_source(source_of(run, "private"), config).to_list()
        return list(read_public_source(source_of(run, "initial_population"), config))
    except Exception as error:
        return [type(error).__name__, str(error), repr(error.__context__)]
found |= {
    "yaml": by_yaml(private="me/chats", private_split="test"),
    "yaml public": by_yaml(initial_population="me/public"),
    "yaml no repository": by_yaml(private="me/nothing"),
    "yaml no split": by_yaml(private="me/chats", private_split="dev"),
    "yaml synthetic": by_yaml(initial_population="me/synthetic"),
    "yaml no public": by_yaml(initial_population="me/nothing"),
}
Path(sys.argv[1]).write_text(json.dumps({"found": found, "files": files, "opened": written}))
"""

GENERATE = """
import sys
from hf_pretext.cli import main
sys.exit(main(["generate", "--config", sys.argv[1]]))
"""


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
"""


def parquet(dataset):
    file = io.BytesIO()
    dataset.to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    texts = [f"quokka {text}" for text in random_texts(60, seed=1)]
    rows = [{"client_id": number // 5, "text": text, "picture": "zebra" * 1000} for number, text in enumerate(texts)]
    train, test = Dataset.from_list(rows), Dataset.from_list(rows[:3])
    repositories = {
        "me/chats": {
            "README.md": CARD,
            "data/train-00000-of-00001.parquet": parquet(train),
            "data/test-00000-of-00001.parquet": parquet(test),
        },
        "me/public": {"train.parquet": parquet(Dataset.from_dict({"text": random_texts(60, seed=2)}))},
        "me/csv": {
            "train.csv": 'client_id,text\n007,"quokka, 1"\nguest,zebra\n',
            "test.csv": "client_id,text\n1,quokka\n",
            "README.md": "# Chats",
        },
        "me/synthetic": {"train.csv": "text\na\n", "privacy_report.json": "{}"},
        "me/unquoted": {"data.csv": "text,client_id\nquokka, zebra,1\n"},
        "me/nested": {"a.jsonl": json.dumps({"client_id": 1, "message": {"body": "quokka"}})},
        "me/archive": {"train.tar": "quokka", "README.md": "---\nconfigs:\n- data_files: train.tar\n---\n"},
    }
    with HubServer(folder / "server") as server:
        store = server._server.store
        for name, files in repositories.items():
            store.create("datasets", name, private=name != "me/public")
            contents = {path: each if isinstance(each, bytes) else each.encode() for path, each in files.items()}
            values = [{"path": path, "content": b64encode(each)} for path, each in contents.items()]
            store.commit("datasets", name, [{"key": "file", "value": value} for value in values])

        def run(script, *arguments):
            home = folder / f"home-{len(list(folder.iterdir()))}"
            places = {name: str(home / name) for name in ("HF_HOME", "TMPDIR", "XDG_CACHE_HOME")}
            for place in [home, *places.values()]:
                Path(place).mkdir()
            environment = {**os.environ, **server.environment(home / "HF_HOME"), **places}
            done = subprocess.run(
                [sys.executable, "-c", script, *map(str, arguments)],
                env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                cwd=home,
            )
            return done, home

        yield run, folder, rows


@pytest.fixture(scope="module")
def read(hub):
    run, folder, _ = hub
    done, _ = run(READ, folder / "read.json", folder / "run.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "read.json").read_text())


def test_rows_come_from_the_hub_as_from_files(hub, read):
    rows, found = hub[2], read["found"]
    assert found["train"] == [{"text": row["text"], "client_id": str(row["client_id"])} for row in rows]
    assert found["test"] == found["train"][:3]
    # A reader that infers types makes 7 of 007, if no guest joins.
    assert found["csv"] == [{"text": "quokka, 1", "client_id": "007"}, {"text": "zebra", "client_id": "guest"}]
    assert found["csv test"] == [{"text": "quokka", "client_id": "1"}]
    assert found["yaml"] == found["test"] and {row["text"] for row in found["yaml public"]} == set(
        random_texts(60, seed=2)
    )
    assert found["nested"] == [{"message.body": "quokka", "client_id": "1"}]


def test_nothing_is_written_to_a_disk(read):
    assert read["files"] == [] and read["opened"] == []


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("no split", "ValueError", "`split`='dev' is not a split of 'me/chats', which has ['test', 'train']"),
        ("no column", "ValueError", "'me/chats' has rows without the column 'who'. Set `client_column`"),
        ("unquoted", "ValueError", "'me/unquoted' is not valid .csv. The row that begins in line 2 has 3 fields"),
        ("archive", "ValueError", "has files of the types ['.tar']"),
        ("no repository", "FileNotFoundError", "'me/nothing' is neither a file, a folder, nor a dataset repository"),
        ("wrong token", "FileNotFoundError", "may your token read it?"),
        ("yaml no repository", "FileNotFoundError", "`private`: 'me/nothing' is neither a file"),
        ("yaml no split", "ValueError", "`private_split`='dev' is not a split of 'me/chats'"),
        ("yaml no public", "FileNotFoundError", "`initial_population`: 'me/nothing' is neither a file"),
        ("yaml synthetic", "ValueError", "`initial_population`: 'me/synthetic' is synthetic text of a run"),
        ("no such commit", "FileNotFoundError", "(RevisionNotFoundError)"),
    ],
)
def test_what_cannot_be_read_is_named_and_not_quoted(read, name, kind, message):
    found, told, context = read["found"][name]
    assert found == kind and message in told and context == "None"
    assert not any(word in told for word in ("quokka", "zebra", "hf_wrong"))


@pytest.mark.slow
def test_a_run_of_repositories_leaves_no_private_text(hub, models_folder):
    """Private text from one repository, public text streamed from another, as a YAML file says."""
    run, folder, rows = hub
    config = folder / "run.yaml"
    config.write_text(f"""
private: me/chats
private_split: train
initial_population: me/public
variation_model: {models_folder}/variation_model
embedding_model: {models_folder}/embedding_model
expansion_model: {models_folder}/expansion_model
output_dir: {folder}/out
num_samples: 5
epsilon: 2
delta: 0.001
num_rounds: 1
population_size: 16
max_length: 32
min_words: 1
max_new_tokens: 8
""")
    done, home = run(GENERATE, config)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "out" / "privacy_report.json").read_text())
    assert report["num_clients"] == len({row["client_id"] for row in rows})
    written = [path for place in (home, folder / "out") for path in place.rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(b"quokka" in path.read_bytes() for path in written)
    assert "quokka" not in done.stdout + done.stderr


PATHS = ["README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.csv"]


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([], {"train": PATHS[1:3], "test": ["data/test.csv"]}),
        ([{"data_files": "data/*.csv"}], {"train": ["data/test.csv"]}),
        ([{"data_files": ["data/*.csv", "data/train-*"]}], {"train": sorted(PATHS[1:])}),
        ([{"data_files": {"a": "data/test.csv"}}], {"a": ["data/test.csv"]}),
        ([{"data_files": [{"split": "a", "path": ["data/train-*"]}]}], {"a": PATHS[1:3]}),
        (
            [{"config_name": "x", "data_files": "*.csv"}, {"config_name": "default", "data_files": "data/train-*"}],
            {"train": PATHS[1:3]},
        ),
    ],
)
def test_files_belong_to_splits_as_the_card_or_their_names_say(configs, expected):
    assert files_of_splits(PATHS, configs) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv"]),
        ("data/*.csv", ["data/b.csv"]),
        ("**/*.csv", ["a.csv", "data/b.csv", "data/held_out/c.csv"]),
        ("data/**", ["data/b.csv", "data/held_out/c.csv"]),
        ("data/?.csv", ["data/b.csv"]),
    ],
)
def test_a_pattern_of_the_card_stays_in_its_folder(pattern, expected):
    """As that of `datasets` does. Held-out clients often lie in a folder below."""
    paths = ["README.md", "a.csv", "data/b.csv", "data/held_out/c.csv"]
    assert files_of_splits(paths, [{"data_files": [{"split": "train", "path": pattern}]}]) == {"train": expected}


def test_files_of_no_split_are_the_only_one():
    assert files_of_splits(["b.jsonl", "a.jsonl", ".hidden.jsonl", "x.txt"], []) == {"train": ["a.jsonl", "b.jsonl"]}
    assert files_of_splits(["x.txt"], []) == {}
    with pytest.raises(ValueError, match="has the configurations"):
        files_of_splits(PATHS, [{"config_name": each, "data_files": "*"} for each in "ab"])


@pytest.mark.parametrize("card", [b"", b"# A title", b"---\n[\n---\n", b"---\n- a\n---\n", b"---\nconfigs: 3\n---\n"])
def test_cards_without_configs_have_none(card):
    assert card_configs(card) == []


@pytest.mark.parametrize("error", [RuntimeError, ConnectionError, ValueError])
def test_a_hub_that_cannot_be_reached_is_named(monkeypatch, error):
    """The client's transport has exceptions of its own, which may show the request and its token."""

    def fails(*_, **__):
        raise error("Bearer hf_quokka")

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", fails)
    with pytest.raises(
        FileNotFoundError, match=rf"'me/chats' is neither .* can be read \({error.__name__}\)"
    ) as caught:
        read_repository("me/chats", "text", "client_id")
    assert caught.value.__context__ is None
