import json
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig, PrivateEvolutionGenerator, compute_epsilon
from hf_pretext.evolution.matching import match_mean
from hf_pretext.evolution.population import Reserve
from hf_pretext.expansion import SeedTexts
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.privacy import Plan
from hf_pretext.runs.folder import RunFolder
from support.tiny import random_texts


@pytest.fixture
def make_generator(bert, sentence_transformer, llama, config):
    def make(**changes):
        settings = {"variation_model": bert, "embedding_model": sentence_transformer, "expansion_model": llama}
        return PrivateEvolutionGenerator(**{**settings, "config": config, "batch_size": 16, **changes})

    return make


def test_private_clients_in_synthetic_dataset_out(make_generator, private, public):
    generator = make_generator()
    synthetic = generator(private, initial_population=public, num_samples=20)
    assert type(synthetic) is Dataset
    assert synthetic.column_names == ["text"]
    assert len(set(synthetic["text"])) == len(synthetic) == 20
    report = generator.privacy_report
    assert (report.num_rounds, report.num_clients, report.unit) == (2, 12, "client")
    assert 3.9 < report.epsilon <= 4.0


@pytest.mark.parametrize("reuse_lookahead", [True, False])
def test_lookahead_variations_become_children_as_far_as_they_go(
    make_generator, config, private, public, tmp_path, monkeypatch, reuse_lookahead
):
    """With two variations of each candidate, its first two children are those; the others are varied anew."""
    config = replace(config, lookahead=2, reuse_lookahead=reuse_lookahead, num_rounds=2, population_size=16)
    generator = make_generator(config=config, run_dir=tmp_path)
    asked = []

    def vary(self, texts, seed):
        asked.append(list(texts))
        return [f"{text} v{len(asked)}.{number}" for number, text in enumerate(texts)]

    monkeypatch.setattr(MaskedVariation, "vary", vary)
    monkeypatch.setattr("hf_pretext.evolution.public_texts.sample_public_texts", lambda *given: public[:16])
    monkeypatch.setattr("hf_pretext.evolution.selection.resample", lambda *given: np.array([0] * 9 + [1] * 6 + [2]))
    generator.evolve(private, initial_population=public)
    looked_ahead, varied = asked[:2]
    assert looked_ahead == public[:16] * 2
    reused = [
        f"{public[parent]} v1.{16 * child + parent}" for parent, child in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    ]
    (_, _), (population, _) = RunFolder(tmp_path).rounds()
    assert len(population) == 16
    if reuse_lookahead:
        assert set(reused) < set(population) and len(varied) == 11
        assert sorted(varied) == sorted([public[0]] * 7 + [public[1]] * 4)
    else:
        assert not set(reused) & set(population)
        assert sorted(varied) == sorted([public[0]] * 9 + [public[1]] * 6 + [public[2]])


def test_the_contract_s_ten_lines_run_from_local_folders(models_folder, private, public, tmp_path):
    config = PrivateEvolutionConfig(
        epsilon=1.29,
        delta=3e-6,
        max_samples_per_client=8,
        num_rounds=2,
        population_size=16,
        max_length=32,
        min_words=1,
    )
    generator = PrivateEvolutionGenerator(
        variation_model=str(models_folder / "variation_model"),
        embedding_model=str(models_folder / "embedding_model"),
        expansion_model=str(models_folder / "expansion_model"),
        config=config,
        device=None,
        dtype="auto",
        batch_size=64,
    )
    synthetic = generator(private, initial_population=Dataset.from_dict({"text": public}), num_samples=5)
    assert len(synthetic) == 5
    assert generator.privacy_report.epsilon <= 1.29
    seeds = generator.evolve(private, initial_population=public)
    assert len(generator.expand(seeds, num_samples=7)) == 7

    generator.save_pretrained(tmp_path / "run")
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path / "run")
    assert again.config == config and again.privacy_report == generator.privacy_report
    assert again.seeds.to_list() == seeds.to_list() and len(again.expand(again.seeds, num_samples=3)) == 3
    again.evolve(private, initial_population=public)
    assert again.privacy_report.num_rounds == 6


