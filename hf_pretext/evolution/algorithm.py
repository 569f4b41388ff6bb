"""Private Evolution (Algorithm 1): the loop, and the seeds that it finds. Everything here is post-processing."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import PrivateEvolutionConfig
from .candidates import Candidates
from .selection import resample

if TYPE_CHECKING:
    from ..clients.pool import ClientPool
    from ..runs.run import Run
    from .population import Population


class Seeds:
    """The survivors of all rounds, each once, with the votes above the threshold that they got."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, candidates: Candidates, weights: np.ndarray, parents: np.ndarray) -> None:
        """Add the survivors of a round: the candidates that are a parent at least once."""
        for index in np.unique(parents):
            text = candidates.texts[index]
            seed = self.rows.setdefault(text, {"text": text, "round": candidates.round, "votes": 0.0})
            seed["votes"] += float(weights[index])


def evolve(
    run: "Run", clients: "ClientPool | None", population: "Population", config: PrivateEvolutionConfig
) -> Seeds:
    """Let the clients' noisy answers pull public texts towards the texts that they hold (Algorithm 1)."""
    for question in population.first_questions:
        answer = run.release(question, clients)
        if answer is not None:
            question.read(answer)
    seeds = Seeds()
    texts = population.initial  # S_1
    for number in range(1, config.num_rounds + 1):
        rng = run.rng(number)
        candidates = population.represent(texts, number)
        votes = run.release(candidates, clients)  # Algorithm 2: with the first questions, all that sees private text.
        if votes is None:
            continue  # Lost in a crash: it is counted, and the next round asks about the same texts.
        weights = population.weigh(candidates, votes)
        parents = resample(weights, config.population_size, rng.selection)  # P_t
        seeds.add(candidates, weights, parents)
        if number < config.num_rounds:
            texts = population.next(candidates, parents, rng.variation)  # S_(t+1)
        run.record(candidates, votes, weights, parents)
    return seeds
