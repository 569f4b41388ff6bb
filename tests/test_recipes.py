"""Every YAML of the recipes parses into what its script reads; unknown keys are errors; scripts run on tiny models."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, SFTConfig, TrlParser

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cli import _read_run
from hf_pretext.finetuning import FinetuningArguments

RECIPES = Path(__file__).parent.parent / "recipes"


def load_script(name):
    """Import a script under a name of its own: `evaluate` is a library's."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def parser_of(folder):
    if folder == "llm":
        return TrlParser((FinetuningArguments, SFTConfig, ModelConfig))
    if folder == "small":
        return TrlParser((load_script("finetune_small").SmallModelArguments, SFTConfig))
    return TrlParser((load_script("evaluate").EvaluationArguments,))


def configs(*folders):
    paths = [path for folder in folders for path in sorted((RECIPES / "configs" / folder).glob("*.yaml"))]
    return pytest.mark.parametrize("path", paths, ids=lambda path: f"{path.parent.name}/{path.stem}")


def test_every_folder_of_configs_is_tested():
    folders = {path.name for path in (RECIPES / "configs").iterdir()}
    assert folders == {"generate", "llm", "small", "evaluate", "accelerate"}


@configs("llm", "small", "evaluate")
def test_yaml_is_what_the_script_reads(path, tmp_path, monkeypatch):
    # A machine without a GPU cannot be told to compute in bfloat16; everything else is parsed as it stands.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True, raising=False)
    on_command_line = ["--output_dir", str(tmp_path)]
    if "dataset" not in yaml.safe_load(path.read_text()):
        on_command_line += ["--dataset", "me/jobs-dp"]
    if "bf16: true" in path.read_text():
        on_command_line += ["--bf16", "false"]
    parser_of(path.parent.name).parse_args_and_config(["--config", str(path), *on_command_line])


@configs("llm", "small", "evaluate")
def test_a_key_nobody_knows_is_an_error(path, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    settings = yaml.safe_load(path.read_text()) | {"dataset": "x", "lerning_rate": 1}
    wrong.write_text(
        yaml.safe_dump(
            {key: value for key, value in settings.items() if key != "bf16"}
            | ({} if path.parent.name == "evaluate" else {"bf16": False, "output_dir": str(tmp_path)})
        )
    )
    with pytest.raises(ValueError, match="lerning_rate"):
        parser_of(path.parent.name).parse_args_and_config(["--config", str(wrong)])


@configs("generate")
def test_generate_yaml_is_what_the_command_reads(path, tmp_path):
    run, settings = _read_run(path)
    config = PrivateEvolutionConfig(**settings)
    assert run["num_samples"] > 0 and config.epsilon > 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_ronds: 1\n")
    with pytest.raises(ValueError, match="num_ronds"):
        _read_run(wrong)


def test_the_paper_s_yaml_is_the_paper_s_preset():
    _, settings = _read_run(RECIPES / "configs" / "generate" / "paper.yaml")
    assert PrivateEvolutionConfig(**settings) == PrivateEvolutionConfig.paper(epsilon=1.29)


def test_the_plays_yaml_is_the_quickstart():
    from hf_pretext.quickstart import CONFIG, NUM_SAMPLES

    run, settings = _read_run(RECIPES / "configs" / "generate" / "plays.yaml")
    assert PrivateEvolutionConfig(**settings) == CONFIG and run["num_samples"] == NUM_SAMPLES


@configs("accelerate")
def test_accelerate_yaml_is_what_accelerate_reads(path, tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_proceses: 2\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(wrong))
