"""Statistical checks of the whole release path, and mutations that each of them has to catch.

A check passes or raises an `AssertionError`; `tests/test_guarantee.py` and `make prove` run them with and without the
mutations. False-alarm rates are stated per check: five standard errors are 5.7e-7, on both sides.
"""

import contextlib
import math
from dataclasses import replace
from unittest import mock

import numpy as np
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.audit import mu_lower_bound
from hf_pretext.clients.clipping import Answers, quantize
from hf_pretext.clients.questions import (
    LabeledMeanEmbedding,
    MeanEmbedding,
    NearestCandidates,
    NearestLabeledCandidates,
)
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.privacy.plan import SHARE_WEIGHT

NUM_BINS = 24
CANDIDATES = np.eye(NUM_BINS, dtype=np.float32)
STANDARD_ERRORS = 5
DRAW = "hf_pretext.privacy.noise.DiscreteGaussian.__call__"
SAMPLE = "hf_pretext.clients.in_memory.sample_clients"
OTHERS = {f"other-{number}": [f"bin {number % NUM_BINS}"] for number in range(10)}


class BinEncoder:
    """An embedding model that puts the text "bin 7" where candidate 7 is, and any other one where candidate 0 is."""

    max_seq_length = None
    tokenizer = None

    def get_embedding_dimension(self):
        return NUM_BINS

    def encode(self, texts, **kwargs):
        words = [text.split()[1] for text in texts]
        return CANDIDATES[[int(word) if word.isdigit() else 0 for word in words]]


def make_pool(samples, noise=None, **settings):
    """Make the pool of clients that hold these samples, and return what asks it. A vote gets a noise of 1."""
    settings = {"noise_multiplier": 1.0, "delta": 1e-5, "population_size": NUM_BINS, **settings}
    config = PrivateEvolutionConfig(**settings)
    rows = [
        {"client_id": client, "text": text, "parity": list(LABELS)[int(text.split()[1]) % 2]}
        for client, own in samples.items()
        for text in own
    ]
    plan = Plan.from_config(config)
    pool = InMemoryClientPool(Dataset.from_list(rows), TextEmbedder(BinEncoder()), config, plan, noise)
    ledger = PrivacyLedger(plan)

    votes = NearestCandidates.of(CANDIDATES, config.votes_per_sample)

    def release(question=None):
        return pool.release(question or votes, ledger)

    return release


def measure_effect(client, instead, direction, num_runs, question=None, **settings):
    """Release many times with one client and many times with another, or none, and score answers along a direction."""
    direction = np.asarray(direction) / np.linalg.norm(direction)
    scores = []
    for own in (client, instead):
        release = make_pool({**OTHERS, **({"target": own} if own else {})}, **settings)
        scores.append(np.array([release(question) @ direction for _ in range(num_runs)]))
    return scores


def check_effect(client, instead, direction, expected, num_runs, **settings):
    """Measure what one client instead of another, or none, changes along a direction, and check it."""
    return check_scores(*measure_effect(client, instead, direction, num_runs, **settings), expected)


def check_scores(with_client, without, expected):
    """Check an effect from both sides, and that no mu above the claim is proved, with confidence 1 - 1e-6.

    The effect is the difference of the means in standard deviations: mu, if the direction is that of the change.
    """
    spread = math.sqrt((with_client.var(ddof=1) + without.var(ddof=1)) / 2)
    effect = float(with_client.mean() - without.mean()) / spread
    error = math.sqrt(2 / len(without) + effect**2 / (4 * len(without)))
    assert abs(effect - expected) < STANDARD_ERRORS * error, f"effect {effect:.3f} +- {error:.3f}, not {expected:.3f}"
    claim = max(1.0, expected)
    assert mu_lower_bound(with_client, without, confidence=1 - 1e-6) <= claim, f"the claim of mu = {claim} is refuted"
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


def mean_relative_to(*bins):
    """Ask for a mean relative to the mean of some candidates."""
    return MeanEmbedding.of(CANDIDATES[list(bins)] if bins else np.zeros((1, NUM_BINS)))


