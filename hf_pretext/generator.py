"""`PrivateEvolutionGenerator`: private clients in, a dataset of differentially private synthetic text out."""

import json
import logging
import math
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cache, partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cards import DATA_FILE, PICTURE_NAME, SEEDS_FILE, dataset_card
from .checkpoint import RunFolder, is_count, is_texts, is_weights
from .clients import ClientPool, InMemoryClientPool, ReleaseLostError
from .configuration import PrivateEvolutionConfig
from .data import list_texts
from .embedding import TextEmbedder
from .expansion import Expansion
from .files import written_whole
from .generation import GeneratesText, TextGenerator
from .hub import check_guarantee, description_of_report, fetch_folder, find_privacy_report, push_folder
from .models import (
    ModelSource,
    load_causal_lm,
    load_masked_lm,
    load_sentence_transformer,
    resolve_device,
    resolve_dtype,
)
from .noise import NoiseSource
from .plots import plot_run
from .population import Reserve, sample_population, write_population
from .privacy import REPORT_NAME, PrivacyLedger, PrivacyReport, VoteMechanism, rounded_up
from .processes import broadcast, is_main_process, map_over_processes
from .selection import (
    RoundRecord,
    SmoothedVotes,
    judge_texts,
    preferences,
    resample,
    smooth_votes,
    threshold_votes,
)
from .served import ServedTextGenerator, is_served
from .variation import MaskedVariation, PromptedVariation, Variation

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

logger = logging.getLogger(__name__)

MODELS_NAME = "models.json"

HISTORY_NAME = "history.json"

SEEDS_NAME = "seeds.jsonl"

RUN_FOLDER = "run"
"""Where the commands keep a run's folder, below the folder of its results."""

