"""What bounds a client's contribution, for every kind of question: norm in integers, and locality bit by bit."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients import ClientPool
from hf_pretext.clients.clipping import MAX_CLIP_NORM, Answers, quantize, without_malformed
from hf_pretext.clients.questions import (
    LabeledMeanEmbedding,
    LabeledTokenCounts,
    MeanEmbedding,
    NearestCandidates,
    NearestLabeledCandidates,
    Question,
    TokenCounts,
    check_question,
    sum_answers,
)
from hf_pretext.clients.questions.labeled_candidates import shares_of
from hf_pretext.clients.samples import EMBEDDING_UNITS, Samples, quantize_embeddings
from hf_pretext.privacy import Mechanism, Plan, PrivacyLedger
from hf_pretext.privacy.mechanism import UNITS, UNITS_OF_A_FEDERATION
from hf_pretext.privacy.plan import MEAN_CLIP, SHARE_WEIGHT
from support.federation import no_noise
from support.tiny import random_texts


def unit_rows(rng, num_rows, dimension=16):
    rows = rng.normal(size=(num_rows, dimension))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ZIPF = 1 / np.arange(1, 61) / (1 / np.arange(1, 61)).sum()
"""How often each of sixty tokens is used."""


def random_samples(rng, num_clients=7, most=6, dimension=16):
    """Clients with up to a few samples each, some of them none."""
    counts = rng.integers(0, most + 1, size=num_clients)
    counts[0] = max(counts[0], 1)
    owners = np.repeat(np.arange(num_clients), counts)
    points = quantize_embeddings(unit_rows(rng, counts.sum(), dimension))
    tokens = [rng.choice(60, size=size, p=ZIPF) for size in rng.integers(0, 12, size=len(owners))]
    return Samples(owners, points, rng.integers(-1, 4, size=len(owners))).with_tokens(tokens, "t")


def one_client(values):
    return Answers(np.zeros(len(values), dtype=np.int64), np.arange(len(values)), np.asarray(values, dtype=np.float64))


QUESTIONS = {
    "votes": lambda rng: NearestCandidates.of(0.9 * unit_rows(rng, 20)),
    "three votes per sample": lambda rng: NearestCandidates.of(0.9 * unit_rows(rng, 20), votes_per_sample=3),
    "mean": lambda rng: MeanEmbedding.of(unit_rows(rng, 30)),
    "mean by label": lambda rng: LabeledMeanEmbedding.of(unit_rows(rng, 30), 3),
    "token counts": lambda rng: TokenCounts(*tokens(rng), "t"),
    "token counts by label": lambda rng: LabeledTokenCounts(*tokens(rng), "t", 3),
    "votes with labels": lambda rng: labeled(rng),
    "votes with labels and shares": lambda rng: labeled(rng, votes_per_sample=2, share_weight=0.5, max_samples=4),
}


def tokens(rng):
    """Forty of the sixty tokens, in any order, with weights that differ by much."""
    return rng.permutation(60)[:40], np.exp(rng.uniform(-12, 12, size=40))


def labeled(rng, **settings):
    """Twenty candidates of three labels, one of which may have none."""
    labels = rng.integers(0, 3, size=20)
    return NearestLabeledCandidates.of(0.9 * unit_rows(rng, 20), labels, 3, **settings)


entries = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e9, 1e9, allow_subnormal=False))


@given(values=entries, owner_seed=st.integers(0, 2**32 - 1), clip_norm=st.floats(1e-3, MAX_CLIP_NORM))
@settings(max_examples=500, deadline=None)
@pytest.mark.parametrize("units", [UNITS, UNITS_OF_A_FEDERATION])
def test_no_client_exceeds_the_norm(units, values, owner_seed, clip_norm):
    """The claim of `quantize`, checked with Python's exact integers, for entries of both signs."""
    clients = np.sort(np.random.default_rng(owner_seed).integers(0, 5, size=len(values)))
    quantized = quantize(Answers(clients, np.arange(len(values)), values), clip_norm, units)
    assert quantized.values.dtype == np.int64
    assert (np.sign(quantized.values) * np.sign(values) >= 0).all(), "no entry changes its sign"
    limit = int(clip_norm * units)
    for client in set(clients.tolist()):
        assert sum(int(value) ** 2 for value in quantized.values[clients == client]) <= limit**2


