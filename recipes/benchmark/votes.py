"""Votes of the private set without noise, and what a round makes of them: evaluation only, not DP."""

import numpy as np

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.questions import NearestCandidates, sum_answers
from hf_pretext.clients.samples import Samples
from hf_pretext.evolution.evidence import VotesReading
from hf_pretext.evolution.selection import SelectionRule, selection_rule
from hf_pretext.privacy.mechanism import Mechanism


def true_votes(samples: Samples, points: np.ndarray) -> np.ndarray:
    """Count the samples that are nearest to each candidate, without clipping (evaluation only, not DP).

    Args:
        samples (`Samples`): The samples of all clients.
        points (`np.ndarray` of shape `(m, d)`): Unit embeddings of the candidates.

    Returns:
        `np.ndarray` of shape `(m,)`: Numbers of samples.
    """
    question = NearestCandidates.of(points)
    return question.answers(samples).sum(question.num_bins)


def clipped_votes(samples: Samples, points: np.ndarray, votes_per_sample: int, mechanism: Mechanism) -> np.ndarray:
    """Sum the votes that a mechanism adds noise to (evaluation only, not DP).

    Args:
        samples (`Samples`): The samples of all clients.
        points (`np.ndarray` of shape `(m, d)`): Unit embeddings of the candidates.
        votes_per_sample (`int`): Candidates that a sample votes for.
        mechanism (`Mechanism`): The mechanism.

    Returns:
        `np.ndarray` of shape `(m,)`: Sums, in votes.
    """
    return sum_answers(NearestCandidates.of(points, votes_per_sample), samples, mechanism) / mechanism.units


def reading_of(votes: np.ndarray, noise_std: float, points: np.ndarray) -> VotesReading:
    """Read the noisy votes of candidates whose unit embeddings are known."""
    return VotesReading(votes, noise_std, lambda: points)


def weigh(reading: VotesReading, config: PrivateEvolutionConfig, selection: SelectionRule | None = None) -> np.ndarray:
    """Weigh candidates by their noisy votes, as a round with these settings, or with a rule of one's own, does."""
    return selection_rule(selection, config).select(reading)


def lift_of(weights: np.ndarray, votes: np.ndarray) -> float:
    """Compute the mean of the true votes of candidates that are drawn by weight, over that of all candidates."""
    return float(weights @ votes / weights.sum() / votes.mean())
