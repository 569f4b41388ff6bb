"""A writer that learns from pairs which the clients' answers rank: pairs, rounds, the guarantee, and bad input."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from test_recipes import finetune
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, ModelConfig

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.evolution.token_answer import TokenAnswer
from hf_pretext.expansion import Expander
from hf_pretext.finetuning import report_of_model
from hf_pretext.models import load_causal_lm
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.token_reader import TokenizerReader
from hf_pretext.preferences import PairWriter, PreferenceArguments, _pairs, _standardized, last_trainer
from hf_pretext.seed_texts import SeedTexts
from hf_pretext.tilting import token_scores
from recipes.benchmark.methods import METHODS
from recipes.benchmark.trial import Trial
from recipes.benchmark.writer import Preferences
from support.processes import torchrun
from support.scripts import RECIPES, load_script
from support.tiny import make_llama, random_texts

CONFIG = PrivateEvolutionConfig(epsilon=1.0, delta=1e-3, min_words=1, max_length=64, max_new_tokens=24)
SETTINGS = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "max_length": 512}
SETTINGS |= {"gradient_checkpointing": False, "per_device_train_batch_size": 4, "loss_type": ["sigmoid", "sft"]}
ANGLES = {"far": 0.0, "half": 0.5, "near": 1.0, "here": math.pi / 2}


def embed(texts):
    """Texts lie on a quarter of a circle. Which word of `ANGLES` they hold says where."""
    angles = [next(angle for word, angle in ANGLES.items() if word in text) for text in texts]
    return np.array([[math.cos(angle), math.sin(angle)] for angle in angles])


class Writer:
    """An engine whose continuations of each prompt are these texts, one after another."""

    def __init__(self, texts):
        self.texts, self.prompts = texts, []

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        self.prompts += prompts
        return [f"{self.texts[row % len(self.texts)]}\n{stop}\nmore" for row in range(len(prompts))]

    def answer(self, instructions, max_new_tokens, seed):
        raise AssertionError

    def truncate(self, text, max_tokens):
        return text


def seeds_of(**columns):
    return Dataset.from_dict({"text": ["a seed far away", "a seed right here"], "votes": [1.0, 1.0], **columns})


PREFERRED = seeds_of(preference=[0.2, 5.0])


def test_the_best_text_of_a_prompt_is_chosen_and_the_middle_one_rejected():
    engine = Writer(["one half way", "one near that", "one far from it", "one here"])
    pairs = PairWriter(PREFERRED, CONFIG, embed, num_prompts=20).write(engine)
    assert pairs.column_names == ["prompt", "chosen", "rejected"] and len(pairs) == 20
    # With two seeds, the third sample of the list is the new one, and the heading of the fourth ends it.
    assert set(pairs["chosen"]) == {"one here\nOriginal Text Sample 4"}
    assert set(pairs["rejected"]) == {"one half way\nOriginal Text Sample 4"}, "the third of four, and not the worst"
    assert set(pairs["prompt"]) <= set(engine.prompts) and pairs["prompt"][0].endswith("Original Text Sample 3\n")
    # Each prompt is continued four times, and other rounds have other prompts.
    assert engine.prompts[0] == engine.prompts[3] and len(engine.prompts) == 80


def test_rounds_have_prompts_of_their_own():
    texts = [f"seed {number} is {['far', 'half', 'near', 'here'][number % 4]}" for number in range(12)]
    seeds = Dataset.from_dict({"text": texts, "preference": np.linspace(0.5, 2, 12), "votes": [1.0] * 12})
    writer = PairWriter(seeds, CONFIG, embed, num_prompts=16, continuations=2)
    rounds = [set(writer.write(Writer(["one here", "one far"]), number)["prompt"]) for number in (1, 2, 1)]
    assert rounds[0] == rounds[2] and not rounds[0] & rounds[1]


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [
        (["one here", "another here", "a third here", "this is here"], PREFERRED),
        (["one here", "one here"], PREFERRED),
        (["a seed right here", "a seed far away", "one here"], PREFERRED),
        (["one here", "", "  "], PREFERRED),
    ],
    ids=["all ties", "equal texts", "seeds", "not usable"],
)
def test_pairs_that_say_nothing_are_refused(texts, seeds):
    with pytest.raises(ValueError, match=r"Only 0 of `num_prompts`=40 prompts.*at least 16.*Raise `num_prompts`"):
        PairWriter(seeds, CONFIG, embed, num_prompts=40).write(Writer(texts))


def test_fewer_pairs_than_a_training_needs_are_refused():
    writer = PairWriter(PREFERRED, CONFIG, embed, num_prompts=15, continuations=2)
    with pytest.raises(ValueError, match="Only 15 of `num_prompts`=15"):
        writer.write(Writer(["one here", "one far"]))


@pytest.mark.parametrize("seeds", [seeds_of(), seeds_of(preference=[2.0, 2.0])])
def test_a_run_without_evidence_is_refused(seeds):
    with pytest.raises(ValueError, match=r"The run says nothing by which texts could be ranked.*finetune_llm"):
        PairWriter(seeds, CONFIG, embed)


def test_a_text_that_is_never_kept_is_never_chosen():
    scores = _standardized(np.array([-np.inf, 1.0, 3.0, -np.inf]))
    assert scores.tolist() == [-np.inf, 1.0, 3.0, -np.inf]
    continued = [("p", ["a", "b"], "end"), ("q", ["c", "d"], "end")]
    assert [pair["chosen"] for pair in _pairs(continued, scores)] == ["b\nend", "c\nend"]
    assert list(_pairs(continued[:1], np.array([-np.inf, -np.inf]))) == []
    for ties in ([2.0, 2.0], [2.0, 2.0 + 1e-12]):
        assert _standardized(np.array(ties)).tolist() == [0, 0], "ties weigh nothing beside other evidence"


@pytest.fixture(scope="module")
def engine():
    return LocalEngine(*make_llama(), CONFIG, 16)


def answer_of(engine, favored, text):
    """What clients said about the tokens of a text: they use those of some words ten times as often as the others."""
    reader = engine.token_reader()
    tokens = np.array(sorted(set(reader(text)) - set(reader(""))))
    counts = np.where(np.isin(tokens, reader(favored)), 1000.0, 100.0)
    return TokenAnswer(tokens, np.ones(len(tokens)), counts[None], 1.0, 100, reader.fingerprint)


def test_tokens_that_clients_use_make_a_text_better(engine):
    texts = ["garden bank garden", "bank card bank", "card ticket bank ticket", "garden card"]
    scores = token_scores(engine, answer_of(engine, "garden garden", " ".join([*texts, *texts])), 0, texts)
    assert min(scores[0], scores[3]) > max(scores[1:3])


def test_neither_long_nor_short_texts_have_better_tokens_by_their_length(engine):
    texts = [*random_texts(150, 1, 3, 5), *random_texts(150, 2, 24, 28)]
    answer = answer_of(engine, "garden bank card door loud", " ".join(texts))
    short, long = np.split(token_scores(engine, answer, 0, texts), 2)
    assert abs(short.mean() - long.mean()) < long.std() and 2 / 3 < short.std() / long.std() < 3 / 2


def test_tokens_alone_are_evidence_and_those_of_another_model_are_not(engine):
    seeds = seeds_of()
    texts = ["the garden is here", "the bank is here", "the card is here", "the door is here"]
    answer = answer_of(engine, "garden garden", " ".join([*texts, *texts]))

    class Reads(Writer):
        def token_reader(self):
            return engine.token_reader()

    pairs = PairWriter(seeds, CONFIG, embed, answer, num_prompts=16).write(Reads(texts))
    assert all("garden" in text for text in pairs["chosen"])
    other = dataclasses.replace(answer, tokenizer="0" * 32)
    with pytest.raises(ValueError, match="Only 0 of"):
        PairWriter(seeds, CONFIG, embed, other, num_prompts=16).write(Reads(texts))


def test_labels_have_pairs_of_their_own():
    labels = {"ham": "messages that people want", "spam": "unwanted advertising"}
    config = dataclasses.replace(CONFIG, labels=labels, label_column="kind")
    seeds = Dataset.from_dict(
        {"text": ["a far seed", "a near seed", "a here seed", "a half seed"], "votes": [1.0] * 4}
        | {"kind": ["ham", "ham", "spam", "spam"], "share": [0.25, 0.25, 0.75, 0.75]}
        | {"label_scores": [[2.0, 0.0], [2.0, 1.0], [0.0, 2.0], [1.0, 2.0]]}
    )
    engine = Writer(["one far", "one half", "one near", "one here"])
    pairs = PairWriter(seeds, config, embed, num_prompts=40).write(engine)
    of_ham = ["people want" in prompt for prompt in pairs["prompt"]]
    assert sum(of_ham) == 10 and len(pairs) == 40
    chosen = {(is_ham, text.split("\n")[0]) for is_ham, text in zip(of_ham, pairs["chosen"], strict=True)}
    assert {is_ham for is_ham, _ in chosen} == {True, False} and len(chosen) == 2, "each label has its own best text"


class RandomPairs:
    """Writes the same pairs in each round, and keeps what it was given."""

    def __init__(self, engine):
        words = random_texts(48, seed=3)
        rows = {"prompt": ["List:\n"] * 24, "chosen": words[:24], "rejected": words[24:]}
        self.config, self.pairs, self.seen = CONFIG, Dataset.from_dict(rows), []

    def write(self, engine, round_number):
        ids = torch.tensor([[5, 6, 7]])
        with torch.inference_mode():
            self.seen.append(engine.model(ids).logits)
        return self.pairs


def test_rounds_write_with_what_was_learned_and_compare_with_the_base(engine, tmp_path):
    model, tokenizer = make_llama()
    training = DPOConfig(output_dir=str(tmp_path), learning_rate=1e-2, max_steps=6, **SETTINGS)
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    writer = RandomPairs(engine)
    trainer = last_trainer(writer, model, tokenizer, lora, training, 2)
    with torch.inference_mode():
        base = make_llama()[0](torch.tensor([[5, 6, 7]])).logits
    assert torch.allclose(writer.seen[0], base, atol=1e-5), "the first round is written by the base model"
    assert not torch.allclose(writer.seen[1], base, atol=1e-3), "the second one with the adapter of the first"
    assert set(trainer.model.peft_config) == {"default"} and trainer.ref_model is None
    # The reference of the second round is the base, though the adapter has changed the model.
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    with torch.inference_mode():
        chosen, _ = trainer.compute_ref_log_probs(trainer.model, batch)
    fresh, _ = make_llama()
    logits = fresh(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    of_tokens = logits.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1) * batch["completion_mask"][:, 1:]
    assert torch.allclose(chosen, of_tokens.sum(1)[:4], atol=1e-3)
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0
    margins = [each["rewards/margins"] for each in trainer.state.log_history if "rewards/margins" in each]
    assert not margins or margins[-1] > 0


@pytest.mark.parametrize("max_length", [8, 16])
def test_pairs_that_would_be_cut_are_refused_before_training(engine, tmp_path, max_length):
    model, tokenizer = make_llama()
    training = DPOConfig(output_dir=str(tmp_path), **{**SETTINGS, "max_length": max_length})
    lora = LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=f"`max_length`={max_length} is less than"):
        last_trainer(RandomPairs(engine), model, tokenizer, lora, training, 1)


def test_validation_pairs_that_would_be_cut_are_refused_too(engine, tmp_path):
    model, tokenizer = make_llama()
    training = DPOConfig(output_dir=str(tmp_path), **{**SETTINGS, "max_length": 64})
    writer = RandomPairs(engine)
    pairs = writer.pairs.add_column("row", list(range(24)))
    row = pairs.train_test_split(test_size=0.1, seed=training.seed)["test"]["row"][0]
    chosen = ["word " * 100 if index == row else text for index, text in enumerate(pairs["chosen"])]
    writer.pairs = writer.pairs.remove_columns("chosen").add_column("chosen", chosen)
    with pytest.raises(ValueError, match="`max_length`=64 is less than"):
        last_trainer(
            writer, model, tokenizer, LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM"), training, 1
        )


def test_the_benchmark_s_writer_learns_and_the_model_of_the_other_rows_stays_as_it_is(embedder):
    seeds = {"text": random_texts(20, seed=4), "votes": [1.0] * 20, "preference": np.linspace(0.5, 2, 20).tolist()}
    llm = make_llama()
    before = {name: weights.clone() for name, weights in llm[0].state_dict().items()}
    arguments = SimpleNamespace(batch_size=16)
    models = SimpleNamespace(llm=llm, embed=embedder, arguments=arguments, device=torch.device("cpu"))
    preferences = Preferences(num_prompts=24, continuations=3, rate=0.01, batch_size=4)
    model, tokenizer = preferences.train(models, seeds, None, CONFIG)
    ids = torch.tensor([tokenizer("the bank lost a card")["input_ids"]])
    with torch.inference_mode():
        assert not torch.allclose(model(ids).logits, llm[0](ids).logits, atol=1e-3)
    assert all(torch.equal(weights, before[name]) for name, weights in llm[0].state_dict().items())
    assert llm[1].pad_token is None and preferences.inputs["writer"]["num_prompts"] == 24


def test_a_row_of_the_benchmark_is_the_defaults_but_for_the_writer(monkeypatch):
    ours, default = METHODS["default-preferred"], METHODS["default"]
    assert ours.config is default.config and ours.spends_budget
    asked = []
    monkeypatch.setitem(METHODS, "default", dataclasses.replace(default, seeds=lambda trial: asked.append(trial)))
    trial = Trial(None, ours, 1.29, 0)
    trial.seeds()
    assert [each.method.name for each in asked] == ["default"], "seeds are found once for both"


@pytest.fixture
def config(config):
    """Without lookahead, which writes most of the texts of a run and is not what is tested here."""
    return dataclasses.replace(config, lookahead=0)


@pytest.fixture
def place(tmp_path, models_folder):
    (tmp_path / "llm").symlink_to(models_folder / "expansion_model")
    (tmp_path / "embedder").symlink_to(models_folder / "embedding_model")
    return tmp_path


def run_of(place, name, private, public, config):
    generator = PrivateEvolutionGenerator(None, str(place / "embedder"), str(place / "llm"), config=config)
    generator(private, initial_population=public, num_samples=20)
    generator.save_pretrained(place / name)
    return generator


def prefer(place, run, base="llm", out="out", training=(), **changes):
    arguments = PreferenceArguments(run=str(place / run), **{"num_prompts": 24, "num_rounds": 1, **changes})
    settings = {**SETTINGS, "max_steps": 2, "resume_from_checkpoint": "false", **dict(training)}
    model = ModelConfig(
        model_name_or_path=base if "/" in base else str(place / base),
        **{"dtype": "float32", "lora_target_modules": ["q_proj", "v_proj"]},
    )
    load_script("prefer").main(arguments, DPOConfig(output_dir=str(place / out), **settings), model)


@pytest.fixture
def with_tokens(config):
    return dataclasses.replace(config, token_fraction=0.3, num_tokens=40)


def test_a_writer_carries_the_guarantee_of_the_run_and_its_texts_no_larger_one(place, private, public, with_tokens):
    own = run_of(place, "run", private, public, with_tokens).privacy_report
    # Recomputed activations, which is the trainer's default, do not disturb the writing of the second round.
    prefer(place, "run", num_rounds=2, training={"gradient_checkpointing": True})
    report, card = report_of_model(place / "out"), (place / "out" / "README.md").read_text()
    assert report.without_names() == own.without_names(), "training spends nothing"
    assert own.guarantee in card and "learned to write from pairs of texts of its own" in card
    assert "| beta | 0.1 |" in card and "| rounds | 2 |" in card and "hf-pretext expand --seeds" in card
    names = {path.name for path in (place / "out").iterdir()}
    assert "adapter_model.safetensors" in names and not names & {"training_args.bin", "ref"}
    # The seeds of the run are expanded by the name of the adapter, with the tilt, and under the same guarantee.
    generator = PrivateEvolutionGenerator.from_pretrained(place / "run", expansion_model=str(place / "out"))
    texts = generator.expand(generator.seeds, num_samples=10)
    assert generator.privacy_report.without_names() == own.without_names() and len(texts) == 10
    assert TokenizerReader(load_causal_lm(place / "out", torch.device("cpu"), torch.float32)[1]).fingerprint == (
        generator.token_answer.tokenizer
    )
    generator.save_pretrained(place / "more")
    assert own.guarantee in (place / "more" / "README.md").read_text()


def test_a_writer_of_another_run_adds_its_guarantee(place, private, public, config):
    for name in ("run", "other"):
        run_of(place, name, private, public, config)
    prefer(place, "other")
    generator = PrivateEvolutionGenerator.from_pretrained(place / "run", expansion_model=str(place / "out"))
    generator.expand(generator.seeds, num_samples=5)
    assert generator.privacy_report.epsilon == pytest.approx(2 * report_of_model(place / "out").epsilon)
    assert len(generator.privacy_report.parts) == 2
    generator.save_pretrained(place / "more")
    assert "sum of 2 runs" in (place / "more" / "README.md").read_text()
    # Of weights that were changed afterwards, nothing is known.
    path = place / "out" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: 2 * weights for name, weights in load_file(path).items()}, path, {"format": "pt"})
    again = PrivateEvolutionGenerator.from_pretrained(place / "run", expansion_model=str(place / "out"))
    assert math.isinf(again.privacy_report.epsilon)


def test_a_base_that_learned_from_another_run_adds_its_guarantee(place, private, public, config):
    """The base is a whole model. Its own report has to be counted beside that of the run that ranks."""
    for name in ("run", "other"):
        run_of(place, name, private, public, config)
    finetune(place, str(place / "other"), "finetune_small", output_dir=str(place / "base"))
    prefer(place, "run", base="base")
    report = report_of_model(place / "out")
    assert len(report.parts) == 2 and report.epsilon == pytest.approx(2 * report_of_model(place / "base").epsilon)


def test_seeds_that_were_changed_are_not_learned_from(place, private, public, config):
    run_of(place, "run", private, public, config)
    path = place / "run" / "seeds.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "preference": 1.5}) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"`run`=.* has no seeds that its report covers"):
        prefer(place, "run")


def test_a_base_that_does_not_fit_is_refused_before_anything_is_loaded(place, private, public, config, monkeypatch):
    run_of(place, "run", private, public, config)
    prefer(place, "run")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"is an adapter of .*The reference of this training is the base model"):
        prefer(place, "run", base="out", out="again")
    with pytest.raises(ValueError, match="is a server, and training needs weights on this machine"):
        prefer(place, "run", base="http://localhost:8000/v1#model", out="again")
    (place / "file").write_text("mine")
    with pytest.raises(ValueError, match="`output_dir`='.*file' is a file"):
        prefer(place, "run", out="file")
    for training, message in (
        ({"precompute_ref_log_probs": True}, "`precompute_ref_log_probs`=True"),
        ({"resume_from_checkpoint": "x"}, "`resume_from_checkpoint`='x'"),
        ({"resume_from_checkpoint": "true"}, "`resume_from_checkpoint`='true'"),
    ):
        with pytest.raises(ValueError, match=message):
            prefer(place, "run", out="again", training=training)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="each process writes with the whole model"):
        prefer(place, "run", out="again")
    assert not (place / "again").exists()


def test_an_embedding_model_that_the_run_does_not_name_is_asked_for(place, private, public, config):
    run_of(place, "run", private, public, config)
    path = place / "run" / "models.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "embedding_model": {"name": None, "revision": None}}))
    with pytest.raises(ValueError, match="does not say where its embedding model is from"):
        prefer(place, "run")
    prefer(place, "run", embedding_model=str(place / "embedder"))
    assert report_of_model(place / "out") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"continuations": 1}, "`continuations`=1 must be at least 2"),
        ({"num_prompts": 15}, "`num_prompts`=15 must be at least 16"),
        ({"num_rounds": 0}, "`num_rounds`=0 must be at least 1"),
        ({"validation_share": 1.0}, "`validation_share`=1.0"),
    ],
)
def test_a_wrong_size_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PreferenceArguments(run="run", **changes)


def test_a_push_without_a_guarantee_is_refused_before_training(place, private, public, config):
    run_of(place, "run", private, public, config)
    (place / "llm").unlink()
    model, tokenizer = make_llama()
    model.save_pretrained(place / "llm")
    tokenizer.save_pretrained(place / "llm")
    # A model that was trained on something unknown.
    (place / "llm" / "training.json").write_text("{}")
    with pytest.raises(ValueError, match="no finite privacy guarantee"):
        prefer(place, "run", training={"push_to_hub": True, "hub_model_id": "me/writer"})
    assert not (place / "out").exists()


def test_an_adapter_for_another_base_is_refused_by_name(place, private, public, config):
    run_of(place, "run", private, public, config)
    prefer(place, "run")
    _, tokenizer = make_llama()
    sizes = {"num_attention_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    other = {"wider": (64, 2), "deeper": (32, 3)}
    for name, (width, depth) in other.items():
        shape = LlamaConfig(hidden_size=width, num_hidden_layers=depth, intermediate_size=64, **sizes)
        LlamaForCausalLM(shape).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
        path = place / "out" / "adapter_config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "base_model_name_or_path": str(place / name)}))
        with pytest.raises(OSError, match=rf"was made for another model than .*{name}.*`base_model_name_or_path`"):
            PrivateEvolutionGenerator.from_pretrained(place / "run", expansion_model=str(place / "out"))


@pytest.mark.slow
def test_two_processes_write_and_train_together(place, private, public, with_tokens):
    own = run_of(place, "run", private, public, with_tokens).privacy_report
    settings = {**SETTINGS, "run": str(place / "run"), "model_name_or_path": str(place / "llm"), "max_steps": 2}
    settings |= {"output_dir": str(place / "out"), "num_prompts": 24, "num_rounds": 2, "dtype": "float32"}
    (place / "prefer.yaml").write_text(yaml.safe_dump({**settings, "lora_target_modules": ["q_proj", "v_proj"]}))
    done = torchrun(RECIPES / "prefer.py", "--config", place / "prefer.yaml")
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "out" / "training.json").read_text())["num_processes"] == 2
    assert report_of_model(place / "out").without_names() == own.without_names()


def test_prompts_are_those_of_an_expansion(engine, private):
    """The same list, with the form of the run and as many seeds."""
    seeds = SeedTexts(Dataset.from_dict({"text": random_texts(12, seed=4), "preference": [1.0] * 12}))
    expander = Expander(engine, CONFIG, embed)
    (continued, *_) = expander.continue_prompts(seeds, 3, 2)
    assert continued.prompt.startswith("List of 16 diverse original text samples:\nOriginal Text Sample 1\n")
    assert continued.prompt.endswith("Original Text Sample 9\n") and continued.end == "Original Text Sample 10"