@given(values=entries)
@settings(max_examples=200, deadline=None)
def test_clipping_loses_next_to_nothing(values):
    norm = np.linalg.norm(values)
    quantized = quantize(one_client(values), 1.0, UNITS).values / UNITS
    np.testing.assert_allclose(quantized, values * min(1, 1 / max(norm, 1e-300)), atol=2 / UNITS)


def test_what_is_within_the_norm_stays_as_it_is():
    assert quantize(one_client([1.0]), 1.0, UNITS).values.tolist() == [UNITS]
    assert quantize(one_client([0.25, -0.5]), 1.0, UNITS).values.tolist() == [UNITS // 4, -UNITS // 2]
    counted = quantize(Answers(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 3.0, 8.0])), 8.0, UNITS)
    assert counted.values.tolist() == [5 * UNITS, 3 * UNITS, 8 * UNITS]
    assert quantize(one_client([10_000]), 8.0, UNITS).values.tolist() == [8 * UNITS]


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), 2 * MAX_CLIP_NORM])
def test_bad_clipping_norm_is_named(clip_norm):
    with pytest.raises(ValueError, match="`clip_norm`"):
        quantize(one_client([1.0]), clip_norm, UNITS)


@pytest.mark.parametrize("name", QUESTIONS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_client_s_vector_depends_on_its_own_samples_only(name, seed):
    """Bit for bit: several clients together are answered for as each of them alone, also in blocks."""
    rng = np.random.default_rng(seed)
    samples, question = random_samples(rng), QUESTIONS[name](rng)
    mechanism = Mechanism(1.0, is_signed=question.is_signed)
    together = question.answers(samples)
    alone = np.zeros(question.num_bins, dtype=np.int64)
    for client, own in samples.each_client():
        vector = np.zeros(question.num_bins)
        vector[together.bins[together.clients == client]] = together.values[together.clients == client]
        np.testing.assert_array_equal(vector, question.answer(own))
        part = sum_answers(question, own, mechanism)
        assert sum(int(value) ** 2 for value in part) <= mechanism.units**2
        alone += part
    np.testing.assert_array_equal(sum_answers(question, samples, mechanism), alone)
    blocks = [sum_answers(question, block, mechanism) for block in samples.blocks(2)]
    np.testing.assert_array_equal(sum(blocks), alone)


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_blocks_keep_clients_together(seed, number):
    samples = random_samples(np.random.default_rng(seed))
    blocks = list(samples.blocks(number))
    np.testing.assert_array_equal(np.concatenate([block.owners for block in blocks]), samples.owners)
    np.testing.assert_array_equal(np.concatenate([block.embeddings for block in blocks]), samples.embeddings)
    np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), samples.labels)
    owners = [set(block.owners.tolist()) for block in blocks]
    assert sum(map(len, owners)) == len(set.union(*owners)), "no client is in two blocks"


@given(seed=st.integers(0, 2**32 - 1), is_coarse=st.booleans())
@settings(max_examples=50, deadline=None)
def test_nearest_is_nearest_in_exact_arithmetic(seed, is_coarse):
    rng = np.random.default_rng(seed)
    candidates, samples = quantize_embeddings(0.7 * unit_rows(rng, 12)), quantize_embeddings(unit_rows(rng, 9))
    if is_coarse:  # So that many are equally near.
        candidates, samples = np.sign(candidates), np.sign(samples)
    differences = samples[:, None].astype(np.int64) - candidates[None].astype(np.int64)
    # A stable order: among equally near candidates the first wins.
    expected = (differences**2).sum(-1).argsort(1, kind="stable")
    for number in (1, 5, 12, 20):
        found = NearestCandidates(candidates, number).nearest(samples)
        np.testing.assert_array_equal(found, expected[:, :number])


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_sample_votes_among_the_candidates_of_its_own_label(seed):
    """Compared with a loop over clients and samples in exact integers, for votes, shares and their norm."""
    rng = np.random.default_rng(seed)
    samples, question = random_samples(rng), labeled(rng, votes_per_sample=2, share_weight=0.5, max_samples=4)
    points = question.candidates.astype(np.int64)
    for _, own in samples.each_client():
        votes, numbers = np.zeros(20), np.zeros(3)
        for point, label in zip(own.embeddings.astype(np.int64), own.labels, strict=True):
            rows = np.flatnonzero(question.labels == label)
            votes[rows[((points[rows] - point) ** 2).sum(axis=1).argsort(kind="stable")[:2]]] += 1
            numbers += np.arange(3) == label
        shares = 0.5 * numbers / max(len(own.owners), 4)
        votes *= np.sqrt(1 - (shares**2).sum()) / max(np.linalg.norm(votes), 1)
        np.testing.assert_allclose(question.answer(own), [*votes, *shares], atol=1e-12)
        norm = np.linalg.norm(question.answer(own))
        assert norm <= 1 + 1e-12 and (norm > 1 - 1e-12 or not votes.any())


