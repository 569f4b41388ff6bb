import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pandas
import pytest
import yaml
from datasets import Dataset, DatasetDict, load_from_disk

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cli import main, read_run
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.data import read_dataset
from hf_pretext.hub import find_privacy_report
from hf_pretext.privacy import Plan, PrivacyLedger, PrivacyReport
from support.processes import command, launch
from support.tiny import random_texts


@pytest.fixture
def folders(models_folder, private, public, tmp_path):
    for name, place in {"mlm": "variation", "llm": "expansion", "embedder": "embedding"}.items():
        (tmp_path / name).symlink_to(models_folder / f"{place}_model")
    private.to_json(tmp_path / "private.jsonl")
    (tmp_path / "public.json").write_text(json.dumps([{"text": text} for text in public]))
    return tmp_path


def yaml_file(folder, extra=""):
    path = folder / "run.yaml"
    path.write_text(
        f"""
private: {folder}/private.jsonl
initial_population: {folder}/public.json
variation_model: {folder}/mlm
embedding_model: {folder}/embedder
expansion_model: {folder}/llm
output_dir: {folder}/out
num_samples: 9
epsilon: 2
delta: 0.001
num_rounds: 2
population_size: 16
lookahead: 0
max_length: 32
max_new_tokens: 24
min_words: 1
{extra}
"""
    )
    return str(path)


def test_generate_as_a_yaml_file_says(folders, capsys):
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    assert "epsilon = 2" in capsys.readouterr().out
    assert len(load_from_disk(str(folders / "out"))) == 9
    assert json.loads((folders / "out" / "privacy_report.json").read_text())["num_rounds"] == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("colour: red", "unknown keys: ['colour']"),
        ("epsilon: -1", "`epsilon`=-1"),
        ("num_samples: 0", "`num_samples`=0"),
        ("epsilon: [", "is not YAML"),
        ("private: /no/such/file.jsonl", "`private`: There is no file or folder '/no/such/file.jsonl'"),
        ("expansion_model: /no/such/folder", "`expansion_model`='/no/such/folder'"),
    ],
)
def test_mistakes_are_named_in_one_line(folders, capsys, extra, message):
    assert main(["generate", "--config", yaml_file(folders, extra)]) == 2
    error = capsys.readouterr().err
    assert "hf-pretext: " in error and message in error
    assert not (folders / "out" / "privacy_report.json").exists()


def test_missing_keys_and_files_are_named(tmp_path, capsys):
    assert main(["generate", "--config", str(tmp_path / "none.yaml")]) == 2
    (tmp_path / "some.yaml").write_text("epsilon: 1")
    assert main(["generate", "--config", str(tmp_path / "some.yaml")]) == 2
    assert (
        "lacks the keys ['private', 'expansion_model', 'num_samples', 'output_dir', 'delta']"
        in capsys.readouterr().err
    )


def test_the_private_file_is_no_initial_population(folders, capsys):
    config = yaml_file(folders, f"initial_population: {folders}/private.jsonl")
    assert main(["generate", "--config", config]) == 2
    assert "the private file itself" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["-", pytest.param("_", marks=pytest.mark.slow)])
def test_expand_continues_from_the_seeds_of_a_run(folders, capsys, spelling):
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    shutil.copytree(folders / "llm", folders / "another")
    (folders / "mlm").unlink()  # Nothing is varied any more.
    options = {"seeds": folders / "out", "expansion_model": folders / "another", "num_samples": 7}
    options |= {"output_dir": folders / "more", "max_new_tokens": 16, "top_p": 0.9}
    words = [[f"--{name.replace('_', spelling)}", str(value)] for name, value in options.items()]
    assert main(["expand", *sum(words, [])]) == 0
    assert "7 synthetic texts" in capsys.readouterr().out and len(load_from_disk(str(folders / "more"))) == 7
    before, after = (json.loads((folders / name / "privacy_report.json").read_text()) for name in ("out", "more"))
    assert before["releases"] == after["releases"] and before["epsilon"] == after["epsilon"]
    assert find_privacy_report(folders / "more").epsilon == before["epsilon"]
    before, after = (json.loads((folders / name / "models.json").read_text()) for name in ("out", "more"))
    assert after == {
        **before,
        "expansion_model": {"name": str(folders / "another"), "revision": None, "is_loaded_by_name": True},
    }
    changed = json.loads((folders / "more" / "private_evolution_config.json").read_text())
    assert (changed["max_new_tokens"], changed["top_p"]) == (16, 0.9)


