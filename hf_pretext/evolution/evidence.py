"""The evidence: what all releases of a run say together about any text. Post-processing on arrays.

Every release says how many times as many texts like a given one there should be, relative to some texts that it is
about. A release about later candidates compares texts that the earlier ones chose. So the ratios multiply.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from ..privacy.plan import MEAN_CLIP
from .smoothing import SmoothedVotes, nearness, smooth_votes

MAX_CHANGE = 10.0
"""Most that the votes of one round change how likely a text is drawn, since votes are noisy."""

EFFECTIVE_FRACTION = 0.08
"""Fraction of the public texts that a mean embedding selects, as their effective sample size."""

MOST_SPREAD = 100.0
"""Largest logarithm of a ratio, and largest difference of two that a tilt is made strong enough for."""

NEIGHBORHOOD = 0.1
"""How far `SeedsReading` looks around a text, in units of one minus the cosine of two embeddings."""


class Reading(Protocol):
    """What one release says about any text."""

    def ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Compute how many times as many texts like these there should be.

        Args:
            embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.
            among (`np.ndarray` of shape `(m, d)`, *optional*):
                Unit embeddings of the texts whose average ratio is one. By default those that the release was about.

        Returns:
            `np.ndarray` of shape `(n,)`: Ratios above zero.
        """
        ...


@runtime_checkable
class Interprets(Protocol):
    """A question of the caller whose answer says something about texts."""

    def interpret(self, answer: np.ndarray, noise_std: float, embeddings: np.ndarray) -> np.ndarray:
        """Compute the logarithm of how many times as many texts like these there should be, up to a constant.

        Args:
            answer (`np.ndarray` of shape `(num_bins,)`): The noisy sum over the clients.
            noise_std (`float`): Standard deviation of the noise in a bin.
            embeddings (`np.ndarray` of shape `(n, d)`): Unit embeddings of the texts.
        """
        ...


MOST_NOISE = 0.2
"""Fraction of the squared length of a released mean that may be noise, if written texts are to have that mean."""

UNIT_TOLERANCE = 1e-3
"""What the length of an embedding model's vectors may differ from one, by rounding."""


class VotesReading:
    """What the votes of one round say.

    Args:
        votes (`np.ndarray` of shape `(m,)`): Noisy histogram, in votes.
        noise_std (`float`): Standard deviation of the noise in a bin, in votes.
        embed (`Callable`): Computes the embeddings of the candidates, if they are needed.
    """

    def __init__(self, votes: np.ndarray, noise_std: float, embed: Callable[[], np.ndarray]) -> None:
        self.votes, self.noise_std, self._embed = votes, noise_std, embed

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Unit embeddings of the candidates, shape `(m, d)`. The mean of several variations is shorter than one."""
        points = self._embed()
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        is_unit = np.allclose(lengths, 1, rtol=0, atol=UNIT_TOLERANCE)
        return points if is_unit else points / np.maximum(lengths, np.finfo(np.float32).tiny)

    @cached_property
    def smoothed(self) -> SmoothedVotes:
        """The votes with most of their noise removed, and a forecast for other texts."""
        return smooth_votes(self.votes, self.noise_std, self.embeddings)

    def ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Compute expected votes over average votes. See `Reading`."""
        expected = self.smoothed.predict(embeddings)
        if among is None:
            usual = self.smoothed.votes
        else:
            usual = expected if among is embeddings else self.smoothed.predict(among)
        return ratios_of(expected, _average(usual))

    @property
    def average(self) -> float:
        """Votes of an average candidate, relative to which ratios are by default."""
        return _average(self.smoothed.votes)


def _average(votes: np.ndarray) -> float:
    return float(np.maximum(votes, 0).mean())


def ratios_of(expected: np.ndarray, average: float) -> np.ndarray:
    """Compute expected votes over average ones, within the bounds of what one round may change (`MAX_CHANGE`)."""
    if average == 0:  # No text is expected to get any vote, so this round compares nothing.
        return np.ones(len(expected))
    return np.clip(expected / average, 1 / MAX_CHANGE, MAX_CHANGE)


class TiltReading:
    """What a release says whose answer is a score of texts: the logarithm of their ratio, up to a constant.

    Args:
        score (`Callable`): Maps unit embeddings of shape `(n, d)` to scores of shape `(n,)`.
        embed (`Callable`): Computes unit embeddings of public texts, shape `(m, d)`, whose average ratio is one.
        fraction (`float`, *optional*):
            Effective sample size of the tilted public texts, as a fraction of them. The scores are multiplied by the
            strength that gives it. A sharper tilt lets a few texts stand for all. By default the strength is one.
    """

    def __init__(
        self,
        score: Callable[[np.ndarray], np.ndarray],
        embed: Callable[[], np.ndarray],
        fraction: float | None = None,
    ) -> None:
        self._score, self._embed, self._fraction = score, embed, fraction

    def ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Compute the exponential of the scores over its average. See `Reading`."""
        # Never zero or infinite, also as a product of several: a text without any chance could not be compared.
        return np.exp(np.clip(self.log_ratios(embeddings, among), -MOST_SPREAD, MOST_SPREAD))

    def log_ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Compute the logarithms of the ratios. See `Reading`."""
        usual = self._usual if among is None else self._strength * self._score(among)
        highest = usual.max()
        average = highest + math.log(float(np.exp(usual - highest).mean()))
        return self._strength * self._score(embeddings) - average

    @cached_property
    def _scores(self) -> np.ndarray:
        return self._score(self._embed())

    @cached_property
    def _strength(self) -> float:
        return 1.0 if self._fraction is None else strength_of(self._scores, self._fraction)

    @cached_property
    def _usual(self) -> np.ndarray:
        return self._strength * self._scores