def test_samples_without_a_label_have_no_vote():
    samples = random_samples(np.random.default_rng(0))
    question = labeled(np.random.default_rng(1), share_weight=0.5, max_samples=8)
    assert not sum_answers(question, Samples(samples.owners, samples.embeddings), Mechanism(1.0)).any()


def test_shares_are_what_the_samples_have_and_never_negative():
    """The bins of labels add up to the numbers of samples, whatever the clients' sizes. Noise may drown a rare one."""
    rng = np.random.default_rng(2)
    samples, question = random_samples(rng, 300), labeled(rng, share_weight=0.5, max_samples=8)
    mechanism = Mechanism(1.0)
    totals = sum_answers(question, samples, mechanism)[20:] / mechanism.units
    numbers = np.bincount(samples.labels[(samples.labels >= 0) & (samples.labels < 3)], minlength=3)
    np.testing.assert_allclose(totals, 0.5 * numbers / 8, atol=300 / mechanism.units)
    np.testing.assert_allclose(shares_of(totals[None]), numbers / numbers.sum(), atol=1e-4)
    np.testing.assert_allclose(shares_of(np.array([[4.0, -1.0, 1.0], [2.0, -1.0, 1.0]])), [0.75, 0, 0.25])
    np.testing.assert_allclose(shares_of(np.full((1, 4), -1.0)), np.full(4, 0.25))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_shares_at_a_thousand_clients_are_within_five_points(share):
    """Epsilon 1.29, three rounds, three samples per client on average. Sums over the votes would miss it by more."""
    rng = np.random.default_rng(0)
    names = {"label_column": "kind", "labels": {"a": "one kind", "b": "another kind"}}
    plan = Plan.from_config(PrivateEvolutionConfig(epsilon=1.29, delta=3e-6, **names))
    counts = np.minimum(rng.geometric(1 / 3, size=1000), 8)
    owners = np.repeat(np.arange(1000), counts)
    labels = (rng.random(len(owners)) < rng.beta(share, 1 - share, size=1000)[owners]).astype(np.int64)
    samples = Samples(owners, quantize_embeddings(unit_rows(rng, len(owners))), labels)
    points, of_points = 0.9 * unit_rows(rng, 1024), np.arange(1024) // 512
    question = NearestLabeledCandidates.of(points, of_points, 2, 1, SHARE_WEIGHT, 8)
    clean = sum_answers(question, samples, plan.votes.mechanism) / plan.votes.mechanism.units
    errors, of_votes = [], []
    for _ in range(200):
        answers = clean + plan.votes.mechanism.noise_std * rng.standard_normal((3, len(clean)))
        votes = np.stack([answers[:, :512].sum(axis=1), answers[:, 512:1024].sum(axis=1)], axis=1)
        for found, totals in ((errors, answers[:, 1024:]), (of_votes, votes)):
            found.append(abs(shares_of(totals)[1] - labels.mean()))
    assert np.quantile(errors, 0.95) < 0.05 and max(errors) < 0.08
    assert np.mean(of_votes) > 1.5 * np.mean(errors)


@pytest.mark.parametrize("dimension", [2, 384, 4096])
def test_scores_stay_exact_at_the_worst_case(dimension):
    """Parallel rows give the largest products. float32 must still equal 64-bit integers."""
    row = np.full((1, dimension), 1 / np.sqrt(dimension))
    quantized = quantize_embeddings(np.concatenate([row, -row]))
    exact = quantized.astype(np.int64) @ quantized.T.astype(np.int64)
    points = quantized.astype(np.float32)
    scores = 2 * (points @ points.T) - np.einsum("md,md->m", points, points)
    np.testing.assert_array_equal(scores.astype(np.int64), 2 * exact - np.diag(exact))
    assert np.abs(2 * exact).max() + exact.max() < 2**24


