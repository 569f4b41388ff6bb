import logging

import numpy as np

from hf_pretext.selection import resample, threshold_votes


def test_threshold_is_subtracted_and_cut_off():
    np.testing.assert_allclose(threshold_votes(np.array([5.0, 2.0, -1.0, 3.0]), 2.0), [3.0, 0.0, 0.0, 1.0])


def test_nothing_above_the_threshold_falls_back_to_the_largest(caplog):
    votes = np.linspace(-10, 1, 64)
    with caplog.at_level(logging.WARNING):
        weights = threshold_votes(votes, 5.0)
    assert np.flatnonzero(weights).tolist() == [60, 61, 62, 63]
    assert "No candidate has more noisy votes" in caplog.text


def test_fallback_keeps_at_least_one():
    assert threshold_votes(np.array([-3.0, -1.0]), 0.0).tolist() == [0.0, 1.0]


def test_parents_follow_the_weights():
    """With 40,000 draws each share is within 5 standard errors."""
    weights = np.array([0.0, 1.0, 3.0])
    parents = resample(weights, 40_000, np.random.default_rng(0))
    shares = np.bincount(parents, minlength=3) / 40_000
    assert shares[0] == 0
    assert abs(shares[2] - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 40_000)
