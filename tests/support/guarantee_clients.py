"""Checks of the private side, each of them exact or nearly so, and mutations that each of them has to catch.

They complete those of `guarantee.py`, which measure noise and worst-case clients. Here contributions are compared as
the integers that they are, without noise, and the order of counting, drawing and keeping is watched.
"""

import contextlib
import json
import math
import os
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from datasets import Dataset
from scipy.stats import norm

from hf_pretext import ClientPool, InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients import in_memory
from hf_pretext.clients.clipping import Answers, quantize
from hf_pretext.clients.questions import MeanEmbedding, NearestCandidates, NearestLabeledCandidates, Question
from hf_pretext.clients.questions.summing import sum_answers
from hf_pretext.clients.samples import _Embedded
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, PrivacyLedger, ReleaseLostError
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.privacy.plan import MEAN_EMBEDDING, VOTES
from hf_pretext.runs.folder import RunFolder
from hf_pretext.runs.run import Run
from support.guarantee import (
    CANDIDATES,
    DRAW,
    LABELS,
    NUM_BINS,
    OTHERS,
    SAMPLE,
    WITH_LABELS,
    BinEncoder,
    labeled_candidates,
    mean_relative_to,
)

CAP = 8
SUMMING = "hf_pretext.clients.questions.summing"


def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)


@dataclass(frozen=True)
class Writes(Question):
    """A question of the caller: how much a client says of one bin. Not signed, but negative for a client of bin 3."""

    bin: int = 3
    name, description, num_bins = "writes", "how often it says it", 2

    def answer(self, samples):
        sums = samples.embeddings.sum(axis=0, dtype=np.float64)
        # Made-up samples, on which a question is tried, have parts of every bin.
        return np.array([-1.0, 1.0]) if sums[self.bin] == np.abs(sums).sum() else np.abs(sums[:2])


OWN = ((Writes(), 0.2),)


def make_pool(samples, noise=None, ledger=None, questions=OWN, **settings):
    """Make the pool of clients that hold these samples, and the function that asks it."""
    settings = {"noise_multiplier": 1.0, "delta": 1e-5, "population_size": NUM_BINS, "mean_fraction": 0.3, **settings}
    config = PrivateEvolutionConfig(**settings)
    rows = [
        {"client_id": client, "text": text, "parity": list(LABELS)[int(text.split()[1]) % 2]}
        for client, own in samples.items()
        for text in own
    ]
    plan = Plan.from_config(config, questions)
    pool = InMemoryClientPool(Dataset.from_list(rows), TextEmbedder(BinEncoder()), config, plan, noise)
    ledger = PrivacyLedger(plan) if ledger is None else ledger(plan)
    votes = NearestCandidates.of(CANDIDATES, config.votes_per_sample)

    def release(question=votes):
        return pool.release(question, ledger)

    return SimpleNamespace(release=release, ledger=ledger, plan=plan, pool=pool, votes=votes)


def contribution(made, question):
    """A release without noise, in the integer units that it was summed in."""
    units = made.plan.entry(question.name).mechanism.units
    return np.rint(made.release(question) * units).astype(np.int64)


def random_client(rng, size):
    return [f"bin {number}" for number in rng.integers(0, NUM_BINS, size=size)]


