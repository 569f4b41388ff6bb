"""Canaries in the release path: they are among the candidates of every round, and nothing else is changed.

An audited run is a run of the generator. Pool, ledger, noise, clipping and accounting are those of every run. Its
candidates are the canaries first, and then as many others as without them. That is one override of the population,
which makes public texts only. The noise of a bin does not depend on the number of bins.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..clients.questions import Question
from ..clients.samples import Samples, quantize_embeddings
from ..configuration import PrivateEvolutionConfig
from ..evolution.candidates import Candidates
from ..evolution.population import Population, Tools
from ..generator import PrivateEvolutionGenerator
from ..privacy.mechanism import Mechanism
from ..runs.run import Asks, Run

if TYPE_CHECKING:
    pass


class Released(NamedTuple):
    """What a run released in one step.

    Args:
        question (`Question`): What was asked.
        mechanism (`Mechanism`): Sensitivity and noise that the run claims for it.
        answer (`np.ndarray` of shape `(num_bins,)`): The noisy answer.
    """

    question: Question
    mechanism: Mechanism
    answer: np.ndarray


class PopulationWithCanaries(Population):
    """Puts the canaries before the candidates of every round. `config.population_size` counts both."""

    def __init__(
        self,
        canaries: Sequence[str],
        run: Run,
        public: Any,
        tools: Tools,
        *,
        config: PrivateEvolutionConfig,
        **rest: Any,
    ) -> None:
        others = replace(config, population_size=config.population_size - len(canaries))
        super().__init__(run, public, tools, config=others, **rest)
        self._canaries = list(canaries)
        self.asked: list[Candidates] = []

    def represent(self, texts: list[list[str]], number: int) -> Candidates:
        """Make the candidates of a round from the canaries and the texts of the run."""
        known, (own,) = set(self._canaries), texts
        candidates = super().represent([[*self._canaries, *(text for text in own if text not in known)]], number)
        self.asked.append(candidates)
        return candidates

    def next(self, candidates: Candidates, parents: np.ndarray, rng: np.random.Generator) -> list[list[str]]:
        """Make the next texts of as many parents as the run has without canaries."""
        return super().next(candidates, rng.choice(parents, self._config.population_size, replace=False), rng)


class AuditedGenerator(PrivateEvolutionGenerator):
    """A generator whose runs can be audited: canaries are among the candidates of every round.

    Args:
        canaries (`Sequence[str]`): The canaries, in the order of the targets.
        config (`PrivateEvolutionConfig`): Settings of the run to be audited. Its population grows by the canaries.
        **arguments: Arguments of `PrivateEvolutionGenerator`.

    Raises:
        ValueError: The settings give no guarantee, so there is nothing to refute. Or they have labels.
    """

    def __init__(self, canaries: Sequence[str], *, config: PrivateEvolutionConfig, **arguments: Any) -> None:
        if config.labels:
            raise ValueError(
                f"`labels`={config.labels} are not audited yet: canaries have none. Audit the run without labels. Its "
                "releases have the same clipping, noise and accounting."
            )
        super().__init__(config=replace(config, population_size=config.population_size + len(canaries)), **arguments)
        if math.isinf(self.ledger.plan.epsilon(config.delta)):
            raise ValueError(
                f"`noise_multiplier`={config.noise_multiplier} is too small for a guarantee, so an audit has no claim "
                "to hold its figures against. Use more noise."
            )
        self._canaries = list(canaries)
        self._population: PopulationWithCanaries | None = None
        make = partial(PopulationWithCanaries, self._canaries, **self._new_population.keywords)

        def new_population(*arguments: Any) -> Population:
            self._population = make(*arguments)
            return self._population

        self._new_population = partial(new_population)

    @property
    def released(self) -> list[Released]:
        """What the latest run asked, and what was answered. Lost answers are left out."""
        if self._population is None:
            return []
        steps: list[Asks] = [*self._population.first_questions, *self._population.asked]
        releases = self.ledger.releases[-len(steps) :]
        return [
            Released(step.ask(), release.mechanism, np.array(release.answer))
            for step, release in zip(steps, releases, strict=True)
            if release.answer is not None
        ]

    @property
    def canary_samples(self) -> Samples:
        """The samples of each canary, as the private side makes them of copies of its text."""
        return canary_samples(self._canaries, self.embed, self.config.max_samples_per_client)


def canary_samples(
    canaries: Sequence[str], embed: Callable[[list[str]], np.ndarray], samples_per_client: int
) -> Samples:
    """Make the samples of canaries, each of which is a client with copies of one text."""
    points = quantize_embeddings(embed(list(canaries)))
    return Samples(
        np.repeat(np.arange(len(points)), samples_per_client), np.repeat(points, samples_per_client, axis=0)
    )