def test_seeds_are_the_survivors_of_all_rounds_each_once(make_generator, private, public):
    generator = make_generator()
    seeds = generator.evolve(private, initial_population=public)
    assert set(seeds.column_names) == {"text", "round", "votes", "preference"}
    assert len(set(seeds["text"])) == len(seeds)
    assert set(seeds["round"]) == {1, 2} and min(seeds["votes"]) > 0
    assert {text for text, number in zip(seeds["text"], seeds["round"], strict=True) if number == 1} <= set(public)
    assert sum(number == 1 for number in seeds["round"]) == generator.history[0].num_survivors


def test_a_second_run_composes_and_expansion_is_free(make_generator, private, public, config):
    generator = make_generator()
    seeds = generator.evolve(private, initial_population=public)
    once = generator.privacy_report
    generator.expand(seeds, num_samples=5)
    generator.expand(random_texts(10), num_samples=5)
    assert generator.privacy_report == once
    generator.evolve(private, initial_population=public)
    twice = generator.privacy_report
    assert twice.num_rounds == 2 * once.num_rounds
    assert twice.epsilon == pytest.approx(compute_epsilon(once.noise_multiplier, config.delta, 4), rel=1e-6)
    assert "several runs are added up" in twice.guarantee


def test_a_run_that_breaks_has_spent_what_it_released(make_generator, private, public, monkeypatch):
    generator = make_generator()

    def breaks(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_pretext.evolution.population.Population.next", breaks)
    with pytest.raises(KeyboardInterrupt):
        generator.evolve(private, initial_population=public)
    assert generator.privacy_report.num_rounds == 1 and generator.privacy_report.epsilon > 0


def test_equal_noise_and_seed_give_equal_seeds_and_texts(make_generator, private, public):
    """The seed fixes everything but the noise; here the noise is fixed too."""
    runs = [
        make_generator(noise=lambda scale, size: np.zeros(size, dtype=np.int64))(
            private, initial_population=public, num_samples=6
        )
        for _ in range(2)
    ]
    assert runs[0]["text"][:] == runs[1]["text"][:]


def test_the_texts_that_clients_hold_survive(make_generator, config):
    """Without noise and lookahead, only candidates that are some client's nearest survive: here the same texts."""
    held, others = random_texts(16, seed=11), random_texts(16, seed=12)
    private = Dataset.from_dict({"text": held * 20, "client_id": [f"c{number}" for number in range(320)]})
    no_noise = {"noise": lambda scale, size: np.zeros(size, dtype=np.int64)}
    generator = make_generator(config=replace(config, lookahead=0, num_rounds=1), **no_noise)
    seeds = generator.evolve(private, initial_population=held + others)
    assert set(seeds["text"]) <= set(held) and len(seeds) > 8


def test_global_random_state_is_left_alone(make_generator, private, public):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_generator()(private, initial_population=public, num_samples=3)
    assert torch.equal(torch.rand(2), expected)


def test_variation_by_prompting(make_generator, private, public):
    generator = make_generator(variation_model=None)
    assert len(generator(private, initial_population=public, num_samples=5)) == 5


def test_variation_by_instruction(make_generator, private, public, config):
    generator = make_generator(variation_model=None, config=replace(config, variation_prompt="Say {text} again, {}!"))
    assert len(generator.evolve(private, initial_population=public)) > 0


def test_the_language_model_writes_the_initial_population(make_generator, private, config):
    generator = make_generator(variation_model=None, config=replace(config, domain="chat messages"))
    generator.evolve(private)
    assert len(generator.initial_population) == config.population_size


def test_no_lookahead(make_generator, private, public, config):
    assert len(make_generator(config=replace(config, lookahead=0)).evolve(private, initial_population=public)) > 0


def test_saved_folder_holds_card_report_picture_and_no_private_text(make_generator, public, tmp_path):
    private = Dataset.from_dict({"text": ["xylophone quokka marzipan"] * 30, "client_id": [i // 3 for i in range(30)]})
    generator = make_generator()
    synthetic = generator(private, initial_population=public, num_samples=20)
    generator.save_pretrained(tmp_path)
    assert load_from_disk(str(tmp_path))["text"][:] == synthetic["text"][:]
    names = {"README.md", "privacy_report.json", "private_evolution_config.json", "models.json", "run.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert b"quokka" not in path.read_bytes()
    assert json.loads((tmp_path / "privacy_report.json").read_text())["num_clients"] == 10
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_pool_takes_the_place_of_a_dataset(make_generator, private, public, embedder, config):
    generator = make_generator()
    own = InMemoryClientPool(private, embedder, config, generator.ledger.plan)
    assert len(generator.evolve(own, initial_population=public)) > 0
    assert generator.privacy_report.is_finite and generator.privacy_report.num_clients == 12


def test_texts_from_elsewhere_get_no_card(make_generator, private, public, tmp_path):
    generator, other = make_generator(), make_generator()
    seeds = generator.evolve(private, initial_population=public)
    for texts in (seeds, private["text"][:5]):
        other.expand(texts, num_samples=3)
        other.save_pretrained(tmp_path / "other")
        assert not (tmp_path / "other" / "README.md").exists()
    # Own texts whose votes or preferences are not the run's might be chosen by looking at private text.
    foreign = [
        *([row | {column: 2 * row[column]} for row in seeds] for column in ("votes", "preference")),
        [*seeds, seeds[0]],
    ]
    for rows in foreign:
        generator.expand(Dataset.from_list(rows), num_samples=3)
        with pytest.raises(ValueError, match="nothing to push"):
            generator.push_to_hub("me/foreign")
    # An iterator is empty once it was read, and the empty set is part of any.
    generator.expand(iter(private["text"][:5]), num_samples=3)
    with pytest.raises(ValueError, match="nothing to push"):
        generator.push_to_hub("me/foreign")
    generator.expand(seeds, num_samples=3)
    generator.save_pretrained(tmp_path / "own")
    assert (tmp_path / "own" / "README.md").exists()


def test_preferences_that_a_run_did_not_give_get_no_card(make_generator, config, private, public, tmp_path):
    """A run without smoothing has no preferences; some from elsewhere might have been made from private text."""
    generator = make_generator(config=replace(config, smooth_votes=False, new_public_share=0.0))
    seeds = generator.evolve(private, initial_population=public)
    generator.expand(seeds.add_column("preference", [1e6] + [1e-6] * (len(seeds) - 1)), num_samples=3)
    with pytest.raises(ValueError, match="nothing to push"):
        generator.push_to_hub("me/foreign")
    generator.expand(seeds, num_samples=3)
    generator.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").exists()


def test_a_report_is_not_written_over_by_one_that_spent_less(make_generator, private, public, tmp_path):
    generator = make_generator()
    generator.evolve(private, initial_population=public)
    generator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="would hide what was spent"):
        make_generator().save_pretrained(tmp_path)


def test_settings_and_ledger_cannot_be_exchanged(make_generator, config):
    generator = make_generator()
    for name in ("config", "ledger"):
        with pytest.raises(AttributeError):
            setattr(generator, name, None)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda g, data, public: g(data, initial_population=public, num_samples=0), ValueError, "`num_samples`=0"),
        (lambda g, data, public: g.evolve(data), ValueError, "`initial_population`=None"),
        (lambda g, data, public: g.evolve(data, initial_population=[]), ValueError, "holds 0 different texts"),
        (lambda g, data, public: g.evolve(data, initial_population=["a", 3]), TypeError, "type int"),
        (lambda g, data, public: g.evolve(data, initial_population="text"), TypeError, "one string"),
        (
            lambda g, data, public: g.evolve(data, initial_population=Dataset.from_dict({"body": public})),
            ValueError,
            r"`initial_population` has no column 'text' of texts, but \['body'\]",
        ),
        (
            lambda g, data, public: g.evolve(data.remove_columns("client_id"), initial_population=public),
            ValueError,
            "`client_column`='client_id'",
        ),
        (lambda g, data, public: g.evolve(data, initial_population=data), ValueError, "the private dataset itself"),
        (lambda g, data, public: g.expand([], num_samples=3), ValueError, "`seeds` holds no text"),
    ],
)
def test_bad_input_is_named_before_any_budget_is_spent(make_generator, private, public, run, error, message):
    generator = make_generator()
    with pytest.raises(error, match=message):
        run(generator, private, public)
    assert generator.privacy_report.num_rounds == 0


def test_a_generator_without_expansion_model_evolves_but_does_not_expand(make_generator, private, public):
    generator = make_generator(expansion_model=None)
    with pytest.raises(ValueError, match="needs an `expansion_model`"):
        generator(private, initial_population=public, num_samples=3)
    assert generator.privacy_report.num_rounds == 0
    assert len(generator.evolve(private, initial_population=public)) > 0


def test_small_or_long_public_text_is_warned_of(make_generator, private, caplog):
    generator = make_generator()
    long_text = " ".join(random_texts(20))
    with pytest.warns(UserWarning, match="holds 11 different texts, fewer than `population_size`=32"):
        generator.evolve(private, initial_population=[*random_texts(10), long_text])
    assert "1 texts of `initial_population` were cut to `max_length`=32 tokens" in caplog.text


def test_odd_public_text_passes_through(make_generator, private):
    odd = ["\ud800 lone surrogate", "{{ jinja }} {braces} %s", "\x00\x07 control", "مرحبا \u202e back", "x" * 100_000]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(make_generator().evolve(private, initial_population=odd)) > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"variation_model": "./no/such/folder"}, FileNotFoundError, "`variation_model`='./no/such/folder'"),
        ({"embedding_model": "/no/such/folder"}, FileNotFoundError, "`embedding_model`='/no/such/folder'"),
        ({"expansion_model": "nobody/nothing"}, OSError, "`expansion_model`='nobody/nothing' could not be loaded"),
        ({"expansion_model": 3}, TypeError, "`expansion_model` of type int"),
        ({"variation_model": None, "expansion_model": None}, ValueError, "`variation_model`=None"),
        ({"config": {"epsilon": 1}}, TypeError, "`config` must be a PrivateEvolutionConfig"),
        ({"batch_size": 0}, ValueError, "`batch_size`=0"),
        ({"dtype": "float99", "expansion_model": None, "embedding_model": "x"}, ValueError, "`dtype`='float99'"),
    ],
)
def test_bad_models_are_named(make_generator, changes, error, message):
    with pytest.raises(error, match=message):
        make_generator(**changes)


