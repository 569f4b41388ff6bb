"""Statistical checks of the whole release path, and mutations that each of them has to catch.

A check passes or raises an `AssertionError`; `tests/test_guarantee.py` and `make prove` run them with and without the
mutations. False-alarm rates are stated per check: five standard errors are 5.7e-7, on both sides.
"""

import contextlib
import math
from unittest import mock

import numpy as np
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.audit import mu_lower_bound
from hf_pretext.embedding import TextEmbedder
from hf_pretext.noise import DiscreteGaussian
from hf_pretext.privacy import PrivacyLedger, VoteMechanism

NUM_BINS = 24
CANDIDATES = np.eye(NUM_BINS, dtype=np.float32)
STANDARD_ERRORS = 5
OTHERS = {f"other-{number}": [f"bin {number % NUM_BINS}"] for number in range(10)}


class BinEncoder:
    """An embedding model that puts the text "bin 7" where candidate 7 is."""

    max_seq_length = None
    tokenizer = None

    def get_embedding_dimension(self):
        return NUM_BINS

    def encode(self, texts, **kwargs):
        return CANDIDATES[[int(text.split()[1]) for text in texts]]


def make_pool(samples, noise=None, **settings):
    """Make the pool of clients that hold these samples, with a noise multiplier of 1."""
    config = PrivateEvolutionConfig(delta=1e-5, noise_multiplier=1.0, population_size=NUM_BINS, **settings)
    rows = [{"client_id": client, "text": text} for client, own in samples.items() for text in own]
    ledger = PrivacyLedger(VoteMechanism.from_config(config))
    return InMemoryClientPool(Dataset.from_list(rows), TextEmbedder(BinEncoder()), config, ledger, noise)


def measure_effect(client, instead, direction, num_runs, **settings):
    """Release many times with one client and many times with another, or none, and compare along a direction.

    Returns:
        The difference of the means in standard deviations (mu, where the direction is that of the change), its
        standard error, and the scores of both sides.
    """
    direction = np.asarray(direction) / np.linalg.norm(direction)
    scores = []
    for own in (client, instead):
        pool = make_pool({**OTHERS, **({"target": own} if own else {})}, **settings)
        scores.append(np.array([pool.release_histogram(CANDIDATES) @ direction for _ in range(num_runs)]))
    spread = math.sqrt((scores[0].var(ddof=1) + scores[1].var(ddof=1)) / 2)
    effect = float(scores[0].mean() - scores[1].mean()) / spread
    return effect, math.sqrt(2 / num_runs + effect**2 / (4 * num_runs)), *scores


def check_effect(client, instead, direction, expected, num_runs, **settings):
    """Check the effect from both sides; also that no epsilon above the claim is proved, with confidence 1 - 1e-6."""
    effect, error, with_client, without = measure_effect(client, instead, direction, num_runs, **settings)
    assert abs(effect - expected) < STANDARD_ERRORS * error, f"effect {effect:.3f} +- {error:.3f}, not {expected:.3f}"
    assert mu_lower_bound(with_client, without, confidence=1 - 1e-6) <= 1.0, "the claim of mu = 1 is refuted"
    return {"measured": effect, "expected": expected, "low": effect - 2 * error, "high": effect + 2 * error}


ONE_BIN = np.eye(NUM_BINS)[3]
ALL_IN_ONE_BIN = ["bin 3"] * 1000
EVERY_BIN = [f"bin {number}" for number in range(NUM_BINS)]


def check_one_bin(num_runs):
    """The worst case: all samples of a client in one bin. It reaches the claim, and does not exceed it."""
    return check_effect(ALL_IN_ONE_BIN, None, ONE_BIN, 1.0, num_runs)


def check_spread(num_runs):
    """A client whose samples vote for four bins each, half a vote a bin: it reaches the claim, and not more."""
    nearest = np.isin(np.arange(NUM_BINS), [0, 1, 2, 3])  # all others are equally far, and the first ones win
    return check_effect(ALL_IN_ONE_BIN, None, nearest, 1.0, num_runs, votes_per_sample=4)


def check_every_bin(num_runs):
    """A client with a sample in every bin votes with eight of them: one vote each, of a sensitivity of eight."""
    settings = {"vote_clipping": "count", "max_samples_per_client": 8}
    return check_effect(EVERY_BIN, None, np.ones(NUM_BINS), 1 / math.sqrt(NUM_BINS), num_runs, **settings)


def check_exchange(num_runs):
    """The worst case of replacing a client: from one bin to another, `sqrt(2)` apart, under `sqrt(2)` the noise."""
    direction = ONE_BIN - np.eye(NUM_BINS)[7]
    settings = {"neighboring_relation": "replace_one"}
    return check_effect(ALL_IN_ONE_BIN, ["bin 7"] * 1000, direction, 1.0, num_runs, **settings)


