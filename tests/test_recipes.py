"""Every YAML of the recipes parses into what its script reads; unknown keys are errors; scripts run on tiny models."""

import json
import math
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset, concatenate_datasets, load_from_disk
from peft import LoraConfig
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState
from trl import DPOConfig, ModelConfig, SFTConfig, TrlParser

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.cli import read_run
from hf_pretext.finetuning import (
    FinetuningArguments,
    GuaranteeCallback,
    load_before_and_after,
    load_training_texts,
    push_model,
    report_of_model,
    take_over_text_field,
)
from hf_pretext.finetuning.commands import command
from hf_pretext.finetuning.preparing import check_output
from hf_pretext.finetuning.training import _targets
from hf_pretext.forms import Chat
from hf_pretext.preferences import PreferenceArguments
from support.scripts import RECIPES, load_script


def parser_of(folder):
    if folder == "llm":
        return TrlParser((FinetuningArguments, SFTConfig, ModelConfig))
    if folder == "prefer":
        return TrlParser((PreferenceArguments, DPOConfig, ModelConfig))
    if folder == "small":
        return TrlParser((load_script("finetune_small").SmallModelArguments, SFTConfig))
    return TrlParser((load_script("evaluate").EvaluationArguments,))


def configs(*folders):
    paths = [path for folder in folders for path in sorted((RECIPES / "configs" / folder).glob("*.yaml"))]
    return pytest.mark.parametrize("path", paths, ids=lambda path: f"{path.parent.name}/{path.stem}")


def test_every_folder_of_configs_is_tested():
    folders = {path.name for path in (RECIPES / "configs").iterdir()}
    assert folders == {"generate", "llm", "small", "prefer", "evaluate", "accelerate", "audit", "benchmark"}


@configs("llm", "small", "prefer", "evaluate")
def test_yaml_is_what_the_script_reads(path, tmp_path, monkeypatch):
    # A machine without a GPU cannot be told to compute in bfloat16; everything else is parsed as it stands.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True, raising=False)
    on_command_line = ["--output_dir", str(tmp_path)]
    source = "run" if path.parent.name == "prefer" else "dataset"
    if source not in yaml.safe_load(path.read_text()):
        on_command_line += [f"--{source}", "me/jobs-dp"]
    if "bf16: true" in path.read_text():
        on_command_line += ["--bf16", "false"]
    parser_of(path.parent.name).parse_args_and_config(["--config", str(path), *on_command_line])


@configs("llm", "small", "prefer", "evaluate")
def test_a_key_nobody_knows_is_an_error(path, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    source = "run" if path.parent.name == "prefer" else "dataset"
    settings = yaml.safe_load(path.read_text()) | {source: "x", "lerning_rate": 1}
    wrong.write_text(
        yaml.safe_dump(
            {key: value for key, value in settings.items() if key != "bf16"}
            | ({} if path.parent.name == "evaluate" else {"bf16": False, "output_dir": str(tmp_path)})
        )
    )
    with pytest.raises(ValueError, match="lerning_rate"):
        parser_of(path.parent.name).parse_args_and_config(["--config", str(wrong)])


@configs("audit")
def test_audit_yaml_is_what_the_script_reads(path, tmp_path):
    parser = TrlParser((load_script("audit").AuditArguments,))
    (arguments,) = parser.parse_args_and_config(["--config", str(path)])
    run, settings = read_run(RECIPES.parent / arguments.run)
    assert arguments.num_canaries >= settings["population_size"] and run["private"] != arguments.public
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_canarys: 1\n")
    with pytest.raises(ValueError, match="num_canarys"):
        parser.parse_args_and_config(["--config", str(wrong)])


def test_an_audit_reads_votes_texts_and_the_losses_of_a_model(
    models_folder, private, public, tmp_path, capsys, monkeypatch
):
    private.to_json(tmp_path / "private.jsonl")
    Dataset.from_dict({"text": public}).to_json(tmp_path / "public.jsonl")
    names = ("variation_model", "embedding_model", "expansion_model")
    run = {name: str(models_folder / name) for name in names} | {"private": str(tmp_path / "private.jsonl")}
    run |= {"num_samples": 5, "output_dir": "unused", "epsilon": 2, "delta": 0.001, "num_rounds": 1, "lookahead": 0}
    run |= {"population_size": 24, "max_length": 64, "seeds_per_prompt": 3, "min_words": 1, "max_new_tokens": 8}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    model = tmp_path / "finetuned"
    shutil.copytree(models_folder / "expansion_model", model)
    (model / "training_origin.json").write_text(json.dumps({"base_model": run["expansion_model"]}))
    script = load_script("audit")
    arguments = {"run": str(tmp_path / "run.yaml"), "output_dir": str(tmp_path / "out"), "client_share": 0.5}
    arguments |= {"public": str(tmp_path / "public.jsonl"), "num_canaries": 16, "seed": 1}
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "2")
        with pytest.raises(RuntimeError, match="An audit runs in one process"):
            script.main(script.AuditArguments(**arguments))
    assert not (tmp_path / "out").exists()
    script.main(script.AuditArguments(**arguments))
    releases = (tmp_path / "out" / "run" / "ledger.json").read_bytes()
    script.main(script.AuditArguments(**arguments, model=str(model)))
    assert (tmp_path / "out" / "run" / "ledger.json").read_bytes() == releases, "the second call releases nothing"
    figures = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert figures["primary"]["question"] == "token_counts and votes" and figures["primary"]["num_targets"] == 16
    attacks = {reading["attack"] for reading in figures["secondary"]}
    names = ("votes", "similarity", "n-grams", "loss")
    expected = {f"{name}, {kind}" for name in names for kind in ("canaries", "clients")} - {"votes, canaries"}
    assert attacks == {"canaries, any mechanism", *expected}
    assert figures["claimed_epsilon"] <= 2 and figures["covered_by_the_guarantee"] is False
    assert (tmp_path / "out" / "audit.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert (
        "| **token_counts and votes** (primary) | " in printed
        and "efuted. The run claims epsilon 2 at delta 0.001" in printed
    )
    with pytest.raises(ValueError, match="`is_member` has [01] members and [01] others. Use more targets"):
        script.main(script.AuditArguments(**{**arguments, "num_canaries": 1, "output_dir": str(tmp_path / "other")}))
    assert not (tmp_path / "other" / "run").exists(), "nothing was spent"