def test_quantized_embeddings_are_near():
    rows = unit_rows(np.random.default_rng(0), 50, dimension=384)
    assert np.abs(quantize_embeddings(rows) / EMBEDDING_UNITS - rows).max() <= 0.5 / EMBEDDING_UNITS + 1e-7


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.array([[np.nan, 0.0]]), "NaN"),
        (np.array([[np.inf, 0.0]]), "NaN"),
        (np.array([[1.0, 1.0]]), "longer than 1"),
        (np.zeros(3), "two-dimensional"),
    ],
)
def test_bad_embeddings_are_refused(embeddings, message):
    with pytest.raises(ValueError, match=message):
        quantize_embeddings(embeddings)


def test_a_mean_is_the_mean_relative_to_the_center():
    rng = np.random.default_rng(1)
    rows, public = unit_rows(rng, 5, 384), unit_rows(rng, 200, 384)
    samples = Samples(np.zeros(5, dtype=np.int64), quantize_embeddings(rows))
    expected = (rows.mean(axis=0) - public.mean(axis=0)) / MEAN_CLIP
    answer = MeanEmbedding.of(public).answer(samples)
    np.testing.assert_allclose(answer, expected, atol=2 / EMBEDDING_UNITS / MEAN_CLIP)


def test_a_mean_by_label_is_the_mean_of_each_label_by_its_share():
    """Checked in floating point. The blocks of all labels add up to the mean without labels."""
    rng = np.random.default_rng(5)
    rows, public, labels = unit_rows(rng, 6, 384), unit_rows(rng, 200, 384), np.array([0, 2, 2, 0, 2, -1])
    samples = Samples(np.zeros(6, dtype=np.int64), quantize_embeddings(rows), labels)
    answer = LabeledMeanEmbedding.of(public, 3).answer(samples).reshape(3, 384)
    for label in range(3):
        expected = (rows[labels == label] - public.mean(axis=0)).sum(axis=0) / 6 / MEAN_CLIP
        np.testing.assert_allclose(answer[label], expected, atol=4 / EMBEDDING_UNITS / MEAN_CLIP)
    whole = samples.select(labels >= 0)
    both = (LabeledMeanEmbedding.of(public, 3).answer(whole).reshape(3, 384).sum(axis=0), MeanEmbedding.of(public))
    np.testing.assert_allclose(both[0], both[1].answer(whole), atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_token_counts_are_what_a_loop_counts(seed):
    """Compared with a loop over samples and tokens, for each label, and without labels. Their norm is one."""
    rng = np.random.default_rng(seed)
    samples, (asked, weights) = random_samples(rng), tokens(rng)
    of_all, by_label = TokenCounts(asked, weights, "t"), LabeledTokenCounts(asked, weights, "t", 3)
    for _, own in samples.each_client():
        counts = np.zeros((4, 60))
        for label, found in zip(own.labels, own.tokens, strict=True):
            for token in found:
                counts[3, token] += 1
                if 0 <= label < 3:
                    counts[label, token] += 1
        for question, rows in ((of_all, [3]), (by_label, [0, 1, 2])):
            expected = (counts[rows][:, asked] * weights).ravel()
            np.testing.assert_allclose(
                question.answer(own), expected / max(np.linalg.norm(expected), 1e-9), atol=1e-12
            )


def test_a_client_without_embeddings_can_say_how_often_it_writes_tokens():
    """It needs no embedding model. How many dimensions the embeddings of others have makes no difference."""
    rng = np.random.default_rng(0)
    samples, question = random_samples(rng), QUESTIONS["token counts"](rng)
    without = Samples(samples.owners, np.zeros((len(samples.owners), 0), np.int16)).with_tokens(samples.tokens, "t")
    mechanism = Mechanism(1.0)
    assert sum_answers(question, without, mechanism).any()
    np.testing.assert_array_equal(*(sum_answers(question, each, mechanism) for each in (without, samples)))
    check_question(question, 0, "t")


@pytest.mark.parametrize(
    ("fingerprint", "message"), [("", "these clients have no tokenizer"), ("u", "but the clients")]
)
def test_a_question_about_tokens_of_another_tokenizer_is_refused(fingerprint, message):
    with pytest.raises(ValueError, match=message):
        check_question(QUESTIONS["token counts"](np.random.default_rng(0)), 16, fingerprint)


@dataclass(frozen=True, eq=False)
class Toy(Question):
    """A question of a test's own, whose vector it is told."""

    vector: np.ndarray
    name = "toy"
    is_signed = False
    description = "what it is told"

    @property
    def num_bins(self):
        return 3

    def answer(self, samples):
        return self.vector


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ((1.0, 2.0), "a vector of shape \\(2,\\), but has `num_bins`=3"),
        ((1.0, np.nan, 0.0), "a vector with entries that are not finite"),
        ((1.0, np.inf, 0.0), "a vector with entries that are not finite"),
        ((1.0, -1.0, 0.0), "negative entries, but has `is_signed`=False"),
    ],
)
def test_a_malformed_question_is_refused_by_name_before_anything_is_spent(embedder, private, vector, message):
    """Though it is only tried on made-up samples: no private text decides."""
    pool, ledger = pool_with(Toy(np.array(vector)), private, embedder)
    with pytest.raises(ValueError, match=f"The question 'toy' makes {message}"):
        pool.release(Toy(np.array(vector)), ledger)
    assert ledger.num_releases == 0


