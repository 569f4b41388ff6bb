"""One private set: its texts, and what is measured on its clean votes."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain

import numpy as np
from datasets import Dataset
from huggingface_hub.utils import tqdm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.rows import group_by_client
from hf_pretext.clients.samples import Samples, quantize_embeddings
from hf_pretext.privacy import Plan
from hf_pretext.privacy.mechanism import Mechanism

from .given import PrivateSet, load_set
from .learners import Models
from .sizes import Sizes
from .votes import clipped_votes, lift_of, reading_of, true_votes, weigh

NO_BUDGET = 1.0
"""Epsilon in the configuration of a method that spends no budget. Nothing depends on it."""

SAMPLES_PER_CLIENT = 8
"""Most texts of a client that count in what is measured."""

LIFT_EPSILON, LIFT_ROUNDS, LIFT_CANDIDATES = 1.29, 11, 1024
"""The setting of the paper in which the lift of the first round is measured."""

LIFT_DRAWS = 10
"""Draws of candidates and noise that a lift of the first round is averaged over."""

LIFT_FIELDS = (
    "smooth_votes",
    "threshold",
    "vote_clipping",
    "accountant",
    "votes_per_sample",
    "delta",
    "max_samples_per_client",
    "mean_fraction",
    "token_fraction",
    "client_sampling_rate",
    "neighboring_relation",
    "max_dropout",
)
"""Fields of a configuration that the lift of the first round depends on."""


class Experiment:
    """One private set.

    Args:
        name (`str`): Its name (see `given.load_set`).
        arguments (`Sizes`): Sizes.
        models (`Models`): The models, the public texts and the cache.
    """

    def __init__(self, name: str, arguments: Sizes, models: Models) -> None:
        self.name, self.arguments, self.models = name, arguments, models

    @cached_property
    def loaded(self) -> PrivateSet:
        """The texts, before any of them is embedded."""
        return load_set(self.name, self.arguments)

    @property
    def version(self) -> str:
        """What results depend on: the name, and for a file that is given what is in it."""
        return self.loaded.version

    @property
    def private(self) -> Dataset:
        """The private texts. Columns `client_id` and `text`."""
        return self.loaded.private

    def remember(self) -> None:
        """Let the embedding model know the private texts. They are read from the cache if they were embedded."""
        self.models.remember(f"embeddings-of-{self.version.replace(':', '-')}", list(self.private["text"]))

    @cached_property
    def held_out(self) -> list[str]:
        """Held-out clients' texts to score (evaluation only, not DP)."""
        texts = list(self.loaded.held_out["text"])
        order = np.random.default_rng(0).permutation(len(texts))
        return [texts[index] for index in order[: self.arguments.num_held_out]]

    @cached_property
    def clients(self) -> list[list[str]]:
        """The texts of each client, at most `SAMPLES_PER_CLIENT` of them."""
        config = PrivateEvolutionConfig(epsilon=NO_BUDGET, delta=self.arguments.delta)
        groups = group_by_client(self.private, config).values()
        rng = np.random.default_rng(0)
        return [[texts[index] for index in rng.permutation(len(texts))[:SAMPLES_PER_CLIENT]] for texts in groups]

    @cached_property
    def private_texts(self) -> list[str]:
        """The texts of all clients."""
        return list(chain(*self.clients))

    @cached_property
    def samples(self) -> Samples:
        """The same texts as questions read them."""
        self.remember()
        owners = np.repeat(np.arange(len(self.clients)), list(map(len, self.clients)))
        return Samples(owners, quantize_embeddings(self.models.embed(self.private_texts)))

    def lift(self, configs: Mapping[str, PrivateEvolutionConfig], seed: int) -> dict[str, float]:
        """Measure the first round of several configurations (evaluation only, not DP).

        The lift is the mean of the true votes of the candidates that are drawn, over that of all candidates. The
        candidates are random public texts.

        Args:
            configs (`Mapping[str, PrivateEvolutionConfig]`): What is compared, by name.
            seed (`int`): Random seed.

        Returns:
            `dict`: The lift by the name of the configuration, a mean over `LIFT_DRAWS` draws of candidates and noise.
        """

        def measure() -> dict[str, float]:
            rng = np.random.default_rng([seed, 2])
            compared = [(config, Plan.from_config(config).entry("votes").mechanism) for config in configs.values()]
            draws = tqdm(range(LIFT_DRAWS), "Lift of the first round")
            lifts = np.mean([self._draw_lifts(rng, compared) for _ in draws], axis=0)
            return dict(zip(configs, lifts.tolist(), strict=True))

        settings = {name: [getattr(config, each) for each in LIFT_FIELDS] for name, config in configs.items()}
        inputs = {"data": self.version, "seed": seed, "settings": settings, "draws": LIFT_DRAWS}
        inputs |= {"public": self.models.public_version, "embedding_model": self.arguments.embedding_model}
        return self.models.cache("lift", {**inputs, "samples_per_client": SAMPLES_PER_CLIENT}, measure).value

    def _draw_lifts(
        self, rng: np.random.Generator, compared: list[tuple[PrivateEvolutionConfig, Mechanism]]
    ) -> list[float]:
        """Draw candidates and noise, the same for all methods, and compute the lift of each."""
        public = self.models.public
        points = self.models.embed([public[index] for index in rng.permutation(len(public))[:LIFT_CANDIDATES]])
        true, noise = true_votes(self.samples, points), rng.standard_normal(len(points))
        lifts = []
        for config, mechanism in compared:
            clean = clipped_votes(self.samples, points, config.votes_per_sample, mechanism)
            reading = reading_of(clean + mechanism.noise_std * noise, mechanism.noise_std, points)
            lifts.append(lift_of(weigh(reading, config), true))
        return lifts
