import logging

import numpy as np
import pytest

from hf_pretext.evolution.evidence import (
    EFFECTIVE_FRACTION,
    MAX_CHANGE,
    Evidence,
    SeedsReading,
    TiltReading,
    VotesReading,
    mean_of,
    strength_of,
)
from hf_pretext.evolution.selection import resample, threshold_votes
from hf_pretext.evolution.smoothing import smooth_votes


def test_threshold_is_subtracted_and_cut_off():
    np.testing.assert_allclose(threshold_votes(np.array([5.0, 2.0, -1.0, 3.0]), 2.0), [3.0, 0.0, 0.0, 1.0])


def test_nothing_above_the_threshold_falls_back_to_the_largest(caplog):
    votes = np.linspace(-10, 1, 64)
    with caplog.at_level(logging.WARNING, logger="hf_pretext"):
        weights = threshold_votes(votes, 5.0)
    assert np.flatnonzero(weights).tolist() == [60, 61, 62, 63]
    assert "No candidate has more votes" in caplog.text


def test_fallback_keeps_at_least_one():
    assert threshold_votes(np.array([-3.0, -1.0]), 0.0).tolist() == [0.0, 1.0]


def test_parents_follow_the_weights():
    """With 40,000 draws each share is within 5 standard errors."""
    weights = np.array([0.0, 1.0, 3.0])
    parents = resample(weights, 40_000, np.random.default_rng(0))
    shares = np.bincount(parents, minlength=3) / 40_000
    assert shares[0] == 0
    assert abs(shares[2] - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 40_000)


def votes_in_two_groups(rng, num=600, noise_std=4.0):
    """Candidates in two clusters of directions, of which only the first gets votes; the noise is four times those."""
    centers = rng.standard_normal((2, 16))
    group = np.arange(num) % 2
    points = centers[group] + 0.5 * rng.standard_normal((num, 16))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    true = np.where(group == 0, 2.0, 0.0)
    return points, group, true, true + noise_std * rng.standard_normal(num)


def test_smoothing_takes_out_noise_and_says_how_much_is_left():
    """The estimate is several times nearer to the truth than the noisy votes, and its standard deviation is honest.

    Over six histograms the squared error over the claimed variance has mean 1 where the model is right; it is not
    quite (the truth is a step), so a factor of three either way is allowed.
    """
    ratios, gains = [], []
    for seed in range(6):
        points, _, true, noisy = votes_in_two_groups(np.random.default_rng(seed))
        smoothed = smooth_votes(noisy, 4.0, points)
        gains.append(np.mean((noisy - true) ** 2) / np.mean((smoothed.votes - true) ** 2))
        ratios.append(np.mean((smoothed.votes - true) ** 2 / smoothed.std**2))
        assert (smoothed.std <= 4.0 + 1e-9).all()
    assert np.median(gains) > 10
    assert 1 / 3 < np.mean(ratios) < 3


def test_smoothing_leaves_votes_alone_that_have_no_noise_to_speak_of():
    points, _, _, noisy = votes_in_two_groups(np.random.default_rng(0))
    assert np.allclose(smooth_votes(noisy, 1e-3, points).votes, noisy, atol=0.05)


def test_votes_for_texts_that_were_no_candidates_are_predicted():
    points, group, _, noisy = votes_in_two_groups(np.random.default_rng(1))
    smoothed = smooth_votes(noisy[:400], 4.0, points[:400])
    predicted = smoothed.predict(points[400:])
    assert predicted[group[400:] == 0].mean() > 1.5 > 0.5 > predicted[group[400:] == 1].mean()


