"""The measurements of one private set: all stages of a method, and the first round that clients vote in."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from huggingface_hub.utils import tqdm

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.samples import Samples, group_by_client, quantize_embeddings
from hf_pretext.evaluation.measures import frechet_distance
from hf_pretext.evaluation.scoring import score_next_tokens
from hf_pretext.privacy import Plan
from hf_pretext.privacy.mechanism import Mechanism

from .arguments import BenchmarkArguments
from .cache import Cache, Result, fingerprint
from .data import load_private
from .learners import Learner, Models
from .methods import METHODS, Method, plain_config
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
    "client_sampling_rate",
    "neighboring_relation",
    "max_dropout",
)
"""Fields of a configuration that the lift of the first round depends on."""


class Experiment:
    """One private set.

    Args:
        name (`str`): Its name (see `data.load_private`).
        arguments (`BenchmarkArguments`): Sizes.
        models (`Models`): The models, the public texts and the cache.
    """

    def __init__(self, name: str, arguments: BenchmarkArguments, models: Models) -> None:
        self.name, self.arguments, self.models = name, arguments, models

    @cached_property
    def _data(self) -> tuple[Dataset, Dataset]:
        private, held_out = load_private(self.name, Path(self.arguments.output_dir) / "packages")
        self.models.remember(f"embeddings-of-{self.name}", list(private["text"]))
        return private, held_out

    @property
    def private(self) -> Dataset:
        """The private texts. Columns `client_id` and `text`."""
        return self._data[0]

    @cached_property
    def held_out(self) -> list[str]:
        """Held-out clients' texts to score (evaluation only, not DP)."""
        texts = list(self._data[1]["text"])
        order = np.random.default_rng(0).permutation(len(texts))
        return [texts[index] for index in order[: self.arguments.num_held_out]]

    @cached_property
    def clients(self) -> list[list[str]]:
        """The texts of each client, at most `SAMPLES_PER_CLIENT` of them."""
        groups = group_by_client(self.private, plain_config(self.arguments, NO_BUDGET, 0)).values()
        rng = np.random.default_rng(0)
        return [[texts[index] for index in rng.permutation(len(texts))[:SAMPLES_PER_CLIENT]] for texts in groups]

    @cached_property
    def private_texts(self) -> list[str]:
        """The texts of all clients."""
        return list(chain(*self.clients))

    @cached_property
    def samples(self) -> Samples:
        """The same texts as questions read them."""
        owners = np.repeat(np.arange(len(self.clients)), list(map(len, self.clients)))
        return Samples(owners, quantize_embeddings(self.models.embed(self.private_texts)))

    def lift(self, seed: int) -> dict[str, float]:
        """Measure the first round of each method that has rounds (evaluation only, not DP).

        The lift is the mean of the true votes of the candidates that are drawn, over that of all candidates. The
        candidates are random public texts. The noise is that of each method in `LIFT_ROUNDS` rounds at `LIFT_EPSILON`.

        Returns:
            `dict`: The lift by the name of the method, a mean over `LIFT_DRAWS` draws of candidates and noise.
        """
        evolutions = [method for method in METHODS.values() if method.is_evolution]
        configs = {
            method.name: replace(method.config(self.arguments, LIFT_EPSILON, seed), num_rounds=LIFT_ROUNDS)
            for method in evolutions
        }

        def measure() -> dict[str, float]:
            rng = np.random.default_rng([seed, 2])
            compared = [(config, Plan.from_config(config).entry("votes").mechanism) for config in configs.values()]
            draws = tqdm(range(LIFT_DRAWS), "Lift of the first round")
            lifts = np.mean([self._draw_lifts(rng, compared) for _ in draws], axis=0)
            return dict(zip(configs, lifts.tolist(), strict=True))

        settings = {name: [getattr(config, each) for each in LIFT_FIELDS] for name, config in configs.items()}
        inputs = {"data": self.name, "seed": seed, "settings": settings, "draws": LIFT_DRAWS}
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


@dataclass(frozen=True)
class Trial:
    """One method on one private set, with one budget and one random seed. Its stages are cached.

    Args:
        experiment (`Experiment`): The private set.
        method (`Method`): The method.
        epsilon (`float`, *optional*): Budget of a client. None for a method that spends none.
        seed (`int`): Random seed.
    """

    experiment: Experiment
    method: Method
    epsilon: float | None
    seed: int

    @property
    def arguments(self) -> BenchmarkArguments:
        """The arguments of the benchmark."""
        return self.experiment.arguments

    @property
    def models(self) -> Models:
        """The models and the public texts."""
        return self.experiment.models

    @property
    def cache(self) -> Cache:
        """Results of all stages."""
        return self.models.cache

    @property
    def budget(self) -> float:
        """Epsilon for a configuration, which needs one even if no budget is spent."""
        return NO_BUDGET if self.epsilon is None else self.epsilon

    @property
    def config(self) -> PrivateEvolutionConfig:
        """The configuration of the method."""
        return self.method.config(self.arguments, self.budget, self.seed)

    def seeds(self) -> Result:
        """Find what the language model is shown. It is empty for a method without seeds."""
        return Result({"text": [], "votes": []}) if self.method.seeds is None else self.method.seeds(self)

    def texts(self) -> Result:
        """Make the texts that a learner is finetuned on. There are none for a method without texts."""
        return Result([]) if self.method.texts is None else self.method.texts(self)

    def score(self, learner: Learner) -> Result:
        """Train a learner and score it on held-out text (evaluation only, not DP).

        Returns:
            `Result`: `accuracy` (top 1) and `cross_entropy` (nats) of the next token.
        """
        settings, training = learner.settings(self.arguments), self.method.training
        held_out = self.experiment.held_out[: settings.num_held_out]
        inputs = {
            "data": self.experiment.name,
            "setting": learner.name,
            "held_out": fingerprint(held_out),
            "model": settings.version,
            **training.inputs(self, learner),
        }

        def measure() -> dict[str, float]:
            model, tokenizer = training.train(self, learner)
            totals = score_next_tokens(model, tokenizer, held_out, max_length=128).totals()
            return {"accuracy": totals["top_1_accuracy"], "cross_entropy": totals["cross_entropy"]}

        return self.cache("score", inputs, measure)

    def frechet(self) -> float | None:
        """Measure the Fréchet distance of the texts to held-out ones (evaluation only, not DP), if there are texts."""
        if self.method.texts is None:
            return None
        texts, held_out, embed = self.texts().value, self.experiment.held_out, self.models.embed
        inputs = {"data": self.experiment.name, "texts": fingerprint(texts), "held_out": fingerprint(held_out)}
        return self.cache("frechet", inputs, lambda: frechet_distance(embed(held_out), embed(texts))).value

    def result(self, learner: Learner) -> dict[str, Any]:
        """Do all that a row of the table needs, and add up its seconds."""
        score, frechet = self.score(learner), self.frechet()
        seconds = score.seconds + self.texts().seconds + self.seeds().seconds
        return {**score.value, "frechet": frechet, "seconds": seconds}

    def map(self) -> dict[str, np.ndarray]:
        """Embed some texts of every kind for a picture (evaluation only, not DP)."""
        rng = np.random.default_rng(self.seed)
        kinds = {
            "held-out private": self.experiment.held_out,
            "initial": self.models.public,
            "seeds": self.seeds().value["text"],
            "synthetic": self.texts().value,
        }
        return {
            kind: self.models.embed([texts[index] for index in rng.permutation(len(texts))[:200]])
            for kind, texts in kinds.items()
        }