def test_one_command_rebuilds_the_texts_from_the_seeds(folders):
    """Seeds, settings and token counts are all that the same model needs, and they are what is saved and pushed."""
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        (folders / "out" / name).rename(folders / name)
    options = {"--seeds": folders / "out", "--expansion-model": folders / "llm", "--num-samples": 9}
    options |= {"--output-dir": folders / "again"}
    assert main(["expand", *(str(word) for pair in options.items() for word in pair)]) == 0
    assert load_from_disk(str(folders / "again"))["text"][:] == load_from_disk(str(folders))["text"][:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num-samples": "0"}, "`num_samples`=0"),
        ({"--seeds": "nothing/here"}, "'nothing/here' is neither a folder nor a dataset repository"),
        ({"--expansion-model": "/no/such/folder"}, "`expansion_model`='/no/such/folder' is not a folder"),
    ],
)
def test_mistakes_of_expand_are_named_in_one_line(folders, config, capsys, changes, message):
    generator = PrivateEvolutionGenerator(None, str(folders / "embedder"), str(folders / "llm"), config=config)
    generator.save_pretrained(folders / "saved")
    options = {"--seeds": str(folders / "saved"), "--expansion-model": str(folders / "llm")}
    options |= {"--num-samples": "3", "--output-dir": str(folders / "more"), **changes}
    assert main(["expand", *sum(map(list, options.items()), [])]) == 2
    assert message in capsys.readouterr().err and not (folders / "more").exists()


def test_a_folder_of_another_run_is_refused_before_texts_are_written(folders, capsys, monkeypatch):
    """Hours of writing would be lost."""
    for name in ("out", "other"):
        assert main(["generate", "--config", yaml_file(folders, f"output_dir: {folders}/{name}")]) == 0
    monkeypatch.setattr(PrivateEvolutionGenerator, "expand", lambda *_, **__: pytest.fail("too late"))
    options = ["--seeds", str(folders / "out"), "--expansion-model", str(folders / "llm"), "--num-samples", "3"]
    assert main(["expand", *options, "--output-dir", str(folders / "other")]) == 2
    assert "holds the report of another run" in capsys.readouterr().err
    (folders / "file").write_text("mine")
    assert main(["expand", *options, "--output-dir", str(folders / "file")]) == 2
    assert "is a file. Name a folder" in capsys.readouterr().err


def test_seeds_that_are_not_there_are_named(folders, config, capsys):
    generator = PrivateEvolutionGenerator(None, str(folders / "embedder"), str(folders / "llm"), config=config)
    generator.save_pretrained(folders / "saved")
    options = ["--seeds", str(folders / "saved"), "--expansion-model", str(folders / "llm")]
    assert main(["expand", *options, "--num-samples", "3", "--output-dir", str(folders / "more")]) == 2
    assert "holds no seeds" in capsys.readouterr().err


def test_after_an_expansion_that_failed_another_model_spends_nothing_again(folders, capsys, monkeypatch):
    answers = iter([RuntimeError("the first model is too weak")])
    expand = PrivateEvolutionGenerator.expand

    def fail_once(self, *arguments, **named):
        for error in answers:
            raise error
        return expand(self, *arguments, **named)

    monkeypatch.setattr(PrivateEvolutionGenerator, "expand", fail_once)
    assert main(["generate", "--config", yaml_file(folders)]) == 2
    error = capsys.readouterr().err
    assert "too weak" in error and f"hf-pretext expand --seeds {folders}/out --expansion-model MODEL" in error
    ledger = (folders / "out" / "run" / "ledger.json").read_bytes()
    shutil.copytree(folders / "llm", folders / "another")
    assert main(["generate", "--config", yaml_file(folders, f"expansion_model: {folders}/another\nmin_words: 2")]) == 0
    assert (folders / "out" / "run" / "ledger.json").read_bytes() == ledger
    models = json.loads((folders / "out" / "models.json").read_text())
    assert models["expansion_model"]["name"] == f"{folders}/another"