@pytest.mark.parametrize("number", [2, 3, 900])
def test_smoothing_pure_noise_or_equal_votes_is_calm(number):
    rng = np.random.default_rng(number)
    points = rng.standard_normal((number, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for votes in (np.zeros(number), np.full(number, 3.0), rng.standard_normal(number)):
        smoothed = smooth_votes(votes, 1.0, points)
        assert np.isfinite(smoothed.votes).all() and np.isfinite(smoothed.std).all()
        assert np.abs(smoothed.votes).max() <= np.abs(votes).max() + 1e-6


def reading(votes, points, noise_std=4.0):
    return VotesReading(votes, noise_std, lambda: points)


def test_the_evidence_finds_what_the_votes_of_all_rounds_prefer():
    """Two rounds about the same two groups multiply. A text near none of the seeds is judged as the average seed."""
    points, group, _, noisy = votes_in_two_groups(np.random.default_rng(2))
    once = Evidence([reading(noisy, points)]).ratios(points)
    evidence = Evidence()
    assert not evidence and np.array_equal(evidence.ratios(points), np.ones(len(points)))
    for _ in range(2):
        evidence.add(reading(noisy, points))
    twice = evidence.ratios(points)
    assert evidence and np.allclose(twice, once**2)
    assert once[group == 0].mean() > 2 * once[group == 1].mean() > 0
    judged = Evidence([SeedsReading(points[:200], twice[:200])]).ratios(points)
    assert judged[group == 0].min() > judged[group == 1].max()


def test_ratios_are_relative_to_what_they_are_asked_about():
    """Among the preferred group alone, no text is preferred. Among all of them it is."""
    points, group, _, noisy = votes_in_two_groups(np.random.default_rng(2))
    first = points[group == 0]
    for each in (reading(noisy, points), TiltReading(lambda rows: rows @ first.mean(axis=0), lambda: points, 0.1)):
        among_first, among_all = each.ratios(first, among=first), each.ratios(first, among=points)
        assert among_first.mean() == pytest.approx(1, abs=0.3) and among_all.mean() > 1.5


def test_a_mean_of_the_preferred_group_prefers_it():
    """The scores of a mean embedding separate the groups, at the effective sample size that was asked for."""
    points, group, _, _ = votes_in_two_groups(np.random.default_rng(3))
    direction = points[group == 0].mean(axis=0) - points.mean(axis=0)
    for fraction in (0.05, 0.2, 0.4):
        ratios = TiltReading(lambda rows: rows @ direction, lambda: points, fraction).ratios(points)
        assert ratios.mean() == pytest.approx(1)
        assert (ratios.sum() ** 2 / (ratios**2).sum()) / len(ratios) == pytest.approx(fraction, rel=1e-3)
        assert ratios[group == 0].mean() > 5 * ratios[group == 1].mean()


@pytest.mark.parametrize("scores", [np.zeros(5), np.array([1.0, 1.0, 0.0]), np.array([1e9, -1e9, 0.0, 5.0])])
def test_no_tilt_is_sharper_than_its_ties_allow(scores):
    strength = strength_of(scores, 0.1)
    assert 0 <= strength < float("inf")
    ratios = TiltReading(lambda rows: rows[:, 0], lambda: scores[:, None], 0.1).ratios(scores[:, None])
    assert np.isfinite(ratios).all() and (ratios > 0).all()


@pytest.mark.parametrize("num_texts", [2, 3, 5, 12, 13, 100])
def test_a_tilt_of_few_texts_leaves_a_chance_to_each(num_texts):
    """A twelfth of fewer than twelve texts is no whole text. Then all texts but one had no chance at all."""
    scores = np.random.default_rng(num_texts).normal(size=num_texts)
    ratios = TiltReading(lambda rows: rows[:, 0], lambda: scores[:, None], EFFECTIVE_FRACTION).ratios(scores[:, None])
    assert ratios.min() > 1e-45 and ratios.mean() == pytest.approx(1)
    wide = TiltReading(lambda rows: rows[:, 0], lambda: 2000 * scores[:, None]).ratios(2000 * scores[:, None])
    assert np.isfinite(wide).all() and (wide > 0).all()


def test_a_mean_is_shrunk_by_its_noise_and_unknown_if_it_is_mostly_noise():
    """400 clients are at 0.3 from a public mean, 0.7 is the unit. A few would be lost in the noise."""
    rng, center, shift = np.random.default_rng(0), np.full(384, 0.02), np.zeros(384)
    shift[:9] = 0.1

    def released(number, noise_std=2.5):
        answer = number * shift / 0.7 + noise_std * rng.normal(size=384)
        return mean_of(answer, noise_std, number, center)

    found = released(400)
    assert np.linalg.norm(found - center - shift) < 0.15 and np.linalg.norm(found - center) < 0.32
    assert released(100) is None and released(0) is None and mean_of(np.zeros(384), 0.0, 0, center) is None


def test_what_a_round_says_is_bounded_whatever_the_votes_are():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((50, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for votes in (np.zeros(50), -np.ones(50), 1e6 * rng.standard_normal(50)):
        factors = reading(votes, points, 1.0).ratios(points)
        assert (factors >= 1 / MAX_CHANGE).all() and (factors <= MAX_CHANGE).all()


def test_candidates_that_are_means_of_variations_are_read_as_unit_vectors():
    """Their mean is shorter. A text in the same direction would seem nearer to them than they are to themselves."""
    points, _, _, noisy = votes_in_two_groups(np.random.default_rng(2))
    lengths = np.random.default_rng(3).uniform(0.6, 1, size=(len(points), 1)).astype(np.float32)
    expected, found = (reading(noisy, each).ratios(points) for each in (points, points * lengths))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert reading(noisy, points).embeddings is points
