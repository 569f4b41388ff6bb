"""The tilt of a language model's tokens: its estimate, its engines, and what an expansion does with it."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import chi2
from test_served import Scripted

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.evolution.token_answer import TokenAnswer
from hf_pretext.evolution.token_tilt import MOST_TILT, estimate_tilt, fit_tilt, with_public
from hf_pretext.expansion import Expander, SeedTexts
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.remote_engine import RemoteEngine
from hf_pretext.models.token_reader import TokenizerReader
from hf_pretext.tilting import Request, fit_bias, num_written, usable_answer
from support.tiny import make_llama, random_texts

DRAWS = 4_000


def embed(texts):
    """Seeds without preferences are not judged, so nothing is embedded."""
    raise AssertionError


def truth(num_tokens=2000, seed=0):
    """Fractions of tokens as a model writes them, and the logarithms of how many times as often clients do."""
    usual = 1 / np.arange(3, num_tokens + 3)
    return usual / usual.sum(), 0.7 * np.random.default_rng(seed).standard_normal(num_tokens)


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_without_noise_the_ratios_are_found(scale):
    usual, ratios = truth()
    found = estimate_tilt(scale * usual * np.exp(ratios), 1e-6 * scale, usual, 0 * usual)
    # The scale of the clients' counts is not known, so all ratios may be off by the same.
    assert (found - ratios)[np.abs(ratios) < 1.5].std() < 0.05
    assert np.abs(found).max() <= MOST_TILT


def test_noise_alone_tilts_nothing_and_the_more_noise_the_less_it_tilts():
    usual, ratios = truth()
    counts, noise = 400 * usual * np.exp(ratios), np.random.default_rng(1).standard_normal(len(usual))
    moved = [
        np.average(estimate_tilt(counts + std * noise, std, usual, 0 * usual) ** 2, weights=usual)
        for std in (0.1, 1, 10)
    ]
    assert moved[0] > moved[1] > moved[2]
    assert np.abs(estimate_tilt(-np.abs(noise), 1.0, usual, 0 * usual)).max() == 0
    nothing = estimate_tilt(400 * usual + noise, 1.0, usual, 0 * usual)
    assert np.average(np.abs(nothing), weights=usual) < 0.1


def test_a_noisy_estimate_is_nearer_to_the_truth_than_no_tilt():
    usual, ratios = truth()
    for std in (0.03, 0.3, 1.0):
        counts = 400 * usual * np.exp(ratios) + std * np.random.default_rng(2).standard_normal(len(usual))
        missed = estimate_tilt(counts, std, usual, 0 * usual) - ratios
        assert np.average(missed**2, weights=usual) < 0.9 * np.average(ratios**2, weights=usual)


def test_what_is_known_imprecisely_of_the_model_tilts_less_and_better():
    """The model's fractions are counted in 5,000 tokens, alone or with public text that it writes much like."""
    usual, ratios = truth()
    counts = 400 * usual * np.exp(ratios) + 0.1 * np.random.default_rng(2).standard_normal(len(usual))
    seen = np.random.default_rng(3).poisson(5000 * usual) / 5000
    missed = {}
    true = usual * np.exp(ratios) / (usual * np.exp(ratios)).sum()
    for name, variances in {"as if it were exact": 0 * seen, "with its variance": seen / 5000}.items():
        means, smaller = with_public(seen, variances, 5000, usual * np.exp(ratios / 3))
        assert means.sum() == pytest.approx(seen.sum()) and (smaller <= variances).all()
        for words, found in {"alone": (seen + 1e-8, variances), "with public text": (means, smaller)}.items():
            tilt = estimate_tilt(counts, 0.1, *found)
            # Nats per token. What all logits have in common changes nothing.
            missed[name, words] = true @ (np.log(true / usual) - tilt) + np.log(usual @ np.exp(tilt))
    assert missed["with its variance", "alone"] < missed["as if it were exact", "alone"]
    assert missed["with its variance", "with public text"] < missed["with its variance", "alone"]
    assert missed["with its variance", "with public text"] < 0.4 * (true @ np.log(true / usual))


