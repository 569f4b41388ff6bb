"""A trial: one method on one private set, with one budget and one random seed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.evaluation.measures import frechet_distance
from hf_pretext.evaluation.scoring import score_next_tokens

from .cache import Cache, Result, fingerprint
from .experiment import NO_BUDGET, Experiment
from .honesty import DIVERSITY, diversity
from .learners import Learner, Models, finetune
from .sizes import Sizes


class Training(Protocol):
    """How a method trains a learner.

    Attributes:
        is_on_device (`bool`): Whether simulated devices train it, which takes long for a large learner.
    """

    is_on_device: bool

    def inputs(self, trial: "Trial", learner: Learner) -> dict[str, Any]:
        """Return what the trained model depends on, as JSON, besides the private set and the learner."""
        ...

    def train(self, trial: "Trial", learner: Learner) -> tuple[Any, Any]:
        """Return a trained model and its tokenizer."""
        ...


class NoTraining:
    """The learner as it is."""

    is_on_device = False

    def inputs(self, trial: "Trial", learner: Learner) -> dict[str, Any]:
        """Return nothing. See `Training`."""
        return {}

    def train(self, trial: "Trial", learner: Learner) -> tuple[Any, Any]:
        """Load the learner. See `Training`."""
        return trial.models.to_finetune(learner, trial.seed)


class Finetuning(NoTraining):
    """Finetuning on the method's texts, and on public ones that are mixed in if the arguments say so."""

    def inputs(self, trial: "Trial", learner: Learner) -> dict[str, Any]:
        """Return the texts and the settings of the learner. See `Training`."""
        settings = learner.settings(trial.arguments)
        texts = fingerprint(trial.texts_to_train_on())
        return {"texts": texts, "epochs": settings.epochs, "rate": settings.rate, "seed": trial.seed}

    def train(self, trial: "Trial", learner: Learner) -> tuple[Any, Any]:
        """Finetune the learner. See `Training`."""
        settings = learner.settings(trial.arguments)
        model, tokenizer = trial.models.to_finetune(learner, trial.seed)
        return finetune(model, tokenizer, trial.texts_to_train_on(), settings.rate, settings.epochs), tokenizer


def shared_settings(arguments: Sizes, seed: int) -> dict[str, Any]:
    """Return the fields of a configuration that all methods have in common."""
    return {
        "seed": seed,
        "delta": arguments.delta,
        "max_length": arguments.max_length,
        "max_new_tokens": 64,
        "min_words": 5,
    }


def plain_config(arguments: Sizes, epsilon: float, seed: int) -> PrivateEvolutionConfig:
    """Make the library's default settings."""
    return PrivateEvolutionConfig(epsilon=epsilon, **shared_settings(arguments, seed))


class Work(NamedTuple):
    """What one client does in one run.

    Args:
        bytes_up (`int`): What it sends.
        bytes_down (`int`): What it gets, besides models that it has already.
        seconds (`float`): How long it computes, in seconds of a processor.
    """

    bytes_up: int
    bytes_down: int
    seconds: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        """Add up two parts of a run."""
        up, down = self.bytes_up + other.bytes_up, self.bytes_down + other.bytes_down
        return Work(up, down, self.seconds + other.seconds)


class Measures(Protocol):
    """Measures the work of one client."""

    def __call__(self, trial: "Trial", learner: Learner, client: list[str]) -> Work:
        """Return what a client with these texts does in one run of a method.

        Args:
            trial (`Trial`): The method, the private set and the budget.
            learner (`Learner`): The model that is trained in the end.
            client (`list` of `str`): The client's texts.
        """
        ...


@dataclass(frozen=True)
class ClientSide:
    """What a method asks of a client.

    Args:
        data (`str`): Where the private texts are.
        leaves (`str`): What leaves the client.
        unit (`str`): What the guarantee protects.
        measure (`Measures`, *optional*): Measures the work of a client. None if a client does nothing.
    """

    data: str
    leaves: str
    unit: str
    measure: Measures | None = None


def accept(arguments: Sizes) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Needs:
    """Refuses a method whose package is not installed, before any model is loaded.

    Args:
        package (`str`): The package, as it is imported.
        command (`str`): How to install it.
    """

    package: str
    command: str

    def __call__(self, arguments: Sizes) -> None:
        """Raise a `ValueError` if the package is not installed. See `Method`."""
        if find_spec(self.package) is None:
            raise ValueError(
                f"`methods` holds one that needs the package {self.package!r}, which is not installed. Run "
                f"`{self.command}`, or name other methods."
            )


