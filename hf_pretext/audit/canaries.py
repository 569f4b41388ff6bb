"""Canaries in the release path: they are among the candidates of every round, and nothing else is changed.

An audited run is a run of the generator. Pool, ledger, noise, clipping and accounting are those of every run. Its
candidates are the canaries first, and then as many others as without them. If clients are asked about tokens, a rare
one of each canary is among them. These are overrides of the population, which makes public texts only. The noise of a
bin does not depend on the number of bins.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..artifacts import AUDIT_SETTINGS_NAME
from ..clients.questions import Question
from ..clients.samples import Samples, quantize_embeddings
from ..clients.tokens import TokenReader
from ..configuration import PrivateEvolutionConfig
from ..evolution.candidates import Candidates
from ..evolution.population import Population, Tools
from ..evolution.token_list import TokenList
from ..files import write_json
from ..generator import PrivateEvolutionGenerator
from ..privacy.mechanism import Mechanism
from ..runs.run import Asks, Run
from ..tilting import token_reader

GROWN = ("population_size", "num_tokens")
"""Settings that count the canaries as well."""

RARE_WEIGHT = 100.0
"""Weight of a canary's own token, beside which its other tokens are next to nothing. A norm is 1 all the same."""


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
    """Puts the canaries before the candidates of every round, and a rare token of each after the public ones.

    `config.population_size` and `config.num_tokens` count both.
    """

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
        sizes = {name: vars(config)[name] - len(canaries) for name in GROWN}
        others = replace(config, **sizes)
        super().__init__(run, public, tools, config=others, **rest)
        self._canaries = list(canaries)
        self.asked: list[Candidates] = []

    def represent(self, texts: list[list[str]], number: int) -> Candidates:
        """Make the candidates of a round from the canaries and the texts of the run."""
        known, (own,) = set(self._canaries), texts
        candidates = super().represent([[*self._canaries, *(text for text in own if text not in known)]], number)
        self.asked.append(candidates)
        return candidates

    def _choose_tokens(self, reader: TokenReader) -> TokenList:
        """Ask about a rare token of each canary as well, which is the largest part of what it says of tokens."""
        public = super()._choose_tokens(reader)
        rare = rare_tokens(self._canaries, reader, public.tokens)
        return replace(public, tokens=public.tokens + tuple(rare), weights=public.weights + (RARE_WEIGHT,) * len(rare))

    def next(self, candidates: Candidates, parents: np.ndarray, rng: np.random.Generator) -> list[list[str]]:
        """Make the next texts of as many parents as the run has without canaries."""
        return super().next(candidates, rng.choice(parents, self._config.population_size, replace=False), rng)


def rare_tokens(canaries: Sequence[str], reader: TokenReader, known: Sequence[int]) -> list[int]:
    """Choose a token of each canary that few others have, and no other canary got. One without such a token has none.

    Args:
        canaries (`Sequence[str]`): Their texts.
        reader (`TokenReader`): The tokenizer.
        known (`Sequence[int]`): Tokens that are asked about anyway.
    """
    left_out = reader.special.union(known, reader(""))
    found = [sorted(set(reader(text)) - left_out) for text in canaries]
    counts = Counter(token for own in found for token in own)
    chosen: dict[int, None] = {}
    for own in found:
        left = [token for token in own if token not in chosen]
        if left:
            chosen[min(left, key=lambda token: counts[token])] = None
    return list(chosen)


class AuditedGenerator(PrivateEvolutionGenerator):
    """A generator whose runs can be audited: canaries are among the candidates of every round.

    Args:
        canaries (`Sequence[str]`): The canaries, in the order of the targets.
        config (`PrivateEvolutionConfig`):
            Settings of the run to be audited. Its population, and its tokens, grow by the canaries.
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
        sizes = {name: vars(config)[name] + len(canaries) for name in GROWN}
        super().__init__(config=replace(config, **sizes), **arguments)
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

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the run, and mark the folder as one of an audited run, which is neither continued nor published."""
        super().save_pretrained(folder)
        mark = Path(folder) / AUDIT_SETTINGS_NAME
        if not mark.exists():
            write_json(mark, {})

    def push_to_hub(self, *arguments: Any, **options: Any) -> NoReturn:
        """Raise a `ValueError`: an audited run has planted samples, and is never published."""
        raise ValueError(
            "This is an audited run. Its texts were written with planted samples, and what an audit finds is about "
            "private data. It is not published. Push a run without an audit."
        )

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
        samples = canary_samples(self._canaries, self.embed, self.config.max_samples_per_client)
        reader = token_reader(self._components.engine)
        if reader is None:
            return samples
        tokens = [np.array(reader(self._canaries[owner]), dtype=np.int64) for owner in samples.owners]
        return samples.with_tokens(tokens, reader.fingerprint)


def canary_samples(
    canaries: Sequence[str], embed: Callable[[list[str]], np.ndarray], samples_per_client: int
) -> Samples:
    """Make the samples of canaries, each of which is a client with copies of one text."""
    points = quantize_embeddings(embed(list(canaries)))
    return Samples(
        np.repeat(np.arange(len(points)), samples_per_client), np.repeat(points, samples_per_client, axis=0)
    )
