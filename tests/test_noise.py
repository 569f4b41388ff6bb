import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from scipy.stats import chi2

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.privacy import Plan
from hf_pretext.privacy.mechanism import UNITS
from hf_pretext.privacy.noise import DiscreteGaussian


def test_distribution_is_the_discrete_gaussian():
    """Chi-squared against the pmf; false-alarm rate 1e-6."""
    scale, draws = 3.0, 50_000
    noise = DiscreteGaussian()(scale, draws)
    support = np.arange(-12, 13)
    weights = np.exp(-0.5 * (support / scale) ** 2)
    expected = draws * weights / np.exp(-0.5 * (np.arange(-200, 201) / scale) ** 2).sum()
    observed = np.array([(noise == value).sum() for value in support])
    inside = ((observed - expected) ** 2 / expected).sum()
    rest, expected_rest = draws - observed.sum(), draws - expected.sum()
    statistic = inside + (rest - expected_rest) ** 2 / expected_rest
    assert statistic < chi2.ppf(1 - 1e-6, df=len(support))


@pytest.mark.parametrize(
    ("config", "noise_multiplier", "sensitivity"),
    [
        (PrivateEvolutionConfig.paper(epsilon=1.29), 11.28, 8),
        (PrivateEvolutionConfig(epsilon=1.29, delta=3e-6), 5.48, 1),
    ],
    ids=["paper", "default"],
)
def test_noise_has_the_standard_deviation_that_was_accounted_for(config, noise_multiplier, sensitivity):
    """Of 40,000 draws the standard deviation is known to 0.35 %; 2 % is more than five standard errors."""
    noise = DiscreteGaussian()(Plan.from_config(config).entry("votes").mechanism.noise_scale, 40_000) / UNITS
    assert noise.std() == pytest.approx(noise_multiplier * sensitivity, rel=0.02)
    assert abs(noise.mean()) < 6 * noise_multiplier * sensitivity / np.sqrt(40_000)


def test_no_seed_reproduces_the_noise():
    """Two copies of one process, which have every state of every generator in common, draw different noise."""
    DiscreteGaussian()(1e6, 16)  # So that they have the sampler's state in common as well.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(1, context) as other:
        first, second = one.submit(_draw).result(), other.submit(_draw).result()
    assert len(first) == 16 and first != second


def _draw():
    return DiscreteGaussian()(1e6, 16).tolist()


def test_large_scales_do_not_saturate():
    noise = DiscreteGaussian()(2.0**40, 1000)
    assert noise.dtype == np.int64 and 0.8 < noise.std() / 2**40 < 1.2


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_no_noise_is_refused(scale):
    with pytest.raises(ValueError, match="`scale`"):
        DiscreteGaussian()(scale, 4)


def test_no_bins_need_no_noise():
    assert DiscreteGaussian()(1.0, 0).shape == (0,)