def pool_with(question, private, embedder, noise=lambda scale, size: np.zeros(size, dtype=np.int64), **changes):
    config = PrivateEvolutionConfig(**{"epsilon": 4.0, "delta": 1e-3, **changes})
    plan = Plan.from_config(config, [(question, 0.25)] if isinstance(question, Toy) else [])
    return InMemoryClientPool(private, embedder, config, plan, noise), PrivacyLedger(plan)


def test_a_vector_that_is_longer_than_the_norm_is_clipped(embedder, private):
    """However long: a question cannot make a client contribute more than the mechanism accounts for."""
    clients = {"a": ["a lost card"], "b": ["a new loan"]}
    rows = [{"client_id": client, "text": text} for client, own in clients.items() for text in own]
    pool, ledger = pool_with(Toy(np.array([1e50, 0.0, 0.0])), Dataset.from_list(rows), embedder)
    assert pool.release(Toy(np.array([1e50, 0.0, 0.0])), ledger).tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize("vector", [(1.0,), (np.nan, 0.0, 1.0), (-1.0, 0.0, 1.0), (np.inf, 0.0, 0.0)])
def test_a_client_with_a_malformed_vector_contributes_zero(vector):
    """To refuse would let one client decide whether a release takes place."""
    samples = random_samples(np.random.default_rng(0))
    assert not sum_answers(Toy(np.array(vector)), samples, Mechanism(1.0)).any()
    answers = Answers(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, np.nan, 1.0]))
    assert without_malformed(answers, is_signed=True).clients.tolist() == [1]


def test_a_question_that_answers_differently_each_time_is_refused():
    asked = []

    class Counting(Toy):
        def answer(self, samples):
            asked.append(samples)
            return np.array([float(len(asked)), 0.0, 0.0])

    with pytest.raises(ValueError, match="answers differently for clients alone and together"):
        check_question(Counting(np.zeros(3)), 16)


@dataclass(frozen=True, eq=False)
class Presence(Question):
    """Which of four public points is nearest to any sample, with a faster way of its own that is wrong."""

    points: np.ndarray
    name, num_bins = "presence", 4
    description = "whether some sample is nearest to each of four public points"

    def _nearest(self, samples):
        return (samples.embeddings.astype(float) @ self.points.T.astype(float)).argmax(axis=1)

    def answer(self, samples):
        vector = np.zeros(4)
        vector[self._nearest(samples)] = 1.0
        return vector

    def answers(self, samples):
        """One entry per sample: twice the same bin of a client, which adds up."""
        return Answers(samples.owners, self._nearest(samples), np.ones(len(samples.owners)))