def test_a_masked_language_model_without_a_mask_token_is_refused(make_generator, llama):
    with pytest.raises(ValueError, match="`variation_model`=.*without a mask token"):
        make_generator(variation_model=llama)


def test_pipelines_are_taken(make_generator, bert, llama, private, public):
    from transformers import pipeline

    fill_mask = pipeline("fill-mask", model=bert[0], tokenizer=bert[1], device="cpu")
    generator = make_generator(variation_model=fill_mask)
    assert len(generator.evolve(private, initial_population=public)) > 0


def test_later_candidates_are_new_public_texts_and_then_variations(make_generator, config, private, public, tmp_path):
    """60 public texts make a population of 32, then the other 28, and only then is something varied."""
    generator = make_generator(config=replace(config, num_rounds=3), run_dir=tmp_path)
    generator.evolve(private, initial_population=public)
    (first, _), (second, _), (third, _) = RunFolder(tmp_path).rounds()
    assert len(first) == 32 and len(set(first) | set(second[:28])) == 60 == len(set(first + second[:28]) & set(public))
    assert not set(second[:28]) & set(first)
    assert 0 < len(set(third) - set(public)), "no public text was left"
    generator = make_generator(
        config=replace(config, num_rounds=2, new_public_share=0.25), run_dir=tmp_path / "quarter"
    )
    generator.evolve(private, initial_population=public)
    (first, _), (second, _) = RunFolder(tmp_path / "quarter").rounds()
    assert len(set(second) & (set(public) - set(first))) == 8


