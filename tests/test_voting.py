import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_pretext.voting import (
    EMBEDDING_UNITS,
    MAX_CLIP_NORM,
    VOTE_UNITS,
    count_votes,
    nearest_candidates,
    quantize_embeddings,
    quantize_votes,
    sum_votes,
)


def unit_rows(rng, num_rows, dimension=16):
    rows = rng.normal(size=(num_rows, dimension))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


votes = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 10_000))


@given(counts=votes, owner_seed=st.integers(0, 2**32 - 1), clip_norm=st.floats(1e-3, MAX_CLIP_NORM))
@settings(max_examples=500, deadline=None)
def test_no_client_exceeds_the_sensitivity(counts, owner_seed, clip_norm):
    """The claim of `quantize_votes`, checked with Python's exact integers."""
    clients = np.random.default_rng(owner_seed).integers(0, 5, size=len(counts))
    quantized = quantize_votes(clients, counts, clip_norm)
    assert quantized.dtype == np.int64 and (quantized >= 0).all()
    limit = int(clip_norm * VOTE_UNITS)
    for client in set(clients.tolist()):
        assert sum(int(value) ** 2 for value in quantized[clients == client]) <= limit**2


@given(counts=votes)
@settings(max_examples=200, deadline=None)
def test_clipping_loses_next_to_nothing(counts):
    clients = np.zeros(len(counts), dtype=np.int64)
    quantized = quantize_votes(clients, counts, 1.0) / VOTE_UNITS
    np.testing.assert_allclose(quantized, counts / np.linalg.norm(counts.astype(float)), atol=2 / VOTE_UNITS)


def test_one_vote_is_one_unit_exactly():
    assert quantize_votes(np.array([0]), np.array([1]), 1.0).tolist() == [VOTE_UNITS]


def test_counting_leaves_counts_within_the_cap_as_they_are():
    quantized = quantize_votes(np.array([0, 0, 1]), np.array([5, 3, 8]), 8.0)
    assert quantized.tolist() == [5 * VOTE_UNITS, 3 * VOTE_UNITS, 8 * VOTE_UNITS]


def test_counting_clips_a_client_beyond_the_cap():
    assert quantize_votes(np.array([0]), np.array([10_000]), 8.0).tolist() == [8 * VOTE_UNITS]


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), 2 * MAX_CLIP_NORM])
def test_bad_clipping_norm_is_named(clip_norm):
    with pytest.raises(ValueError, match="`clip_norm`"):
        quantize_votes(np.array([0]), np.array([1]), clip_norm)


@given(seed=st.integers(0, 2**32 - 1), block_size=st.integers(1, 50), offset=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_votes_do_not_depend_on_who_else_votes(seed, block_size, offset):
    """Bit for bit: scores are exact integers, so blocks and neighbours cannot change them."""
    rng = np.random.default_rng(seed)
    candidates = quantize_embeddings(0.9 * unit_rows(rng, 20))
    samples = quantize_embeddings(unit_rows(rng, 31))
    alone = nearest_candidates(samples[offset : offset + 1], candidates, 3)
    together = nearest_candidates(samples, candidates, 3, block_size)
    np.testing.assert_array_equal(alone[0], together[offset])


@given(seed=st.integers(0, 2**32 - 1), is_coarse=st.booleans())
@settings(max_examples=50, deadline=None)
def test_nearest_is_nearest_in_exact_arithmetic(seed, is_coarse):
    rng = np.random.default_rng(seed)
    candidates, samples = quantize_embeddings(0.7 * unit_rows(rng, 12)), quantize_embeddings(unit_rows(rng, 9))
    if is_coarse:  # so that many are equally near
        candidates, samples = np.sign(candidates), np.sign(samples)
    differences = samples[:, None].astype(np.int64) - candidates[None].astype(np.int64)
    # A stable order: among equally near candidates the first wins.
    expected = (differences**2).sum(-1).argsort(1, kind="stable")
    for number in (1, 5, 12):
        np.testing.assert_array_equal(nearest_candidates(samples, candidates, number), expected[:, :number])
    np.testing.assert_array_equal(nearest_candidates(samples, candidates, 20), expected)


@pytest.mark.parametrize("dimension", [2, 384, 4096])
def test_scores_stay_exact_at_the_worst_case(dimension):
    """Parallel rows give the largest products; float32 must still equal 64-bit integers."""
    row = np.full((1, dimension), 1 / np.sqrt(dimension))
    quantized = quantize_embeddings(np.concatenate([row, -row]))
    exact = quantized.astype(np.int64) @ quantized.T.astype(np.int64)
    scores = 2 * (quantized @ quantized.T) - np.einsum("md,md->m", quantized, quantized)
    np.testing.assert_array_equal(scores.astype(np.int64), 2 * exact - np.diag(exact))
    assert np.abs(2 * exact).max() + exact.max() < 2**24


def test_quantised_embeddings_are_near():
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


def test_histogram_sums_what_clients_count():
    clients, nearest = np.array([0, 0, 0, 1, 2]), np.array([[3], [3], [1], [3], [0]])
    voters, choices, counts = count_votes(clients, nearest, num_candidates=5)
    assert dict(zip(zip(voters.tolist(), choices.tolist(), strict=True), counts.tolist(), strict=True)) == {
        (0, 1): 1,
        (0, 3): 2,
        (1, 3): 1,
        (2, 0): 1,
    }
    assert sum_votes(choices, counts, 5).tolist() == [1, 1, 0, 3, 0]