def test_a_caller_s_own_way_to_answer_for_several_clients_is_not_used(embedder):
    """It could count a client's bin twice, mix clients, or round by their number."""
    question = Presence(quantize_embeddings(embedder(random_texts(4))))
    rows = [{"client_id": "a", "text": text} for text in ["a lost card"] * 8]
    rows += [{"client_id": "b", "text": "a new loan"}]
    config = PrivateEvolutionConfig(epsilon=4.0, delta=1e-3)
    plan = Plan.from_config(config, [(question, 0.5)])

    def release(rows):
        pool = InMemoryClientPool(Dataset.from_list(rows), embedder, config, plan, no_noise)
        return pool.release(question, PrivacyLedger(plan))

    assert np.linalg.norm(release(rows) - release(rows[8:])) <= 1


@dataclass(frozen=True, eq=False)
class Fragile(Toy):
    """A question that fails for one client."""

    name = "toy"

    def answer(self, samples):
        if len(samples.owners) == 7:
            raise RuntimeError("a client with seven samples, whose texts are ...")
        return np.array([1.0, 0.0, 0.0])


def test_a_client_for_whom_a_question_fails_contributes_zero(embedder, private):
    """To fail would let that client decide, and leave the others' clean sum in the frames of a traceback."""
    question = Fragile(np.zeros(3))
    pool, ledger = pool_with(question, private, embedder)
    with pytest.warns(UserWarning, match="failed for some clients, with a RuntimeError") as told:
        answer = pool.release(question, ledger)
    assert answer.tolist() == [11.0, 0.0, 0.0] and ledger.num_lost == 0
    assert not any("whose texts" in str(each.message) for each in told)


@dataclass(frozen=True, eq=False)
class Remembering(Toy):
    """A question that remembers what it saw."""

    name = "toy"

    def answer(self, samples):
        vars(self)["seen"] = samples
        return np.array([1.0, 0.0, 0.0])


def test_what_a_question_remembers_ends_with_the_release(embedder, private):
    question = Remembering(np.zeros(3))
    pool, ledger = pool_with(question, private, embedder)
    pool.release(question, ledger)
    assert not hasattr(question, "seen")


@dataclass(frozen=True, eq=False)
class Numbering(Toy):
    """A question that gives each client the next bin, by what it noted down or by where its samples stand."""

    by: str = "notes"
    name = "toy"

    @cached_property
    def _seen(self):
        return []

    def answer(self, samples):
        self._seen.append(len(samples.owners))
        number = len(self._seen) if self.by == "notes" else int(samples.owners[0])
        return np.eye(3)[number % 3]


@pytest.mark.parametrize("by", ["notes", "owners"])
def test_a_question_does_not_know_how_many_clients_were_before(embedder, private, by):
    """Without the first client all others would answer with another bin, at a sensitivity that is accounted as one."""
    question, answers = Numbering(np.zeros(3), by), []
    first = private["client_id"][0]
    for rows in (private, private.filter(lambda row: row["client_id"] != first)):
        pool, ledger = pool_with(question, rows, embedder)
        answers.append(pool.release(question, ledger))
    assert np.linalg.norm(answers[0] - answers[1]) <= 1


def test_a_question_cannot_write_to_what_the_next_client_is_asked_with():
    question = Toy(np.zeros(3)).copy().again()
    with pytest.raises(ValueError, match="read-only"):
        question.vector[0] = 1.0


@dataclass
class Thawed(Question):
    vector: np.ndarray
    name, num_bins = "toy", 3

    def answer(self, samples):
        return self.vector


@dataclass(frozen=True)
class WithAList(Toy):
    vector: list


@pytest.mark.parametrize("question", [Thawed(np.zeros(3)), WithAList([0.0]), WithAList(np.array([{}]))])
def test_a_question_is_public_content_and_nothing_else(question):
    with pytest.raises(TypeError, match="must be a frozen dataclass whose fields are numbers, strings"):
        question.copy()
    with pytest.raises(TypeError, match="'toy' must be a frozen dataclass"):
        Plan.from_config(PrivateEvolutionConfig(epsilon=4.0, delta=1e-3), [(question, 0.5)])