FILES_OF_A_RUN = (
    "README.md",
    PICTURE_NAME,
    SEEDS_NAME,
    HISTORY_NAME,
    "data-*.arrow",
    "state.json",
    "dataset_info.json",
)
"""What must not stay in a folder when a later run, without it yet, is saved there."""

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
        expansion_model (`str`, `Path`, `tuple`, `Pipeline` or `InferenceClient`, *optional*):
            Causal language model that expands the seeds, or the address of a server that has one and speaks the API
            of OpenAI, such as `"http://localhost:8000/v1#Qwen/Qwen3-8B"`. It is needed for `expand`, for
            `variation_model=None`, and to write an initial population; `evolve` with a masked language model and
            public texts does without.
        config (`PrivateEvolutionConfig`): The settings, the privacy budget among them.
        device (`str` or `torch.device`, *optional*): Where models go that are loaded here.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Their dtype. `"auto"` is the checkpoint's on an accelerator and float32 on a CPU.
        device_map (`str` or `dict`, *optional*):
            How an expansion model that is loaded here and too large for one device is spread over several, as in
            `from_pretrained` of transformers: `"auto"` fills the accelerators, then memory.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass, and requests to a server at a time.
        run_dir (`str` or `Path`, *optional*):
            Folder in which a run survives being killed: every release is there, durably, before anything uses it, and
            so is every step that is worth keeping. A generator made with the same folder and settings reads its
            releases, and its calls of `evolve` and `expand` go on where the earlier ones ended: what was released is
            not drawn again. Nothing in the folder is private. Without it a crash loses what its budget bought.
        noise (`NoiseSource`, *optional*): Where noise comes from. For tests: anything but the default voids the
            guarantee.

    Attributes:
        initial_population (`list` of `str`): The candidates that the latest run started from.
        history (`list` of `RoundRecord`): What every round of the latest run did.
        seconds (`dict` of `str` to `float`): What this process spent on each stage of public work. How long the
            private side takes depends on what the clients hold, so it is not told.

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
        device_map: "str | dict[str, Any] | None" = None,
        batch_size: int = 64,
        run_dir: str | Path | None = None,
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
        on = resolve_device(device)
        dtype = resolve_dtype(dtype, on)
        embedding = load_sentence_transformer(embedding_model, on, dtype)
        masked = load_masked_lm(variation_model, on, dtype) if variation_model else None
        self._embedder = TextEmbedder(embedding, batch_size)
        self._text_generator: GeneratesText | None = None
        expansion: Any = None
        if is_served(expansion_model):
            self._text_generator = expansion = ServedTextGenerator(expansion_model, config, batch_size)
        elif expansion_model:
            expansion, tokenizer = load_causal_lm(expansion_model, on, dtype, device_map)
            self._text_generator = TextGenerator(expansion, tokenizer, config, batch_size)
        self._expansion = Expansion(self._text_generator, config) if self._text_generator else None
        self._variation: Variation = (
            MaskedVariation(*masked, config, batch_size)
            if masked
            else PromptedVariation(self._needs_text_generator("variation_model=None"), config)
        )
        self._models = {
            "variation_model": ModelSource.of(variation_model, masked and masked[0]),
            "embedding_model": ModelSource.of(embedding_model, embedding),
            "expansion_model": ModelSource.of(expansion_model, expansion),
        }
        self._noise = noise
        # The main process alone writes; the others get what it reads.
        self._folder = RunFolder(run_dir, self._settings()) if run_dir is not None and is_main_process() else None
        mechanism = VoteMechanism.from_config(config)
        self._ledger = PrivacyLedger(mechanism) if self._folder is None else self._folder.ledger(mechanism)
        self._num_clients: int | None = None
        self._federation: dict[str, Any] | None = None
        self._runs = 0  # completed ones
        self._run = 0  # the latest, completed or not
        self.initial_population: list[str] = []
        self._seeds: Dataset | None = None
        self._synthetic: Dataset | None = None
        self.history: list[RoundRecord] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)

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
        private: "Dataset | ClientPool | None",
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
        self, private: "Dataset | ClientPool | None", initial_population: "Dataset | Sequence[str] | None" = None
    ) -> "Dataset":
        """Evolve candidates towards what the clients hold (Algorithm 1). Spends budget, every time it is called.

        With `run_dir`, the first call goes on with the folder's first run: rounds that were released are read, and
        only the others spend budget. A release that was lost, because its process ended before it was written, is
        counted as its round's, and that round is skipped. The private data has to be the same, which is for the
        caller to see to: the folder knows the number of clients only.

        Args:
            private (`datasets.Dataset` or `ClientPool`):
                Private texts: column `config.text_column` (`str`) and column `config.client_column`, which says whose
                text it is. A `ClientPool`, such as a federation, takes its place. With several processes only the
                main one's counts; give None in the others, so that they need not hold it.
            initial_population (`datasets.Dataset` or `Sequence[str]`, *optional*):
                Public texts: a random part of them is voted on first, and of the others those that the votes speak for
                (`config.new_public_share`). Without them the expansion model writes a population from `config.domain`.

        Returns:
            `datasets.Dataset`: The seeds, which are the survivors of all rounds, each once. Columns `text` (`str`),
            `round` (`int`, the first that it survived), `votes` (`float`, its smoothed votes above the threshold, of
            all rounds) and, with `config.smooth_votes`, `preference` (`float`, how many times as many texts like it
            the votes of all rounds ask for).

        Raises:
            ValueError: An argument is at fault, or differs from what `run_dir` was begun with. No budget is spent.
            RuntimeError: Another process works on `run_dir`, or every release of this run was lost.
        """
        config = self.config
        if initial_population is None:
            self._check_can_write_population()
        if private is not None and initial_population is private:
            raise ValueError("`initial_population` is the private dataset itself, whose texts would be published.")
        # A run that did not end is gone on with, or begun again where nothing was kept of it.
        self._run = self._runs + 1
        with self._working():
            is_released = self._is_released()
            if not is_released:
                self._warn_of_a_second_run()
            clients = None if is_released else self._client_pool(private)
            self._num_clients = self._checked_num_clients(clients)
            population, reserve = self._initial_population(initial_population)
            self.history.clear()
            self._seeds = self._synthetic = None
            seeds: dict[str, dict[str, Any]] = {}
            smoothed: list[Callable[[], SmoothedVotes]] = []
            for number in range(1, config.num_rounds + 1):
                label = f"Round {number}/{config.num_rounds}"
                looking, drawing, varying = np.random.default_rng([config.seed, self._run, number]).spawn(3)
                started = time.perf_counter()
                look_ahead = cache(partial(self._look_ahead, population, looking, number, label))
                embed = cache(partial(self._embed_candidates, population, look_ahead, label))
                votes, seconds_of_clients = self._release(clients, population, embed, number, label)
                if votes is None:
                    continue
                smoothed.append(cache(partial(self._smooth, votes, embed)))
                weights = self._weigh(votes, smoothed[-1], reserve, number, label)
                parents = resample(weights, config.population_size, drawing)
                survivors = np.unique(parents)
                for index in survivors:
                    text = population[index]
                    seed = seeds.setdefault(text, {"text": text, "round": number, "votes": 0.0})
                    seed["votes"] += float(weights[index])
                if number < config.num_rounds:
                    population = self._next_population(
                        population, parents, survivors, reserve, look_ahead, varying, number, label
                    )
                seconds = time.perf_counter() - started - seconds_of_clients
                self._add_to_history(RoundRecord.of(number, votes, weights, survivors, seconds))
            if not seeds:
                raise RuntimeError(
                    f"All {config.num_rounds} releases of this run were lost, in crashes or for want of answers, and "
                    "are counted as spent. There is nothing to go on from: a new run takes a new budget and another "
                    "`run_dir`."
                )
            # A pool knows what an earlier process of the same run cost, too.
            pool: Any = private if hasattr(private, "costs") else None
            self._federation = pool.costs() if pool is not None else None
            if config.smooth_votes:
                for seed, preference in zip(seeds.values(), self._preferences(list(seeds), smoothed), strict=True):
                    seed["preference"] = preference
            self._seeds = _dataset(list(seeds.values()))
            self._runs = self._run
            return self._seeds

    def expand(self, seeds: "Dataset | Sequence[str]", num_samples: int) -> "Dataset":
        """Write synthetic texts like the seeds. This is post-processing: it spends no budget.

        With `run_dir`, the texts of the latest run's seeds go to its folder, part by part, and the dataset is read
        from there: memory does not grow with their number, and a call that was killed goes on where it was.

        Args:
            seeds (`datasets.Dataset` or `Sequence[str]`):
                What `evolve` returned: columns `text` (`str`), `votes` and `preference` (`float`), which
                `config.weight_seeds` and `config.best_of` make use of. A dataset without votes or a list of texts is
                shown evenly; without preferences, all usable texts are kept.
            num_samples (`int`): Number of synthetic texts.

        Returns:
            `datasets.Dataset`: `num_samples` rows with one column, `text` (`str`), all different. For the generator's
            own seeds, each once, with the votes and preferences that it gave them, `info.description` carries the
            privacy report (`find_privacy_report` reads it). Which of them are given must not be decided by looking at
            private text.
        """
        check_num_samples(num_samples)
        texts = list_texts(seeds, "text", "seeds")
        if not texts:
            raise ValueError("`seeds` holds no text to expand.")
        if self._expansion is None:
            raise ValueError(_NO_EXPANSION_MODEL.format(purpose="`expand`"))
        weights = self._weights(seeds)
        judge = self._judge(seeds)
        # The report of this generator is about its own seeds, so only what comes from them gets its card: votes and
        # preferences from elsewhere could choose the texts by anything.
        own = self._are_own(seeds, texts)
        with self._working():
            # A run that broke off, after that of these seeds, is not theirs.
            self._run = self._runs
            is_kept = self._is_latest(seeds)
            keep = self._keep_texts if is_kept else lambda part, write: write()
            written = self._expansion(texts, num_samples, weights, keep, judge)
            with self._timed("expanding"):
                if is_kept and self._folder is not None:
                    synthetic = self._folder.dataset(f"run-{self._run}-texts", written)
                else:
                    synthetic = _dataset([{"text": text} for text in written])
        if own:
            synthetic.info.description = description_of_report(self.privacy_report, len(synthetic))
        self._synthetic = synthetic if own else None
        return synthetic

    @property
    def time_table(self) -> str:
        """What each stage of public work took, in a line."""
        stages = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in self.seconds.items())
        return f"Time of the public work: {stages or 'none'}."

    @property
    def seeds(self) -> "Dataset | None":
        """The seeds of the latest run, or of the saved run that this generator goes on from."""
        return self._seeds

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, **overrides: Any
    ) -> "PrivateEvolutionGenerator":
        """Go on from a saved run: its configuration, models, seeds, and report, to which later releases are added.

        From a folder, its synthetic texts come back as well, so that `push_to_hub` may follow.

        To start anew with the same settings, with a report of its own, give `config` to the constructor instead.

        Args:
            name (`str` or `Path`): A folder of `save_pretrained`, or a dataset repository of `push_to_hub`.
            revision (`str`, *optional*): Branch, tag or commit of the repository.
            token (`str`, *optional*): Token of the Hub.
            **overrides: Arguments of the constructor that replace the saved ones: `device`, a model that was given
                as an object or a local folder, or a `config` that changes anything but the mechanism.

        Raises:
            FileNotFoundError: `name` is neither.
            ValueError: The report and the configuration do not belong together, or a model's name was not saved.
        """
        if overrides.get("run_dir") is not None:
            raise ValueError(
                f"`run_dir`={str(overrides['run_dir'])!r} cannot go on from a saved run, whose releases it does not "
                "hold. Give `run_dir` to the constructor, with the run's own settings, to go on from it."
            )
        folder = fetch_folder(name, ["*.json", SEEDS_FILE], revision, token)
        config = overrides.pop("config", None) or PrivateEvolutionConfig.from_pretrained(folder)
        sources = json.loads((folder / MODELS_NAME).read_text(encoding="utf-8"))
        for argument, source in sources.items():
            if argument not in overrides and source is not None and source["name"] is None:
                raise ValueError(
                    f"{str(name)!r} does not say where its `{argument}` is from: it was a loaded object or a local "
                    f"folder. Give it: `from_pretrained(..., {argument}=...)`."
                )
        models = {argument: source and source["name"] for argument, source in sources.items()}
        generator = cls(**{**models, **overrides}, config=config)
        report = PrivacyReport.from_pretrained(folder)
        generator._ledger = PrivacyLedger.from_report(report, generator.ledger.mechanism)
        generator._num_clients = report.num_clients
        generator._seeds = _read_seeds(folder)
        if generator._seeds is not None:
            history = json.loads((folder / HISTORY_NAME).read_text(encoding="utf-8"))
            generator.history = [RoundRecord.from_dict(record) for record in history]
            # The next run draws other candidates than the runs before it.
            generator._runs = generator._run = math.ceil(report.num_rounds / config.num_rounds)
        if (folder / "state.json").is_file():
            from datasets import load_from_disk

            synthetic = load_from_disk(str(folder), keep_in_memory=True)
            # Texts that somebody else put there are not this run's.
            generator._synthetic = synthetic if find_privacy_report(synthetic) == report else None
        return generator

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the latest run; nothing of it is private. With several processes, all of them call it.

        Args:
            folder (`str` or `Path`):
                Gets `private_evolution_config.json`, `models.json` (which names local models by their place),
                `privacy_report.json`, the seeds of the latest run in `seeds.jsonl`, its rounds in `history.json`, and,
                for texts expanded from the seeds, the texts (for `datasets.load_from_disk`), the dataset card
                `README.md` and the picture `run.png`. They appear together, once all of them are written.

        Raises:
            ValueError: The folder holds the report of another run, or of one that has spent more.
        """
        path = Path(folder)
        self._check_report_is_not_lost(path)
        maps = self._maps()
        if is_main_process():
            with written_whole(path, replaces=FILES_OF_A_RUN) as scratch:
                self._write(scratch, maps, self._models)
                if self._seeds is not None:
                    # `to_json` would round the votes.
                    lines = [json.dumps(seed, ensure_ascii=False) + "\n" for seed in self._seeds.to_list()]
                    (scratch / SEEDS_NAME).write_text("".join(lines), encoding="utf-8", errors="replace")
                if self._synthetic is not None:
                    self._synthetic.save_to_disk(str(scratch))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Differentially private synthetic text",
        license: str | None = None,
        language: str | None = None,
        allow_no_guarantee: bool = False,
    ) -> str | None:
        """Push the latest run as a dataset repository, in one commit. With several processes, all of them call it.

        The repository has two configurations: `load_dataset(repo_id)` gives the synthetic texts, and
        `load_dataset(repo_id, "seeds")` the seeds. `from_pretrained(repo_id)` goes on from it.

        Args:
            repo_id (`str`): Name of the repository, such as `"me/jobs-dp"`.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str`, *optional*): Token of the Hub; by default the one that you logged in with.
            commit_message (`str`, *optional*): Title of the commit.
            license (`str`, *optional*): Licence of the texts for the card, such as `"cc0-1.0"`.
            language (`str`, *optional*): Their language for the card, such as `"en"`.
            allow_no_guarantee (`bool`, *optional*, defaults to `False`):
                Push a set without a finite guarantee. It is refused without this.

        Returns:
            `str`: Address of the repository; None in other processes than the main one.

        Raises:
            ValueError: There are no synthetic texts of own seeds, there is no finite guarantee, or the repository
                holds something else.
            PermissionError: There is no token.
            ConnectionError: The push broke off; nothing of it is on the Hub, and it can be repeated.
        """
        if self._synthetic is None or self._seeds is None:
            raise ValueError("There is nothing to push: call the generator, or `expand` its own seeds, first.")
        check_guarantee(self.privacy_report, allow_no_guarantee)
        maps = self._maps()
        if not is_main_process():
            return None
        with tempfile.TemporaryDirectory() as folder:
            header = {"repo_id": repo_id, "license": license, "language": language}
            self._write(Path(folder), maps, {key: model.published() for key, model in self._models.items()}, **header)
            # All configurations of a repository need one format.
            for file, dataset in ((DATA_FILE, self._synthetic), (SEEDS_FILE, self._seeds)):
                (Path(folder) / file).parent.mkdir()
                dataset.to_parquet(Path(folder) / file)
            return push_folder(
                folder,
                repo_id,
                "dataset",
                self.privacy_report,
                private=private,
                token=token,
                commit_message=commit_message,
                allow_no_guarantee=allow_no_guarantee,
            )

    def _write(
        self, folder: Path, maps: dict[str, np.ndarray], models: dict[str, ModelSource], **header: str | None
    ) -> None:
        """Write everything but the seeds and the synthetic texts."""
        self.config.save_pretrained(folder)
        self.privacy_report.save_pretrained(folder)
        _write_json(folder / MODELS_NAME, {argument: model.to_dict() for argument, model in models.items()})
        if self._seeds is not None:
            _write_json(folder / HISTORY_NAME, [asdict(record) for record in self.history])
        if self._seeds is not None and self._synthetic is not None:
            plot_run(self.history, self.privacy_report, self.config, maps, self.time_table, folder / PICTURE_NAME)
            named = {argument: model.label for argument, model in models.items()}
            texts = self._synthetic["text"]
            card = dataset_card(
                self.privacy_report, self.config, named, texts, len(self._seeds), federation=self._federation, **header
            )
            (folder / "README.md").write_text(card, encoding="utf-8")

    def _maps(self) -> dict[str, np.ndarray]:
        """Embed some texts of each stage for the picture, with all processes."""
        if self._seeds is None or self._synthetic is None:
            return {}
        stages = {
            "initial population": self.initial_population[:MAP_SIZE],
            "seeds": self._seeds["text"][:MAP_SIZE],
            "synthetic texts": self._synthetic["text"][:MAP_SIZE],
        }
        return {name: self.embed(texts) for name, texts in stages.items() if texts}

    def _check_report_is_not_lost(self, folder: Path) -> None:
        if not (folder / REPORT_NAME).is_file():
            return
        there = PrivacyReport.from_pretrained(folder)
        if not self.privacy_report.covers(there):
            raise ValueError(
                f"`folder`={str(folder)!r} holds the report of another run, which released {there.num_rounds} "
                f"histograms; this generator released {self.ledger.num_releases}. Writing over it would hide what was "
                "spent: choose another folder."
            )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed public texts with the model in whose space the clients vote: unit rows, shape `(len(texts), d)`."""
        return self._embed(texts, "Embedding")

    def _embed(self, texts: Sequence[str], label: str) -> np.ndarray:
        # Of public texts only: the private side embeds in the main process, with `TextEmbedder` itself.
        rows: list[np.ndarray] = map_over_processes(lambda share: list(self._embedder(share, label)), texts)
        return np.stack(rows)

    def _settings(self) -> dict[str, Any]:
        """List what a run folder has to agree on: the configuration, and what the models are called."""
        settings = {name: value for name, value in self.config.to_dict().items() if name != "hf_pretext_version"}
        return {"config": settings, "models": {argument: model.label for argument, model in self._models.items()}}

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Keep other processes off the run folder, and begin with what it holds."""
        with self._folder.locked() if self._folder is not None else nullcontext():
            if is_main_process():
                self.ledger.reload()
            self._share_ledger()
            yield

    def _step(self, step: str, is_valid: Callable[[Any], bool], make: Callable[[], Any]) -> Any:
        """Read what a step of the current run made, or make it, with all processes, and keep it in the run folder."""
        name = f"run-{self._run}-{step}"
        kept = broadcast(self._folder.read(name, is_valid) if self._folder is not None else None)
        if kept is None:
            kept = make()
            if self._folder is not None:
                self._folder.write(f"{name}.json", kept)
        return kept

    def _are_own(self, seeds: Any, texts: list[str]) -> bool:
        """Tell whether all of these are seeds of the latest run, each once, with what it found out about them.

        A seed that is there twice has another weight, and so would one with votes or preferences from elsewhere.
        """
        if self._seeds is None or len(set(texts)) < len(texts):
            return False
        names = [name for name in ("votes", "preference") if name in getattr(seeds, "column_names", ())]
        if not set(names) <= set(self._seeds.column_names):
            return False
        given = zip(texts, *(seeds[name] for name in names), strict=True)
        known = zip(self._seeds["text"], *(self._seeds[name] for name in names), strict=True)
        return set(given) <= set(known)

    def _is_latest(self, seeds: Any) -> bool:
        """Tell whether these are the seeds of the latest run, with all that was found out about them."""
        return self._seeds is not None and hasattr(seeds, "to_dict") and seeds.to_dict() == self._seeds.to_dict()

    def _keep_texts(self, part: int, write: Callable[[], list[str]]) -> list[str]:
        """Keep a part of what is expanded from them in the run folder."""
        return self._step(f"texts-{part}", is_texts, write)

    def _initial_population(self, public: "Dataset | Sequence[str] | None") -> tuple[list[str], Reserve]:
        others: list[str] = []
        if public is not None:
            given, others = sample_population(public, self._variation, self.config)
            self.initial_population = self._step("candidates-1", is_texts, lambda: given)
            digest = [blake2b("\n".join(others).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()]
            if self.initial_population != given or self._step("reserve", is_texts, lambda: digest) != digest:
                raise ValueError(
                    "`initial_population` is not the one that the run in `run_dir` began with. A run goes on with the "
                    "texts that it began with: give those, or choose another folder, whose epsilon adds to this one's."
                )
        else:
            writer = self._check_can_write_population()
            with self._timed("writing the initial population"):
                self.initial_population = self._step(
                    "candidates-1", is_texts, lambda: write_population(writer, self._variation, self.config)
                )
        return self.initial_population, Reserve(others)

    @property
    def _noise_std(self) -> float:
        """Standard deviation of the noise that is in a bin, in votes."""
        mechanism = self.ledger.mechanism
        return mechanism.noise_std if self._num_clients is None else mechanism.noise_std_of_sum(self._num_clients)

    def _smooth(self, votes: np.ndarray, embed: Callable[[], np.ndarray]) -> SmoothedVotes:
        with self._timed("smoothing"):
            return smooth_votes(votes, self._noise_std, embed())

    def _weigh(
        self, votes: np.ndarray, smooth: Callable[[], SmoothedVotes], reserve: Reserve, number: int, label: str
    ) -> np.ndarray:
        """Compute the weights of the candidates, and what the votes tell about the public texts in reserve."""
        config = self.config
        if not config.smooth_votes:
            return threshold_votes(votes, config.threshold * self._noise_std)

        def is_valid(made: Any) -> bool:
            return is_weights(made, len(votes) + len(reserve.texts))

        def weigh() -> list[float]:
            smoothed = smooth()
            weights = threshold_votes(smoothed.votes, config.threshold * smoothed.std)
            if reserve.texts and number < config.num_rounds:
                if reserve.embeddings is None:
                    with self._timed("embedding"):
                        reserve.embeddings = self._embed(reserve.texts, f"{label}: embedding public texts")
                reserve.learn(smoothed.predict(reserve.embeddings))
            # Processes on machines that are not alike would differ by rounding.
            return broadcast([*weights.tolist(), *reserve.preferences.tolist()])

        kept = np.array(self._step(f"weights-{number}", is_valid, weigh))
        reserve.preferences = kept[len(votes) :]
        return kept[: len(votes)]

    def _preferences(self, seeds: list[str], rounds: Sequence[Callable[[], SmoothedVotes]]) -> list[float]:
        """Compute how much the votes of all rounds speak for each seed."""

        def work() -> list[float]:
            with self._timed("embedding"):
                embeddings = self._embed(seeds, "Embedding the seeds")
            return broadcast(preferences([smooth() for smooth in rounds], embeddings).tolist())

        return self._step("preferences", lambda made: is_weights(made, len(seeds)), work)

    def _weights(self, seeds: Any) -> list[float] | None:
        """Return how often to show each seed, or None where all are shown alike.

        Votes alone would show seeds as often as clients hold text like them. But a language model falls back to text
        of its own kind; the preferences lean against that.
        """
        columns = getattr(seeds, "column_names", ())
        if not self.config.weight_seeds or "votes" not in columns:
            return None
        weights = _numbers(seeds, "votes")
        if "preference" in columns:
            weights = weights * _numbers(seeds, "preference")
        return weights.tolist()

    def _judge(self, seeds: Any) -> Callable[[list[str]], np.ndarray] | None:
        """Return what tells how much the votes speak for new texts, or None where all are to be kept."""
        if self.config.best_of == 1 or "preference" not in getattr(seeds, "column_names", ()):
            return None
        of_seeds = _numbers(seeds, "preference")
        if (of_seeds == 0).any():
            raise ValueError("`seeds` holds a `preference` of zero; it must be above.")
        embed_seeds = cache(partial(self._embed, list(seeds["text"]), "Embedding the seeds"))

        def judge(texts: list[str]) -> np.ndarray:
            # Processes on machines that are not alike would differ by rounding, and so in what they keep.
            return broadcast(judge_texts(self._embed(texts, "Judging what was written"), embed_seeds(), of_seeds))

        return judge

    def _next_population(
        self,
        population: list[str],
        parents: np.ndarray,
        survivors: np.ndarray,
        reserve: Reserve,
        look_ahead: Callable[[], list[list[str]]],
        random: np.random.Generator,
        number: int,
        label: str,
    ) -> list[str]:
        """Take new public texts and vary parents; with `keep_survivors`, survivors take the place of some parents.

        With `reuse_lookahead`, a parent's first children are the variations that were voted for in its place.
        """

        def vary() -> list[str]:
            children = reserve.draw(round(self.config.new_public_share * self.config.population_size), random)
            if self.config.keep_survivors:
                children += [population[index] for index in survivors]
            made = look_ahead() if self.config.reuse_lookahead else []
            num_children: Counter[int] = Counter()
            varied = []
            for parent in random.permutation(parents)[len(children) :]:
                if (place := num_children[parent]) < len(made):
                    children.append(made[place][parent])
                else:
                    varied.append(population[parent])
                num_children[parent] += 1
            if varied:
                children += self._vary(varied, random, f"{label}: varying")
            return list(dict.fromkeys(children))

        candidates = self._step(f"candidates-{number + 1}", is_texts, vary)
        reserve.leave_out(candidates)
        return candidates

    def _add_to_history(self, record: RoundRecord) -> None:
        kept = self._step(f"record-{record.round}", RoundRecord.is_valid, lambda: asdict(record))
        self.history.append(RoundRecord.from_dict(kept))

    def _check_can_write_population(self) -> GeneratesText:
        if self.config.domain is None:
            raise ValueError(
                "`initial_population`=None lets the expansion model write one from `config.domain`, which is None "
                "too. Give public texts, or describe the domain in a few words that anybody may know."
            )
        return self._needs_text_generator("`initial_population`=None, which lets the expansion model write one,")

    def _warn_of_a_second_run(self) -> None:
        if self._run == 1 or not is_main_process():
            return
        ahead = [self.config.population_size] * self.config.num_rounds
        spent = [release.num_bins for release in self.ledger.releases]
        after = self.ledger.mechanism.epsilon(self.config.delta, spent + ahead)
        warnings.warn(
            f"This is run {self._run} of this generator on private data: it raises epsilon from "
            f"{rounded_up(self.ledger.epsilon(self.config.delta))} to {rounded_up(after)}. `generator.seeds` has the "
            "seeds of the run before, and `expand` costs nothing.",
            stacklevel=3,
        )

    def _client_pool(self, private: "Dataset | ClientPool | None") -> ClientPool | None:
        """Make the pool of clients, in the main process; no other one gets to see private text."""
        return self._make_pool(private) if is_main_process() else None

    def _make_pool(self, private: Any) -> ClientPool:
        if hasattr(private, "release_histogram"):
            pool: ClientPool = private
        elif self.config.max_dropout is not None:
            raise ValueError(
                f"`max_dropout`={self.config.max_dropout} is for a federation, whose clients add the noise, but "
                "`private` is a dataset: give a `FederatedClientPool`, or leave `max_dropout` out."
            )
        else:
            pool = InMemoryClientPool(private, self._embedder, self.config, self.ledger, self._noise)
        if pool.ledger is not self.ledger:
            raise ValueError("`private` is a pool with a ledger of its own; make it with `ledger=generator.ledger`.")
        return pool

    def _is_released(self) -> bool:
        """Tell whether every histogram of the current run is in the ledger, so that no client has to be asked."""
        last = f"run-{self._run}-release-{self.config.num_rounds}"
        place = self._folder.read(last, is_count) if self._folder is not None else None
        return broadcast(place is not None and place < self.ledger.num_releases)

    def _checked_num_clients(self, clients: ClientPool | None) -> int:
        now = broadcast(None if clients is None else clients.num_clients)
        begun = self._step("clients", is_count, lambda: now)
        if now not in (None, begun):
            raise ValueError(
                f"`private` has {now} clients, but the run in `run_dir` began with {begun}. A run goes on with the "
                "clients that it began with: give those, or choose another folder, whose epsilon adds to this one's."
            )
        return begun

    def _release(
        self,
        clients: ClientPool | None,
        population: list[str],
        embed: Callable[[], np.ndarray],
        number: int,
        label: str,
    ) -> tuple[np.ndarray | None, float]:
        """Get a round's histogram: from the ledger if it was released, else from the clients, in the main process.

        Returns:
            The noisy votes, None where the release was lost, and how many seconds the private side took. (How long
            it takes depends on what the clients hold, so nobody else is told.)
        """
        place = self._step(f"release-{number}", is_count, lambda: self.ledger.num_releases)
        seconds = 0.0
        if place > self.ledger.num_releases:
            raise ValueError(f"`run_dir`: {place}, where {label.lower()} was released, is not a place in the ledger.")
        if place == self.ledger.num_releases:
            self._check_ledger_is_the_latest(number, label)
            candidates = embed()
            started = time.perf_counter()
            if clients is not None:
                self._ask(clients, candidates)
            self._share_ledger()
            seconds = time.perf_counter() - started
        release = self.ledger.releases[place]
        if release.votes is None:
            warnings.warn(f"{label}: the release was lost. It is counted, and the round is skipped.", stacklevel=3)
            return None, seconds
        if release.num_bins != len(population):
            raise ValueError(f"`run_dir`: the ledger has {release.num_bins} votes for {len(population)} candidates.")
        return np.array(release.votes), seconds

    def _embed_candidates(
        self, population: list[str], look_ahead: Callable[[], list[list[str]]], label: str
    ) -> np.ndarray:
        """Embed what represents the candidates: themselves, or the mean of their variations."""
        represented_by = look_ahead() if self.config.lookahead else [population]
        with self._timed("embedding"):
            embeddings = self._embed(list(chain(*represented_by)), f"{label}: embedding")
        return embeddings.reshape(len(represented_by), len(population), -1).mean(0)

    def _check_ledger_is_the_latest(self, number: int, label: str) -> None:
        """Refuse to draw a round anew of which the folder holds what came after its release."""
        made = f"weights-{number}", f"candidates-{number + 1}", f"record-{number}", f"release-{number + 1}"
        later = [f"run-{self._run}-{step}" for step in made]
        if self._folder is not None and any(map(self._folder.holds, later)):
            raise ValueError(
                f"`run_dir`={str(self._folder.path)!r} holds what came of {label.lower()}, but its ledger does not "
                "count that release: it is an older copy. Bring back the latest one; an older one would draw noise "
                "again and tell of too small an epsilon."
            )

    def _share_ledger(self) -> None:
        """Give the other processes a copy of the main process's ledger, in which the clients' pool counts."""
        ledger = broadcast(self.ledger)
        if not is_main_process():
            self._ledger = ledger

    def _ask(self, clients: ClientPool, candidates: np.ndarray) -> None:
        """Ask the clients for one histogram, and make sure that it was counted and kept."""
        before = self.ledger.num_releases
        try:
            votes = clients.release_histogram(candidates)
        except ReleaseLostError as error:
            logger.warning("%s", error)
            votes = None
        latest = self.ledger.releases[-1] if self.ledger.num_releases == before + 1 else None
        kept = None if votes is None else tuple(votes)
        if latest is None or latest.votes != kept or latest.num_bins != len(candidates):
            raise RuntimeError(f"{type(clients).__name__} did not count and keep its release, or gave another one.")

    def _look_ahead(
        self, population: list[str], random: np.random.Generator, number: int, label: str
    ) -> list[list[str]]:
        """Make the variations that represent each candidate by the mean of their embeddings: `lookahead` lists."""

        def vary() -> list[str]:
            # One call for all of them: batches of like length then need the least padding.
            return self._vary(population * self.config.lookahead, random, f"{label}: looking ahead")

        def is_valid(made: Any) -> bool:
            return is_texts(made) and len(made) == self.config.lookahead * len(population)

        made = self._step(f"lookahead-{number}", is_valid, vary)
        return [made[start : start + len(population)] for start in range(0, len(made), len(population))]

    def _vary(self, texts: list[str], random: np.random.Generator, label: str) -> list[str]:
        with self._timed("varying"):
            return self._variation(texts, int(random.integers(2**32)), label)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def _needs_text_generator(self, purpose: str) -> GeneratesText:
        if self._text_generator is None:
            raise ValueError(_NO_EXPANSION_MODEL.format(purpose=purpose))
        return self._text_generator


def check_num_samples(num_samples: int) -> None:
    """Raise a `ValueError` where `num_samples` is not a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples`={num_samples!r} must be a positive integer.")


def _numbers(seeds: Any, column: str) -> np.ndarray:
    """Read a column of seeds that holds a number for each."""
    values = seeds[column][:]
    if not all(isinstance(each, (int, float)) and 0 <= each < 1e100 for each in values):
        raise ValueError(f"`seeds` has a column {column!r} that does not hold a finite number, zero or above, a row.")
    return np.array(values, dtype=np.float64)


def _read_seeds(folder: Path) -> "Dataset | None":
    """Read the seeds of a local folder or of a repository."""
    if (folder / SEEDS_FILE).is_file():
        import pyarrow.parquet

        return _dataset(pyarrow.parquet.read_table(folder / SEEDS_FILE).to_pylist())
    if not (folder / SEEDS_NAME).is_file():
        return None
    # Not `splitlines`: a text may hold other characters that end a line.
    lines = (folder / SEEDS_NAME).read_text(encoding="utf-8").split("\n")
    return _dataset([json.loads(line) for line in lines if line])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _dataset(rows: list[dict[str, Any]]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_list(rows)