def test_public_texts_that_the_evidence_prefers_come_first():
    reserve = Reserve([str(number) for number in range(100)])
    reserve.ratios = np.where(np.arange(100) < 10, 10.0, 0.1)
    drawn = reserve.draw(8, np.random.default_rng(0))
    assert sum(int(text) < 10 for text in drawn) >= 5 and len(set(drawn)) == 8
    reserve.leave_out(drawn)
    assert not set(reserve.draw(100, np.random.default_rng(0))) & set(drawn)
    assert len(reserve.draw(1000, np.random.default_rng(0))) == 92
    assert Reserve([]).draw(5, np.random.default_rng(0)) == []


def test_no_round_has_more_candidates_than_are_accounted_for(make_generator, config, private, public, tmp_path):
    """With survivors kept, fewer public texts are new: together they are the population."""
    config = replace(config, keep_survivors=True, num_rounds=3, new_public_share=1.0)
    generator = make_generator(config=config, run_dir=tmp_path)
    generator.evolve(private, initial_population=public)
    sizes = [len(candidates) for candidates, _ in RunFolder(tmp_path).rounds()]
    assert len(sizes) == 3 and max(sizes) <= config.population_size
    (first, _), (second, _), _ = RunFolder(tmp_path).rounds()
    assert set(first) & set(second) and set(second) - set(first), "survivors, and new texts"