def test_a_fingerprint_is_of_everything_that_makes_a_question():
    one = Toy(np.zeros(3))
    same, other = Toy(np.zeros(3)), Toy(np.array([0.0, 0.0, 1e-300]))
    assert one.fingerprint() == same.fingerprint() == one.copy().fingerprint()
    assert len({one.fingerprint(), other.fingerprint(), Fragile(np.zeros(3)).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestCandidates(np.zeros((4, 8))), "`candidates` must be a two-dimensional array of int16"),
        (lambda: NearestCandidates(np.zeros((4, 8, 2), np.int16)), "`candidates` must be a two-dimensional array"),
        (lambda: NearestCandidates(np.zeros((0, 8), np.int16)), "`candidates` of shape .* must have a row"),
        (lambda: NearestCandidates(np.full((4, 8), 2000, np.int16)), "`candidates` holds rows longer than 1"),
        (
            lambda: NearestCandidates(np.zeros((4, 8), np.int16), -1),
            "`votes_per_sample`=-1 must be a positive integer",
        ),
        (
            lambda: NearestLabeledCandidates(np.zeros((4, 8), np.int16), np.zeros(3, np.int64), 2),
            "`labels` must be an array of int64 with one label per candidate",
        ),
        (
            lambda: NearestLabeledCandidates(np.zeros((4, 8), np.int16), np.full(4, 2), 2),
            "`labels` must lie between 0 and 1",
        ),
        (
            lambda: NearestLabeledCandidates(np.zeros((4, 8), np.int16), np.zeros(4, np.int64), 2, 1, 1.0),
            "`share_weight`=1.0 must be a float of at least 0 and below 1",
        ),
        (
            lambda: NearestLabeledCandidates(np.zeros((4, 8), np.int16), np.zeros(4, np.int64), 1),
            "`num_labels`=1 must be an integer of at least 2",
        ),
        (lambda: NearestCandidates(np.zeros((4, 8), np.int16), 1.5), "`votes_per_sample`=1.5 must be a positive"),
        (lambda: MeanEmbedding(np.zeros((2, 8), np.int16)), "`center` of shape .* must have one row"),
        (lambda: MeanEmbedding(np.zeros(8, np.int16)), "`center` must be a two-dimensional array of int16"),
        (lambda: MeanEmbedding(np.array([["a"]])), "`center` must be a two-dimensional array of int16"),
        (lambda: LabeledMeanEmbedding(np.zeros((2, 8), np.int16), 2), "`center` of shape .* must have one row"),
        (lambda: LabeledMeanEmbedding(np.ones((1, 8), np.int16), 1), "`num_labels`=1 must be an integer of at least"),
        (lambda: TokenCounts(np.zeros((2, 2), np.int64), np.ones(2), "t"), "`tokens` must be a one-dimensional array"),
        (lambda: TokenCounts(np.zeros(0, np.int64), np.ones(0), "t"), "`tokens` must be .* with at least one token"),
        (lambda: TokenCounts(np.array([1, 1]), np.ones(2), "t"), "`tokens` must be different tokens"),
        (lambda: TokenCounts(np.array([-1, 1]), np.ones(2), "t"), "`tokens` must be different tokens, whose numbers"),
        (lambda: TokenCounts(np.arange(2), np.ones(3), "t"), "`weights` must be an array of float64 with one weight"),
        (lambda: TokenCounts(np.arange(2), np.array([1.0, 0.0]), "t"), "`weights` must lie between 1e-06 and 1e"),
        (lambda: TokenCounts(np.arange(2), np.array([1.0, np.nan]), "t"), "`weights` must lie between 1e-06 and 1e"),
        (lambda: TokenCounts(np.arange(2), np.ones(2), ""), "`tokenizer`='' must be the fingerprint of a tokenizer"),
        (
            lambda: LabeledTokenCounts(np.arange(2), np.ones(2), "t", 1),
            "`num_labels`=1 must be an integer of at least",
        ),
    ],
)
def test_a_crafted_question_of_the_library_is_refused(make, message):
    """Whether it fails must not depend on whether a client has any text to answer with."""
    with pytest.raises(ValueError, match=message):
        make()


def test_questions_about_another_embedding_model_are_refused(embedder, private):
    rng = np.random.default_rng(0)
    pool, ledger = pool_with(None, private, embedder, mean_fraction=0.5)
    for question in (NearestCandidates.of(unit_rows(rng, 9, 5)), MeanEmbedding.of(unit_rows(rng, 9, 5))):
        with pytest.raises(ValueError, match="but the clients' embeddings have 32 dimensions"):
            pool.release(question, ledger)
    assert ledger.num_releases == 0