MakesConfig = Callable[[Sizes, float, int], PrivateEvolutionConfig]
"""Makes a configuration from arguments, epsilon and random seed."""


@dataclass(frozen=True)
class Method:
    """A method of learning from private text.

    Args:
        name (`str`): Its name in arguments and results.
        color (`str`): Its color in pictures.
        words (`str`): What it does, in a few words.
        training (`Training`, *optional*): How it trains a learner, by default by finetuning on its texts.
        texts (`Callable`, *optional*): Makes its texts (a list), if it has any.
        seeds (`Callable`, *optional*):
            Finds what the language model is shown (columns `text`, `votes` and maybe `preference`), if it has seeds.
        config (`Callable`, *optional*):
            Makes its configuration from arguments, epsilon and seed, by default the library's default settings.
        has_rounds (`bool`, *optional*, defaults to `False`):
            Whether clients vote in rounds, so that there is a lift of the first one.
        has_best_of (`bool`, *optional*, defaults to `False`):
            Whether it can write more texts than it keeps, because clients' votes say how good a text is.
        spends_budget (`bool`, *optional*, defaults to `False`): Whether it is run once per epsilon.
        reads_private (`bool`, *optional*, defaults to `True`): Whether its texts depend on the private set.
        noise_is_genuine (`bool`, *optional*, defaults to `True`):
            Whether its noise comes from the system's randomness. Texts behind noise that a seed makes again are as
            private as their seed.
        gap_end (`str`, *optional*):
            `"floor"` or `"ceiling"` for the methods between which the others close a gap, or `"private"` for the
            true ceiling, the private texts themselves. There is one of each.
        check (`Callable`, *optional*):
            Raises a `ValueError` if it cannot run with these arguments, before any model is loaded.
        client (`ClientSide`, *optional*): What it asks of a client. By default nothing leaves one.
    """

    name: str
    color: str
    words: str
    training: Training = Finetuning()
    texts: "Callable[[Trial], Result] | None" = None
    seeds: "Callable[[Trial], Result] | None" = None
    config: MakesConfig = plain_config
    has_rounds: bool = False
    has_best_of: bool = False
    spends_budget: bool = False
    reads_private: bool = True
    noise_is_genuine: bool = True
    gap_end: Literal["floor", "ceiling", "private"] | None = None
    check: Callable[[Sizes], None] = accept
    client: ClientSide = ClientSide("on the clients", "nothing", "-")

    @property
    def has_curve(self) -> bool:
        """Whether it is scored by its number of texts: it has some, and no devices that train for every number."""
        return self.texts is not None and not self.training.is_on_device

    @property
    def closes_gap(self) -> bool:
        """Whether tables show which fraction of the gap from floor to ceiling its texts close."""
        return self.spends_budget and self.texts is not None