def test_exponents_without_a_point_are_numbers(folders):
    assert main(["generate", "--config", yaml_file(folders, "delta: 1e-3")]) == 0


@pytest.fixture
def database(folders, private):
    path = folders / "chats.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE chats (who, body TEXT)")
        connection.executemany(
            "INSERT INTO chats VALUES (?, ?)", zip(private["client_id"], private["text"], strict=True)
        )
    connection.close()
    return f"sqlite:///{path}"


def test_generate_from_a_database_is_as_from_its_rows_in_a_file(folders, database, capsys):
    pytest.importorskip("sqlalchemy")
    query = "query: SELECT who AS client_id, body AS text FROM chats"
    assert main(["generate", "--config", yaml_file(folders, f"private: {database}\n{query}\nnum_rounds: 1")]) == 0
    assert json.loads((folders / "out" / "privacy_report.json").read_text())["num_clients"] == 12
    written = [path for path in (folders / "out").rglob("*") if path.is_file()]
    assert not any(b"chats.db" in path.read_bytes() or b"SELECT" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("private: sqlite:///{0}/chats.db", "`private`: `query` is missing"),
        ("private: sqlite:///{0}/none.db\nquery: SELECT 1", "`private`: There is no SQLite database"),
        ("private: sqlite:///{0}/chats.db\nquery: SELECT 'quokka' FROM", "`private`: The query failed"),
        ("private: sqlite:///{0}/chats.db\nquery: SELECT 1\nprivate_split: a", "`private`: A database has no splits"),
        ("private: postgresql:me:quokka@host", "`private`: `query` is missing"),
        ("private: postgresql+psycopg://me:quokka@127.0.0.1:1/x\nquery: SELECT 1", "`private`: The da"),
        ("query: SELECT 1", "`private`: `query` is for a database"),
        ("query: [SELECT]", "`query` of type list must be a string"),
        ("initial_population: null", "lets the expansion model write one from `config.domain`"),
        ("initial_population: null\ninitial_population_split: a", "`initial_population_split` is about"),
        ("private: null", "lacks the keys ['private']"),
        ("expansion_model:", "lacks the keys ['expansion_model']"),
        ("private: [a]", "`private` of type list must be a string"),
        (
            "private_split: train",
            "`private`: '{0}/private.jsonl' has no splits, so there is no `private_split`='train'",
        ),
        (
            "initial_population: postgresql://me:quokka@host/x",
            "`initial_population`: A database (its URL is not shown",
        ),
        ("private: me/x\ninitial_population: me/x\ninitial_population_split: train", "is the private file itself"),
        ("initial_population_split: x", "`initial_population`: '{0}/public.json' has no splits"),
        ("initial_population_name: en", "`initial_population`: `name`='en' is for a repository of the Hub"),
        ("private: postgresql://me:quokka@host/x: y", "is not YAML that can be read: mapping values"),
        ("private: !!float postgresql://me:quokka@host/x", "is not YAML that can be read: it raises a ValueError"),
    ],
)
def test_mistakes_about_sources_name_their_key_and_no_password(folders, database, capsys, extra, message):
    assert main(["generate", "--config", yaml_file(folders, extra.format(folders))]) == 2
    error = capsys.readouterr().err
    assert message.format(folders) in error and "quokka" not in error and error.count("hf-pretext: ") == 1
    assert not (folders / "out" / "privacy_report.json").exists()


