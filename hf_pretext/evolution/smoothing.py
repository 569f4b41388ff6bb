"""Smoothing of a noisy histogram: Gaussian process regression over the embeddings of the candidates."""

from dataclasses import dataclass
from typing import Any

import numpy as np

LANDMARKS = 768
"""Most candidates that span the kernel of `smooth_votes`. Its time grows with the square of this number."""

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Length scales that `smooth_votes` chooses among, in units of one minus the cosine of two embeddings."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """The votes that candidates would have got, as a function of their embeddings: a mean plus a sum of kernels.

    Args:
        landmarks (`np.ndarray` of shape `(k, d)`): Unit embeddings at which the kernels are.
        weights (`np.ndarray` of shape `(k,)`): Weights of the kernels, in votes.
        length (`float`): Length scale of the kernels, in units of one minus the cosine of two embeddings.
        mean (`float`): Votes of a candidate that is like no landmark.
    """

    landmarks: np.ndarray
    weights: np.ndarray
    length: float
    mean: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Compute the votes of candidates with unit embeddings of shape `(n, d)`, as an array of shape `(n,)`."""
        return self.mean + nearness(points, self.landmarks, self.length) @ self.weights


@dataclass(frozen=True)
class SmoothedVotes:
    """What a noisy histogram says about the votes, given that similar candidates get similar votes.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Expected votes of each candidate.
        std (`np.ndarray` of shape `(m,)`): Standard deviation that is left in them, at most that of the noise.
        predict (`Forecast`): The votes that other candidates would have got.
    """

    votes: np.ndarray
    std: np.ndarray
    predict: Forecast


def smooth_votes(votes: np.ndarray, noise_std: float, embeddings: np.ndarray) -> SmoothedVotes:
    """Remove noise from a histogram by Gaussian process regression over the candidates' embeddings.

    Post-processing: it reads the noisy histogram, the noise's standard deviation, and public embeddings. The votes are
    modeled as a mean, plus a smooth function of the embedding with covariance `a exp((cos - 1) / length)`, plus each
    candidate's own deviation of variance `b`, plus noise of the known variance. The result is the posterior mean and
    standard deviation of the first three (Rasmussen and Williams 2006, chapter 2). `a`, `b` and `length` have the
    largest marginal likelihood on a grid. The kernel is spanned by at most `LANDMARKS` candidates (Nyström, Williams
    and Seeger 2001).

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        noise_std (`float`): Standard deviation of the noise in a bin, in votes.
        embeddings (`np.ndarray` of shape `(m, d)`): Embeddings of the candidates, of length about one.

    Raises:
        ValueError: Some votes are not finite.
    """
    check_finite(votes)
    noise = noise_std**2
    mean = votes.mean()
    centered = votes - mean
    signal = max(float(centered.var()) - noise, 0.01 * noise)
    landmarks = embeddings[np.unique(np.linspace(0, len(votes) - 1, min(LANDMARKS, len(votes))).astype(int))]
    best: tuple[Any, ...] = (-np.inf,)
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(nearness(landmarks, landmarks, length))
        kept = values > 1e-5 * values.max()
        whiten = vectors[:, kept] / np.sqrt(values[kept])
        features = nearness(embeddings, landmarks, length) @ whiten
        # In the directions of its eigenvectors the covariance of the features is diagonal.
        spread, directions = np.linalg.eigh(features.T @ features)
        spread = np.maximum(spread, 1e-9)
        basis = (features @ directions) / np.sqrt(spread)
        coordinates = basis.T @ centered
        rest = max(float(centered @ centered - coordinates @ coordinates), 0.0)
        for smooth in signal * np.geomspace(0.03, 30, 16):
            for own in signal * np.array([0, 0.03, 0.1, 0.3, 0.6, 1]):
                variance = smooth * spread + own + noise
                outside = rest / (own + noise) + (len(votes) - len(spread)) * np.log(own + noise)
                likelihood = -0.5 * float((coordinates**2 / variance + np.log(variance)).sum() + outside)
                if likelihood > best[0]:
                    best = likelihood, length, smooth, own, spread, whiten @ directions, basis, coordinates
    _, length, smooth, own, spread, to_coordinates, basis, coordinates = best
    prior = smooth * spread + own
    alone = own / (own + noise)
    expected = mean + basis @ (prior / (prior + noise) * coordinates) + alone * (centered - basis @ coordinates)
    inside = (basis**2) @ (prior * noise / (prior + noise))
    variance = inside + alone * noise * np.maximum(1 - (basis**2).sum(axis=1), 0)
    weights = to_coordinates @ (smooth * np.sqrt(spread) / (prior + noise) * coordinates)

    return SmoothedVotes(expected, np.sqrt(variance), Forecast(landmarks, weights, length, mean))


def nearness(left: np.ndarray, right: np.ndarray, length: float) -> np.ndarray:
    """Compute the kernel `exp((cos - 1) / length)` of unit embeddings, shape `(len(left), len(right))`."""
    return np.exp((left.astype(np.float64) @ right.T.astype(np.float64) - 1) / length)


def check_finite(votes: np.ndarray) -> None:
    """Raise a `ValueError` if some votes are not finite."""
    if not np.isfinite(votes).all():
        raise ValueError("`votes` holds NaN or infinite counts: check the pool of clients that released them.")