class MeanReading(TiltReading):
    """What a mean embedding says: prefer texts exponentially along its shift from the public mean.

    If all directions vary alike, that is the smallest change, in relative entropy, that has such a mean.

    Args:
        direction (`np.ndarray` of shape `(d,)`): Where the mean of the clients is, relative to a public mean.
        center (`np.ndarray` of shape `(d,)`): The public mean.
        embed (`Callable`): Computes unit embeddings of public texts. See `TiltReading`.
        mean (`np.ndarray` of shape `(d,)`, *optional*): The mean of the clients, if it is known well (`mean_of`).
    """

    def __init__(
        self,
        direction: np.ndarray,
        center: np.ndarray,
        embed: Callable[[], np.ndarray],
        mean: np.ndarray | None = None,
    ) -> None:
        super().__init__(lambda points: (points - center) @ direction, embed, EFFECTIVE_FRACTION)
        self._direction = direction
        self.mean = mean

    @property
    def slope(self) -> np.ndarray:
        """How the logarithm of the ratio grows along each dimension, shape `(d,)`."""
        return self._strength * self._direction

    @property
    def offset(self) -> float:
        """Logarithm of the ratio of a text whose embedding is zero."""
        return float(self.log_ratios(np.zeros((1, len(self._direction))))[0])


def mean_of(answer: np.ndarray, noise_std: float, num_clients: int, center: np.ndarray) -> np.ndarray | None:
    """Estimate the clients' mean embedding from the noisy sum of their shifts from a public mean.

    Args:
        answer (`np.ndarray` of shape `(d,)`): The noisy sum, in units of `MEAN_CLIP`.
        noise_std (`float`): Standard deviation of the noise in a bin.
        num_clients (`int`): Number of clients in the sum.
        center (`np.ndarray` of shape `(d,)`): The public mean.

    Returns:
        `np.ndarray` of shape `(d,)`: The mean, shrunk towards the public one by what noise adds to its length (James
        and Stein 1961). None if more than `MOST_NOISE` of that is noise, or there are no clients. A shift was clipped
        to `MEAN_CLIP` on each client. So if clients have one or two texts, this is nearer to the public mean.
    """
    noise, length = len(answer) * noise_std**2, float(answer @ answer)
    if num_clients < 1 or noise > MOST_NOISE * length:
        return None
    return np.asarray(center + (1 - noise / length) * MEAN_CLIP / num_clients * answer)


class SeedsReading:
    """What the ratios of seeds say about other texts: their neighbors among the seeds decide.

    Args:
        embeddings (`np.ndarray` of shape `(m, d)`): Unit embeddings of the seeds.
        ratios (`np.ndarray` of shape `(m,)`): Their ratios, above zero.
    """

    def __init__(self, embeddings: np.ndarray, ratios: np.ndarray) -> None:
        self._embeddings, self._logarithms = embeddings, np.log(ratios)

    def ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Average the logarithm of the seeds' ratios, weighted by nearness (Nadaraya 1964). See `Reading`."""
        averages = np.empty(len(embeddings))
        for start in range(0, len(embeddings), 256):  # However many seeds there are, the kernel stays small.
            weights = nearness(embeddings[start : start + 256], self._embeddings, NEIGHBORHOOD)
            averages[start : start + 256] = weights @ self._logarithms / weights.sum(axis=1)
        return np.exp(averages)


class Evidence:
    """What all readings say together.

    Selecting candidates, drawing public texts, weighting seeds and judging new texts ask this object.

    Args:
        readings (`Sequence[Reading]`, *optional*): What is known so far.
    """

    def __init__(self, readings: Sequence[Reading] = ()) -> None:
        self._readings = list(readings)

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self._readings)

    @property
    def readings(self) -> list[Reading]:
        """What is known so far, in the order in which it was released."""
        return list(self._readings)

    def add(self, reading: Reading) -> None:
        """Take in what another release says."""
        self._readings.append(reading)

    def ratios(self, embeddings: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """Multiply the ratios of all readings. See `Reading`."""
        product = np.ones(len(embeddings))
        for reading in self._readings:
            product *= reading.ratios(embeddings, among)
        return product


def strength_of(scores: np.ndarray, fraction: float) -> float:
    """Find the strength of an exponential tilt whose effective sample size is a fraction of the texts.

    Args:
        scores (`np.ndarray` of shape `(m,)`): Scores of the texts.
        fraction (`float`):
            Effective sample size `(sum w)^2 / sum w^2` over the number of texts. It is larger if there are few texts,
            or ties of the highest score: no text becomes less likely than the first by more than `MOST_SPREAD`.

    Returns:
        `float`: The strength, not negative. Zero if all scores are equal.
    """
    shifted = scores - scores.max()
    if not shifted.any():
        return 0.0

    def effective(strength: float) -> float:
        weights = np.exp(strength * shifted)
        return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))

    low, high = 0.0, MOST_SPREAD / float(np.abs(shifted).max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) > fraction else (low, middle)
    return high