def check_contributions(num_runs):
    """What each client adds is bounded in integer arithmetic, and does not depend on the others, bit for bit.

    For votes, means and a question of the caller. No false alarms: nothing is random but the clients.
    """
    rng = np.random.default_rng(0)
    for number in range(max(num_runs // 200, 3)):
        spread = 1 + number % 3
        clients = {f"client-{index}": random_client(rng, size) for index, size in enumerate([1, 4, 9, 20, 40])}
        questions = [NearestCandidates.of(CANDIDATES, spread), mean_relative_to(0, 1, 2), Writes(5)]
        everyone = make_pool(clients, no_noise, votes_per_sample=spread)
        alone = [make_pool({name: own}, no_noise, votes_per_sample=spread) for name, own in clients.items()]
        for question in questions:
            mechanism = everyone.plan.entry(question.name).mechanism
            parts = [contribution(each, question) for each in alone]
            largest = max(int((part.astype(object) ** 2).sum()) for part in parts)
            assert largest <= (mechanism.clip_norm * mechanism.units) ** 2, f"{question.name}: a norm is too large"
            # A few samples at a time: clients must not be divided, and must not share anything.
            with mock.patch(f"{SUMMING}.SAMPLES_AT_ONCE", 5):
                together = contribution(everyone, question)
            assert (together == sum(parts)).all(), f"{question.name}: contributions depend on who else is there"


def check_labeled_contributions(num_runs):
    """The same for votes of samples with labels, whose shares beside them count in the norm."""
    rng = np.random.default_rng(0)
    settings = {"questions": (), "mean_fraction": 0.0, **WITH_LABELS}
    for _ in range(max(num_runs // 200, 3)):
        clients = {f"client-{index}": random_client(rng, size) for index, size in enumerate([1, 4, 9, 20, 40])}
        everyone = make_pool(clients, no_noise, **settings)
        parts = [
            contribution(make_pool({name: own}, no_noise, **settings), labeled_candidates())
            for name, own in clients.items()
        ]
        units = everyone.plan.votes.mechanism.units
        assert max(int((part.astype(object) ** 2).sum()) for part in parts) <= units**2, "a norm is too large"
        with mock.patch(f"{SUMMING}.SAMPLES_AT_ONCE", 5):
            together = contribution(everyone, labeled_candidates())
        assert (together == sum(parts)).all(), "contributions depend on who else is there"
        labels = np.array([sum(int(text.split()[1]) % 2 == label for text in clients["client-1"]) for label in (0, 1)])
        assert np.abs(parts[1][NUM_BINS:] / units - 0.5 * labels / CAP).max() < 2 / units, "samples lose their labels"


def check_signs(num_runs):
    """A vector with a negative entry of a question that is not signed counts as zero."""
    made = make_pool({**OTHERS, "target": ["bin 3"] * 4}, no_noise)
    without = make_pool(OTHERS, no_noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change = contribution(made, Writes()) - contribution(without, Writes())
    assert not change.any(), f"a client changes a sum by {change}"


def check_whole_clients(num_runs):
    """A client participates with all of its samples or with none, at the rate of clients; 6 standard errors."""
    rate, settings = 0.1, {"vote_clipping": "count", "questions": (), "mean_fraction": 0.0}
    made = make_pool({**OTHERS, "target": ["bin 20"] * CAP}, no_noise, client_sampling_rate=rate, **settings)
    votes = np.array([made.release()[20] for _ in range(num_runs)])
    assert set(np.unique(votes)) <= {0.0, float(CAP)}, "a part of a client participates"
    assert abs((votes > 0).mean() - rate) < 6 * math.sqrt(rate * (1 - rate) / num_runs)


def in_a_copy_of_this_process(draw):
    """Draw in a copy of this process, which has the state of every generator in it, and return the bytes."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Later versions of Python warn if there are threads.
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, draw().tobytes())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        drawn = pipe.read()
    os.waitpid(child, 0)
    return drawn


def check_randomness(num_runs):
    """Neither noise nor who participates follows from a seed, or from anything else that a process holds.

    Two copies of a process would then draw the same. By chance they do so with a probability below 2^-100.
    """
    draws = {
        "who participates": lambda: in_memory.sample_clients(256, 0.5),
        "the noise": lambda: DiscreteGaussian()(2.0**20, 32),
    }
    for name, draw in draws.items():
        draw()  # Whatever is made at the first call is made.
        first, second = (in_a_copy_of_this_process(draw) for _ in range(2))
        assert first and first != second, f"{name} can be reproduced"


def check_ledger(num_runs):
    """When noise is drawn its release is on disk, and when an answer is returned that is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path, counted = Path(folder) / "ledger.json", []

        def on_disk():
            return json.loads(path.read_text())["releases"]

        def noise(scale, size):
            counted.append([each["answer"] for each in on_disk()])
            return np.arange(size)

        made = make_pool(OTHERS, noise, lambda plan: PrivacyLedger(plan, path))
        for number, question in enumerate((made.votes, mean_relative_to(), made.votes)):
            answer = made.release(question)
            assert len(counted[number]) == number + 1, "noise was drawn for a release that is not counted"
            assert counted[number][number] is None
            assert on_disk()[number]["answer"] == answer.tolist(), "an answer was returned that is not on disk"


class Loses(ClientPool):
    """A pool that loses every release."""

    num_clients = 10
    noise_is_genuine = True

    def _answer(self, question, mechanism):
        raise ReleaseLostError


def check_epsilon(num_runs):
    """The epsilon of a plan and of its ledger is enough for all of its releases, also for those that were lost.

    The best bound is the closed form for mu^2 = sum of 1 / multiplier^2, which is computed here by another formula.
    """
    delta, claimed = 1e-5, 3.0
    made = make_pool(OTHERS, noise_multiplier=None, epsilon=claimed, delta=delta)
    multipliers = []
    for entry in made.plan.releases:
        question = {VOTES.name: made.votes, MEAN_EMBEDDING.name: mean_relative_to(), "writes": Writes()}[
            entry.question
        ]
        for number in range(entry.count):
            multipliers.append(entry.mechanism.noise_multiplier)
            if number % 2:
                made.release(question)
            else:
                with contextlib.suppress(ReleaseLostError):
                    Loses().release(question, made.ledger)
    mu = math.sqrt(sum(1 / each**2 for each in multipliers))
    for epsilon in (made.plan.epsilon(delta), made.ledger.epsilon(delta)):
        needed = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        assert 0.99 * delta < needed <= (1 + 1e-5) * delta, f"epsilon {epsilon} has a delta of {needed}, not {delta}"
        assert epsilon <= claimed, f"a run costs {epsilon}, not {claimed}"


class About:
    """A step of a run that asks for votes."""

    step, kind, num_bins = "release-1", VOTES.name, NUM_BINS

    def ask(self):
        return NearestCandidates.of(CANDIDATES)


def check_resume(num_runs):
    """A run that is resumed reads an answer again, and draws nothing."""
    answers, drawn = [], []

    def noise(scale, size):
        drawn.append(size)
        return DiscreteGaussian()(scale, size)

    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            run_folder = RunFolder(folder, {})
            made = make_pool(OTHERS, noise, run_folder.ledger)
            config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5)
            answers.append(Run(1, config, made.ledger, run_folder).release(About(), made.pool))
    assert (answers[0] == answers[1]).all() and (answers[1] == answers[2]).all(), "an answer was drawn again"
    assert len(drawn) == made.ledger.num_releases == 1


def check_subset(num_runs):
    """One text more or less exchanges at most one sample of a client: its votes change by at most `sqrt(2 / cap)`."""
    rng = np.random.default_rng(0)
    settings = {"questions": (), "mean_fraction": 0.0}
    worst = 0.0
    for _ in range(max(num_runs // 40, 20)):
        own = random_client(rng, 17)
        # The rows are independent, so the last one is any one.
        votes = [make_pool({"target": each}, no_noise, **settings).release() for each in (own, own[:-1])]
        worst = max(worst, float(np.linalg.norm(votes[0] - votes[1])))
    assert worst <= math.sqrt(2 / CAP) + 1e-5, f"one text changes a client's votes by {worst:.3f}"
    return worst


def check_broken_model(num_runs):
    """A text that breaks the embedding model for all clients after it takes no vote out of a release."""
    encode, broken = BinEncoder.encode, []

    def breaks(self, texts, **kwargs):
        broken.extend(text for text in texts if text == "bin 1")
        if broken:
            raise RuntimeError("device-side assert triggered")
        return encode(self, texts, **kwargs)

    with mock.patch.object(BinEncoder, "encode", breaks):
        try:
            make_pool({"breaks": ["bin 1"], "votes": ["bin 2"]}, no_noise)
        except ValueError as error:
            # What is said of a model that no client's text got through would be true after a break, too.
            assert "does not embed public texts as it did" in str(error), "a text silences the clients after it"
            return
    raise AssertionError("a text silences the clients after it")


def _patched(target, replacement):
    return lambda: mock.patch(target, replacement)


def _samples_are_drawn():
    def noisy_sum(self, question, mechanism):
        drawn = in_memory.sample_clients(len(self._samples.owners), self._plan.client_sampling_rate)
        noise = self._noise(mechanism.noise_scale, question.num_bins)
        return sum_answers(question, self._samples.select(drawn), mechanism) + noise

    return mock.patch("hf_pretext.clients.in_memory.InMemoryClientPool._part", noisy_sum)


def _seeded_clients():
    rng = np.random.default_rng(0)
    return mock.patch(SAMPLE, lambda number, rate: rng.random(number) < rate)


def _seeded_noise():
    rng = np.random.default_rng(0)
    return mock.patch(DRAW, lambda self, scale, size: np.rint(rng.normal(size=size) * scale).astype(np.int64))


def _longer_means():
    def longer(question, samples, mechanism):
        factor = 1.01 if question.name == MEAN_EMBEDDING.name else 1.0
        return sum_answers(question, samples, replace(mechanism, clip_norm=factor * mechanism.clip_norm))

    return mock.patch("hf_pretext.clients.in_memory.sum_answers", longer)


def _divided_clients(self, num_samples):
    for start in range(0, len(self.owners), num_samples):
        yield self.select(slice(start, start + num_samples))


def _scaled_together(answers, clip_norm, units):
    _, owner = np.unique(answers.clients, return_inverse=True)
    norms = np.sqrt(np.bincount(owner, weights=answers.values.astype(np.float64) ** 2))
    scale = clip_norm / max(norms.max(initial=0.0), clip_norm)
    return quantize(Answers(answers.clients, answers.bins, answers.values * scale), clip_norm, units)


def _relative_to_participants():
    def relative(question, samples, mechanism):
        if question.name == MEAN_EMBEDDING.name:
            question = MeanEmbedding(samples.embeddings.mean(axis=0, keepdims=True).astype(np.int16))
        return sum_answers(question, samples, mechanism)

    return mock.patch("hf_pretext.clients.in_memory.sum_answers", relative)


def _shares_relative_to_the_largest_client():
    def relative(question, samples, mechanism):
        if isinstance(question, NearestLabeledCandidates):
            question = replace(question, max_samples=int(np.bincount(samples.owners).max()))
        return sum_answers(question, samples, mechanism)

    return mock.patch("hf_pretext.clients.in_memory.sum_answers", relative)


def _shuffled(self, num_dimensions, original=_Embedded.samples):
    made = original(self, num_dimensions)
    return replace(made, labels=made.labels[::-1])


def _drawn_again(self, step, is_valid, make):
    made = make()
    self._folder.write(f"run-{self.number}-{step}.json", made)
    return made


def _one_generator_for_all_subsets():
    rng = np.random.default_rng(0)

    def subset(client, samples, cap, seed):
        return samples if len(samples) <= cap else [samples[index] for index in rng.permutation(len(samples))[:cap]]

    return mock.patch("hf_pretext.clients.samples.cap_samples", subset)


def _subset_of_the_number_of_texts(client, samples, cap, seed):
    rng = np.random.default_rng([seed, *client.encode()])
    chosen = rng.choice(len(samples), size=min(cap, len(samples)), replace=False)
    return [samples[index] for index in chosen]


def _counted_late(self, question, ledger):
    asked = question.copy()
    mechanism = ledger.mechanism(asked)
    noisy = self._answer(asked, mechanism) / mechanism.units
    ledger.record(asked, self.noise_is_genuine)
    ledger.keep(noisy)
    return noisy


def _epsilon_without(is_left_out):
    epsilon = Plan.epsilon

    def forgetful(self, delta, releases=None):
        spent = self.one_run if releases is None else list(releases)
        return epsilon(self, delta, [each for each in spent if not is_left_out(each[0])])

    return mock.patch("hf_pretext.privacy.plan.Plan.epsilon", forgetful)


def _lost_is_free(self, delta):
    return self.plan.epsilon(delta, [(each.mechanism, each.num_bins) for each in self.releases if each.answer])


MUTATIONS = {
    "samples are drawn instead of clients": (_samples_are_drawn, check_whole_clients),
    "who participates follows from a seed": (_seeded_clients, check_randomness),
    "noise follows from a seed": (_seeded_noise, check_randomness),
    "means have a norm that is one percent too large": (_longer_means, check_contributions),
    "answers have twice the units of the noise": (
        _patched(f"{SUMMING}.quantize", lambda answers, clip_norm, units: quantize(answers, clip_norm, 2 * units)),
        check_contributions,
    ),
    "a client in two blocks is clipped twice": (
        _patched("hf_pretext.clients.samples.Samples.blocks", _divided_clients),
        check_contributions,
    ),
    "the client with most votes scales those of all": (
        _patched(f"{SUMMING}.quantize", _scaled_together),
        check_contributions,
    ),
    "means are relative to those who participate": (_relative_to_participants, check_contributions),
    "the shares of labels are relative to the client with most samples": (
        _shares_relative_to_the_largest_client,
        check_labeled_contributions,
    ),
    "samples get the labels of others": (
        _patched("hf_pretext.clients.samples._Embedded.samples", _shuffled),
        check_labeled_contributions,
    ),
    "one generator draws the subsets of all clients": (_one_generator_for_all_subsets, check_contributions),
    "negative entries of a question without signs count": (
        _patched(f"{SUMMING}.without_malformed", lambda answers, is_signed: answers),
        check_signs,
    ),
    "one text redraws the subset of a client": (
        _patched("hf_pretext.clients.samples.cap_samples", _subset_of_the_number_of_texts),
        check_subset,
    ),
    "a release is counted after its noise": (
        _patched("hf_pretext.clients.pool.ClientPool.release", _counted_late),
        check_ledger,
    ),
    "an answer is returned and not kept": (
        _patched("hf_pretext.privacy.ledger.PrivacyLedger.keep", lambda self, answer: None),
        check_ledger,
    ),
    "a resumed run draws noise again": (
        _patched("hf_pretext.runs.run.Run.keep", _drawn_again),
        check_resume,
    ),
    "the epsilon of a plan forgets the mean": (
        lambda: _epsilon_without(lambda mechanism: mechanism.is_signed),
        check_epsilon,
    ),
    "a broken embedding model is not noticed": (
        _patched("hf_pretext.clients.samples.embed_probes", lambda embedder: []),
        check_broken_model,
    ),
    "lost releases cost nothing": (
        _patched("hf_pretext.privacy.ledger.PrivacyLedger.epsilon", _lost_is_free),
        check_epsilon,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (
    *(check_contributions, check_labeled_contributions, check_signs, check_whole_clients, check_randomness),
    *(check_ledger, check_epsilon, check_resume, check_subset, check_broken_model),
)