def check_mean(num_runs):
    """The worst case of a mean: all samples of a client in one place, beyond the clipping distance."""
    settings = {"question": mean_relative_to(), "mean_fraction": 0.5, "num_rounds": 1}
    return check_effect(ALL_IN_ONE_BIN, None, ONE_BIN, 1.0, num_runs, **settings)


def check_mean_exchange(num_runs):
    """The worst case of replacing a client: from one side of the public mean to the other, under twice the noise."""
    settings = {"question": mean_relative_to(3, 7), "mean_fraction": 0.5, "num_rounds": 1}
    direction = ONE_BIN - np.eye(NUM_BINS)[7]
    settings["neighboring_relation"] = "replace_one"
    return check_effect(ALL_IN_ONE_BIN, ["bin 7"] * 1000, direction, 1.0, num_runs, **settings)


LABELS = {"even": "bins of even numbers", "odd": "bins of odd numbers"}
WITH_LABELS = {"labels": LABELS, "label_column": "parity", "num_rounds": 1}


def labeled_candidates(share_weight=SHARE_WEIGHT):
    """Ask about the candidates by the parity of their numbers, and how common each is."""
    return NearestLabeledCandidates.of(CANDIDATES, np.arange(NUM_BINS) % 2, 2, 1, share_weight, 8)


def check_labels(num_runs):
    """A client whose samples have both labels: its votes and shares together reach the claim, and not more."""
    direction = np.zeros(NUM_BINS + 2)
    direction[[3, 8]], direction[NUM_BINS:] = math.sqrt(1 - SHARE_WEIGHT**2 / 2), SHARE_WEIGHT / math.sqrt(2)
    client = ["bin 3", "bin 8"] * 4
    settings = {"question": labeled_candidates(), **WITH_LABELS}
    return check_effect(client, None, direction, 1.0, num_runs, **settings)


def check_labels_exchange(num_runs):
    """The worst case of replacing a client: from one label to the other one, under `sqrt(2)` the noise."""
    direction = np.zeros(NUM_BINS + 2)
    direction[[3, NUM_BINS + 1]] = math.sqrt(1 - SHARE_WEIGHT**2), SHARE_WEIGHT
    direction[[8, NUM_BINS]] = -direction[[3, NUM_BINS + 1]]
    settings = {"question": labeled_candidates(), **WITH_LABELS, "neighboring_relation": "replace_one"}
    return check_effect(ALL_IN_ONE_BIN, ["bin 8"] * 1000, direction, 1.0, num_runs, **settings)


def mean_by_label(*bins):
    """Ask for a mean of each parity relative to the mean of some candidates."""
    return LabeledMeanEmbedding(mean_relative_to(*bins).center, 2)


def in_block(label, vector):
    """Put a vector of embeddings into the block of a label."""
    return np.concatenate([np.zeros(NUM_BINS), vector] if label else [vector, np.zeros(NUM_BINS)])


def check_labeled_mean(num_runs):
    """A client with samples of both labels: the blocks of both together reach the claim, and not more."""
    bins = np.eye(NUM_BINS)
    direction = in_block(1, bins[3] - bins[6]) + in_block(0, bins[8] - bins[6])
    settings = {"question": mean_by_label(6), **WITH_LABELS, "mean_fraction": 0.5}
    return check_effect(["bin 3", "bin 8"] * 4, None, direction, 1.0, num_runs, **settings)


def check_labeled_mean_exchange(num_runs):
    """The worst case of replacing a client: from one side of the public mean to the other, under twice the noise."""
    direction = in_block(1, ONE_BIN - np.eye(NUM_BINS)[7])
    settings = {"question": mean_by_label(3, 7), **WITH_LABELS, "mean_fraction": 0.5}
    relation = {"neighboring_relation": "replace_one"}
    return check_effect(ALL_IN_ONE_BIN, ["bin 7"] * 1000, direction, 1.0, num_runs, **settings, **relation)


