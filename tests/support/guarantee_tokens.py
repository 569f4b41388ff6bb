"""Checks of the question about tokens: worst-case clients, contributions as integers, and a run that asks it.

As in `guarantee.py`, a check passes or raises an `AssertionError`, and each mutation has to be caught.
"""

import contextlib
import math
from dataclasses import replace
from unittest import mock

import numpy as np
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients.clipping import Answers
from hf_pretext.clients.questions import LabeledTokenCounts, NearestCandidates, TokenCounts
from hf_pretext.clients.questions.summing import sum_answers
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, PrivacyLedger
from support.guarantee import (
    CANDIDATES,
    LABELS,
    NUM_BINS,
    OTHERS,
    WITH_LABELS,
    BinEncoder,
    check_scores,
    mean_relative_to,
    patched,
)
from support.guarantee_clients import SUMMING, _divided_clients, no_noise, random_client

TOKENS = np.arange(NUM_BINS)
FLAT = np.ones(NUM_BINS)
STEEP = np.geomspace(1e-3, 1e3, NUM_BINS)
"""Weights that differ by much, so that rounding would show."""

SETTINGS = {"noise_multiplier": 1.0, "delta": 1e-5, "population_size": NUM_BINS, "num_tokens": NUM_BINS}


class BinTokens:
    """A tokenizer for which "bin 7 8" is the tokens 7 and 8."""

    fingerprint, special = "bins", frozenset()

    def __call__(self, text):
        return [int(word) for word in text.split()[1:] if word.isdigit()]

    def decode(self, token):
        return f" {token}"


def asks(weights=FLAT, is_labeled=False):
    """Make the question about all bins."""
    asked = TOKENS, weights, BinTokens.fingerprint
    return LabeledTokenCounts(*asked, 2) if is_labeled else TokenCounts(*asked)


def make_pool(clients, noise=None, reader=None, **settings):
    """Make the pool of clients that hold these texts, and return what asks it."""
    config = PrivateEvolutionConfig(**{**SETTINGS, "token_fraction": 0.5, **settings})
    rows = [
        {"client_id": client, "text": text, "parity": list(LABELS)[int(text.split()[1]) % 2]}
        for client, own in clients.items()
        for text in own
    ]
    plan = Plan.from_config(config)
    embedder = TextEmbedder(BinEncoder())
    pool = InMemoryClientPool(Dataset.from_list(rows), embedder, config, plan, noise, reader or BinTokens())
    ledger = PrivacyLedger(plan)
    return lambda question: pool.release(question, ledger)


def effect_of(client, instead, question, direction, num_runs, **settings):
    """Score releases with one client and with another, or none, along a direction, and check the effect of 1."""
    direction = np.asarray(direction) / np.linalg.norm(direction)
    scores = []
    for own in (client, instead):
        release = make_pool({**OTHERS, **({"target": own} if own else {})}, **{"num_rounds": 1, **settings})
        scores.append(np.array([release(question) @ direction for _ in range(num_runs)]))
    return check_scores(*scores, 1.0)


ONE_TOKEN = np.eye(NUM_BINS)[3]


def check_one_token(num_runs):
    """The worst case: a client that writes nothing but one token, very often. It reaches the claim, and not more."""
    return effect_of(["bin" + " 3" * 50] * 1000, None, asks(), ONE_TOKEN, num_runs)


def check_many_tokens(num_runs):
    """A client that writes sixteen tokens as often as makes their weighted counts equal: all of them together."""
    direction = np.where(TOKENS < 16, 1.0, 0.0)
    return effect_of(["bin " + " ".join(map(str, range(16)))] * 8, None, asks(), direction, num_runs)


def check_exchanged_tokens(num_runs):
    """The worst case of replacing a client: from one token to another, `sqrt(2)` apart, under `sqrt(2)` the noise."""
    direction, relation = ONE_TOKEN - np.eye(NUM_BINS)[7], {"neighboring_relation": "replace_one"}
    return effect_of(["bin 3"] * 1000, ["bin 7"] * 1000, asks(), direction, num_runs, **relation)


