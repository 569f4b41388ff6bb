"""Measures of how near synthetic texts are to reference texts: pure functions of embeddings and texts.

A measure against private text is an evaluation, not a release: the guarantee of a run does not cover it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..segmentation import words


def frechet_distance(reference: np.ndarray, other: np.ndarray, num_components: int = 32) -> float:
    """Compute the Fréchet distance between Gaussians fitted to two sets of embeddings.

    `|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))`, on the first principal components of the reference (Heusel et
    al. 2017, arXiv 1706.08500). The larger set is cut to the size of the smaller one, because the estimate depends on
    the number of samples.

    Args:
        reference (`np.ndarray` of shape `(n, d)`):
            Embeddings of the reference texts. The components are fitted on all of them.
        other (`np.ndarray` of shape `(m, d)`): Embeddings of the texts to judge.
        num_components (`int`, *optional*, defaults to `32`): Number of principal components.

    Returns:
        `float`: The distance, in squared units of the embedding. It is 0 for equal means and covariances.

    Raises:
        ValueError: There are fewer texts than components on a side.
    """
    size = min(len(reference), len(other))
    if size <= num_components:
        raise ValueError(
            f"`num_components`={num_components} needs more texts on both sides than the {size} there are."
        )
    center = reference.mean(axis=0)
    components = np.linalg.svd(reference - center, full_matrices=False)[2][:num_components]
    # The same fixed choice at every call, so that two distances to one reference compare the same texts.
    rng = np.random.default_rng(0)
    first, second = (
        (points[rng.permutation(len(points))[:size]] - center) @ components.T for points in (reference, other)
    )
    shift = first.mean(axis=0) - second.mean(axis=0)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    # The product of two covariances has real eigenvalues that are not negative, up to rounding.
    cross = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)).sum()
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def precision_recall(reference: np.ndarray, other: np.ndarray, num_neighbors: int = 3) -> tuple[float, float]:
    """Compute improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991).

    A text is in the manifold of a set if some text of the set is at least as near to it as to its own k-th neighbor.
    Precision is the fraction of the other texts in the reference's manifold: how many are realistic. Recall is the
    fraction of the reference texts in the others' manifold: how much of the reference is covered. The larger set is
    cut to the size of the smaller one, because both depend on the number of texts.

    Args:
        reference (`np.ndarray` of shape `(n, d)`): Embeddings of the reference texts.
        other (`np.ndarray` of shape `(m, d)`): Embeddings of the texts to judge.
        num_neighbors (`int`, *optional*, defaults to `3`): Neighbors `k` that make up the manifold.

    Returns:
        `tuple` of `float`: Precision and recall, between 0 and 1.

    Raises:
        ValueError: There are not more texts than neighbors on a side.
    """
    size = min(len(reference), len(other))
    if size <= num_neighbors:
        raise ValueError(f"`num_neighbors`={num_neighbors} needs more texts on both sides than the {size} there are.")
    rng = np.random.default_rng(0)
    first, second = (points[rng.permutation(len(points))[:size]].astype(np.float64) for points in (reference, other))
    return _fraction_within(second, first, num_neighbors), _fraction_within(first, second, num_neighbors)


def _fraction_within(points: np.ndarray, manifold: np.ndarray, num_neighbors: int, block: int = 1024) -> float:
    """Compute the fraction of points in the manifold of others, some rows at a time so that memory stays bounded."""
    radii = np.concatenate(
        [
            # The nearest point of the set is the point itself.
            np.partition(_squared_distances(manifold[start : start + block], manifold), num_neighbors, axis=1)[
                :, num_neighbors
            ]
            for start in range(0, len(manifold), block)
        ]
    )
    # Equal points are at distance zero up to rounding only.
    slack = 1e-9 * (1 + radii)
    inside = [
        (_squared_distances(points[start : start + block], manifold) <= radii + slack).any(axis=1)
        for start in range(0, len(points), block)
    ]
    return float(np.concatenate(inside).mean())


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    return np.maximum(squares, 0)


FEWEST_FOR_MAUVE = 100
"""Texts of a side. With fewer, MAUVE is biased toward 1: it compares one cluster per ten texts and misses the rest."""


def mauve(reference: np.ndarray, other: np.ndarray) -> float:
    """Compute MAUVE (Pillutla et al. 2021, arXiv 2102.01454) with the package `mauve-text`, on given embeddings.

    Args:
        reference (`np.ndarray` of shape `(n, d)`): Embeddings of the reference texts.
        other (`np.ndarray` of shape `(m, d)`): Embeddings of the texts to judge.

    Returns:
        `float`: Between 0 and 1, which equal distributions have. It depends on the embedding model and on the number
        of texts (the larger set is cut to the size of the smaller one), so compare like with like only.

    Raises:
        ImportError: `mauve-text` is not installed.
        ValueError: There are fewer than 100 texts on a side, with which it is biased toward 1.
    """
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise ImportError("MAUVE comes with a package: `pip install mauve-text`.") from error
    size = min(len(reference), len(other))
    if size < FEWEST_FOR_MAUVE:
        raise ValueError(
            f"MAUVE needs more texts on both sides than the {size} there are: {FEWEST_FOR_MAUVE} at least. With "
            "fewer, it is biased toward 1."
        )
    rng = np.random.default_rng(0)
    first, second = (points[rng.permutation(len(points))[:size]] for points in (reference, other))
    return float(compute_mauve(p_features=first, q_features=second, seed=0, verbose=False).mauve)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Compute the fraction of different n-grams among all n-grams of words (Li et al. 2016, arXiv 1510.03055).

    Args:
        texts (`Sequence[str]`): The texts. Words are in lower case, and those of scripts without spaces are their
            characters (`segmentation.word_spans`).
        n (`int`): Words in an n-gram.

    Returns:
        `float`: Between 0 and 1. It is 0 if no text has `n` words, and falls with the number of texts.
    """
    grams = [
        tuple(found[start : start + n])
        for found in (words(text.lower()) for text in texts)
        for start in range(len(found) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def length_histogram(num_bins: int = 10, **sides: Sequence[str]) -> dict[str, Any]:
    """Compute histograms of the texts' lengths in words, in any script (`segmentation.word_spans`), with common bins.

    Args:
        num_bins (`int`, *optional*, defaults to `10`): Number of bins, which are equally wide.
        **sides (`Sequence[str]`): Texts, by the name of their side.

    Returns:
        `dict`: `edges` of the bins, in words, and under each name the fraction of texts in each bin.
    """
    lengths = {name: [len(words(text)) for text in texts] for name, texts in sides.items()}
    longest = max(max(side) for side in lengths.values())
    edges = np.linspace(0, longest + 1, num_bins + 1)
    fractions = {name: (np.histogram(side, edges)[0] / len(side)).tolist() for name, side in lengths.items()}
    return {"edges": edges.tolist(), **fractions}


def gap_closed(score: float, floor: float, ceiling: float) -> float:
    """Compute the fraction of the gap between a floor and a ceiling that a score closes, as the paper reports it.

    Args:
        score (`float`): Score of the method, such as its accuracy.
        floor (`float`): Score without private text, such as of finetuning on public text only.
        ceiling (`float`): Score without privacy.

    Returns:
        `float`: `(score - floor) / (ceiling - floor)`: 0 at the floor, 1 at the ceiling.

    Raises:
        ValueError: Floor and ceiling are equal, so there is no gap.
    """
    if ceiling == floor:
        raise ValueError(f"`floor`={floor} and `ceiling`={ceiling} are equal: there is no gap to close.")
    return (score - floor) / (ceiling - floor)