def check_sampling(num_runs):
    """Who takes part follows the rate, each round and each client by itself; without noise this can be counted."""
    rate = 0.3
    pool = make_pool(OTHERS, noise=lambda scale, size: np.zeros(size, dtype=np.int64), client_sampling_rate=rate)
    present = np.array([pool.release_histogram(CANDIDATES)[:10] for _ in range(num_runs)])
    assert set(np.unique(present)) <= {0.0, 1.0}
    error = math.sqrt(rate * (1 - rate) / num_runs)
    assert np.abs(present.mean(axis=0) - rate).max() < 6 * error
    check_independent((present - rate) / math.sqrt(rate * (1 - rate)))


def check_noise(num_runs):
    """The noise of bins and of rounds is independent, and has the scale that is accounted for."""
    pool = make_pool(OTHERS)
    clean = np.bincount(np.arange(10) % NUM_BINS, minlength=NUM_BINS)
    noise = np.array([pool.release_histogram(CANDIDATES) for _ in range(num_runs)]) - clean
    assert abs(noise.std() - 1) < STANDARD_ERRORS * math.sqrt(0.5 / noise.size), f"standard deviation {noise.std()}"
    check_independent(noise)


def check_independent(standardized):
    """Correlations of all pairs of columns, and of rows at every distance up to half their number.

    With 24 columns and 4,000 rows, that is 2,276 tests of 6.5 standard errors each: 2e-7 in all.
    """
    num_rows, num_columns = standardized.shape
    pairs = np.triu(standardized.T @ standardized / num_rows, k=1)
    assert np.abs(pairs).max() < 6.5 / math.sqrt(num_rows), (
        f"bins {np.unravel_index(np.abs(pairs).argmax(), pairs.shape)}"
    )
    for lag in range(1, num_rows // 2 + 1):
        correlation = float((standardized[lag:] * standardized[:-lag]).mean())
        error = 1 / math.sqrt((num_rows - lag) * num_columns)
        assert abs(correlation) < 6.5 * error, f"correlation {correlation} of rounds {lag} apart"


@contextlib.contextmanager
def _patched(target, replacement):
    with mock.patch(target, replacement):
        yield


def _halved_noise():
    draw = DiscreteGaussian.__call__
    return _patched(
        "hf_pretext.noise.DiscreteGaussian.__call__", lambda self, scale, size: draw(self, scale / 2, size)
    )


def _one_draw_for_all_bins():
    draw = DiscreteGaussian.__call__
    return _patched(
        "hf_pretext.noise.DiscreteGaussian.__call__", lambda self, scale, size: np.repeat(draw(self, scale, 1), size)
    )


def _one_draw_for_all_rounds():
    draw, kept = DiscreteGaussian.__call__, {}
    return _patched(
        "hf_pretext.noise.DiscreteGaussian.__call__",
        lambda self, scale, size: kept.setdefault(size, draw(self, scale, size)),
    )


def _two_halves_of_the_bins_share_a_draw():
    draw = DiscreteGaussian.__call__

    def halved(self, scale, size):
        return np.tile(draw(self, scale, (size + 1) // 2), 2)[:size]

    return _patched("hf_pretext.noise.DiscreteGaussian.__call__", halved)


def _noise_comes_back_six_rounds_later():
    draw, kept = DiscreteGaussian.__call__, []

    def recurring(self, scale, size):
        kept.append(kept[-6] if len(kept) % 12 >= 6 else draw(self, scale, size))
        return kept[-1]

    return _patched("hf_pretext.noise.DiscreteGaussian.__call__", recurring)


def _votes_as_they_are(clients, counts, clip_norm, vote_units):
    return counts * vote_units


MUTATIONS = {
    "noise is halved": (_halved_noise, check_one_bin),
    "samples per client are not capped": (
        lambda: _patched("hf_pretext.clients._cap", lambda client, samples, cap, seed: samples),
        check_every_bin,
    ),
    "votes are not clipped": (
        lambda: _patched("hf_pretext.voting.quantize_votes", _votes_as_they_are),
        check_one_bin,
    ),
    "votes that are spread are not clipped": (
        lambda: _patched("hf_pretext.voting.quantize_votes", _votes_as_they_are),
        check_spread,
    ),
    "replacing a client gets the noise of removing one": (
        lambda: _patched("hf_pretext.privacy.VoteMechanism.sensitivity", property(lambda self: self.clip_norm)),
        check_exchange,
    ),
    "one draw of noise serves all bins": (_one_draw_for_all_bins, check_noise),
    "one draw of noise serves all rounds": (_one_draw_for_all_rounds, check_noise),
    "two halves of the bins share one draw": (_two_halves_of_the_bins_share_a_draw, check_noise),
    "noise comes back six rounds later": (_noise_comes_back_six_rounds_later, check_noise),
    "everybody takes part in every round": (
        lambda: _patched("hf_pretext.clients.sample_clients", lambda number, rate: np.ones(number, dtype=bool)),
        check_sampling,
    ),
    "the same clients take part in every round": (
        lambda: _patched("hf_pretext.clients.sample_clients", lambda number, rate: np.arange(number) < rate * number),
        check_sampling,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (check_one_bin, check_spread, check_every_bin, check_exchange, check_sampling, check_noise)


def is_caught(name, num_runs):
    """Tell whether the check of a mutation fails under it."""
    mutate, check = MUTATIONS[name]
    with mutate():
        try:
            check(num_runs)
        except AssertionError:
            return True
    return False
