"""The files that people and tools look for: changelog, citation, scripts for jobs, the notebook, the skill."""

import hashlib
import importlib.util
import json
import os
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from huggingface_hub.cli._uv_script_header import parse_uv_script_header
from test_page import LABELS, make_run

from hf_pretext import __version__
from hf_pretext.artifacts import DATA_FILE
from hf_pretext.cli import make_parser
from hf_pretext.croissant import write_croissant
from support.tiny import random_texts

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "recipes" / "quickstart.ipynb"
SCRIPTS = sorted((ROOT / "recipes" / "uv").glob("*.py"))


def test_versions_agree():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_what_its_format_needs():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["references"][0]["url"].endswith("2406.02958")


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_pushed_dataset_has_metadata_for_catalogs(tmp_path, labels):
    run = make_run(random_texts(20), labels=labels)
    (tmp_path / "data").mkdir()
    run.synthetic.to_parquet(tmp_path / DATA_FILE)
    write_croissant(tmp_path, run.synthetic, run.report, "me/jobs-dp", "cc0-1.0")
    values = json.loads((tmp_path / "croissant.json").read_text())
    assert values["rai:hasSyntheticData"] and "epsilon = 4" in values["rai:personalSensitiveInformation"]
    assert values["distribution"][0]["sha256"] == hashlib.sha256((tmp_path / DATA_FILE).read_bytes()).hexdigest()
    assert {field["name"] for field in values["recordSet"][0]["field"]} == set(run.synthetic.column_names)
    if importlib.util.find_spec("mlcroissant"):
        import mlcroissant

        assert not mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json")).metadata.issues.errors


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_for_jobs_have_their_header(path):
    header = parse_uv_script_header(path.read_text())
    assert header is not None and header.flavor and header.timeout and header.secrets == ["HF_TOKEN"]
    assert path.name in path.read_text().split("```")[1]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_takes_the_library_from_an_index_by_its_name(path):
    """No index has it, so a stranger could register the name, and the script holds a token."""
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", path.read_text(), re.M)[1]
    needed = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.M))["dependencies"]
    assert not [each for each in needed if re.match(r"hf[-_.]pretext", each, re.I)]
    recipes = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["recipes"]
    assert set(needed) <= set(recipes)
    wheel = f"resolve/main/hf_pretext-{__version__}-py3-none-any.whl"
    for text in (path.read_text(), (ROOT / "recipes" / "README.md").read_text()):
        assert text.count("uv run --with") == 2 and wheel in text and "uv run recipes" not in text


def test_the_script_that_expands_is_the_command(monkeypatch):
    given = []
    monkeypatch.setattr("hf_pretext.cli.main", lambda arguments: given.append(arguments) or 0)
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "me/x", "--num-samples", "3"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "recipes" / "uv" / "expand_seeds.py"), run_name="__main__")
    assert given == [["expand", "--seeds", "me/x", "--num-samples", "3"]]


def test_the_script_that_finetunes_takes_its_example(tmp_path):
    path = ROOT / "recipes" / "uv" / "finetune.py"
    spec = importlib.util.spec_from_file_location("uv_finetune", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    example = path.read_text().split("```bash")[1].split("```")[0].replace("\\\n", " ").split()
    given = [*example[example.index("--dataset") :], "--use_cpu", "true", "--bf16", "false"]
    given[given.index("--output_dir") + 1] = str(tmp_path)
    arguments, training, model = module.make_parser().parse_args_and_config(given)
    assert arguments.dataset == "me/jobs-dp" and arguments.base_is_public
    assert training.learning_rate == 2e-4 and training.load_best_model_at_end and training.max_length == 1024
    assert model.lora_r == 32 and model.lora_target_modules == "all-linear" and model.use_rslora


def run_notebook(folder, changes=()):
    """Run the cells of the notebook one after another, in a folder of their own."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names, before = {}, Path.cwd()
    os.chdir(folder)
    try:
        for number, cell in enumerate(cells):
            source = "".join(cell["source"])
            for old, new in changes:
                source = source.replace(old, new)
            exec(compile(source, f"cell {number}", "exec"), names)
    finally:
        os.chdir(before)
    return names


def test_the_notebook_runs_with_tiny_models(models_folder, tmp_path, private, monkeypatch, capsys):
    monkeypatch.setattr("hf_pretext.plays.load_plays", lambda: (private, private))
    changes = [
        ("packaged/all-MiniLM-L6-v2", str(models_folder / "embedding_model")),
        ("packaged/SmolLM2-135M-Instruct", str(models_folder / "expansion_model")),
        ("num_samples=48", "num_samples=6"),
        ("population_size=64", "population_size=16, min_words=1"),
    ]
    source = NOTEBOOK.read_text()
    assert (
        all(old in source for old, _ in changes) and '"outputs": []' in source and 'execution_count": null' in source
    )
    names = run_notebook(tmp_path, changes)
    assert len(names["synthetic"]) == 6 and (tmp_path / "quickstart-notebook" / "report.html").is_file()
    assert "epsilon = 3" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path):
    assert len(run_notebook(tmp_path)["synthetic"]) == 48


def test_the_skill_names_commands_that_there_are():
    text = (ROOT / ".agents" / "skills" / "hf-pretext" / "SKILL.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["name"] == "hf-pretext" and len(header["description"]) < 1024 and text.count("\n") < 80
    known = make_parser()._subparsers._group_actions[0].choices
    assert set(re.findall(r"hf-pretext ([a-z]+)", text)) <= set(known)


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    described = {name for line in re.findall(r"^([\w -]+):.*## ", makefile, re.M) for name in line.split()}
    assert targets == described
