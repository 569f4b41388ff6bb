import numpy as np
import pytest
from scipy.linalg import sqrtm

from hf_pretext.evaluation import frechet_distance


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