@configs("generate")
def test_generate_yaml_is_what_the_command_reads(path, tmp_path):
    run, settings = read_run(path)
    config = PrivateEvolutionConfig(**settings)
    assert run["num_samples"] > 0 and config.epsilon > 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nnum_ronds: 1\n")
    with pytest.raises(ValueError, match="num_ronds"):
        read_run(wrong)


def test_the_paper_s_yaml_is_the_paper_s_preset():
    _, settings = read_run(RECIPES / "configs" / "generate" / "paper.yaml")
    assert PrivateEvolutionConfig(**settings) == PrivateEvolutionConfig.paper(epsilon=1.29)


def test_the_plays_yaml_is_the_quickstart():
    from hf_pretext.quickstart import CONFIG, NUM_SAMPLES

    run, settings = read_run(RECIPES / "configs" / "generate" / "plays.yaml")
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


@pytest.fixture
def folder(tmp_path, models_folder, public):
    """Tiny models, and texts without a report."""
    (tmp_path / "llm").symlink_to(models_folder / "expansion_model")
    (tmp_path / "embedder").symlink_to(models_folder / "embedding_model")
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in public))
    return tmp_path


def finetune(folder, dataset, script="finetune_llm", **changes):
    settings = {
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "max_length": 32,
    }
    training = SFTConfig(**{**settings, **changes})
    if script == "finetune_small":
        module = load_script(script)
        module.main(module.SmallModelArguments(dataset=dataset, model_name_or_path=str(folder / "llm")), training)
    else:
        model = ModelConfig(
            model_name_or_path=str(folder / "llm"), dtype="float32", lora_target_modules=["q_proj", "v_proj"]
        )
        load_script(script).main(FinetuningArguments(dataset=dataset), training, model)


