"""The guarantee as a statistical claim: what holds, and that what would break it is caught."""

import contextlib

import numpy as np
import pytest
from scipy.stats import chi2, norm

from hf_pretext.privacy.noise import DiscreteGaussian
from support import guarantee, guarantee_clients, guarantee_tokens
from support.mutations import CHECKS, MUTATIONS, PARTS, fast_noise, is_caught

WITH_REAL_NOISE = {
    *(guarantee.check_one_bin, guarantee.check_noise, guarantee.check_mean, guarantee.check_labels),
    *(guarantee_tokens.check_one_token, guarantee_clients.check_randomness),
}
"""One check of each kind of release, and those of the noise itself."""


@pytest.mark.parametrize(
    ("check", "noise"),
    [
        *((check, contextlib.nullcontext if check in WITH_REAL_NOISE else fast_noise) for check in CHECKS),
        *(
            pytest.param(check, contextlib.nullcontext, marks=pytest.mark.slow)
            for check in CHECKS
            if check not in WITH_REAL_NOISE
        ),
    ],
    ids=lambda each: each.__name__,
)
def test_the_release_path_keeps_its_claim(check, noise):
    """Many releases with and without a worst-case client. See the checks for their false-alarm rates.

    `make prove` has 4,000 of each, with the noise that is really drawn.
    """
    with noise():
        check(num_runs=600)


FIRST_OF_EACH_CHECK = {check: name for name, (_, check) in reversed(MUTATIONS.items())}.values()


@pytest.mark.parametrize(
    "name", [each if each in FIRST_OF_EACH_CHECK else pytest.param(each, marks=pytest.mark.slow) for each in MUTATIONS]
)
def test_what_would_break_it_is_caught(name):
    """The nearest miss is sqrt(2) for 1, eight standard errors apart: missed once in 10,000 times.

    One for each check, and all of them in `make test-slow`. `make prove` does the same with the noise that is really
    drawn.
    """
    assert is_caught(name, num_runs=1000, noise=fast_noise)


def test_no_mutation_hides_another_one_of_its_name():
    assert len(MUTATIONS) == sum(len(part.MUTATIONS) for part in PARTS) >= 40


@pytest.mark.slow
def test_a_million_draws_are_discrete_gaussian():
    """Chi-squared against the pmf; false-alarm rate 1e-6."""
    scale, draws = 3.0, 1_000_000
    noise = np.concatenate([DiscreteGaussian()(scale, 50_000) for _ in range(20)])
    support = np.arange(-14, 15)
    weights = np.exp(-0.5 * (support / scale) ** 2)
    expected = draws * weights / np.exp(-0.5 * (np.arange(-200, 201) / scale) ** 2).sum()
    observed = np.array([(noise == value).sum() for value in support])
    rest, expected_rest = draws - observed.sum(), draws - expected.sum()
    statistic = ((observed - expected) ** 2 / expected).sum() + (rest - expected_rest) ** 2 / expected_rest
    assert statistic < chi2.ppf(1 - 1e-6, df=len(support))


@pytest.mark.slow
def test_a_million_draws_at_the_scale_of_a_run_are_gaussian():
    """Chi-squared in 100 cells of equal probability, at the quickstart's scale; false-alarm rate 1e-6."""
    scale, draws, cells = 2.40858 * 2**20, 1_000_000, 100
    noise = np.concatenate([DiscreteGaussian()(scale, 50_000) for _ in range(20)])
    edges = norm.ppf(np.arange(1, cells) / cells) * scale
    observed = np.bincount(np.searchsorted(edges, noise), minlength=cells)
    statistic = ((observed - draws / cells) ** 2 / (draws / cells)).sum()
    assert statistic < chi2.ppf(1 - 1e-6, df=cells - 1)
