"""Private Evolution (Algorithm 1): the loop. Everything here is post-processing."""

from typing import TYPE_CHECKING

from ..configuration import PrivateEvolutionConfig
from ..runs.folder import is_count
from ..runs.run import AFTER_FIRST_QUESTIONS
from .seeds import Seeds
from .selection import resample_parts

if TYPE_CHECKING:
    from ..clients.pool import ClientPool
    from ..runs.run import Run
    from .population import Population


def evolve(
    run: "Run", clients: "ClientPool | None", population: "Population", config: PrivateEvolutionConfig
) -> Seeds:
    """Let the clients' noisy answers pull public texts towards the texts that they hold (Algorithm 1)."""
    for question in population.first_questions:
        answer = run.release(question, clients)
        if answer is not None:
            question.read(answer)
    if population.first_questions:
        # It tells an older ledger, which does not count them, from the latest one.
        run.keep(AFTER_FIRST_QUESTIONS, is_count, lambda: run.ledger.num_releases)
    seeds = Seeds(config.label_column)
    texts = population.initial  # S_1, of each label.
    for number in range(1, config.num_rounds + 1):
        rng = run.rng(number)
        candidates = population.represent(texts, number)
        answer = run.release(candidates, clients)  # Algorithm 2: with the first questions, all that sees private text.
        if answer is None:
            continue  # Lost in a crash: it is counted, and the next round asks about the same texts.
        weights = population.weigh(candidates, answer)
        parents = resample_parts(weights, candidates.parts, config.candidates_per_label, rng.selection)  # P_t
        seeds.add(candidates, weights, parents)
        if number < config.num_rounds:
            texts = population.next(candidates, parents, rng.variation)  # S_(t+1)
        run.record(candidates, candidates.votes(answer), weights, parents)
    return seeds