def test_a_folder_with_splits_is_read_by_the_key_of_its_split(folders, private, public, capsys):
    data = DatasetDict(train=private, public=Dataset.from_dict({"text": public, "client_id": public}))
    data.save_to_disk(folders / "both")
    capsys.readouterr()
    both = f"private: {folders}/both\ninitial_population: {folders}/both\nnum_rounds: 1\n"
    assert main(["generate", "--config", yaml_file(folders, f"{both}initial_population_split: public")]) == 2
    told = "`private`: '{0}/both' holds the splits ['public', 'train']. Choose one by `private_split`"
    assert told.format(folders) in capsys.readouterr().err
    for split in ("train", "public"):
        splits = f"private_split: {split}\ninitial_population_split: public"
        assert main(["generate", "--config", yaml_file(folders, both + splits)]) == (0 if split == "train" else 2)
    assert "`initial_population` is the private file itself" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_files_are_read_into_memory(private, tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    write(path, private["text"][:], private["client_id"][:])
    dataset = read_dataset(path, "text", "client_id")
    assert dataset["text"][:] == private["text"][:] and dataset["client_id"][:] == private["client_id"][:]
    assert not dataset.cache_files
    assert {file.name for file in tmp_path.iterdir()} == {path.name}


def write(path, texts, clients):
    frame = pandas.DataFrame({"text": texts, "client_id": clients})
    {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".json": lambda: frame.to_json(path, orient="records"),
        ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        ".parquet": lambda: frame.to_parquet(path),
    }[path.suffix]()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("stem", ["{}", "1000000000000000000{}", "00{}"], ids=["small", "twenty digits", "zeros"])
def test_one_client_s_id_does_not_change_how_others_are_read(embedder, tmp_path, suffix, stem):
    """Neighbours on disk: a client with another kind of id joins, and nobody else's votes move."""
    texts = random_texts(600, seed=4)
    ids = [stem.format(10 + number // 20) for number in range(600)]
    config = PrivateEvolutionConfig(epsilon=1.0, delta=1e-3, max_samples_per_client=4)
    candidates, histograms = embedder(random_texts(20, seed=3)), []
    for extra in ([], ["guest"]):
        path = tmp_path / f"data{len(extra)}{suffix}"
        write(path, [*texts, *["a lost card"] * len(extra)], [*ids, *extra])
        plan = Plan.from_config(config)
        private = read_dataset(path, "text", "client_id")
        pool = InMemoryClientPool(private, embedder, config, plan, lambda scale, size: np.zeros(size, dtype=np.int64))
        assert pool.num_clients == 30 + len(extra)
        histograms.append(pool.release(NearestCandidates.of(candidates), PrivacyLedger(plan)))
    assert np.linalg.norm(histograms[1] - histograms[0]) <= 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "xylophone quokka", "client_id": 1}\n{"text": 5, "client_id": 2}\n'),
        ("b.jsonl", '{"text": "xylophone quokka", "client_id": 1}\n{"text": "xylophone quokka\n'),
        ("c.json", '["xylophone quokka"]'),
        ("d.csv", "body,client_id\nxylophone quokka,1\n"),
        ("e.parquet", "xylophone quokka"),
    ],
)
def test_mistakes_in_private_files_are_named_without_quoting_them(folders, capsys, name, content):
    (folders / name).write_text(content)
    assert main(["generate", "--config", yaml_file(folders, f"private: {folders}/{name}")]) == 2
    error = capsys.readouterr().err
    assert name in error and "quokka" not in error


def test_the_same_command_again_goes_on_and_spends_nothing(folders, capsys):
    texts, reports = [], []
    for _ in range(2):
        assert main(["generate", "--config", yaml_file(folders)]) == 0
        texts.append(load_from_disk(str(folders / "out"))["text"][:])
        reports.append((folders / "out" / "privacy_report.json").read_bytes())
    assert texts[0] == texts[1] and reports[0] == reports[1]
    assert (
        "holds 3 of 3 releases: none is drawn again. The private file is not asked any more."
        in capsys.readouterr().out
    )
    # It may be gone by then.
    (folders / "private.jsonl").unlink()
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    assert load_from_disk(str(folders / "out"))["text"][:] == texts[0]
    # Other settings are another run, and its epsilon would add up.
    assert main(["generate", "--config", yaml_file(folders, "seed: 1")]) == 2
    assert "`seed`=0 there, 1 here" in capsys.readouterr().err


