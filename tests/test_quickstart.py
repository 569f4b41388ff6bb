"""The quickstart itself, with the real models that packages carry."""

import json

import numpy as np
import pytest
from datasets import load_from_disk

from hf_pretext.models import load_sentence_transformer, resolve_device
from hf_pretext.models.packaged import packaged_embedder
from hf_pretext.quickstart import CONFIG, run_quickstart

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
