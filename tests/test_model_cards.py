"""The cards in `model_cards/` are what the library renders from the files beside them."""

import json
from pathlib import Path

import pytest
import yaml

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cards import dataset_card, model_card
from hf_pretext.models import ModelSource
from hf_pretext.privacy import PrivacyReport
from hf_pretext.quality import TextQuality

CARDS = Path(__file__).parent.parent / "model_cards"


def test_dataset_card():
    folder = CARDS / "quickstart"
    texts = [row["text"] for row in json.loads((folder / "texts.json").read_text())]
    models = json.loads((folder / "models.json").read_text())
    labels = {name: ModelSource(**source).label if source else None for name, source in models.items()}
    card = dataset_card(
        PrivacyReport.from_pretrained(folder),
        PrivateEvolutionConfig.from_pretrained(folder),
        labels,
        texts,
        num_seeds=len((folder / "seeds.jsonl").read_text().split("\n")) - 1,
        quality=TextQuality.from_dict(json.loads((folder / "quality.json").read_text())),
    )
    assert card == (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["adapter", "small-model"])
def test_model_cards(name):
    folder = CARDS / name
    facts, figures = (json.loads((folder / file).read_text()) for file in ("training.json", "evaluation.json"))
    # The weights, which the report is about, do not lie here.
    report = PrivacyReport.from_pretrained(folder)
    card = model_card(facts, report, figures)
    assert card == (folder / "README.md").read_text() and report.weights_digest[:16] in card
    header = yaml.safe_load(card.split("---\n")[1])
    metrics = header["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics][:2] == ["top_1_accuracy", "top_3_accuracy"]
    assert header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for words in ("an evaluation is not covered by this guarantee", "post-processing", "run.png", "epsilon = 3"):
        assert words in card


def test_no_card_holds_an_absolute_path():
    for path in CARDS.rglob("*.[jm]*"):
        assert "/home/" not in path.read_text() and "/tmp/" not in path.read_text(), path