def test_only_questions_of_the_plan_are_answered(embedder, private):
    rng = np.random.default_rng(0)
    pool, ledger = pool_with(None, private, embedder, population_size=8)
    with pytest.raises(ValueError, match="The question 'mean_embedding' is not in the plan of this run, which has"):
        pool.release(MeanEmbedding.of(unit_rows(rng, 9, 32)), ledger)
    with pytest.raises(ValueError, match="has 9 bins, but the plan of this run accounts for 1 to 8"):
        pool.release(NearestCandidates.of(unit_rows(rng, 9, 32)), ledger)
    with pytest.raises(TypeError, match="must be a subclass of `Question`"):
        pool.release("how many?", ledger)
    assert ledger.num_releases == 0


def test_a_pool_cannot_replace_release(embedder, private):
    class Retrying:
        def release(self, question, ledger):
            return np.ones(question.num_bins)

    for bases in ((ClientPool,), (InMemoryClientPool,)):
        with pytest.raises(TypeError, match="must not replace `release`"):
            type("Forgetful", bases, {"release": Retrying.release})
        with pytest.raises(TypeError, match="must not replace `release`"):
            type("Forgetful", (Retrying, *bases), {})


def test_a_pool_of_another_plan_is_refused_before_anything_is_spent(embedder, private):
    """Who participates and what is kept of a client come from the pool's plan, and the noise from the ledger's."""
    pool, _ = pool_with(None, private, embedder)
    for changes in ({"epsilon": 1.0}, {"client_sampling_rate": 0.5}, {"max_samples_per_client": 3}):
        ledger = PrivacyLedger(Plan.from_config(PrivateEvolutionConfig(**{"epsilon": 4.0, "delta": 1e-3, **changes})))
        with pytest.raises(ValueError, match="This pool was made for another plan than the ledger's: `plan"):
            pool.release(NearestCandidates.of(embedder(random_texts(4))), ledger)
        assert ledger.num_releases == 0


def test_the_noise_of_a_subclass_is_not_the_library_s(embedder, private):
    class Averaging(InMemoryClientPool):
        def _answer(self, question, mechanism):
            return np.rint(np.mean([super(Averaging, self)._answer(question, mechanism) for _ in range(9)], axis=0))

    config = PrivateEvolutionConfig(epsilon=4.0, delta=1e-3)
    plan = Plan.from_config(config)
    ledger = PrivacyLedger(plan)
    Averaging(private, embedder, config, plan).release(NearestCandidates.of(embedder(random_texts(4))), ledger)
    assert ledger.epsilon(1e-3) == np.inf
    assert InMemoryClientPool(private, embedder, config, plan).noise_is_genuine


def test_the_capacity_of_every_release_is_checked(embedder, private):
    """A mean whose noise is so large that sums would wrap, planned before votes whose noise is not."""
    config = PrivateEvolutionConfig(noise_multiplier=1e7, delta=1e-3, mean_fraction=1e-9)
    with pytest.raises(ValueError, match="overflow 64-bit sums"):
        InMemoryClientPool(private, embedder, config, Plan.from_config(config))


def test_a_mean_and_votes_of_one_client_more_or_less(embedder, private):
    """The neighboring relation itself, for both questions: all of one client's samples, in or out."""
    texts = random_texts(20, seed=3)
    for question in (NearestCandidates.of(embedder(texts)), MeanEmbedding.of(embedder(texts))):
        pool, ledger = pool_with(None, private, embedder, mean_fraction=0.5)
        whole = pool.release(question, ledger)
        changes = []
        for client in sorted(set(private["client_id"])):
            without = private.filter(lambda row, left_out=client: row["client_id"] != left_out)
            pool, ledger = pool_with(None, without, embedder, mean_fraction=0.5)
            changes.append(np.linalg.norm(whole - pool.release(question, ledger)))
        assert max(changes) <= 1
        # Any client reaches the bound with votes. These clients write alike, so their means are near the public one.
        assert max(changes) > (0.999 if question.name == "votes" else 0.05)
