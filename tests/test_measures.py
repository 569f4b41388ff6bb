import numpy as np
import pytest
from scipy.linalg import sqrtm

from hf_pretext.evaluation.measures import (
    _fraction_within,
    distinct_n,
    frechet_distance,
    length_histogram,
    mauve,
    precision_recall,
)


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    reference, other = rng.normal(size=(300, 6)) * [3, 2, 1, 1, 0.5, 0.1], 0.3 + rng.normal(size=(300, 6))
    first, second = np.cov(reference, rowvar=False), np.cov(other, rowvar=False)
    shift = reference.mean(0) - other.mean(0)
    expected = shift @ shift + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(reference, other, num_components=6) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_have_distance_zero_and_shifts_add_their_square():
    points = np.random.default_rng(0).normal(size=(200, 8))
    assert frechet_distance(points, points, 8) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + np.eye(8)[0], 8) == pytest.approx(1, rel=1e-6)


def test_unequal_sizes_are_cut_to_the_smaller():
    rng = np.random.default_rng(0)
    near = frechet_distance(rng.normal(size=(2000, 4)), rng.normal(size=(100, 4)), 4)
    far = frechet_distance(rng.normal(size=(2000, 4)), 2 + rng.normal(size=(100, 4)), 4)
    assert near < 0.5 < far


def test_too_few_texts_are_refused():
    with pytest.raises(ValueError, match="`num_components`=32"):
        frechet_distance(np.zeros((10, 64)), np.zeros((100, 64)))


def test_precision_and_recall_of_obvious_cases():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 8))
    assert precision_recall(points, points) == (1.0, 1.0)
    assert precision_recall(points, points + 100) == (0.0, 0.0)
    again = precision_recall(points, rng.normal(size=(200, 8)))
    assert min(again) > 0.6


def test_recall_falls_and_precision_stays_where_a_mode_is_missing():
    rng = np.random.default_rng(0)
    modes = [rng.normal(size=(150, 8)) + shift for shift in (0, 50)]
    precision, recall = precision_recall(np.concatenate(modes), rng.normal(size=(300, 8)))
    assert precision > 0.8 and recall < 0.6


def test_manifolds_do_not_depend_on_the_block():
    rng = np.random.default_rng(0)
    points, manifold = rng.normal(size=(50, 8)), rng.normal(size=(70, 8))
    assert _fraction_within(points, manifold, 3, block=7) == _fraction_within(points, manifold, 3)


def test_mauve_tells_near_from_far():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 300, 16))
    assert mauve(first, second) > 0.9 > 0.1 > mauve(first, second + 20)
    with pytest.raises(ValueError, match="more texts on both sides than the 99 there are: 100 at least"):
        mauve(first, second[:99])


def test_distinct_n_counted_by_hand():
    texts = ["the cat the cat", "the dog"]
    assert distinct_n(texts, 1) == 3 / 6
    assert distinct_n(texts, 2) == 3 / 4
    assert distinct_n(texts, 5) == 0


def test_length_histogram_counted_by_hand():
    found = length_histogram(num_bins=2, left=["a", "a b c"], right=["a b c d e"])
    assert found == {"edges": [0, 3, 6], "left": [0.5, 0.5], "right": [0, 1]}