def test_texts_that_are_kept_are_nearer_to_the_seeds_that_the_evidence_prefers(make_generator, config, public):
    """Seeds with a preference choose among what is written. Seeds without one, and foreign texts, do not."""
    seeds = Dataset.from_dict({"text": public, "preference": [10.0] * 10 + [0.1] * (len(public) - 10)})

    def judge_of(generator, seeds=seeds):
        return generator._expander.judge(SeedTexts(seeds))

    best, all_of_them = (make_generator(config=replace(config, best_of=number)) for number in (6, 1))
    assert judge_of(all_of_them) is None and judge_of(best, public) is None
    assert judge_of(best, seeds.remove_columns("preference")) is None
    kept = best.expand(seeds, num_samples=24)["text"]
    assert len(set(kept)) == 24
    judge = judge_of(best)
    everything = all_of_them.expand(seeds, num_samples=24)["text"]
    of_kept, of_everything = (judge(best.embed(list(texts))) for texts in (kept, everything))
    assert np.log(of_kept).mean() > np.log(of_everything).mean()
    for column, bad in product(("votes", "preference"), (-1.0, float("nan"), float("inf"), None, "three", [1.0])):
        with pytest.raises(ValueError, match=f"`seeds` has a column '{column}' that does not hold a finite number"):
            best.expand(Dataset.from_dict({"text": public, column: [bad] * len(public)}), num_samples=2)
    with pytest.raises(ValueError, match="`preference` of zero"):
        best.expand(Dataset.from_dict({"text": public, "preference": [0.0] * len(public)}), num_samples=2)


def test_seeds_are_shown_by_their_votes_and_preferences(public):
    """The expansion draws seeds by votes times preference, by votes alone, or all alike."""
    seeds = Dataset.from_dict({"text": public[:3], "votes": [1.0, 2.0, 0.0], "preference": [6.0, 0.5, 9.0]})
    assert SeedTexts(seeds).weights.tolist() == pytest.approx([6 / 9, 1 / 9, 0])
    assert SeedTexts(seeds.remove_columns("preference")).weights.tolist() == [1.0, 2.0, 0.0]
    assert SeedTexts(seeds.remove_columns("votes")).weights is None and SeedTexts(public).weights is None