def test_a_tilt_leaves_tokens_that_no_one_is_asked_about_as_frequent_as_they_are():
    usual, ratios = truth()
    tilt = fit_tilt(400 * usual * np.exp(ratios + 1), 0.01, np.ones(len(usual)), 0.8 * usual, 0 * usual)
    assert (usual * np.exp(tilt)).sum() == pytest.approx(1, abs=0.03)


@pytest.fixture(scope="module")
def written(llama):
    """Tokens that the tiny model likes to write, and a bias for each."""
    model, tokenizer = llama
    tokens = list(range(40, 60))
    return model, tokenizer, dict(zip(tokens, np.linspace(-2, 2, 20).tolist(), strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_bias_changes_the_distribution_of_tokens_exactly_as_it_should(written, config, temperature):
    """Chi-squared on 4,000 first tokens; false-alarm rate 1e-6 a case."""
    model, tokenizer, bias = written
    engine = LocalEngine(model, tokenizer, replace(config, temperature=temperature), batch_size=DRAWS)
    ids = torch.tensor([tokenizer("the bank")["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0, -1].clone()
    logits[list(bias)] += torch.tensor(list(bias.values()))
    expected = (logits / temperature).softmax(-1).numpy()
    drawn = []
    decode = tokenizer.batch_decode
    engine._end_tokens = torch.empty(0, dtype=torch.long)  # Or they would be cut off.
    engine._decode = lambda tokens: drawn.extend(row[0] for row in tokens) or decode(tokens)
    engine.complete_tilted(["the bank"] * DRAWS, 1, 3, None, bias)
    observed = np.bincount(drawn, minlength=len(expected))
    likely = DRAWS * expected >= 5
    statistic = ((observed - DRAWS * expected) ** 2 / (DRAWS * expected))[likely].sum()
    assert statistic < chi2.ppf(1 - 1e-6, df=int(likely.sum()))


def test_the_fractions_of_tokens_are_the_model_s_probabilities(written, config):
    model, tokenizer, _ = written
    engine = LocalEngine(model, tokenizer, config, batch_size=2)
    prompts = ["the bank", "a lost card", "music"]
    with torch.no_grad():
        logits = [model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1] for prompt in prompts]
    expected = torch.stack(logits).softmax(-1).numpy()
    tokens = [7, 3, 50, 4]
    means, variances, number = engine.token_fractions(prompts, 1, 3, None, tokens)
    np.testing.assert_allclose(means, expected[:, tokens].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(variances, expected[:, tokens].var(axis=0) / 3, rtol=1e-2, atol=1e-12)
    assert number == 3
    # A text adds the expectations of each of its tokens.
    assert engine.token_fractions(prompts, 4, 3, None, tokens).num_tokens == pytest.approx(12, abs=3)


def test_no_bias_changes_no_text(written, config):
    model, tokenizer, _ = written
    engine, prompts = LocalEngine(model, tokenizer, config), random_texts(5)
    assert engine.complete_tilted(prompts, 8, 1, None, {50: 0.0}) == engine.complete(prompts, 8, 1)


def answer_of(tokenizer, counts=None, tokens=None):
    tokens = np.array(list(range(40, 60)) if tokens is None else tokens)
    counts = np.linspace(20, 400, len(tokens))[None] if counts is None else counts
    fingerprint = TokenizerReader(tokenizer).fingerprint
    return TokenAnswer(tokens, np.ones(len(tokens)), counts, 0.5, 100, fingerprint)


def frequencies(texts, tokenizer):
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]]
    return np.bincount(ids, minlength=len(tokenizer)) / len(ids)


def test_an_expansion_writes_the_tokens_that_clients_write(llama, config):
    model, tokenizer = llama
    expander = Expander(LocalEngine(model, tokenizer, config), config, embed)
    answer = answer_of(tokenizer)
    usual, tilted = (list(expander.expand(SeedTexts(random_texts(30)), 60, answer=given)) for given in (None, answer))
    before, after = (frequencies(texts, tokenizer)[answer.tokens] for texts in (usual, tilted))
    assert np.corrcoef(after, answer.counts[0])[0, 1] > 0.5 > np.corrcoef(before, answer.counts[0])[0, 1]
    assert list(expander.expand(SeedTexts(random_texts(30)), 60, answer=answer)) == tilted


def test_texts_of_a_label_have_the_tokens_of_its_own_clients(llama, config):
    model, tokenizer = llama
    labels = {"low": "low numbers", "high": "high numbers"}
    config = replace(config, label_column="kind", labels=labels, label_shares={"low": 0.5, "high": 0.5})
    expander = Expander(LocalEngine(model, tokenizer, config), config, embed)
    rising = np.linspace(20, 400, 20)
    answer = answer_of(tokenizer, np.array([rising[::-1], rising]))
    seeds = Dataset.from_dict({"text": random_texts(30), "kind": ["low", "high"] * 15, "share": [0.5] * 30})
    rows = list(expander.rows(SeedTexts.of(seeds, config), 120, answer=answer))
    for label, counts in enumerate(answer.counts):
        found = frequencies([row["text"] for row in rows if row["kind"] == label], tokenizer)[answer.tokens]
        assert np.corrcoef(found, counts)[0, 1] > 0.4


class Counting:
    """An engine that takes a bias and shows its tokenizer, but not its probabilities."""

    def __init__(self, engine):
        self.engine, self.completed = engine, []
        self.token_reader, self.complete_tilted = engine.token_reader, engine.complete_tilted

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        self.completed.append(len(prompts))
        return self.engine.complete(prompts, max_new_tokens, seed, stop)

    def answer(self, instructions, max_new_tokens, seed):
        return self.engine.answer(instructions, max_new_tokens, seed)

    def truncate(self, text, max_tokens):
        return self.engine.truncate(text, max_tokens)


def test_an_engine_without_probabilities_is_fitted_by_what_it_writes(llama, config):
    model, tokenizer = llama
    engine = Counting(LocalEngine(model, tokenizer, config))
    answer = answer_of(tokenizer)
    texts = list(Expander(engine, config, embed).expand(SeedTexts(random_texts(30)), 60, answer=answer))
    assert engine.completed == [num_written(60)] == [30] and len(texts) == 60
    assert np.corrcoef(frequencies(texts, tokenizer)[answer.tokens], answer.counts[0])[0, 1] > 0.25


def test_another_tokenizer_is_not_tilted_and_says_so(llama, bert, config, caplog):
    engine = LocalEngine(*llama, config)
    assert usable_answer(None, engine) is None and not caplog.records
    assert usable_answer(answer_of(llama[1]), engine) is not None
    with caplog.at_level(logging.WARNING):
        assert usable_answer(answer_of(bert[1]), engine) is None
    assert "has another tokenizer" in caplog.text


class WithoutBias:
    """An engine of the caller that shows its tokenizer, but takes no bias."""

    def __init__(self, tokenizer):
        self.token_reader = lambda: TokenizerReader(tokenizer)

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        raise AssertionError

    def answer(self, instructions, max_new_tokens, seed):
        raise AssertionError

    def truncate(self, text, max_tokens):
        return text


def test_a_bias_that_cannot_be_had_is_refused_before_anything_is_spent(
    sentence_transformer, bert, llama, config, private, public
):
    config = replace(config, token_fraction=0.25)
    generator = PrivateEvolutionGenerator(bert, sentence_transformer, WithoutBias(llama[1]), config=config)
    with pytest.raises(ValueError, match=r"`token_fraction`=0.25 .* takes no bias of tokens"):
        generator.evolve(private, initial_population=public)
    assert not generator.ledger.releases


def make_run(folder, bert, sentence_transformer, config):
    model, tokenizer = make_llama()
    return PrivateEvolutionGenerator(
        bert, sentence_transformer, (model, tokenizer), config=config, run_dir=folder
    ), model


def test_a_killed_expansion_resumes_with_the_same_tilt_and_texts(
    tmp_path, bert, sentence_transformer, config, private, public
):
    """The probabilities are not computed again, and what was written by then stays."""
    config = replace(config, token_fraction=0.25, num_tokens=50)
    generator, _ = make_run(tmp_path / "run", bert, sentence_transformer, config)
    seeds = generator.evolve(private, initial_population=public)
    texts = generator.expand(seeds, num_samples=20)["text"][:]
    kept = json.loads((tmp_path / "run" / "run-1-texts-tilt.json").read_text())
    assert len(kept) == len(generator.token_answer.tokens) and any(kept)
    for path in [*(tmp_path / "run").glob("*.arrow"), tmp_path / "run" / "run-1-texts-1.json"]:
        path.unlink()
    again, model = make_run(tmp_path / "run", bert, sentence_transformer, config)
    again._components.engine.token_fractions = None  # It is not asked.
    assert again.evolve(private, initial_population=public)["text"][:] == seeds["text"][:]
    assert again.expand(again.seeds, num_samples=20)["text"][:] == texts
    loose = PrivateEvolutionGenerator(bert, sentence_transformer, make_llama(), config=replace(config))
    loose.token_answer = generator.token_answer
    assert set(loose.expand(seeds, num_samples=20)["text"]) == set(texts), "an answer that was given tilts as well"


def test_a_server_gets_the_largest_biases_that_it_takes(config, caplog):
    server = Scripted(statuses=[400, 400])
    engine = RemoteEngine(server.address, config, max_requests=1)
    bias = {token: token / 1000 for token in range(1, 1501)}
    with caplog.at_level(logging.WARNING):
        assert engine.complete_tilted(["one", "two"], 4, 1, None, bias) == ["one and on", "two and on"]
    sent = [body["logit_bias"] for _, body, _ in server.requests]
    assert [len(each) for each in sent] == [1500, 1024, 300, 300]
    assert set(sent[-1]) == {str(token) for token in range(1201, 1501)} and sent[-1]["1500"] == 1.5
    assert "takes a bias of 300 tokens, not of 1500" in caplog.text
    assert engine.token_reader() is None, "it has no tokenizer of that name"


def test_a_server_whose_model_is_another_or_that_ignores_a_bias_is_found_out(config, models_folder, monkeypatch):
    server = Scripted(models=(str(models_folder / "expansion_model"),))
    assert RemoteEngine(server.address, config).token_reader() is None, "it ignores the bias"
    engine = RemoteEngine(server.address, config)
    reader = TokenizerReader(make_llama()[1])
    monkeypatch.setattr(engine, "_continue", lambda prompt, length, seed, stop, bias: reader.decode(next(iter(bias))))
    assert engine.token_reader().fingerprint == reader.fingerprint
    assert usable_answer(answer_of(make_llama()[1]), engine) is not None


def test_the_bias_is_the_same_for_the_same_request(llama, config):
    engine, answer = LocalEngine(*llama, config), answer_of(llama[1])
    request = Request(random_texts(8), 8, 5, None)
    first = fit_bias(engine, answer, 0, request, list, config)
    assert fit_bias(engine, answer, 0, request, list, config) == first


def test_with_a_nucleus_tokens_are_counted_as_they_are_written(llama, config, monkeypatch):
    """The whole distribution holds tokens that a nucleus never lets the model write."""
    monkeypatch.setattr(LocalEngine, "token_fractions", lambda *_: pytest.fail("of all tokens"))
    config = replace(config, top_p=0.5)
    engine, answer = LocalEngine(*llama, config), answer_of(llama[1])
    bias = fit_bias(engine, answer, 0, Request(random_texts(8), 8, 5, None), list, config)
    assert len(bias) == len(answer.tokens) and any(bias)
