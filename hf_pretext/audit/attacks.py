"""Attacks of an audit: a score for each target, higher for those that seem to have participated.

A target is scored by what was released (`vote_scores`), by what was generated (`similarity_scores`, `ngram_scores`),
or by a model that was finetuned on it (`loss_scores`).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..clients.questions import NearestCandidates
from ..clients.samples import quantize_embeddings
from ..segmentation import words
from .canaries import Released
from .targets import Targets

if TYPE_CHECKING:
    from ..evaluation.scoring import TokenScores

OWN_CANDIDATE = 0.9
"""Cosine similarity from which a candidate is a canary's own, or a descendant of it."""


def vote_scores(
    released: Sequence[Released], targets: Targets, embed: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Score targets by the releases themselves: by how much their own votes seem to be in the histogram of each round.

    Only votes for a candidate that is nearly the target's own text count. A target that never has one scores zero.

    Args:
        released (`Sequence[Released]`): What the run released (`AuditedGenerator.released`).
        targets (`Targets`): Whom to score.
        embed (`Callable`): The embedding model of the run, such as `PrivateEvolutionGenerator.embed`.

    Returns:
        `np.ndarray`: A score for each target. Members should have higher ones.
    """
    scores = np.zeros(len(targets.texts))
    points, owners = _embed_targets(targets, embed)
    for question, _, votes in released:
        if not isinstance(question, NearestCandidates):
            continue
        nearest = question.nearest(points)
        is_near = _cosines(points, question.candidates[nearest[:, 0]]) > OWN_CANDIDATE
        added = np.zeros((len(votes), len(scores)))
        np.add.at(added, (nearest[is_near], owners[is_near, None]), 1)
        added /= np.maximum(np.linalg.norm(added, axis=0), 1)
        scores += _memberships(added, votes)
    return scores


def _memberships(added: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Estimate which targets' votes are in a histogram, by Bayesian linear regression (Bishop 2006, section 3.3).

    The histogram is what the members add, each a member by a fair coin, plus the same for every bin, plus noise. The
    variance of the noise is not trusted: it is the one with the largest marginal likelihood. So targets that share
    bins are told apart.

    Args:
        added (`np.ndarray` of shape `(m, n)`): What a target adds to a bin if it is a member, up to a common factor.
        votes (`np.ndarray` of shape `(m,)`): The histogram.

    Returns:
        `np.ndarray` of shape `(n,)`: Zero for targets that add nothing. The higher, the likelier a member.
    """
    added = added - added.mean(axis=0)
    rest = votes - votes.mean() - added.sum(axis=1) / 2
    basis, values, directions = np.linalg.svd(added, full_matrices=False)
    coordinates = basis.T @ rest
    outside = max(float(rest @ rest - coordinates @ coordinates), 0.0)
    prior = values**2 / 4  # the variance of a fair coin
    noises = max(float(rest.var()), 1e-12) * np.geomspace(1e-4, 1, 40)
    likelihoods = [
        -(coordinates**2 / (prior + noise) + np.log(prior + noise)).sum()
        - outside / noise
        - (len(votes) - len(values)) * np.log(noise)
        for noise in noises
    ]
    noise = noises[int(np.argmax(likelihoods))]
    return (coordinates * values / 4 / (prior + noise)) @ directions


def similarity_scores(
    outputs: Sequence[str], targets: Targets, embed: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Score targets by how near their texts are to the nearest text of what was generated (mean cosine similarity)."""
    points, owners = _embed_targets(targets, embed)
    question = NearestCandidates.of(embed(list(outputs)))
    nearest = question.candidates[question.nearest(points)[:, 0]]
    return _mean_per_target(_cosines(points, nearest), owners, len(targets.texts))


def ngram_scores(outputs: Sequence[str], reference: Sequence[str], targets: Targets) -> np.ndarray:
    """Score targets by bigrams: how much likelier what was generated makes their texts than public text does.

    The score of a text is the mean over its words of the difference of two log-probabilities. They are those of bigram
    models of the outputs and of the reference, smoothed with unigrams (after Meeus et al. 2025, arXiv 2502.14921).

    Args:
        outputs (`Sequence[str]`): What was generated.
        reference (`Sequence[str]`): Public texts, such as the initial population.
        targets (`Targets`): Whom to score.
    """
    of_outputs, of_reference = _BigramModel(outputs), _BigramModel(reference)
    texts, owners = _unique_texts(targets)
    scores = np.array([of_outputs.log_probability(text) - of_reference.log_probability(text) for text in texts])
    return _mean_per_target(scores, owners, len(targets.texts))


def loss_scores(before: "TokenScores", after: "TokenScores", targets: Targets) -> np.ndarray:
    """Score targets by how much finetuning lowered the loss on their texts, in nats per token.

    Args:
        before (`TokenScores`): Scores of the model before finetuning, on `target_texts(targets)`.
        after (`TokenScores`): Scores of the finetuned model on the same texts.
        targets (`Targets`): Whom to score.
    """
    _, owners = _unique_texts(targets)
    tokens = np.maximum(before.num_tokens, 1)
    return _mean_per_target((before.loss - after.loss) / tokens, owners, len(targets.texts))


def target_texts(targets: Targets) -> list[str]:
    """List the texts of all targets, each once per target, in the order that `loss_scores` expects."""
    return _unique_texts(targets)[0]


class _BigramModel:
    """Probabilities of words after words: bigrams, unigrams and a uniform rest, each with a fixed weight."""

    WEIGHTS = (0.6, 0.3, 0.1)
    VOCABULARY = 50_000

    def __init__(self, texts: Sequence[str]) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._words: Counter[str] = Counter()
        for text in texts:
            found = words(text.lower())
            self._words.update(found)
            self._pairs.update(zip(found, found[1:], strict=False))

    def log_probability(self, text: str) -> float:
        """Compute the mean log-probability of a text's words, each after the one before it."""
        found = words(text.lower())
        total, (of_pair, of_word, of_rest) = max(self._words.total(), 1), self.WEIGHTS
        logs = [
            math.log(
                of_pair * self._pairs[before, word] / max(self._words[before], 1)
                + of_word * self._words[word] / total
                + of_rest / self.VOCABULARY
            )
            for before, word in zip(found, found[1:], strict=False)
        ]
        return float(np.mean(logs)) if logs else 0.0


def _unique_texts(targets: Targets) -> tuple[list[str], np.ndarray]:
    pairs = [(text, owner) for owner, own in enumerate(targets.texts) for text in dict.fromkeys(own)]
    return [text for text, _ in pairs], np.array([owner for _, owner in pairs])


def _embed_targets(targets: Targets, embed: Callable[[list[str]], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    texts, owners = _unique_texts(targets)
    return quantize_embeddings(embed(texts)), owners


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the cosine similarity of each row with the row beside it."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nd,nd->n", left, right) / lengths


def _mean_per_target(scores: np.ndarray, owners: np.ndarray, num_targets: int) -> np.ndarray:
    counts = np.bincount(owners, minlength=num_targets)
    return np.bincount(owners, weights=scores, minlength=num_targets) / np.maximum(counts, 1)