@dataclass(frozen=True)
class Trial:
    """One method on one private set, with one budget and one random seed. Its stages are cached.

    Args:
        experiment (`Experiment`): The private set.
        method (`Method`): The method.
        epsilon (`float`, *optional*): Budget of a client. None for a method that spends none.
        seed (`int`): Random seed.
        num_written (`int`, *optional*): Texts that the method writes, by default `num_samples` of the arguments.
        num_texts (`int`, *optional*): Texts to finetune on, which are the first of them. By default all.
        best_of (`int`, *optional*): Texts written for each that is kept, by default as in the configuration.
    """

    experiment: Experiment
    method: Method
    epsilon: float | None
    seed: int
    num_written: int | None = None
    num_texts: int | None = None
    best_of: int | None = None

    @property
    def arguments(self) -> Sizes:
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

    @property
    def number(self) -> int:
        """Number of texts that the method writes."""
        return self.num_written or self.arguments.num_samples

    @property
    def writing_config(self) -> PrivateEvolutionConfig:
        """Settings by which the language model writes. What all methods have in common changes no seeds."""
        return replace(
            self.config,
            continuations_per_prompt=self.arguments.continuations_per_prompt,
            best_of=self.best_of or self.config.best_of,
        )

    def inputs_of_texts(self, config: PrivateEvolutionConfig, seeds: Any) -> dict[str, Any]:
        """Return what the texts depend on that the language model writes from seeds, as JSON.

        Args:
            config (`PrivateEvolutionConfig`): Settings of the writing.
            seeds: What is known of the seeds, as JSON.
        """
        return {
            # Texts from public seeds are the same for all private sets.
            "data": self.experiment.version if self.method.reads_private else None,
            "method": self.method.name,
            "number": self.number,
            "config": fingerprint(config),
            "seeds": fingerprint(seeds),
            "expansion_model": self.arguments.expansion_model,
            "llm_dtype": self.arguments.llm_dtype,
        }

    def texts(self) -> Result:
        """Make the texts that a learner is finetuned on. There are none for a method without texts.

        A method writes its texts, or draws them, in an order that says nothing about them. So the first of many are
        like few.
        """
        if self.method.texts is None:
            return Result([])
        made = self.method.texts(self)
        return Result(made.value[: self.num_texts], made.seconds)

    def texts_to_train_on(self) -> list[str]:
        """Return the texts of `texts`, with random public ones mixed in (`public_fraction` of the arguments).

        Raises:
            ValueError: There are not that many public texts.
        """
        own, fraction = self.texts().value, self.arguments.public_fraction
        if not fraction or not own:
            return own
        public, number = self.models.public, round(len(own) * fraction / (1 - fraction))
        if number > len(public):
            raise ValueError(
                f"`public_fraction`={fraction} needs {number} public texts for {len(own)} others. There are "
                f"{len(public)}."
            )
        rng = np.random.default_rng([self.seed, 2])
        mixed = [*own, *(public[index] for index in rng.permutation(len(public))[:number])]
        return [mixed[index] for index in rng.permutation(len(mixed))]

    def may_be_shown(self) -> bool:
        """Return whether a few of the texts may be read: none of them is private, or written without privacy."""
        is_private = self.method.spends_budget and self.method.noise_is_genuine
        return self.method.texts is not None and (is_private or not self.method.reads_private)

    def score(self, learner: Learner) -> Result:
        """Train a learner and score it on held-out text (evaluation only, not DP).

        Returns:
            `Result`: `accuracy` (top 1), `top_5_accuracy` and `cross_entropy` (nats) of the next token.
        """
        settings, training = learner.settings(self.arguments), self.method.training
        held_out = self.experiment.held_out[: settings.num_held_out]
        inputs = {
            "data": self.experiment.version,
            "setting": learner.name,
            "held_out": fingerprint(held_out),
            "model": settings.version,
            "public": self.models.public_version,
            **training.inputs(self, learner),
        }

        def measure() -> dict[str, float]:
            model, tokenizer = training.train(self, learner)
            size = self.arguments.batch_size
            totals = score_next_tokens(model, tokenizer, held_out, batch_size=size, max_length=128).totals()
            return {
                "accuracy": totals["top_1_accuracy"],
                "top_5_accuracy": totals["top_5_accuracy"],
                "cross_entropy": totals["cross_entropy"],
            }

        return self.cache("score", inputs, measure)

    def frechet(self) -> float | None:
        """Measure the Fréchet distance of the texts to held-out ones (evaluation only, not DP), if there are texts."""
        if self.method.texts is None:
            return None
        texts, held_out, embed = self.texts().value, self.experiment.held_out, self.models.embed
        inputs = {"data": self.experiment.version, "texts": fingerprint(texts), "held_out": fingerprint(held_out)}
        inputs["embedding_model"] = self.arguments.embedding_model
        return self.cache("frechet", inputs, lambda: frechet_distance(embed(held_out), embed(texts))).value

    def diversity(self) -> dict[str, float | None]:
        """Measure how different the texts are, and how many are copies of public ones, if there are texts."""
        if self.method.texts is None:
            return dict.fromkeys(DIVERSITY)
        texts, models = self.texts().value, self.models
        inputs = {"texts": fingerprint(texts), "public": models.public_version}
        inputs["embedding_model"] = self.arguments.embedding_model
        return self.cache("diversity", inputs, lambda: diversity(texts, models.embed(texts), models.public_runs)).value

    def result(self, learner: Learner) -> dict[str, Any]:
        """Do all that a row of the table needs, and add up its seconds."""
        score, frechet = self.score(learner), self.frechet()
        seconds = score.seconds + self.texts().seconds + self.seeds().seconds
        return {**score.value, "frechet": frechet, **self.diversity(), "seconds": seconds}

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