def test_a_training_script_calls_the_generator_and_logs_the_guarantee(folder, private):
    module = load_script("train_with_generator")
    arguments = module.Arguments(
        output_dir=str(folder / "own"),
        model=str(folder / "llm"),
        embedding_model=str(folder / "embedder"),
        num_samples=20,
        population_size=16,
        max_steps=2,
    )
    trainer = module.main(arguments, private)
    assert trainer.state.log_history[0]["privacy_epsilon"] == pytest.approx(3, rel=1e-3)
    assert trainer.state.log_history[0]["privacy_delta"] == 1e-5
    # Another recipe finds the guarantee in what was saved, without being told.
    texts = load_training_texts(FinetuningArguments(dataset=str(folder / "own" / "texts")))
    assert texts.report.epsilon == pytest.approx(3, rel=1e-3)
    assert len(texts.train) == 18 and len(texts.validation) == 2
    # The end of a text is learned, also with a tokenizer that pads with the same token, and the model is kept.
    tokenizer = trainer.processing_class
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    ends = (batch["labels"] == tokenizer.eos_token_id).sum(dim=1)
    lengths = batch["attention_mask"].sum(dim=1)
    assert ends.tolist() == [1, 1] and (batch["labels"] != -100).sum(dim=1).tolist() == lengths.tolist()
    kept = AutoModelForCausalLM.from_pretrained(folder / "own" / "model").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("script", ["finetune_llm", "finetune_small"])
def test_a_model_of_unknown_texts_says_so_in_its_card(folder, script):
    """The tokenizer has no padding token, and nothing is pickled."""
    finetune(folder, str(folder / "texts.jsonl"), script)
    card = (folder / "out" / "README.md").read_text()
    assert "No guarantee is known" in card and "epsilon" not in card
    names = {path.name for path in (folder / "out").iterdir()}
    assert "training_args.bin" not in names and not [name for name in names if name.startswith(".writing")]
    assert ("adapter_model.safetensors" if script == "finetune_llm" else "model.safetensors") in names


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ({"target_modules": ["v_proj", "q_proj"]}, "q_proj, v_proj"),
        ({"target_modules": r".*\.(q|v)_proj"}, r".*\.(q|v)_proj"),
        ({"target_parameters": ["mlp.experts.down_proj", "a"]}, "a, mlp.experts.down_proj"),
    ],
)
def test_a_card_names_what_an_adapter_changes(targets, told):
    assert _targets(LoraConfig(**targets)) == told


@pytest.mark.parametrize("script", ["finetune_llm", "finetune_small"])
def test_the_text_field_of_trl_is_the_text_column(folder, public, script):
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"content": text, "id": 1}) for text in public))
    finetune(folder, str(folder / "texts.jsonl"), script, dataset_text_field="content", max_steps=1)
    assert (folder / "out" / "training.json").is_file()


@pytest.mark.parametrize(
    ("column", "field", "taken"),
    [
        ("text", "text", "text"),
        ("text", "content", "content"),
        ("body", "text", "body"),
        ("body", "body", "body"),
        ("text", None, "text"),
        ("body", "content", None),
    ],
)
def test_two_names_of_the_text_column_have_to_agree(column, field, taken):
    arguments, training = FinetuningArguments(dataset="x", text_column=column), SFTConfig(use_cpu=True, bf16=False)
    training.dataset_text_field = field
    if taken is None:
        with pytest.raises(ValueError, match="`text_column`='body' and `dataset_text_field`='content'"):
            take_over_text_field(arguments, training)
        return
    take_over_text_field(arguments, training)
    assert (arguments.text_column, training.dataset_text_field) == (taken, "text")