@pytest.mark.parametrize("weight_seeds", [True, False])
def test_a_prompt_shows_what_has_weight(make_generator, config, public, monkeypatch, weight_seeds):
    seeds = Dataset.from_dict({"text": public[:3], "votes": [1.0, 0.0, 0.0]})
    generator = make_generator(config=replace(config, weight_seeds=weight_seeds, best_of=1))
    complete, shown = LocalEngine.complete, []
    monkeypatch.setattr(
        LocalEngine, "complete", lambda self, prompts, **rest: shown.extend(prompts) or complete(self, prompts, **rest)
    )
    generator.expand(seeds, num_samples=4)
    seen = {text for text in public[:3] if any(text in prompt for prompt in shown)}
    assert seen == ({public[0]} if weight_seeds else set(public[:3]))


def test_a_second_run_that_fails_leaves_the_texts_of_the_first_alone(make_generator, private, public, tmp_path):
    """Texts of the first run's seeds are never kept as the second run's, which gets others."""
    generator = make_generator(run_dir=tmp_path / "run")
    seeds = generator.evolve(private, initial_population=public)
    with pytest.raises(ValueError), pytest.warns(UserWarning, match="run 2"):
        generator.evolve(private.remove_columns("client_id"), initial_population=public)
    generator.expand(seeds, num_samples=4)
    assert not list((tmp_path / "run").glob("run-2-texts*")) and list((tmp_path / "run").glob("run-1-texts*"))


def votes_of(config):
    return Plan.from_config(config).entry("votes").mechanism


def test_smoothing_knows_the_noise_of_a_federation(make_generator, config):
    """Shares for three of five answers are in the sum of all five: sqrt(5 / (3 - 1)) times the accounted noise."""
    mechanism = votes_of(replace(config, max_dropout=0.4))
    assert mechanism.num_answers_needed(5) == 3
    assert mechanism.noise_std_of_sum(5) == pytest.approx(mechanism.noise_std * (5 / 2) ** 0.5)
    share = mechanism.share_scale(3) / mechanism.units
    assert mechanism.noise_std_of_sum(5) == pytest.approx(share * 5**0.5)
    assert votes_of(config).noise_std_of_sum(5) == votes_of(config).noise_std


def test_what_is_kept_has_the_mean_that_was_released(
    make_generator, bert, sentence_transformer, llama, config, private, public, tmp_path, monkeypatch
):
    """Also after the run was saved. Seeds of someone else, or a mean that is mostly noise, say nothing of it."""
    goals = []

    def spy(embeddings, mean, preference, number):
        goals.append(mean)
        return match_mean(embeddings, mean, preference, number)

    monkeypatch.setattr("hf_pretext.choosing.match_mean", spy)
    settings = {"mean_fraction": 0.5, "token_fraction": 0.0, "best_of": 2}
    generator = make_generator(config=replace(config, epsilon=2000.0, **settings))
    generator(private, initial_population=public, num_samples=8)
    true = np.mean([generator.embed(own).mean(axis=0) for own in texts_by_client(private)], axis=0)
    assert len(goals) == 1 and np.linalg.norm(goals[0] - true) < 0.05
    generator.expand(public[:6], num_samples=4)
    generator.expand(generator.seeds, num_samples=8)
    generator.save_pretrained(tmp_path)
    models = {"variation_model": bert, "embedding_model": sentence_transformer, "expansion_model": llama}
    again = PrivateEvolutionGenerator.from_pretrained(tmp_path, **models)
    again.expand(again.seeds, num_samples=4)
    again._has_other_space = True  # As with another embedding model.
    again.expand(again.seeds, num_samples=4)
    assert len(goals) == 3 and all(np.allclose(goal, goals[0]) for goal in goals)
    make_generator(config=replace(config, epsilon=1.0, **settings))(private, initial_population=public, num_samples=4)
    assert len(goals) == 3


def texts_by_client(private):
    rows = list(zip(private["client_id"], private["text"], strict=True))
    return [[text for who, text in rows if who == client] for client in dict.fromkeys(private["client_id"])]
