"""What a mean by label says of any text under each label. Post-processing on arrays.

The answer of the clients is, for each label, how far the mean of their texts with it is from a public mean. From it
follows a score that is linear in the embedding of a text: the logarithm of how many times as many texts like it there
should be with that label. The seeds carry their scores, and so the scores of any other text.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

RIDGE = 0.05
"""What is added to the variances of public texts before they divide, as a fraction of the largest one."""

LEAST_SIGNAL = 2.0
"""Standard deviations by which the squared length of a shift must exceed what it is on average of noise alone."""

SMALLEST_SINGULAR_VALUE = 1e-3
"""Directions in which embeddings of seeds vary less than this fraction of the most are not fitted."""


def tilt_direction(shift: np.ndarray, noise_std: float, embeddings: np.ndarray) -> np.ndarray:
    """Find the direction of the exponential tilt of public texts that moves their mean like a noisy shift.

    A tilt by `exp(t x)` moves the mean of texts with the covariance `C` by `C t`, to first order. So the direction is
    `C^-1` times the shift. The shift itself would move the mean where texts vary most, whatever the label. Where they
    hardly vary, the inverse lets the noise decide. So a ridge is added to `C`: a part of the largest variance, and the
    variance of the noise in units of the shift, by which the inverse is the expected one if shifts are as likely as
    differences of public texts.

    Args:
        shift (`np.ndarray` of shape `(d,)`): Difference of two means, up to a scale, with noise.
        noise_std (`float`): Standard deviation of the noise in an entry.
        embeddings (`np.ndarray` of shape `(m, d)`): Unit embeddings of public texts.

    Returns:
        `np.ndarray` of shape `(d,)`: The direction, of any length. Zeros if the noise may be all that is seen: a tilt
        that is as sharp as the others would then prefer texts at random.
    """
    centered = embeddings - embeddings.mean(axis=0)
    covariance = (centered.T @ centered).astype(np.float64) / len(centered)
    signal = float((shift**2).sum()) - len(shift) * noise_std**2
    # Of noise alone, the first has a mean of zero and this standard deviation.
    spread = math.sqrt(2 * len(shift)) * noise_std**2
    largest, total = float(np.linalg.eigvalsh(covariance)[-1]), float(np.trace(covariance))
    if signal <= LEAST_SIGNAL * spread or largest <= 0:
        return np.zeros_like(shift)
    ridge = RIDGE * largest + noise_std**2 * total / signal
    return np.linalg.solve(covariance + ridge * np.eye(len(shift)), shift)


class LabelScores:
    """Scores of any text under each label, by those of the seeds.

    They are linear in the embedding, so the seeds say what they are in all directions in which seeds differ. In the
    others, all texts are taken for equal.

    Args:
        embeddings (`np.ndarray` of shape `(m, d)`): Unit embeddings of the seeds.
        scores (`np.ndarray` of shape `(m, num_labels)`): Their scores.
    """

    def __init__(self, embeddings: np.ndarray, scores: np.ndarray) -> None:
        self._center, self._average = embeddings.mean(axis=0), scores.mean(axis=0)
        differences = (embeddings - self._center).astype(np.float64)
        fitted = np.linalg.lstsq(differences, scores - self._average, rcond=SMALLEST_SINGULAR_VALUE)
        self._directions = fitted[0]

    def of(self, embeddings: np.ndarray) -> np.ndarray:
        """Compute the scores of texts with unit embeddings of shape `(n, d)`, as an array `(n, num_labels)`."""
        return (embeddings - self._center) @ self._directions + self._average


class ScoredSeeds:
    """The seeds of all labels with their scores, from which those of other texts follow.

    Args:
        texts (`Sequence[str]`): The seeds.
        scores (`np.ndarray` of shape `(m, num_labels)`): Their scores under each label.
    """

    def __init__(self, texts: Sequence[str], scores: np.ndarray) -> None:
        self.texts, self.scores = texts, scores
        self._fitted: LabelScores | None = None

    def fitted(self, embed: Callable[[Sequence[str]], np.ndarray]) -> LabelScores:
        """Return the scores of any text. The seeds are embedded once."""
        if self._fitted is None:
            self._fitted = LabelScores(embed(self.texts), self.scores)
        return self._fitted


def margins(scores: np.ndarray) -> np.ndarray:
    """Compute by how much the score under each label exceeds the highest one under the others.

    Nothing is known of a label under which all scores are zero. It competes with those of which something is known,
    and not with its like. Each text fits it if there is none of these.

    Args:
        scores (`np.ndarray` of shape `(n, num_labels)`): Scores of texts.

    Returns:
        `np.ndarray` of shape `(n, num_labels)`: Above zero for the label that fits a text best, and for no other of
        which something is known.
    """
    known = np.asarray(scores.any(axis=0))
    found = np.ones_like(scores)
    for label in range(scores.shape[1]):
        others = known.copy() if not known[label] else np.ones_like(known)
        others[label] = False
        if others.any():
            found[:, label] = scores[:, label] - scores[:, others].max(axis=1)
    return found


def is_scores(shape: tuple[int, int], value: object) -> bool:
    """Return whether a value is a list of lists of finite numbers, of this shape."""
    number, num_labels = shape
    return (
        isinstance(value, list)
        and len(value) == number
        and all(isinstance(row, list) and len(row) == num_labels for row in value)
        and all(isinstance(each, (int, float)) and abs(each) < 1e100 for row in value for each in row)
    )
