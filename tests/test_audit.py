import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from conftest import random_texts
from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.audit import (
    Targets,
    epsilon_lower_bound,
    make_canaries,
    mu_lower_bound,
    ngram_scores,
    read_scores,
    sample_targets,
    similarity_scores,
    vote_scores,
)
from hf_pretext.audit.attacks import _memberships


@pytest.mark.parametrize(
    ("correct", "guesses", "delta", "golden"),
    [
        # All right: the success probability is at most the confidence's root, so epsilon >= logit(0.05^(1/100)).
        (100, 100, 0.0, math.log(0.05 ** (1 / 100) / (1 - 0.05 ** (1 / 100)))),
        (50, 100, 0.0, 0.0),
        # P[Binomial(100, p) >= 70] = 0.05 at p = 0.615456.
        (70, 100, 0.0, 0.470),
    ],
)
def test_golden_bounds(correct, guesses, delta, golden):
    assert epsilon_lower_bound(correct, guesses, 100, delta) == pytest.approx(golden, abs=2e-3)


def test_delta_and_abstention_cost():
    plain = epsilon_lower_bound(95, 100, 100, 0.0)
    assert epsilon_lower_bound(95, 100, 100, 1e-4) < plain
    assert epsilon_lower_bound(95, 100, 10_000, 1e-4) < epsilon_lower_bound(95, 100, 100, 1e-4)
    with pytest.raises(ValueError, match="`num_correct`=3, `num_guesses`=2"):
        epsilon_lower_bound(3, 2, 5, 0.0)


def test_bounds_hold_for_randomised_response():
    """Guesses that are right with exactly the probability that epsilon = 1 allows; false-alarm rate below 1e-6.

    At 95 % confidence at most 50 of 1,000 bounds are expected above 1; more than 90 have a probability below 1e-7.
    """
    rng = np.random.default_rng(0)
    correct = rng.binomial(200, math.e / (1 + math.e), size=1000)
    bounds = [epsilon_lower_bound(int(number), 200, 200, 0.0) for number in correct]
    assert sum(bound > 1 for bound in bounds) <= 90 and np.median(bounds) > 0.6


def test_a_reading_pays_for_the_numbers_of_guesses_that_it_tried():
    """Scores without any information: of 400 readings at 95 %, more than 45 with a bound above 0 are below 1e-5."""
    rng = np.random.default_rng(1)
    readings = [read_scores("x", rng.normal(size=80), rng.random(80) < 0.5, 0.0) for _ in range(400)]
    assert sum(reading.epsilon_lower_bound > 0 for reading in readings) <= 45
    assert 0.4 < np.mean([reading.auc for reading in readings]) < 0.6
    perfect = read_scores("x", np.arange(80.0), np.arange(80) >= 40, 0.0)
    assert (perfect.num_correct, perfect.num_guesses, perfect.auc) == (80, 80, 1.0)
    # Equal scores say nothing, in whatever order the targets come.
    assert read_scores("x", np.zeros(80), np.arange(80) >= 40, 0.0).epsilon_lower_bound < 0.5


def test_mu_of_a_gaussian_is_bounded_and_nearly_reached():
    rng = np.random.default_rng(2)
    bound = mu_lower_bound(rng.normal(1.0, 1, 20_000), rng.normal(0.0, 1, 20_000))
    assert 0.9 < bound < 1.0
    assert mu_lower_bound(rng.normal(size=5000), rng.normal(size=5000)) < 0.05
    assert norm.cdf(bound) < norm.cdf(1.0)


def test_canaries_are_different_texts_and_come_back():
    assert len(set(make_canaries(300))) == 300 and make_canaries(5) == make_canaries(5)
    assert set(make_canaries(5)).isdisjoint(make_canaries(5, seed=1))


def test_enlisting_leaves_out_those_whose_coins_fell_so(private, config):
    audited, targets = sample_targets(private, config, num_canaries=40, client_share=0.5)
    assert targets.is_canary.sum() == 40 and len(targets.texts) == 46
    assert all(len(own) == config.max_samples_per_client for own in targets.texts[:40])
    there = set(audited["text"])
    for own, is_member in zip(targets.texts, targets.is_member, strict=True):
        assert all((text in there) == is_member for text in own)
    again = sample_targets(private, config, num_canaries=40, client_share=0.5)
    assert again[1].texts == targets.texts and (again[1].is_member == targets.is_member).all()
    with pytest.raises(ValueError, match="leave no one to audit"):
        sample_targets(private, config, num_canaries=0, client_share=0.0)


def unlike_texts(number):
    return random_texts(number, seed=77, low=10, high=14)


@pytest.mark.parametrize("votes_per_sample", [1, 16])
@pytest.mark.parametrize("noise", [True, False])
def test_a_run_without_noise_is_caught_and_one_with_noise_is_not(
    bert, sentence_transformer, llama, config, private, tmp_path, monkeypatch, noise, votes_per_sample
):
    # The tiny tokenizer has no digits, of which canaries are made.
    monkeypatch.setattr("hf_pretext.audit.make_canaries", lambda number, seed: unlike_texts(number))

    settings = replace(
        config,
        # Where canaries share bins, fewer of them are guessed right.
        epsilon=1.0 if votes_per_sample == 1 else 0.5,
        votes_per_sample=votes_per_sample,
        num_rounds=1,
        lookahead=0,
        population_size=160,
        max_length=64,
        seeds_per_prompt=3,
    )
    audited, targets = sample_targets(private, settings, num_canaries=120, client_share=0.0)
    generator = PrivateEvolutionGenerator(
        bert,
        sentence_transformer,
        llama,
        config=settings,
        run_dir=tmp_path,
        noise=None if noise else lambda scale, size: np.zeros(size, dtype=np.int64),
    )
    population = [own[0] for own in targets.texts] + random_texts(40, seed=2)
    generator.evolve(audited, initial_population=population)
    scores = vote_scores(tmp_path, targets, generator.embed, votes_per_sample)
    reading = read_scores("votes", scores, targets.is_member, settings.delta)
    # The claim is refuted for the one run and not for the other.
    assert (reading.epsilon_lower_bound > settings.epsilon) is not noise
    assert (reading.auc > (0.9 if votes_per_sample == 1 else 0.8)) is not noise


def test_targets_that_share_bins_are_told_apart():
    """Three targets in four bins, of which two have one bin in common, and a fourth that votes for nothing."""
    added = np.array([[1, 0, 0, 0], [0, 0.8, 0.6, 0], [0, 0.6, 0, 0], [0, 0, 0.8, 0]] + [[0, 0, 0, 0]] * 8)
    for members in ([0, 1], [2], [0, 2], [1, 2]):
        scores = _memberships(added, added[:, members].sum(axis=1) + 0.3)
        expected = np.isin(np.arange(3), members) - 0.5
        np.testing.assert_allclose(scores[:3], expected, atol=0.1)
        assert abs(scores[3]) < 1e-9


def test_scores_by_text_are_higher_for_those_whose_texts_came_out(embedder):
    texts = tuple((text,) for text in unlike_texts(40))
    is_member = np.arange(40) < 20
    targets = Targets(texts, np.ones(40, dtype=bool), is_member)
    outputs = [own[0] for own, member in zip(texts, is_member, strict=True) if member]
    for scores in (
        similarity_scores(outputs, targets, embedder),
        ngram_scores(outputs, random_texts(20), targets),
    ):
        assert scores[is_member].min() > scores[~is_member].max()
