"""Which of the texts that a language model wrote are kept: those that the clients' answers prefer. Post-processing."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .evolution.evidence import Evidence, SeedsReading
from .evolution.label_scores import ScoredSeeds, margins
from .evolution.matching import match_mean
from .evolution.token_answer import TokenAnswer
from .models.engine import TextEngine
from .processes import broadcast, progress_label
from .tilting import choose_alike

Judge = Callable[[np.ndarray], np.ndarray]
"""Returns how good each text is, by the unit embeddings of all. A text at minus infinity is never kept."""

Choose = Callable[[list[str]], list[int]]
"""Chooses among texts, and returns the indices of those that are kept, in ascending order."""

Embed = Callable[[Sequence[str]], np.ndarray]


def chooser(
    best_of: int,
    judge: Judge | None,
    engine: TextEngine,
    answer: TokenAnswer | None,
    label: int,
    mean: np.ndarray | None,
    embed: Embed,
) -> Choose | None:
    """Return what chooses among the texts of a label. None if all of them are kept.

    Args:
        best_of (`int`): Number of texts of which one is kept.
        judge (`Callable`, *optional*): Says how good each is by itself.
        engine (`TextEngine`): The model that wrote them.
        answer (`TokenAnswer`, *optional*): What the clients said about its tokens. Together, the texts that are kept
            hold them as often.
        label (`int`): Number of the label.
        mean (`np.ndarray` of shape `(d,)`, *optional*):
            The clients' mean embedding. If nothing is known of tokens, the texts that are kept have it together.
        embed (`Callable`): Embeds texts as unit rows.
    """
    needs_points = judge is not None or mean is not None
    if best_of == 1 or not (needs_points or answer is not None):
        return None

    def choose(texts: list[str]) -> list[int]:
        with progress_label("Judging what was written"):
            points = embed(texts) if needs_points else np.zeros((len(texts), 0))
        values = np.zeros(len(texts)) if judge is None else judge(points)
        number, fit = math.ceil(len(texts) / best_of), np.flatnonzero(values > -np.inf)
        has_choice = len(fit) > number
        if has_choice and answer is not None:
            own = [texts[index] for index in fit]
            return fit[choose_alike(engine, answer, label, own, values[fit], number)].tolist()
        if has_choice and mean is not None:
            return fit[broadcast(match_mean(points[fit], mean, values[fit], number).tolist())].tolist()
        return sorted(fit[np.argsort(-values[fit], kind="stable")[:number]].tolist())

    return choose


def is_preferred(seeds: Sequence[str], preference: np.ndarray, embed: Embed) -> Judge:
    """Judge texts by the evidence for the seeds near them."""
    evidence = Evidence()

    def judge(points: np.ndarray) -> np.ndarray:
        if not evidence:
            with progress_label("Embedding the seeds"):
                evidence.add(SeedsReading(embed(seeds), preference))
        # Processes on different machines would differ by rounding, and so in what they keep.
        return broadcast(evidence.ratios(points))

    return judge


def fits_label(seeds: ScoredSeeds, label: int, embed: Embed) -> Judge:
    """Judge texts by how much better they fit a label than others. Those that fit another are never kept."""

    def judge(points: np.ndarray) -> np.ndarray:
        with progress_label("Embedding the seeds"):
            scores = seeds.fitted(embed)
        margin = margins(scores.of(points))[:, label]
        return broadcast(np.where(margin > 0, margin, -np.inf))

    return judge
