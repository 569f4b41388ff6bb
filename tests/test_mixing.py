"""Public texts that are mixed into the synthetic ones while a model is finetuned, and what its card says of them."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset
from test_recipes import dp_texts, folder
from trl import ModelConfig, SFTConfig

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.cli import main
from hf_pretext.finetuning import FinetuningArguments, load_training_texts, report_of_model, report_of_model_to_be
from hf_pretext.finetuning.chain import origin_of
from hf_pretext.finetuning.texts import load_public_texts
from hf_pretext.hub import is_of_a_run
from support.scripts import load_script
from support.tiny import random_texts

__all__ = ["folder"]

TRAINING = {"max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none", "max_length": 32}


def texts_in(path, texts, column="text"):
    path.write_text("\n".join(json.dumps({column: text}) for text in texts))
    return str(path)


@pytest.fixture
def others(tmp_path):
    return texts_in(tmp_path / "others.jsonl", [f"public {text}" for text in random_texts(200, seed=9)])


def load(tmp_path, public, **changes):
    synthetic = texts_in(
        tmp_path / "synthetic.jsonl", [f"{text} {index}" for index, text in enumerate(random_texts(100))]
    )
    return load_training_texts(FinetuningArguments(dataset=synthetic, public_dataset=public, **changes))


@pytest.mark.parametrize(("fraction", "number"), [(0.0, 0), (0.1, 10), (0.5, 90), (0.001, 1)])
def test_the_fraction_is_of_all_texts_to_train_on_and_none_is_for_validation(tmp_path, others, fraction, number):
    texts = load(tmp_path, others, public_fraction=fraction)
    public = [text for text in texts.train["text"] if text.startswith("public ")]
    assert (
        len(public) == len(set(public)) == number and len(texts.train) == 90 + number == texts.num_synthetic + number
    )
    assert not any(text.startswith("public ") for text in texts.validation["text"]) and len(texts.validation) == 10
    assert (texts.public is None) == (number == 0)
    if number > 10:  # They are not all at one end.
        first = [text.startswith("public ") for text in texts.train["text"][:60]]
        assert 10 < sum(first) < 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"public_fraction": 1.0}, "`public_fraction`=1.0 must be at least 0 and below 1"),
        ({"public_fraction": -0.1}, "`public_fraction`=-0.1 must be"),
        ({"public_fraction": 0.9}, "needs 810 public texts for 90 synthetic ones, but `public_dataset`=.* has 200"),
        ({"public_fraction": 0.5, "public": None}, "so it needs a `public_dataset`"),
        ({"public_fraction": 0.5, "public": "empty"}, "`public_dataset`=.* holds 0 texts that are not blank"),
        ({"public_fraction": 0.5, "public": "chats"}, "rows of another kind than `dataset`: its column is 'messages'"),
    ],
)
def test_what_cannot_be_mixed_is_refused(tmp_path, others, changes, message):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    places = {
        "empty": texts_in(tmp_path / "empty.jsonl", [" "]),
        "chats": texts_in(tmp_path / "chats.jsonl", [chat, chat, chat], "messages"),
    }
    public = changes.pop("public", others)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, places.get(public, public), **changes)


def test_a_dataset_that_nothing_is_mixed_in_from_is_refused_by_the_llm_recipe(tmp_path, others):
    arguments = FinetuningArguments(dataset="x", public_dataset=others)
    with pytest.raises(ValueError, match="`public_fraction`=0 mixes nothing in"):
        load_script("finetune_llm").main(
            arguments, SFTConfig(output_dir=str(tmp_path / "out"), **TRAINING), ModelConfig(model_name_or_path="x")
        )


def test_the_guarantee_is_about_the_synthetic_part_and_the_card_says_so(folder, private, public, others):
    """Both recipes. The chain has the run's guarantee, and names the public part as public by the trainer's word."""
    dataset = dp_texts(folder, private, public, "first")
    model = ModelConfig(
        model_name_or_path=str(folder / "llm"), dtype="float32", lora_target_modules=["q_proj", "v_proj"]
    )
    mixed = {"dataset": dataset, "public_dataset": others, "public_fraction": 0.4}
    load_script("finetune_llm").main(
        FinetuningArguments(**mixed), SFTConfig(output_dir=str(folder / "llm-out"), **TRAINING), model
    )
    small = load_script("finetune_small")
    small.main(
        small.SmallModelArguments(**mixed, model_name_or_path=str(folder / "llm"), public_epochs=0),
        SFTConfig(output_dir=str(folder / "small-out"), **TRAINING),
    )
    assert not (folder / "small-out" / "stage-public").exists()
    for name in ("llm-out", "small-out"):
        assert report_of_model(folder / name).epsilon == pytest.approx(4, rel=1e-3)
        card = (folder / name / "README.md").read_text()
        assert "finetuned on 18 texts" in card and "12 of the texts that it was trained on" in card
        assert "public by the word of\nwhoever trained this model" in card
        assert "The guarantee is about the 18 synthetic ones. If a" in card and "| public texts mixed in |" in card
        facts = json.loads((folder / name / "training.json").read_text())
        assert facts["public"] == {
            "name": facts["public"]["name"],
            "revision": None,
            "num_texts": 12,
            "has_report": False,
            "is_selected": False,
        }
        assert str(folder) not in facts["public"]["name"]


def test_texts_that_a_run_chose_bring_its_guarantee_into_the_chain(folder, private, public, config):
    """Those of the same run are not counted twice. Those of another run add up. Rows that no report covers end it."""
    dataset = dp_texts(folder, private, public, "first")
    other = PrivateEvolutionGenerator(None, folder / "embedder", folder / "llm", config=config)
    other(private, initial_population=public, num_samples=5)
    first = PrivateEvolutionGenerator.from_pretrained(dataset, expansion_model=str(folder / "llm"))
    stream = [f"{text} {number}" for number, text in enumerate(random_texts(400, seed=8))]

    def report(rows, name):
        rows.save_to_disk(folder / name)
        arguments = FinetuningArguments(dataset=dataset, public_dataset=str(folder / name), public_fraction=0.3)
        return report_of_model_to_be(load_training_texts(arguments), str(folder / "llm"))

    own = first.select(stream, 30)
    assert report(own, "own").epsilon == pytest.approx(4, rel=1e-3)
    foreign = report(other.select(stream, 30), "foreign")
    assert foreign.epsilon == pytest.approx(8, rel=1e-3) and len(foreign.parts) == 2
    mixed = Dataset.from_dict({"text": [*own["text"], "a text of somebody else"]})
    mixed.info.description = own.info.description
    assert report(mixed, "mixed") is None


def test_a_card_says_that_texts_were_chosen_and_not_that_they_are_synthetic(folder, private, public):
    """As what a model is finetuned on, and as what is mixed in: the run's guarantee is not a user's word."""
    dataset = dp_texts(folder, private, public, "first")
    stream = texts_in(
        folder / "stream.jsonl", [f"{text} {index}" for index, text in enumerate(random_texts(400, seed=8))]
    )
    models = ["--embedding-model", str(folder / "embedder")]
    chosen = ["select", dataset, "--public", stream, "--num-samples", "30", "--output-dir", str(folder / "chosen")]
    assert main([*chosen, *models]) == 0
    small = load_script("finetune_small")
    for name, mixed in {
        "of-chosen": {"dataset": str(folder / "chosen")},
        "mixed": {"dataset": dataset, "public_dataset": str(folder / "chosen"), "public_fraction": 0.4},
    }.items():
        arguments = small.SmallModelArguments(**mixed, model_name_or_path=str(folder / "llm"), public_epochs=0)
        small.main(arguments, SFTConfig(output_dir=str(folder / name), **TRAINING))
        assert report_of_model(folder / name).epsilon == pytest.approx(4, rel=1e-3)
    _, card = (folder / "of-chosen" / "README.md").read_text().split("\n---\n", 1)
    assert "`hf_pretext` chose among public ones by what clients answered in Private Evolution" in card
    condition = (
        "The guarantee is about the choice among public texts. If a client's text is among these, nothing protects"
    )
    assert condition in card
    assert "post-processing of the chosen texts" in card and "| chosen texts | " in card and "synthetic" not in card
    card = (folder / "mixed" / "README.md").read_text()
    assert "They come\nwith the guarantee of the run that chose or wrote them, which the one above includes." in card
    assert "a\nclient's text among those that were chosen from is published as it is." in card
    assert "| public texts mixed in | " in card and "with a guarantee of their own |" in card
    assert "by the word of" not in card and "`hf_pretext` made from private text by Private Evolution" in card


def test_a_part_of_a_run_is_not_public_by_the_word_of_a_user(folder, private, public, config):
    """Its own report does not lie beside it, so no guarantee is known, and none is claimed."""
    first = dp_texts(folder, private, public, "first")
    other = PrivateEvolutionGenerator(None, folder / "embedder", folder / "llm", config=config)
    other(private, initial_population=public, num_samples=40)
    other.save_pretrained(folder / "other")
    seeds = folder / "other" / "seeds.jsonl"
    assert seeds.is_file()
    arguments = FinetuningArguments(dataset=first, public_dataset=str(seeds), public_fraction=0.1)
    assert report_of_model_to_be(load_training_texts(arguments), str(folder / "llm")) is None
    # A file of the Hub's cache is a link, and its report lies beside the link.
    (folder / "blob").write_bytes(seeds.read_bytes())
    seeds.unlink()
    seeds.symlink_to(folder / "blob")
    assert is_of_a_run(str(seeds)) and not is_of_a_run(str(folder / "blob"))


def test_the_card_names_the_public_texts_of_a_first_stage(folder, private, public, others):
    """A checkpoint of another first stage is one of another training."""
    dataset, small = dp_texts(folder, private, public, "first"), load_script("finetune_small")
    arguments = {"dataset": dataset, "public_dataset": others, "model_name_or_path": str(folder / "llm")}
    small.main(
        small.SmallModelArguments(**arguments, public_epochs=0.01),
        SFTConfig(output_dir=str(folder / "out"), **TRAINING),
    )
    card, facts = ((folder / "out" / name).read_text() for name in ("README.md", "training.json"))
    assert "It learned from 180 texts of " in card and "If a client's text is among them, nothing protects it." in card
    assert (
        "| public texts of a first stage | " in card and "and any public text of a first stage, know nothing" in card
    )
    assert json.loads(facts)["first_stage"]["num_texts"] == 180 and str(folder) not in facts
    arguments = FinetuningArguments(dataset=dataset, public_dataset=others)
    texts, stage = load_training_texts(arguments), load_public_texts(arguments)
    begun = [origin_of(each, "me/llm", None) for each in (texts, replace(texts, first_stage=stage))]
    assert begun[0] != begun[1] and set(begun[1]) - set(begun[0]) == {"first_stage"}


@pytest.mark.parametrize(("has_report", "words"), [(True, "began with knows"), (False, "began with, and any")])
def test_what_a_card_assumes_is_a_sentence(folder, private, public, others, has_report, words):
    """A first stage with a guarantee of its own is no assumption."""
    dataset, small = dp_texts(folder, private, public, "first"), load_script("finetune_small")
    stage = dataset if has_report else others
    arguments = {"dataset": dataset, "public_dataset": stage, "model_name_or_path": str(folder / "llm")}
    small.main(
        small.SmallModelArguments(**arguments, public_epochs=0.01),
        SFTConfig(output_dir=str(folder / "out"), **TRAINING),
    )
    card = (folder / "out" / "README.md").read_text()
    assert f"the public model\nthat the training {words}" in card