def check_labeled_tokens(num_runs):
    """A client whose samples have both labels: the blocks of both together reach the claim, and not more."""
    direction = np.zeros(2 * NUM_BINS)
    direction[[8, NUM_BINS + 3]] = 1.0
    return effect_of(["bin 3", "bin 8"] * 4, None, asks(is_labeled=True), direction, num_runs, **WITH_LABELS)


def check_token_contributions(num_runs):
    """What each client adds is bounded in integer arithmetic, and does not depend on the others, bit for bit.

    No false alarms: nothing is random but the clients, of whom one writes no public token.
    """
    rng = np.random.default_rng(0)
    for number in range(max(num_runs // 200, 4)):
        clients = {f"client-{index}": random_client(rng, size) for index, size in enumerate([1, 4, 9, 20, 40])}
        clients["rare"] = ["bin 20 20 20", "bin 21"]
        question, settings = asks(STEEP, number % 2 == 1), WITH_LABELS if number % 2 else {}
        if not number % 2:
            question = replace(question, tokens=TOKENS[:20][::-1].copy(), weights=STEEP[:20])

        def contribution(clients, question=question, settings=settings):
            return np.rint(make_pool(clients, no_noise, **settings)(question) * 2**20).astype(np.int64)

        parts = [contribution({name: own}) for name, own in clients.items()]
        largest = max(int((part.astype(object) ** 2).sum()) for part in parts)
        assert largest <= 2**40, "a norm is too large"
        with mock.patch(f"{SUMMING}.SAMPLES_AT_ONCE", 5):
            together = contribution(clients)
        assert (together == sum(parts)).all(), "contributions depend on who else is there"
        assert parts[-1].any() == bool(number % 2), "tokens that are not public count"


def check_run_with_tokens(num_runs):
    """A run of a mean, token counts and a vote: together they reach the composed mu, and not more.

    The claim is what the epsilon of the plan says. It is that of the mu that is measured here.
    """
    settings = {"mean_fraction": 0.1, "token_fraction": 0.8, "num_rounds": 1, "noise_multiplier": 3.0}
    plan = Plan.from_config(PrivateEvolutionConfig(**{**SETTINGS, **settings}))
    questions = [mean_relative_to(), asks(), NearestCandidates.of(CANDIDATES)]
    multipliers = np.array([plan.entry(question.name).mechanism.noise_multiplier for question in questions])
    expected = math.sqrt((1 / multipliers**2).sum())
    alone = plan.epsilon(1e-5, [(plan.entry("token_counts").mechanism, NUM_BINS)])
    assert 1.05 * alone < plan.epsilon(1e-5) and abs(expected - 1 / plan.noise_multiplier) < 1e-12
    scores = []
    for own in (["bin 3"] * 1000, None):
        release = make_pool({**OTHERS, **({"target": own} if own else {})}, **settings)
        answers = [[release(question) @ ONE_TOKEN for question in questions] for _ in range(num_runs // 2)]
        scores.append(np.array(answers) @ (1 / multipliers**2))
    return check_scores(*scores, expected)


class Fails(BinTokens):
    """A tokenizer that fails on one text, and quotes it."""

    def __call__(self, text):
        if text == "bin 22":
            raise RuntimeError(f"cannot read {text!r}")
        return super().__call__(text)


def check_failing_tokenizer(num_runs):
    """A client whose texts cannot be read counts for nothing, changes nothing for others, and is not quoted."""
    with contextlib.ExitStack() as stack:
        warned = stack.enter_context(mock.patch("hf_pretext.clients.guard.warnings.warn"))
        with_it, without = (
            make_pool(clients, no_noise, Fails())(asks()) for clients in ({**OTHERS, "x": ["bin 22", "bin 1"]}, OTHERS)
        )
    words = [str(call.args[0]) for call in warned.call_args_list]
    assert (with_it == without).all() and len(words) == 1 and "bin 22" not in words[0]


def _as_counted(self, samples):
    """Weighted counts of any length."""
    answers = ANSWERS(self, samples)
    rows, indices = self._found(samples)
    bins = self._starts(samples)[rows] + indices
    pairs, counts = np.unique(samples.owners[rows] * self.num_bins + bins, return_counts=True)
    return Answers(pairs // self.num_bins, pairs % self.num_bins, counts.astype(np.float64)) if len(rows) else answers


def _each_token_alone(self, samples):
    """Every token of a client counts one at most: a norm for each bin."""
    counted = _as_counted(self, samples)
    return Answers(counted.clients, counted.bins, np.minimum(counted.values, 1.0))


def _a_norm_for_each_label(self, samples):
    answers = ANSWERS(self, samples)
    block = answers.clients * 2 + answers.bins // len(self.tokens)
    norms = np.sqrt(np.bincount(block, weights=answers.values**2))
    return Answers(answers.clients, answers.bins, answers.values / norms[block])


ANSWERS = TokenCounts.answers
OF_TOKENS = "hf_pretext.clients.questions.token_counts.TokenCounts.answers"


@contextlib.contextmanager
def _unclipped(answers):
    """Let token counts be what a faulty question makes of them, without the clipping that would hide it."""

    def rounded(answers, clip_norm, units):
        return Answers(answers.clients, answers.bins, np.rint(answers.values * units).astype(np.int64))

    with patched(OF_TOKENS, answers), patched(f"{SUMMING}.quantize", rounded):
        yield


def _weighted_by_participants():
    """Weights that follow from the clients: each changes the vectors of all others."""

    def relative(question, samples, mechanism):
        if isinstance(question, TokenCounts):
            tokens = np.concatenate(list(samples.tokens))
            weights = 1 / (1.0 + np.array([(tokens == token).sum() for token in question.tokens]))
            question = replace(question, weights=weights)
        return sum_answers(question, samples, mechanism)

    return patched("hf_pretext.clients.in_memory.sum_answers", relative)


def _tokens_with_half_of_their_noise():
    answer = InMemoryClientPool._answer

    def quieter(self, question, mechanism):
        factor = 0.5 if question.name == TokenCounts.name else 1.0
        return answer(self, question, replace(mechanism, noise_multiplier=factor * mechanism.noise_multiplier))

    return patched("hf_pretext.clients.in_memory.InMemoryClientPool._answer", quieter)


def _epsilon_without_tokens():
    epsilon = Plan.epsilon

    def forgetful(self, delta, releases=None):
        votes = [(self.votes.mechanism, self.votes.num_bins)] * self.votes.count
        return epsilon(self, delta, votes if releases is None else releases)

    return patched("hf_pretext.privacy.plan.Plan.epsilon", forgetful)


def _whole_failure():
    return patched("hf_pretext.clients.tokens.attempted", lambda work, *arguments: (work(*arguments), None))


def check_reads_every_client(num_runs):
    """A tokenizer that fails on one client's texts does not end the run for all of them."""
    try:
        check_failing_tokenizer(num_runs)
    except RuntimeError:
        raise AssertionError("one client decides whether a run takes place") from None


MUTATIONS = {
    "token counts are neither scaled nor clipped": (lambda: _unclipped(_as_counted), check_one_token),
    "each token of a client is clipped alone": (lambda: _unclipped(_each_token_alone), check_many_tokens),
    "the token counts of each label are scaled alone": (
        lambda: _unclipped(_a_norm_for_each_label),
        check_labeled_tokens,
    ),
    "replacing a client with other tokens gets the noise of removing one": (
        lambda: patched("hf_pretext.privacy.mechanism.Mechanism.sensitivity", property(lambda self: self.clip_norm)),
        check_exchanged_tokens,
    ),
    "the token counts of a client in two blocks are scaled twice": (
        lambda: patched("hf_pretext.clients.samples.Samples.blocks", _divided_clients),
        check_token_contributions,
    ),
    "weights of tokens follow from the clients": (_weighted_by_participants, check_token_contributions),
    "token counts get half of their noise": (_tokens_with_half_of_their_noise, check_run_with_tokens),
    "the epsilon of a plan forgets token counts": (_epsilon_without_tokens, check_run_with_tokens),
    "one text that a tokenizer cannot read ends the run": (_whole_failure, check_reads_every_client),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (
    *(check_one_token, check_many_tokens, check_exchanged_tokens, check_labeled_tokens),
    *(check_token_contributions, check_run_with_tokens, check_reads_every_client),
)