def check_run(num_runs):
    """A run of one mean and two votes at different noise: together they reach the composed mu, and not more.

    The best attack on Gaussian releases is the sum of the answers along the change, weighted by their precision.
    """
    settings = {"noise_multiplier": 2.0, "mean_fraction": 0.8, "num_rounds": 2}
    plan = Plan.from_config(PrivateEvolutionConfig(delta=1e-5, population_size=NUM_BINS, **settings))
    votes = NearestCandidates.of(CANDIDATES)
    questions = [mean_relative_to(), votes, votes]
    multipliers = [plan.entry(question.name).mechanism.noise_multiplier for question in questions]
    expected = math.sqrt(sum(1 / multiplier**2 for multiplier in multipliers))
    assert len(set(multipliers)) == 2 and abs(expected - 1 / plan.noise_multiplier) < 1e-12
    scores = []
    for own in (ALL_IN_ONE_BIN, None):
        release = make_pool({**OTHERS, **({"target": own} if own else {})}, **settings)
        answers = [[release(question) @ ONE_BIN for question in questions] for _ in range(num_runs // 2)]
        scores.append(np.array(answers) @ (1 / np.array(multipliers) ** 2))
    return check_scores(*scores, expected)


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
    release = make_pool(OTHERS, noise=lambda scale, size: np.zeros(size, dtype=np.int64), client_sampling_rate=rate)
    present = np.array([release()[:10] for _ in range(num_runs)])
    assert set(np.unique(present)) <= {0.0, 1.0}
    error = math.sqrt(rate * (1 - rate) / num_runs)
    assert np.abs(present.mean(axis=0) - rate).max() < 6 * error
    check_independent((present - rate) / math.sqrt(rate * (1 - rate)))


def check_noise(num_runs):
    """The noise of bins and of rounds is independent, and has the scale that is accounted for."""
    release = make_pool(OTHERS)
    clean = np.bincount(np.arange(10) % NUM_BINS, minlength=NUM_BINS)
    noise = np.array([release() for _ in range(num_runs)]) - clean
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
def patched(target, replacement):
    with mock.patch(target, replacement):
        yield


def _halved_noise():
    draw = DiscreteGaussian.__call__
    return patched(DRAW, lambda self, scale, size: draw(self, scale / 2, size))


def _one_draw_for_all_bins():
    draw = DiscreteGaussian.__call__
    return patched(DRAW, lambda self, scale, size: np.repeat(draw(self, scale, 1), size))


def _one_draw_for_all_rounds():
    draw, kept = DiscreteGaussian.__call__, {}
    return patched(
        DRAW,
        lambda self, scale, size: kept.setdefault(size, draw(self, scale, size)),
    )


def _two_halves_of_the_bins_share_a_draw():
    draw = DiscreteGaussian.__call__

    def halved(self, scale, size):
        return np.tile(draw(self, scale, (size + 1) // 2), 2)[:size]

    return patched(DRAW, halved)


def _noise_comes_back_six_rounds_later():
    draw, kept = DiscreteGaussian.__call__, []

    def recurring(self, scale, size):
        kept.append(kept[-6] if len(kept) % 12 >= 6 else draw(self, scale, size))
        return kept[-1]

    return patched(DRAW, recurring)


def _not_clipped(answers, clip_norm, units):
    return Answers(answers.clients, answers.bins, np.rint(answers.values * units).astype(np.int64))


def _counted_by_label(self, samples):
    """Votes as they are counted, of any length, and the shares as they are."""
    votes = [NearestCandidates(self.candidates).nearest(samples.embeddings)[:, 0], samples.owners]
    own = (samples.labels >= 0) & (samples.labels < self.num_labels)
    shares = [len(self.candidates) + samples.labels[own], samples.owners[own]]
    (bins, clients), counts = np.unique(np.hstack([votes, shares]), axis=1, return_counts=True)
    return Answers(
        clients, bins, np.where(bins < len(self.candidates), 1.0, self.share_weight / self.max_samples) * counts
    )


def _clipped_by_label(answers, clip_norm, units):
    is_vote = answers.bins < NUM_BINS
    parts = [quantize(_only(answers, is_vote & (answers.bins % 2 == label)), clip_norm, units) for label in range(2)]
    parts.append(quantize(_only(answers, ~is_vote), clip_norm, units))
    joined = zip(*((each.clients, each.bins, each.values) for each in parts), strict=True)
    return Answers(*map(np.concatenate, joined))


def _only(answers, chosen):
    return Answers(answers.clients[chosen], answers.bins[chosen], answers.values[chosen])


@contextlib.contextmanager
def _a_norm_for_each_label():
    own = "hf_pretext.clients.questions.labeled_candidates.NearestLabeledCandidates.answers"
    with patched(own, _counted_by_label), patched("hf_pretext.clients.questions.summing.quantize", _clipped_by_label):
        yield


def _without_signs():
    def sensitivity(self):
        return self.clip_norm * (1.0 if self.neighboring_relation == "add_or_remove_one" else math.sqrt(2))

    return patched("hf_pretext.privacy.mechanism.Mechanism.sensitivity", property(sensitivity))


def _mean_with_half_of_its_noise():
    answer = InMemoryClientPool._answer

    def quieter(self, question, mechanism):
        factor = 0.5 if question.name == MeanEmbedding.name else 1.0
        return answer(self, question, replace(mechanism, noise_multiplier=factor * mechanism.noise_multiplier))

    return patched("hf_pretext.clients.in_memory.InMemoryClientPool._answer", quieter)


def _not_capped():
    return mock.patch.multiple(
        "hf_pretext.clients.samples",
        cap_samples=lambda client, samples, cap, seed: samples,
        _num_kept=lambda samples, cap: sum(len(own) for _, own in samples.items()),
    )


MUTATIONS = {
    "noise is halved": (_halved_noise, check_one_bin),
    "samples per client are not capped": (
        _not_capped,
        check_every_bin,
    ),
    "votes are not clipped": (
        lambda: patched("hf_pretext.clients.questions.summing.quantize", _not_clipped),
        check_one_bin,
    ),
    "votes that are spread are not clipped": (
        lambda: patched("hf_pretext.clients.questions.summing.quantize", _not_clipped),
        check_spread,
    ),
    "the votes for each label are clipped alone": (_a_norm_for_each_label, check_labels),
    "replacing a client with another label gets the noise of removing one": (
        lambda: patched("hf_pretext.privacy.mechanism.Mechanism.sensitivity", property(lambda self: self.clip_norm)),
        check_labels_exchange,
    ),
    "means are not clipped": (
        lambda: patched("hf_pretext.clients.questions.summing.quantize", _not_clipped),
        check_mean,
    ),
    "means by label are not clipped": (
        lambda: patched("hf_pretext.clients.questions.summing.quantize", _not_clipped),
        check_labeled_mean,
    ),
    "replacing a client gets the noise of a question without signs": (_without_signs, check_mean_exchange),
    "replacing a client gets the noise of means by label without signs": (
        _without_signs,
        check_labeled_mean_exchange,
    ),
    "a mean gets half of its noise": (_mean_with_half_of_its_noise, check_run),
    "replacing a client gets the noise of removing one": (
        lambda: patched("hf_pretext.privacy.mechanism.Mechanism.sensitivity", property(lambda self: self.clip_norm)),
        check_exchange,
    ),
    "one draw of noise serves all bins": (_one_draw_for_all_bins, check_noise),
    "one draw of noise serves all rounds": (_one_draw_for_all_rounds, check_noise),
    "two halves of the bins share one draw": (_two_halves_of_the_bins_share_a_draw, check_noise),
    "noise comes back six rounds later": (_noise_comes_back_six_rounds_later, check_noise),
    "all clients participate in every round": (
        lambda: patched(SAMPLE, lambda number, rate: np.ones(number, dtype=bool)),
        check_sampling,
    ),
    "the same clients participate in every round": (
        lambda: patched(SAMPLE, lambda number, rate: np.arange(number) < rate * number),
        check_sampling,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (
    *(check_one_bin, check_spread, check_every_bin, check_exchange, check_sampling, check_noise),
    *(check_mean, check_mean_exchange, check_labeled_mean, check_labeled_mean_exchange),
    *(check_labels, check_labels_exchange, check_run),
)