def test_evaluation_before_and_after(folder, private, capsys):
    finetune(folder, str(folder / "texts.jsonl"), "finetune_small", learning_rate=0.01, max_steps=8)
    private.to_json(folder / "held_out.jsonl")
    module = load_script("evaluate")
    module.main(
        module.EvaluationArguments(
            model=str(folder / "out"),
            base_model=str(folder / "llm"),
            dataset=str(folder / "held_out.jsonl"),
            synthetic=str(folder / "texts.jsonl"),
            embedding_model=str(folder / "embedder"),
            device="cpu",
        )
    )
    figures = json.loads((folder / "out" / "evaluation.json").read_text())
    assert figures["num_clients"] == 12 and figures["after"]["cross_entropy"] < figures["before"]["cross_entropy"]
    assert figures["covered_by_the_guarantee"] is False and figures["synthetic_texts"]["distinct_1"] > 0
    interval = figures["difference"]["cross_entropy"]
    assert interval["low"] <= interval["difference"] <= interval["high"] < 0
    card = (folder / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["model-index"][0]["results"][0]["metrics"][0]["type"] == "top_1_accuracy"
    assert "evaluation.png" in card and (folder / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert "| next-token accuracy |" in capsys.readouterr().out
    for path in (folder / "out").rglob("*.json"):
        assert private["text"][0] not in path.read_text()
    # What the owner of private text calls its file may say whose it is.
    assert figures["dataset"] == "a private dataset" in card and "held_out" not in card + json.dumps(figures)


TALK = [{"role": "user", "content": "A lost card"}, {"role": "assistant", "content": "we block it"}]
CHAT_TEMPLATE = "{{ bos_token }}{% for turn in messages %}<{{ turn['role'] }}> {{ turn['content'] }}\n{% endfor %}"
FORMS = {
    "labeled": ({"text": "A lost card", "kind": "ham"}, {}, "A lost card"),
    "record": (
        {"subject": "A card", "body": "it is lost"},
        {"text_column": ["subject", "body"], "template": "{subject}: {body}"},
        "A card: it is lost",
    ),
    "chat": (
        {"messages": TALK},
        {"text_column": ["messages"], "chat_roles": ["user", "assistant"]},
        "<user> A lost card\n<assistant> we block it\n",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_evaluation_reads_rows_as_the_run_had_them(folder, name, monkeypatch):
    row, settings, expected = FORMS[name]
    module = load_script("evaluate")
    compute = lambda embed, **given: given  # noqa: E731
    monkeypatch.setattr(module, "TextDistribution", lambda: SimpleNamespace(compute=compute))
    rows = [{"client_id": f"c{number}", **row} for number in range(3)]
    Dataset.from_list(rows).to_json(folder / "held_out.jsonl")
    Dataset.from_list([row]).to_json(folder / "synthetic.jsonl")
    read, tokenizer = [], AutoTokenizer.from_pretrained(folder / "llm")
    tokenizer.chat_template = CHAT_TEMPLATE
    monkeypatch.setattr(module, "read_tokenizer", lambda _: tokenizer)
    score = module.score_next_tokens
    monkeypatch.setattr(module, "score_next_tokens", lambda *a, **k: read.append(a[2]) or score(*a, **k))
    (folder / "out").mkdir()
    arguments = {"model": str(folder / "llm"), "base_model": str(folder / "llm"), "output_dir": str(folder / "out")}
    arguments |= {"dataset": str(folder / "held_out.jsonl"), "synthetic": str(folder / "synthetic.jsonl")}
    arguments |= {"embedding_model": str(folder / "embedder"), "device": "cpu", "num_texts": 2}
    module.main(module.EvaluationArguments(**arguments, **settings))
    begin = tokenizer.bos_token if name == "chat" else ""  # This tokenizer adds none by itself.
    assert read == [[begin + expected] * 2] * 2
    figures = json.loads((folder / "out" / "evaluation.json").read_text())
    assert figures["num_texts"] == 2 and figures["difference"]["cross_entropy"]["difference"] == 0
    assert figures["synthetic_texts"]["predictions"] == figures["synthetic_texts"]["references"][:1]


def test_a_beginning_that_a_tokenizer_adds_is_not_read_twice(folder):
    module, tokenizer = load_script("evaluate"), AutoTokenizer.from_pretrained(folder / "llm")
    tokenizer.chat_template = CHAT_TEMPLATE
    begin = tokenizer.bos_token
    adds = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = adds
    rows = Dataset.from_list([{"messages": TALK}])
    (text,) = module.as_trained_on(rows, Chat("messages", ("user", "assistant")), tokenizer)
    templated = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert tokenizer(text).input_ids == templated and templated.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": ["messages"], "chat_roles": ["user", "assistant"]}, "has no chat template"),
        ({"text_column": ["a", "a"]}, "`text_column`="),
        ({"template": "{a} {b}"}, "`template`="),
        ({"chat_roles": ["user"]}, "`chat_roles`="),
        ({"text_column": ["a", "b"], "chat_roles": ["user", "assistant"]}, "needs one column"),
        ({}, "rows without the column 'text'"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused_before_a_model_is_loaded(folder, settings, message, monkeypatch):
    module = load_script("evaluate")
    monkeypatch.setattr(module, "load_before_and_after", lambda *_: pytest.fail("a model was loaded"))
    Dataset.from_list([{"client_id": "c", "messages": TALK}]).to_json(folder / "held_out.jsonl")
    with pytest.raises(ValueError, match=message):
        module.main(
            module.EvaluationArguments(model=str(folder / "llm"), dataset=str(folder / "held_out.jsonl"), **settings)
        )


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        (["a", "b", ""], "`client_column`='client_id' is missing in 1 of 3 rows"),
        (["a", "b", "NaN"], "Drop these rows, or give `--client_column null`"),
        (["a", None, None], "missing in 2 of 3 rows"),
        (["a", "a", "a"], "needs two of them at least, and there are 1"),
    ],
)
def test_rows_of_no_one_or_of_one_client_are_refused_before_a_model_is_loaded(folder, owners, message, monkeypatch):
    module = load_script("evaluate")
    monkeypatch.setattr(module, "load_before_and_after", lambda *_: pytest.fail("a model was loaded"))
    Dataset.from_dict({"client_id": owners, "text": ["A walk"] * 3}).to_json(folder / "held_out.jsonl")
    with pytest.raises(ValueError, match=message):
        module.main(module.EvaluationArguments(model=str(folder / "llm"), dataset=str(folder / "held_out.jsonl")))


def test_results_that_could_not_be_written_are_refused_before_anything_is_read(folder):
    module = load_script("evaluate")
    (folder / "file").write_text("mine")
    asked = {"model": str(folder / "llm"), "dataset": "not looked at", "output_dir": str(folder / "file")}
    with pytest.raises(ValueError, match="`output_dir`='.*file' is a file"):
        module.main(module.EvaluationArguments(**asked))


def test_each_row_may_be_someone_else_s(folder):
    """A command line can only write null as a word."""
    module = load_script("evaluate")
    parser = TrlParser((module.EvaluationArguments,))
    data = folder / "held_out.jsonl"
    required = ["--model", "x", "--dataset", str(data)]
    (folder / "null.yaml").write_text("client_column: null\n")
    Dataset.from_dict({"client_id": ["a"] * 3, "text": ["A walk"] * 3}).to_json(data)
    for given in (["--client_column", "null"], ["--client_column=None"], ["--config", str(folder / "null.yaml")]):
        (arguments,) = parser.parse_args_and_config([*required, *given])
        assert module.held_out_rows(arguments, module.form_of_rows(arguments))[1] == [0, 1, 2]
    Dataset.from_dict({"null": list("aab"), "text": ["A walk"] * 3}).to_json(data)
    (arguments,) = parser.parse_args_and_config([*required, "--client_column", "null"])
    assert module.held_out_rows(arguments, module.form_of_rows(arguments))[1] == list("aab")


@pytest.mark.parametrize(
    ("output_dir", "message"),
    [("elsewhere", "'elsewhere' is another one than"), (None, "no privacy report was found")],
)
def test_an_evaluation_that_could_not_be_pushed_does_not_begin(folder, output_dir, message):
    module = load_script("evaluate")
    asked = {"push_to_hub": True, "hub_model_id": "me/model", "output_dir": output_dir}
    with pytest.raises(ValueError, match=message):
        module.main(module.EvaluationArguments(model=str(folder / "llm"), dataset="not looked at", **asked))


def test_public_texts_that_no_stage_uses_are_refused(folder):
    module = load_script("finetune_small")
    arguments = module.SmallModelArguments(dataset="not looked at", public_dataset="public", public_epochs=0)
    with pytest.raises(ValueError, match="`public_epochs`=0 and `public_fraction`=0 make neither"):
        module.main(arguments, SFTConfig(output_dir=str(folder / "out"), use_cpu=True, bf16=False))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_a_first_stage_on_a_divided_model_is_refused_before_anything_is_read(folder, monkeypatch, kind):
    """The second stage would begin with what one process holds of the model."""
    module = load_script("finetune_small")
    monkeypatch.setattr(module, "load_training_texts", lambda *_: pytest.fail("read"))
    arguments = module.SmallModelArguments(dataset="not looked at", public_dataset="public")
    training = SFTConfig(output_dir=str(folder / "out"), use_cpu=True, bf16=False)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ValueError, match="`public_dataset`='public' with `public_epochs`=1.0 asks for a first stage"):
        module.main(arguments, training)
    training.resume_from_checkpoint = "true"
    with pytest.raises(pytest.fail.Exception, match="read"):
        module.main(arguments, training)


@pytest.mark.parametrize(
    ("dataset", "changes", "error", "message"),
    [
        ("empty.jsonl", {}, ValueError, "holds 0 texts that are not blank"),
        ("other.jsonl", {}, ValueError, "rows without the column 'text'"),
        ("nothing.jsonl", {}, FileNotFoundError, "neither a file, a folder, nor a dataset repository"),
        (
            "texts.jsonl",
            {"push_to_hub": True, "hub_model_id": "me/model"},
            ValueError,
            "has no finite privacy guarantee",
        ),
    ],
)
def test_bad_input_is_named_before_training(folder, dataset, changes, error, message, monkeypatch):
    (folder / "empty.jsonl").write_text(json.dumps({"text": " "}))
    (folder / "other.jsonl").write_text(json.dumps({"body": "a"}))
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=message):
        finetune(folder, dataset, **changes)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
@pytest.mark.parametrize("script", ["finetune_llm", "finetune_small"])
def test_another_model_s_folder_is_not_trained_into(folder, name, script, monkeypatch):
    """Saving would remove its weights, or the page of a project."""
    monkeypatch.setattr("transformers.Trainer.train", lambda *_, **__: pytest.fail("too late"))
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("Mine.")
    with pytest.raises(ValueError, match=f"holds '{name}', which hf_pretext did not write"):
        finetune(folder, str(folder / "texts.jsonl"), script)
    assert (folder / "out" / name).read_text() == "Mine."


def test_the_folder_of_a_killed_training_may_hold_no_weights_of_others(tmp_path):
    for name in ("training_origin.json", "README.md"):
        (tmp_path / name).write_text("{}")
    check_output(tmp_path)
    (tmp_path / "model.safetensors").write_text("someone else's")
    with pytest.raises(ValueError, match=r"holds 'model.safetensors', which hf_pretext did not write"):
        check_output(tmp_path)


@pytest.mark.parametrize("script", ["finetune_llm", "finetune_small"])
def test_a_training_that_is_killed_in_its_first_checkpoint_begins_again(folder, script, monkeypatch):
    """TRL writes a card into the folder before the checkpoint. A finished model keeps what it began with."""

    def killed(trainer, *_):
        (folder / "out" / "README.md").write_text("TRL's card")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("trl.SFTTrainer._save_checkpoint", killed)
        finetune(folder, str(folder / "texts.jsonl"), script)
    assert not list((folder / "out").glob("checkpoint-*"))
    finetune(folder, str(folder / "texts.jsonl"), script)
    assert "No guarantee is known" in (folder / "out" / "README.md").read_text()
    before = (folder / "out" / "training_origin.json").read_text()
    (folder / "other.jsonl").write_text((folder / "texts.jsonl").read_text().replace("the", "a"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("trl.SFTTrainer._save_checkpoint", killed)
        finetune(folder, str(folder / "other.jsonl"), script)
    assert (folder / "out" / "training_origin.json").read_text() == before


def test_a_push_without_a_name_or_a_token_is_refused_before_training(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("hf_pretext.hub.check_guarantee", lambda *_: None)
    with pytest.raises(ValueError, match="`hub_model_id`=None"):
        finetune(folder, str(folder / "texts.jsonl"), push_to_hub=True)
    with pytest.raises(PermissionError, match="hf auth login"):
        finetune(folder, str(folder / "texts.jsonl"), push_to_hub=True, hub_model_id="me/adapter")


def test_mistakes_are_told_in_one_line(tmp_path, monkeypatch, capsys):
    """As a user sees them, from the command line."""
    script = str(RECIPES / "finetune_small.py")
    options = ["--use_cpu", "--bf16", "false", "--dataset", "nothing.jsonl", "--output_dir", "out"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(RECIPES)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    told = capsys.readouterr().err + (ended.value.code if isinstance(ended.value.code, str) else "")
    assert ended.value.code not in (None, 0) and "Traceback" not in told
    assert told.splitlines()[-1].startswith("finetune_small.py: 'nothing.jsonl' is neither")


def dp_texts(folder, private, public, name):
    """Synthetic texts with a finite guarantee, of a run of their own."""
    config = PrivateEvolutionConfig(
        epsilon=4.0,
        delta=1e-3,
        num_rounds=1,
        population_size=16,
        lookahead=0,
        max_length=16,
        max_new_tokens=16,
        min_words=1,
    )
    generator = PrivateEvolutionGenerator(None, folder / "embedder", folder / "llm", config=config)
    generator(private, initial_population=public, num_samples=20)
    generator.save_pretrained(folder / name)
    return str(folder / name)


def test_a_guarantee_does_not_outlive_its_model(folder, private, public):
    """A second model, of texts without a guarantee, into the folder of one that had it."""
    finetune(folder, dp_texts(folder, private, public, "first"))
    log = json.loads((folder / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [line["privacy_epsilon"] for line in log if "privacy_epsilon" in line] == pytest.approx([4], rel=1e-3)
    assert "epsilon = 4" in (folder / "out" / "README.md").read_text()
    (folder / "out" / "evaluation.json").write_text("{}")
    finetune(folder, str(folder / "texts.jsonl"), "finetune_small")
    assert "No guarantee is known" in (folder / "out" / "README.md").read_text()
    for name in ("privacy_report.json", "evaluation.json", "run.png", "adapter_config.json"):
        assert not (folder / "out" / name).exists(), name


def test_a_model_that_learned_from_two_runs_says_so(folder, private, public):
    first, second = (dp_texts(folder, private, public, name) for name in ("first", "second"))
    module = load_script("finetune_small")
    training = {"max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none", "max_length": 32}
    places = [str(folder / "llm"), str(folder / "one"), str(folder / "two"), str(folder / "again")]
    for base, out, dataset in zip(places, places[1:], (first, second, second), strict=False):
        arguments = module.SmallModelArguments(dataset=dataset, model_name_or_path=base)
        module.main(arguments, SFTConfig(output_dir=out, **training))
    reports = {name: report_of_model(folder / name) for name in ("one", "two", "again")}
    assert reports["one"].epsilon == pytest.approx(4, rel=1e-3) and not reports["one"].parts
    assert reports["two"].epsilon == pytest.approx(8, rel=1e-3) and len(reports["two"].parts) == 2
    # A script of one's own that only has the callback logs both as well.
    logged = []
    trainer = SimpleNamespace(train_dataset=load_from_disk(second), log=logged.append)
    base = SimpleNamespace(config=SimpleNamespace(name_or_path=str(folder / "one")))
    GuaranteeCallback(trainer, source=second).on_train_begin(None, TrainerState(), None, model=base)
    assert logged[0]["privacy_epsilon"] == pytest.approx(8, rel=1e-3)
    # The first run's guarantee is not forgotten where the second one's texts are seen once more.
    assert reports["again"].without_names() == reports["two"].without_names()
    card = (folder / "again" / "README.md").read_text()
    assert "epsilon = 8" in card and "sum of 2 runs" in card and "Run 2 of 2" in card


def test_what_a_model_learned_from_raw_text_is_not_forgotten(folder, private, public, monkeypatch):
    """First private text, then texts with a guarantee: there is none, and a push is refused before training."""
    private.to_json(folder / "private.jsonl")
    finetune(folder, str(folder / "private.jsonl"), "finetune_small")
    texts = dp_texts(folder, private, public, "first")
    module = load_script("finetune_small")
    training = {"max_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none", "max_length": 32}
    arguments = module.SmallModelArguments(dataset=texts, model_name_or_path=str(folder / "out"))
    module.main(arguments, SFTConfig(output_dir=str(folder / "then"), **training))
    assert report_of_model(folder / "then") is None
    assert "No guarantee is known for this model" in (folder / "then" / "README.md").read_text()
    pushing = SFTConfig(output_dir=str(folder / "pushed"), push_to_hub=True, hub_model_id="me/model", **training)
    with pytest.raises(ValueError, match="has no finite privacy guarantee"):
        module.main(arguments, pushing)
    assert not (folder / "pushed").exists()


def test_a_training_that_is_resumed_on_other_texts_has_no_guarantee(folder, private, public):
    """A checkpoint of private text goes on with synthetic text, and one of synthetic text with the same."""
    texts = dp_texts(folder, private, public, "first")
    private.to_json(folder / "private.jsonl")
    for dataset, out in ((texts, "same"), (str(folder / "private.jsonl"), "other")):
        finetune(
            folder,
            dataset,
            "finetune_small",
            output_dir=str(folder / out),
            max_steps=1,
            save_strategy="steps",
            save_steps=1,
            resume_from_checkpoint="false",  # As a command line has it.
        )
        changes = {"output_dir": str(folder / out), "resume_from_checkpoint": str(folder / out / "checkpoint-1")}
        finetune(folder, texts, "finetune_small", max_steps=2, save_strategy="steps", save_steps=1, **changes)
        assert (report_of_model(folder / out) is not None) == (out == "same")
        # From the checkpoint of that training, which has seen the private text as well.
        changes["resume_from_checkpoint"] = "true"
        finetune(folder, texts, "finetune_small", max_steps=3, **changes)
        assert (report_of_model(folder / out) is not None) == (out == "same")
    with pytest.raises(ValueError, match="`resume_from_checkpoint`=true finds no checkpoint in .*new"):
        finetune(folder, texts, "finetune_small", output_dir=str(folder / "new"), resume_from_checkpoint="true")


def test_the_main_process_decides_whether_a_training_is_continued(folder, private, public, monkeypatch):
    """It alone writes what a training began with, and processes on other machines may not see that."""
    texts = dp_texts(folder, private, public, "first")
    finetune(folder, texts, "finetune_small", max_steps=1)
    (folder / "out" / "checkpoint-1" / "training_origin.json").unlink()
    monkeypatch.setattr("hf_pretext.finetuning.training.broadcast", lambda own: pytest.fail("own") if own else True)
    finetune(folder, texts, "finetune_small", resume_from_checkpoint=str(folder / "out" / "checkpoint-1"))
    assert report_of_model(folder / "out") is not None


def test_no_token_is_published(monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipes/x.py", "--hub_token", "hf_1", "--lr", "3", "--hub_token=hf_2"])
    assert command() == "python recipes/x.py --hub_token ... --lr 3 --hub_token=..."


def test_no_folder_of_this_machine_is_published(monkeypatch, tmp_path):
    place = str(tmp_path / "texts")
    monkeypatch.setattr("sys.argv", [f"{tmp_path}/x.py", "--dataset", place, f"--output_dir={place}", "--lr=3"])
    assert str(tmp_path) not in command() and "--lr=3" in command() and "/texts" in command()
    assert command().startswith("python x.py --dataset")


def test_a_card_says_how_a_training_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mine/train.py"])
    assert command() == "python mine/train.py"
    monkeypatch.setattr("sys.argv", ["/somewhere/recipes/uv/finetune.py"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert command() == "torchrun recipes/uv/finetune.py"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert command() == "accelerate launch recipes/uv/finetune.py"


def test_private_figures_are_not_published_unless_asked_for(folder, private, public, monkeypatch):
    """What a push publishes, in the place of the Hub: with one person more or less, next to nothing changes."""
    finetune(folder, dp_texts(folder, private, public, "first"), "finetune_small")
    module = load_script("evaluate")
    more = Dataset.from_dict({"client_id": ["alice"], "text": ["the clinic sends me notes on " + "sleep " * 20]})
    published = {}
    for name, data in (("without", private), ("with", concatenate_datasets([private, more]))):
        data.to_json(folder / f"{name}-alice.jsonl")
        module.main(
            module.EvaluationArguments(
                model=str(folder / "out"),
                base_model=str(folder / "llm"),
                dataset=str(folder / f"{name}-alice.jsonl"),
                synthetic=str(folder / "texts.jsonl"),
                embedding_model=str(folder / "embedder"),
                device="cpu",
            )
        )
        for asked in (False, True):

            def keep(target, *_, key=(name, asked), **__):
                published[key] = {path.name: path.read_bytes() for path in Path(target).iterdir()}
                return ""

            monkeypatch.setattr("hf_pretext.finetuning.models.push_folder", keep)
            push_model(folder / "out", "me/model", publish_private_evaluation=asked)
    for name in ("without", "with"):
        files = published[name, False]
        assert {"model.safetensors", "privacy_report.json", "README.md"} <= set(files)
        assert not [file for file in files if file.startswith("evaluation")]
        assert b"model-index" not in files["README.md"] and b"## Evaluation" not in files["README.md"]
    figures = {name: json.loads(published[name, True]["evaluation.json"]) for name in ("without", "with")}
    assert figures["with"]["num_clients"] == figures["without"]["num_clients"] == 10
    assert set(figures["with"]) == {
        *("dataset", "split", "is_private", "covered_by_the_guarantee", "num_texts", "num_clients"),
        *("before", "after", "difference"),
    }
    after = figures["with"]["after"]
    assert after["top_1_accuracy"] == round(after["top_1_accuracy"], 2)
    assert after["perplexity"] == round(math.exp(after["cross_entropy"]), 2)
    for content in published["with", True].values():
        assert b"alice" not in content and b"num_tokens" not in content
    # The owner still has all of it.
    assert "num_tokens" in json.loads((folder / "out" / "evaluation.json").read_text())


def test_the_base_of_a_published_model_is_asked_for_if_it_was_a_folder(tmp_path, models_folder):
    """What is published of its path could be the name of a stranger's repository."""
    shutil.copytree(models_folder / "expansion_model", tmp_path / "model")
    facts = {"base_model": "acme/llm", "base_model_on_hub": None}
    (tmp_path / "model" / "training.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="`base_model` is needed"):
        load_before_and_after(tmp_path / "model")
