"""`PrivateEvolutionGenerator`: private clients in, a dataset of differentially private synthetic text out."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cards import PICTURE_NAME, dataset_card
from .clients import ClientPool, InMemoryClientPool
from .configuration import PrivateEvolutionConfig
from .data import list_texts
from .embedding import TextEmbedder
from .expansion import Expansion
from .generation import TextGenerator
from .models import (
    load_causal_lm,
    load_masked_lm,
    load_sentence_transformer,
    resolve_device,
    resolve_dtype,
    source_name,
)
from .noise import NoiseSource
from .plots import plot_run
from .population import sample_population, write_population
from .privacy import REPORT_NAME, PrivacyLedger, PrivacyReport, VoteMechanism
from .selection import RoundRecord, resample, threshold_votes
from .variation import MaskedVariation, PromptedVariation, Variation

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

logger = logging.getLogger(__name__)

MODELS_NAME = "models.json"

SEEDS_NAME = "seeds.jsonl"

_NO_EXPANSION_MODEL = (
    "{purpose} needs an `expansion_model`, and this generator has none. Give the constructor a causal language model: "
    "a Hub id, a local folder, or a (model, tokenizer) pair."
)

MAP_SIZE = 500
"""Number of texts of a stage that the map in the picture shows."""


class PrivateEvolutionGenerator:
    """Generates differentially private synthetic text by Private Evolution.

    The method is [PrE-Text](https://huggingface.co/papers/2406.02958): candidates evolve towards what the clients
    hold, guided by noisy histograms of the clients' nearest-neighbour votes, and a language model expands the
    survivors into a training set.

    Args:
        variation_model (`str`, `Path`, `tuple` or `Pipeline`, *optional*, defaults to `"FacebookAI/roberta-large"`):
            Masked language model that varies candidates: a Hub id, a local folder, a `(model, tokenizer)` pair or a
            pipeline. `None` varies them by prompting the expansion model.
        embedding_model (`str`, `Path` or `SentenceTransformer`, *optional*):
            Sentence-transformers model in whose space the clients vote. Defaults to the paper's,
            `"sentence-transformers/all-MiniLM-L6-v2"`.
        expansion_model (`str`, `Path`, `tuple` or `Pipeline`, *optional*):
            Causal language model that expands the seeds. It is needed for `expand`, for `variation_model=None`, and
            to write an initial population; `evolve` with a masked language model and public texts does without.
        config (`PrivateEvolutionConfig`): The settings, the privacy budget among them.
        device (`str` or `torch.device`, *optional*): Where models go that are loaded here.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Their dtype. `"auto"` is the checkpoint's on an accelerator and float32 on a CPU.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass.
        noise (`NoiseSource`, *optional*): Where noise comes from. For tests: anything but the default voids the
            guarantee.

    Attributes:
        initial_population (`list` of `str`): The candidates that the latest run started from.
        history (`list` of `RoundRecord`): What every round of the latest run did.

    Example:
    ```python
    config = PrivateEvolutionConfig(epsilon=1.29, delta=3e-6)
    generator = PrivateEvolutionGenerator(expansion_model="meta-llama/Llama-2-7b-hf", config=config)
    synthetic = generator(private, initial_population=public, num_samples=50_000)
    ```
    """

    def __init__(
        self,
        variation_model: Any = "FacebookAI/roberta-large",
        embedding_model: Any = "sentence-transformers/all-MiniLM-L6-v2",
        expansion_model: Any = None,
        *,
        config: PrivateEvolutionConfig,
        device: "str | torch.device | None" = None,
        dtype: "str | torch.dtype" = "auto",
        batch_size: int = 64,
        noise: NoiseSource | None = None,
    ) -> None:
        if not isinstance(config, PrivateEvolutionConfig):
            raise TypeError(f"`config` must be a PrivateEvolutionConfig, not {type(config).__name__}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size`={batch_size} must be at least 1.")
        if variation_model is None and expansion_model is None:
            raise ValueError(
                "`variation_model`=None varies texts by prompting the expansion model, so give an `expansion_model`, "
                "or a masked language model as `variation_model`."
            )
        self._config = config
        self._sources = {
            "variation_model": source_name(variation_model),
            "embedding_model": source_name(embedding_model),
            "expansion_model": source_name(expansion_model),
        }
        on = resolve_device(device)
        dtype = resolve_dtype(dtype, on)
        self._embedder = TextEmbedder(load_sentence_transformer(embedding_model, on, dtype), batch_size)
        self._text_generator = (
            TextGenerator(*load_causal_lm(expansion_model, on, dtype), config, batch_size) if expansion_model else None
        )
        self._expansion = Expansion(self._text_generator, config) if self._text_generator else None
        self._variation: Variation = (
            PromptedVariation(self._needs_text_generator("variation_model=None"), config)
            if variation_model is None
            else MaskedVariation(*load_masked_lm(variation_model, on, dtype), config, batch_size)
        )
        self._noise = noise
        self._ledger = PrivacyLedger(VoteMechanism.from_config(config))
        self._num_clients: int | None = None
        self._runs = 0
        self.initial_population: list[str] = []
        self._seeds: Dataset | None = None
        self._synthetic: Dataset | None = None
        self.history: list[RoundRecord] = []

    @property
    def config(self) -> PrivateEvolutionConfig:
        """The settings; another configuration takes another generator."""
        return self._config

    @property
    def ledger(self) -> PrivacyLedger:
        """Counts what has been released."""
        return self._ledger

    @property
    def privacy_report(self) -> PrivacyReport:
        """What all runs of this generator together have released, and what that guarantees."""
        return PrivacyReport.from_ledger(self.ledger, self.config, self._num_clients)

    def __call__(
        self,
        private: "Dataset | ClientPool",
        initial_population: "Dataset | Sequence[str] | None" = None,
        *,
        num_samples: int,
    ) -> "Dataset":
        """Evolve seeds from private clients and expand them. Spends budget.

        Args:
            private (`datasets.Dataset` or `ClientPool`): The clients; see `evolve`.
            initial_population (`datasets.Dataset` or `Sequence[str]`, *optional*): Public texts; see `evolve`.
            num_samples (`int`): Number of synthetic texts.

        Returns:
            `datasets.Dataset`: `num_samples` rows with one column, `text` (`str`).
        """
        # Asked for before any budget is spent.
        self._needs_text_generator("calling the generator")
        check_num_samples(num_samples)
        return self.expand(self.evolve(private, initial_population), num_samples=num_samples)

    def evolve(
        self, private: "Dataset | ClientPool", initial_population: "Dataset | Sequence[str] | None" = None
    ) -> "Dataset":
        """Evolve candidates towards what the clients hold (Algorithm 1). Spends budget, every time it is called.

        Args:
            private (`datasets.Dataset` or `ClientPool`):
                Private texts: column `config.text_column` (`str`) and column `config.client_column`, which says whose
                text it is. A `ClientPool`, such as a federation, takes its place.
            initial_population (`datasets.Dataset` or `Sequence[str]`, *optional*):
                Public texts to start from. Without them the expansion model writes a population from `config.domain`.

        Returns:
            `datasets.Dataset`: The seeds, which are the survivors of all rounds, each once. Columns `text` (`str`),
            `round` (`int`, the first that it survived) and `votes` (`float`, its noisy votes above the threshold, of
            all rounds).
        """
        config, noise_std = self.config, self.ledger.mechanism.noise_std
        if initial_population is None:
            self._check_can_write_population()
        if initial_population is private:
            raise ValueError("`initial_population` is the private dataset itself, whose texts would be published.")
        clients = self._client_pool(private)
        population = self._initial_population(initial_population)
        self.history.clear()
        self._seeds = self._synthetic = None
        self._runs += 1
        seeds: dict[str, dict[str, Any]] = {}
        for number in range(1, config.num_rounds + 1):
            started = time.perf_counter()
            label = f"Round {number}/{config.num_rounds}"
            random = np.random.default_rng([config.seed, self._runs, number])
            candidates = self._embed_candidates(population, random, label)
            votes = self._release(clients, candidates)
            weights = threshold_votes(votes, config.threshold * noise_std)
            parents = resample(weights, config.population_size, random)
            survivors = np.unique(parents)
            for index in survivors:
                seed = seeds.setdefault(population[index], {"text": population[index], "round": number, "votes": 0.0})
                seed["votes"] += float(weights[index])
            if number < config.num_rounds:
                kept = [population[index] for index in survivors] if config.keep_survivors else []
                varied = [population[index] for index in random.permutation(parents)[len(kept) :]]
                population = list(dict.fromkeys(kept + self._vary(varied, random, f"{label}: varying")))
            self.history.append(RoundRecord.of(number, votes, weights, survivors, time.perf_counter() - started))
        self._seeds = _dataset(list(seeds.values()))
        return self._seeds

    def expand(self, seeds: "Dataset | Sequence[str]", num_samples: int) -> "Dataset":
        """Write synthetic texts like the seeds. This is post-processing: it spends no budget.

        Args:
            seeds (`datasets.Dataset` or `Sequence[str]`):
                What `evolve` returned: columns `text` (`str`) and, with `config.weight_seeds`, `votes` (`float`). A
                dataset without votes or a list of texts is shown evenly.
            num_samples (`int`): Number of synthetic texts.

        Returns:
            `datasets.Dataset`: `num_samples` rows with one column, `text` (`str`), all different.
        """
        check_num_samples(num_samples)
        texts = list_texts(seeds, "text", "seeds")
        if not texts:
            raise ValueError("`seeds` holds no text to expand.")
        if self._expansion is None:
            raise ValueError(_NO_EXPANSION_MODEL.format(purpose="`expand`"))
        weighted = self.config.weight_seeds and "votes" in getattr(seeds, "column_names", ())
        weights = list(seeds["votes"]) if weighted else None  # type: ignore[call-overload]
        synthetic = _dataset([{"text": text} for text in self._expansion(texts, num_samples, weights)])
        # The report of this generator is about its own seeds, so only what comes from them gets its card.
        own = self._seeds is not None and set(texts) <= set(self._seeds["text"])
        self._synthetic = synthetic if own else None
        return synthetic

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> "PrivateEvolutionGenerator":
        """Make a generator with the configuration and the models of a saved run. Its budget is a new one.

        Args:
            folder (`str` or `Path`): A folder that `save_pretrained` wrote.
            **overrides: Arguments of the constructor that replace the saved ones, such as `device`, or a model that
                was given as an object without a name.

        Raises:
            FileNotFoundError: `folder` was not written by `save_pretrained`.
        """
        config = overrides.pop("config", None) or PrivateEvolutionConfig.from_pretrained(folder)
        sources = json.loads((Path(folder) / MODELS_NAME).read_text(encoding="utf-8"))
        return cls(**{**sources, **overrides}, config=config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what is known about the runs so far; nothing of it is private.

        Args:
            folder (`str` or `Path`):
                Gets `private_evolution_config.json`, `models.json` (which names local models by their place),
                `privacy_report.json`, the seeds of the latest run in `seeds.jsonl`, and, for texts expanded from
                them, the dataset card `README.md` and the picture `run.png`.

        Raises:
            ValueError: The folder holds the report of a run that has spent more than this generator.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self._check_report_is_not_lost(path)
        self.config.save_pretrained(path)
        self.privacy_report.save_pretrained(path)
        (path / MODELS_NAME).write_text(json.dumps(self._sources, indent=2) + "\n", encoding="utf-8")
        if self._seeds is not None:
            self._seeds.to_json(path / SEEDS_NAME)
        if self._seeds is not None and self._synthetic is not None:
            seeds, texts = list(self._seeds["text"]), list(self._synthetic["text"])
            stages = {"initial population": self.initial_population, "seeds": seeds, "synthetic texts": texts}
            maps = {name: self.embed(stage[:MAP_SIZE]) for name, stage in stages.items()}
            plot_run(self.history, self.privacy_report, self.config, maps, path / PICTURE_NAME)
            card = dataset_card(self.privacy_report, self.config, self._sources, texts, len(seeds))
            (path / "README.md").write_text(card, encoding="utf-8")

    def _check_report_is_not_lost(self, folder: Path) -> None:
        report = folder / REPORT_NAME
        spent = json.loads(report.read_text(encoding="utf-8"))["num_rounds"] if report.exists() else 0
        if spent > self.ledger.num_releases:
            raise ValueError(
                f"`folder`={str(folder)!r} holds the report of a run that released {spent} histograms; this generator "
                f"released {self.ledger.num_releases}. Writing over it would hide what was spent: choose another one."
            )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed public texts with the model in whose space the clients vote: unit rows, shape `(len(texts), d)`."""
        return self._embedder(texts, "Embedding")

    def _initial_population(self, public: "Dataset | Sequence[str] | None") -> list[str]:
        if public is not None:
            self.initial_population = sample_population(public, self._variation, self.config)
        else:
            writer = self._check_can_write_population()
            self.initial_population = write_population(writer, self._variation, self.config)
        return self.initial_population

    def _check_can_write_population(self) -> TextGenerator:
        if self.config.domain is None:
            raise ValueError(
                "`initial_population`=None lets the expansion model write one from `config.domain`, which is None "
                "too. Give public texts, or describe the domain in a few words that anybody may know."
            )
        return self._needs_text_generator("`initial_population`=None, which lets the expansion model write one,")

    def _client_pool(self, private: "Dataset | ClientPool") -> ClientPool:
        if hasattr(private, "release_histogram"):
            pool: ClientPool = private
        else:
            pool = InMemoryClientPool(private, self._embedder, self.config, self.ledger, self._noise)
        if pool.ledger is not self.ledger:
            raise ValueError("`private` is a pool with a ledger of its own; make it with `ledger=generator.ledger`.")
        self._num_clients = pool.num_clients
        return pool

    def _release(self, clients: ClientPool, candidates: np.ndarray) -> np.ndarray:
        """Ask the clients for one histogram, and make sure that it was counted."""
        before = self.ledger.num_releases
        votes = clients.release_histogram(candidates)
        if self.ledger.num_releases != before + 1 or votes.shape != (len(candidates),):
            raise RuntimeError(f"{type(clients).__name__} did not count its release, or gave another histogram.")
        return votes

    def _embed_candidates(self, population: list[str], random: np.random.Generator, label: str) -> np.ndarray:
        """Represent each candidate by the mean embedding of its variations (lookahead), or by its own."""
        if self.config.lookahead == 0:
            return self._embedder(population, f"{label}: embedding")
        looked_ahead = [
            self._embedder(self._vary(population, random, f"{label}: looking ahead"), f"{label}: embedding")
            for _ in range(self.config.lookahead)
        ]
        return np.mean(looked_ahead, axis=0)

    def _vary(self, texts: list[str], random: np.random.Generator, label: str) -> list[str]:
        return self._variation(texts, int(random.integers(2**32)), label)

    def _needs_text_generator(self, purpose: str) -> TextGenerator:
        if self._text_generator is None:
            raise ValueError(_NO_EXPANSION_MODEL.format(purpose=purpose))
        return self._text_generator


def check_num_samples(num_samples: int) -> None:
    """Raise a `ValueError` where `num_samples` is not a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples`={num_samples!r} must be a positive integer.")


def _dataset(rows: list[dict[str, Any]]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list(rows)