def test_a_run_that_cannot_be_gone_on_with_is_not_written_over(folders, capsys):
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    shutil.rmtree(folders / "out" / "run")
    assert main(["generate", "--config", yaml_file(folders)]) == 2
    assert "holds the report of a run already" in capsys.readouterr().err


def test_several_processes_go_on_without_the_private_file(folders):
    """The main one alone reads the run's folder, and tells the others what is released."""
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    report = PrivacyReport.from_pretrained(folders / "out")
    (folders / "private.jsonl").unlink()
    assert launch(command, ["generate", "--config", yaml_file(folders, "num_samples: 12")]) == [0, 0]
    assert len(load_from_disk(str(folders / "out"))) == 12
    assert PrivacyReport.from_pretrained(folders / "out").release_ids == report.release_ids


@pytest.mark.parametrize("name", ["README.md", "data-00000-of-00001.arrow"])
def test_files_of_others_are_not_replaced(folders, capsys, name):
    """As in the folder of a project, or of the private texts themselves. It is refused before anything is spent."""
    (folders / "out").mkdir()
    (folders / "out" / name).write_text("Mine.")
    assert main(["generate", "--config", yaml_file(folders)]) == 2
    assert f"holds '{name}', which hf_pretext did not write" in capsys.readouterr().err
    assert (folders / "out" / name).read_text() == "Mine."
    assert json.loads((folders / "out" / "run" / "ledger.json").read_text())["releases"] == []


@pytest.mark.parametrize(("command", "words"), [("generate", "resumes"), ("expand", "begins again")])
def test_an_interruption_says_what_the_same_command_does(folders, capsys, monkeypatch, command, words):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    assert main(["generate", "--config", yaml_file(folders)]) == 0
    monkeypatch.setattr(PrivateEvolutionGenerator, "expand", interrupted)
    seeds = ["--seeds", str(folders / "out"), "--expansion-model", str(folders / "llm"), "--num-samples", "3"]
    options = {"generate": ["--config", yaml_file(folders)], "expand": [*seeds, "--output-dir", str(folders / "more")]}
    assert main([command, *options[command]]) == 130
    assert f"The same command {words}" in capsys.readouterr().err


def test_a_console_that_cannot_show_a_text_makes_no_run_fail(folders):
    """As on Windows, where the output of a task has one of the old encodings."""
    assert main(["generate", "--config", yaml_file(folders)]) == 0
    code = "import sys; from hf_pretext.cli import main; main(['report', sys.argv[1]]); print('\u7b11')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folders / "out")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "\\u7b11" in done.stdout, done.stderr


def test_the_model_that_wrote_candidates_stays_on_the_card(folders):
    """Another one expands the seeds. Both have written what the card is about."""
    lines = "initial_population:\ndomain: messages\nvariation_model:\npopulation_size: 8"
    assert main(["generate", "--config", yaml_file(folders, lines)]) == 0
    shutil.copytree(folders / "llm", folders / "another")
    for source, target in (("out", "more"), ("more", "again")):
        options = ["--seeds", str(folders / source), "--expansion-model", str(folders / "another")]
        assert main(["expand", *options, "--num-samples", "3", "--output-dir", str(folders / target)]) == 0
        models = json.loads((folders / target / "models.json").read_text())
        assert models["expansion_model"]["name"] == f"{folders}/another"
        assert models["first_expansion_model"]["name"] == f"{folders}/llm"
    assert "`first_expansion_model`" in (folders / "more" / "README.md").read_text()
    assert "may have written candidates" in (folders / "again" / "README.md").read_text()


def test_what_was_spent_is_on_disk_before_the_expansion(folders, monkeypatch):
    def fails(*_, **__):
        raise ValueError("no texts")

    monkeypatch.setattr(PrivateEvolutionGenerator, "expand", fails)
    assert main(["generate", "--config", yaml_file(folders)]) == 2
    assert json.loads((folders / "out" / "privacy_report.json").read_text())["num_rounds"] == 2
    assert len(read_dataset(folders / "out" / "seeds.jsonl", "text")) > 0


def test_a_long_text_is_read(tmp_path):
    write(tmp_path / "long.csv", ["word " * 200_000], ["a"])
    assert len(read_dataset(tmp_path / "long.csv", "text", "client_id")["text"][0]) == 1_000_000


def test_other_files_are_refused(tmp_path):
    (tmp_path / "data.xml").write_text("<a/>")
    with pytest.raises(ValueError, match="must be a folder"):
        read_dataset(tmp_path / "data.xml", "text")


PLAN = """
epsilon: 1.29
delta: 3.0e-6
mean_fraction: 0.3
num_rounds: 2
"""


def plan(folder, *extra):
    """Run `hf-pretext plan` in a process of its own, which must not load what takes seconds to load."""
    (folder / "run.yaml").write_text(PLAN)
    code = (
        "import sys; from hf_pretext.cli import main; status = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules); sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "plan", "--config", str(folder / "run.yaml"), *extra],
        capture_output=True,
        text=True,
    )


def test_plan_prints_the_bill_without_private_text(tmp_path):
    done = plan(tmp_path, "--num_clients", "2000")
    assert done.returncode == 0, done.stderr
    expected = Plan.from_config(PrivateEvolutionConfig(epsilon=1.29, delta=3e-6, mean_fraction=0.3, num_rounds=2))
    assert "3 releases, together epsilon = 1.29 at delta = 3e-06" in done.stdout
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in done.stdout.splitlines() if "|" in line}
    for entry in expected.releases:
        row = rows[entry.question]
        assert row[1:4] == [str(entry.count), f"{entry.num_bins:,}", f"{entry.fraction:.0%}"]
        assert float(row[4]) == pytest.approx(entry.mechanism.noise_multiplier, rel=1e-3)
    # Two standard deviations of the noise, in clients that give a candidate all of their votes.
    needed = math.ceil(2 * expected.entry("votes").mechanism.noise_std)
    assert f"a candidate stands out if {needed:,} clients give it all of their votes" in done.stdout
    assert "With 2,000 clients" in done.stdout


def test_plan_warns_of_what_the_number_of_clients_makes_wrong(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(PLAN.replace("3.0e-6", "0.1"))
    assert main(["plan", "--config", str(tmp_path / "run.yaml"), "--num_clients", "50"]) == 0
    told = capsys.readouterr().out
    assert "Warning: `delta`=0.1 is not below one over the number of clients" in told
    assert "stands out better, under the same guarantee" in told


@pytest.mark.parametrize(
    ("content", "extra", "message"),
    [
        (PLAN.replace("0.3", "1.0"), [], "`mean_fraction`=1.0"),
        (PLAN.replace("1.29", "-1"), [], "`epsilon`=-1"),
        (PLAN.replace("delta: 3.0e-6", ""), [], "lacks the keys ['delta']"),
        (PLAN, ["--num_clients", "0"], "`--num_clients`=0 must be at least 1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, content, extra, message):
    (tmp_path / "run.yaml").write_text(content)
    assert main(["plan", "--config", str(tmp_path / "run.yaml"), *extra]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1


def test_a_home_folder_in_the_file_is_that_of_the_user(tmp_path, monkeypatch):
    """A shell would have read `~`. Only the folder of the results was."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    lines = {"private": "~/texts.jsonl", "expansion_model": "~/llm", "output_dir": "~/out", "domain": "~/ and so on"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**lines, "num_samples": 3, "epsilon": 1.0, "delta": "1e-5"}))
    run, settings = read_run(tmp_path / "run.yaml")
    assert [run[name] for name in ("private", "expansion_model", "output_dir")] == [
        str(tmp_path / name) for name in ("texts.jsonl", "llm", "out")
    ]
    assert settings["domain"] == "~/ and so on" and settings["delta"] == 1e-5
