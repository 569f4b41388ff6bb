"""`PrivateEvolutionGenerator`: private clients in, a dataset of differentially private synthetic text out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifacts import FIRST_WRITER
from .clients.pool import ClientPool
from .clients.questions import Question
from .configuration import PrivateEvolutionConfig
from .coverage import mark, texts_of
from .data import as_rows, make_dataset, output_features
from .evolution.algorithm import evolve
from .evolution.kept_evidence import RunEvidence
from .evolution.parts import is_texts, joined
from .evolution.population import Population
from .evolution.selection import SelectionRule, selection_rule
from .evolution.token_answer import TokenAnswer
from .expansion import Expander, SeedTexts, check_num_samples
from .finetuning.chain import reports_of_run, reports_of_writer, with_writer
from .forms import form_of
from .hub import check_is_not_audited
from .inputs import check_population, clients_of, decided, run_settings, tools_of
from .labels import check_given_shares
from .models.components import Components, ModelSource
from .privacy.accounting import Accountant
from .privacy.ledger import CountsAlone, PrivacyLedger
from .privacy.noise import NoiseSource
from .privacy.plan import Plan
from .privacy.report import PrivacyReport
from .processes import is_main_process, progress_label
from .runs.folder import RunFolder, working
from .runs.history import RoundRecord
from .runs.run import Run
from .runs.tracking import Tracker, Trackers
from .saved_runs import SavedRun, check_no_run_dir, time_table
from .saving import SavesRuns
from .selecting import embed_together, select_public
from .tilting import usable_answer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset, IterableDataset


class PrivateEvolutionGenerator(SavesRuns, CountsAlone):
    """Generates differentially private synthetic text by Private Evolution.

    The method is [PrE-Text](https://huggingface.co/papers/2406.02958). Candidates evolve towards what the clients
    hold, guided by noisy histograms of the clients' nearest-neighbor votes. A language model then expands the
    survivors into a training set.

    Args:
        variation_model (`str`, `Path`, `tuple`, `Pipeline` or `Variation`, *optional*):
            Masked language model that varies candidates: a Hub id, a local folder, a `(model, tokenizer)` pair, a
            pipeline, or an object of your own with `vary`. Defaults to the paper's, `"FacebookAI/roberta-large"`.
            `None` varies them by prompting the expansion model.
        embedding_model (`str`, `Path` or `SentenceTransformer`, *optional*):
            Sentence-transformers model in whose space the clients answer. Defaults to the paper's,
            `"sentence-transformers/all-MiniLM-L6-v2"`.
        expansion_model (`str`, `Path`, `tuple`, `Pipeline`, `InferenceClient` or `TextEngine`, *optional*):
            Causal language model that expands the seeds, or the address of a server that has one and speaks the API
            of OpenAI, such as `"http://localhost:8000/v1#Qwen/Qwen3-8B"`, or an object of your own with `complete`,
            `answer` and `truncate`. It is needed for `expand`, for `variation_model=None`, and to write candidates.
        config (`PrivateEvolutionConfig`): The settings, including the privacy budget.
        device (`str` or `torch.device`, *optional*): Device of models that are loaded here.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Their dtype. `"auto"` is the checkpoint's, and float32 on a CPU. `"fastest"` writes in bfloat16 on some.
        device_map (`str` or `dict`, *optional*):
            How a large expansion model is spread over devices, as in `from_pretrained` of transformers, or `"auto"`.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass, and requests to a server at a time.
        run_dir (`str` or `Path`, *optional*):
            Folder in which a run survives being killed. Every release is there, durably, before anything uses it. A
            generator made with the same folder and settings resumes: what was released is not drawn again. Nothing in
            the folder is private. Without it a crash loses what its budget bought.
        selection (`SelectionRule`, *optional*): Weighs candidates by their noisy votes, instead of `config.threshold`.
        questions (`Sequence` of `(Question, float)`, *optional*):
            Questions of your own, each asked once before the first round, and the fraction of the budget of each. If
            such a question has `interpret`, its answer is part of the evidence.
        report_to (`str`, `Tracker`, or a `Sequence` of them, *optional*):
            Where rounds and epsilon are shown while a run goes on: trackers of accelerate, such as `"trackio"`.
        accountant (`Accountant`, *optional*): Computes epsilon, instead of `config.accountant`.
        noise (`NoiseSource`, *optional*): Source of the noise, for tests. Any but the default voids the guarantee.

    Attributes:
        initial_population (`list` of `str`): The candidates that the latest run started from.
        history (`list` of `RoundRecord`): What every round of the latest run did.
        seconds (`dict` of `str` to `float`): Time of each stage of public work. (That of the private side is secret.)

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
        selection: SelectionRule | None = None,
        questions: Sequence[tuple[Question, float]] = (),
        report_to: str | Tracker | Sequence[str | Tracker] | None = None,
        accountant: Accountant | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        if not isinstance(config, PrivateEvolutionConfig):
            raise TypeError(f"`config` must be a PrivateEvolutionConfig, not {type(config).__name__}.")
        Plan.from_config(config, questions, accountant)  # Refused, if at all, before models are loaded.
        self._trackers = Trackers(report_to)
        self._components = Components.load(
            variation_model, embedding_model, expansion_model, config, device, dtype, device_map, batch_size
        )
        self._given, config = config, decided(config, questions, self._components.engine, run_dir)
        plan = Plan.from_config(config, questions, accountant)
        self._config, self._form = config, form_of(config)
        self._questions = [question for question, _ in questions]
        rule = selection_rule(selection, config)
        self._new_population = partial(Population, rule=rule, config=config, questions=self._questions)
        own = {"selection": selection, "accountant": accountant, "questions": questions}
        self._sources = {**self._components.sources, **{name: ModelSource() for name in own if own[name]}}
        self._noise = noise
        # What the model that writes has learned before, which its texts may tell as well.
        self._earlier_reports = reports_of_writer(self._sources["expansion_model"].name, expansion_model)
        self._expander = Expander(engine, config, self._embed) if (engine := self._components.engine) else None
        settings = run_settings(config, self._questions, self._sources, self._earlier_reports)
        # The main process alone writes. The others get what it reads.
        self._folder = RunFolder(run_dir, settings) if run_dir is not None and is_main_process() else None
        self._ledger = PrivacyLedger(plan) if self._folder is None else self._folder.ledger(plan)
        self._num_clients: int | None = None
        self._costs: Mapping[str, Any] | None = None
        self._num_runs = 0  # Completed ones.
        self.seconds: dict[str, float] = {}
        self._run = self._new_run(0)
        self.initial_population: list[str] = []
        self.history: list[RoundRecord] = []
        self._seeds: Dataset | None = None
        self._synthetic: Dataset | None = None
        self._token_answer: TokenAnswer | None = None
        self._evidence: RunEvidence | None = None
        self._has_other_space = False

    @property
    def config(self) -> PrivateEvolutionConfig:
        """The settings as they were given. Another configuration needs another generator."""
        return self._given

    @property
    def ledger(self) -> PrivacyLedger:
        """Counts what was released."""
        return self._ledger

    @property
    def privacy_report(self) -> PrivacyReport:
        """What all runs of this generator, and those that its language model learned from, have released together."""
        own = PrivacyReport.from_ledger(self.ledger, self.config, self._num_clients)
        return with_writer(own, self._earlier_reports)

    @property
    def seeds(self) -> "Dataset | None":
        """The seeds of the latest run, or of the saved run that this generator continues."""
        return self._seeds

    @property
    def token_answer(self) -> TokenAnswer | None:
        """What the clients of that run said about tokens, with noise. None if they were not asked."""
        return self._token_answer

    @token_answer.setter
    def token_answer(self, answer: TokenAnswer | None) -> None:
        if self._seeds is not None:
            raise ValueError(
                "`token_answer` of a generator with seeds of its own is that of their run: its report says nothing "
                "about another one. Make a new generator, and `expand` the seeds with that."
            )
        self._token_answer = answer

    @property
    def time_table(self) -> str:
        """What each stage of public work took, in a line."""
        return time_table(self.seconds)

    def __call__(
        self,
        private: "Dataset | ClientPool | None",
        initial_population: "Dataset | Sequence[str] | None" = None,
        *,
        num_samples: int,
        label_shares: Mapping[str, float] | None = None,
    ) -> "Dataset":
        """Evolve seeds from private clients and expand them. Spends budget.

        Args:
            private (`datasets.Dataset` or `ClientPool`): The clients. See `evolve`.
            initial_population (`datasets.Dataset` or `Sequence[str]`, *optional*): Public texts. See `evolve`.
            num_samples (`int`): Number of synthetic texts.
            label_shares (`Mapping[str, float]`, *optional*): Fraction of the texts of each label. See `expand`.

        Returns:
            `datasets.Dataset`: `num_samples` rows with the column `text` (`str`). Records have the columns of
            `config.text_column`, and conversations a column `messages` that `trl` trains on. With `config.labels`,
            there is the column `config.label_column` (`ClassLabel`) as well.
        """
        self._components.needed_engine("calling the generator")  # Refused before any budget is spent.
        check_num_samples(num_samples)
        check_given_shares(label_shares, self.config.labels)
        seeds = self.evolve(private, initial_population)
        return self.expand(seeds, num_samples=num_samples, label_shares=label_shares)

    def evolve(
        self, private: "Dataset | ClientPool | None", initial_population: "Dataset | Sequence[str] | None" = None
    ) -> "Dataset":
        """Evolve candidates towards what the clients hold (Algorithm 1). Spends budget, every time it is called.

        With `run_dir`, the first call resumes the folder's first run: answers that were released are read, and only
        the others spend budget. A release that was lost, because its process ended before it was written, is counted
        as its round's, and that round is skipped. The private data has to be the same, which is the caller's
        responsibility: the folder knows only the number of clients.

        Args:
            private (`datasets.Dataset` or `ClientPool`):
                Private texts, records or conversations: column or columns `config.text_column`, column
                `config.client_column`, which says whose they are, and with `config.labels` column
                `config.label_column`. Or a `ClientPool`, such as a federation. With several processes, all of them
                get the same dataset and divide the clients, or the others get None and hold no private text.
            initial_population (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`, *optional*):
                Public texts, or rows like the private ones. Some of them are voted on first, and later those of the
                others that the evidence prefers (`config.new_public_share`). Without them the expansion model writes a
                population from `config.domain`. With `config.labels`, they are candidates of their own label if they
                have that column, else of any.

        Returns:
            `datasets.Dataset`: The seeds, which are the survivors of all rounds, each once. Columns `text` (`str`, or
            those of a record or conversation), with `config.labels` that of labels, `round` (`int`, the first that it
            survived), `votes` (`float`, its votes above the threshold, of all rounds), with `config.smooth_votes`,
            `preference` (`float`, how many times as many texts like it the evidence asks for), with `config.labels`,
            `share` (`float`, the fraction of texts with its label), and its `label_scores` from a mean by label.

        Raises:
            ValueError: An argument is not valid, or differs from what `run_dir` was begun with. No budget is spent.
            RuntimeError: Another process works on `run_dir`, or every release of this run was lost.
        """
        check_population(private, initial_population, self.config, self._components)
        # A run that did not end is resumed, or begun again if nothing of it was kept.
        self._run = run = self._new_run(self._num_runs + 1)
        with working(self._folder, self.ledger):
            is_released = run.is_released
            if not is_released:
                run.warn_of_a_second_one()
            writes = initial_population is None or not self._sources["variation_model"].given
            self._earlier_reports = reports_of_run(run, self._earlier_reports, writes)
            tools = tools_of(self._components, self._expander, self._form, self._embed)
            population = self._new_population(run, initial_population, tools)
            clients = None if is_released else self._pool(private, population)
            # Not before: some trackers send what the console shows, and the private side warns there of texts.
            self._trackers.earlier = self._earlier_reports
            with self._trackers:
                self._num_clients = run.begin(clients)
                self.history = run.history
                self._seeds = self._synthetic = self._token_answer = self._evidence = None
                seeds = evolve(run, clients, population, self.config)
                self.initial_population = joined(population.initial)
                seeds.check(self.config.num_rounds)
                self._costs = private.costs() if isinstance(private, ClientPool) else None
                self._token_answer = population.token_answer
                self._evidence = population.evidence
                rows = list(as_rows(self._form, population.finish(seeds)))
                self._seeds = make_dataset(rows, output_features(self.config))
                mark(self._seeds, self.privacy_report, texts_of(self._seeds, columns=self.config.output_columns))
                self._num_runs = run.number
                self._sources.pop(FIRST_WRITER, None)  # That was of the run before.
                return self._seeds

    def expand(
        self,
        seeds: "Dataset | Sequence[str]",
        num_samples: int,
        label_shares: Mapping[str, float] | None = None,
    ) -> "Dataset":
        """Write synthetic texts like the seeds. This is post-processing: it spends no budget.

        With `run_dir`, the texts of the latest run's seeds go to its folder, part by part, and the dataset is read
        from there. Memory does not grow with their number, and a call that was killed resumes.

        Args:
            seeds (`datasets.Dataset` or `Sequence[str]`):
                What `evolve` returned: columns `text` (`str`), `votes` and `preference` (`float`), which
                `config.weight_seeds` and `config.best_of` use. Without votes all seeds are shown equally often.
                Without preferences, token counts and a mean embedding, all usable texts are kept.
            num_samples (`int`): Number of synthetic texts.
            label_shares (`Mapping[str, float]`, *optional*):
                Fraction of the texts of each label, such as equal ones. By default that of the seeds, which is
                `config.label_shares` or what the clients answered.

        Returns:
            `datasets.Dataset`: `num_samples` rows as in `__call__`, all different. For the generator's own seeds,
            unchanged and each once, `info.description` carries the privacy report (`find_privacy_report` reads it).
            Which of them are given must not be decided by looking at private text.
        """
        check_num_samples(num_samples)
        check_given_shares(label_shares, self.config.labels)
        examples = SeedTexts.of(seeds, self.config)
        engine = self._components.needed_engine("`expand`")
        assert self._expander is not None  # As the engine is there.
        # Only what comes from the own seeds has the report: votes from elsewhere could choose the texts by anything.
        is_own = examples.are_among(self._seeds)
        with working(self._folder, self.ledger):
            # A run that broke off, after that of these seeds, is not theirs.
            self._run = run = self._new_run(self._num_runs)
            is_kept, features = is_own and examples.are_all_of(self._seeds), output_features(self.config)

            def keep(part: str, make: Callable[[], Any], is_valid: Callable[[Any], bool] = is_texts) -> Any:
                return run.keep(f"{run.texts_step}-{part}", is_valid, make) if is_kept else make()

            # The counts of the own run say nothing about the words of other seeds.
            answer = usable_answer(self._token_answer if is_own or self._seeds is None else None, engine)
            mean = self._known_mean() if is_own and answer is None else None
            with run.stage("expanding"):
                texts = self._expander.rows(examples, num_samples, label_shares, keep, answer, mean)
                rows = as_rows(self._form, texts)
                if is_kept and self._folder is not None:
                    synthetic = self._folder.dataset(f"run-{run.number}-texts", rows, features)
                else:
                    synthetic = make_dataset(list(rows), features)
        if is_own:
            mark(synthetic, self.privacy_report, texts_of(self._seeds, synthetic, columns=self.config.output_columns))
        self._synthetic = synthetic if is_own else None
        return synthetic

    def select(self, public: "Dataset | IterableDataset | Iterable[str] | str | Path", num_samples: int) -> "Dataset":
        """Choose public texts by what the releases say of them. This is post-processing: it spends no budget.

        The stream is read once, and memory does not grow with it. Its texts should be as long as those of the clients,
        and in a random order, since the first 20,000 decide how sharply is chosen (`selecting`). With several
        processes, all of them call it, with the same stream.

        Args:
            public (`datasets.Dataset`, `datasets.IterableDataset`, `Iterable[str]`, `str` or `Path`):
                Public texts, such as `load_dataset(..., streaming=True)`, or the name of a file, a folder or a
                repository. A dataset has the columns `config.text_column`. Blank texts and repetitions are left out.
            num_samples (`int`): Number of texts to choose, well below 8 % of those in `public`.

        Returns:
            `datasets.Dataset`: `num_samples` different public texts, in a random order, as they are. Columns `text`
            (`str`, or those of a record or conversation) and `preference` (`float`, how many times as many texts like
            it the evidence asks for). `info.description` carries the privacy report, which is about the choice.

        Raises:
            ValueError: No run has ended or says anything of other texts, or there are too few different texts.
        """
        return select_public(self._saved_run, public, num_samples, self._embed).dataset

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, **overrides: Any
    ) -> "PrivateEvolutionGenerator":
        """Continue a saved run: its configuration, models, seeds, and report, to which later releases are added.

        From a folder, its synthetic texts are loaded as well, so that `push_to_hub` may follow. To start again with
        the same settings and a new report, give `config` to the constructor instead.

        Args:
            name (`str` or `Path`): A folder of `save_pretrained`, or a dataset repository of `push_to_hub`.
            revision (`str`, *optional*): Branch, tag or commit of the repository.
            token (`str`, *optional*): Token of the Hub for the run's files. Models are loaded by that of a login.
            **overrides: Arguments of the constructor that replace the saved ones: `device`, a model or another object
                that was given as an object or a local folder, or a `config` that changes anything but the plan.
                `variation_model=None` is enough to `expand` the saved seeds.

        Raises:
            FileNotFoundError: `name` is neither.
            ValueError: The run is audited, its report and plan do not match, or the name of a model was not saved.
        """
        check_no_run_dir(overrides)
        check_is_not_audited(name)
        saved = SavedRun.load(name, revision, token)
        config = saved.config_or(overrides.pop("config", None))
        generator = cls(**{**saved.models(overrides), **overrides}, config=saved.decided(config))
        generator._given = config
        own, *earlier = saved.report.parts or (saved.report,)  # Its own report comes first.
        generator._ledger = own.to_ledger(generator.ledger.plan)
        generator._num_clients = own.num_clients
        if generator._earlier_reports is not None:
            generator._earlier_reports += earlier
        generator._sources = saved.sources_of(generator._sources, overrides)
        generator._seeds, generator._synthetic = saved.seeds, saved.synthetic
        generator._token_answer, generator._evidence = saved.token_answer, saved.evidence
        own_space, space = (each["embedding_model"].name for each in (saved.sources, generator._components.sources))
        generator._has_other_space = None not in (own_space, space) and own_space != space
        generator._costs = saved.costs
        generator.history = list(saved.history)
        if saved.seeds is not None:
            # The next run draws other candidates than the runs before it.
            generator._num_runs = math.ceil(own.num_releases / generator.ledger.plan.num_releases)
            generator._run = generator._new_run(generator._num_runs)
        return generator

    def _known_mean(self) -> np.ndarray | None:
        """Return the clients' mean embedding, if it was released, is used, and is in the space of this model."""
        is_used = self.config.mean_fraction > 0 and self.config.best_of > 1 and not self._has_other_space
        mean = self._evidence.mean if is_used and self._evidence is not None else None
        return mean if mean is not None and self._embed(["A text."]).shape[1] == len(mean) else None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed public texts in the space where the clients vote: unit rows, shape `(len(texts), d)`."""
        with progress_label("Embedding"):
            return self._embed(texts)

    @property
    def _saved_run(self) -> SavedRun:
        return SavedRun(
            config=self.config,
            report=self.privacy_report,
            sources=self._sources,
            history=self.history,
            seeds=self._seeds,
            synthetic=self._synthetic,
            initial_population=self.initial_population,
            seconds=self.seconds,
            costs=self._costs,
            token_answer=self._token_answer,
            token_fraction=self._config.token_fraction,
            evidence=self._evidence,
        )

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        # Of public texts only: the private side embeds client by client, with the embedder itself.
        return embed_together(self._components.embedder, texts)

    def _new_run(self, number: int) -> Run:
        return Run(number, self.config, self.ledger, self._folder, self.seconds, self._trackers)

    def _pool(self, private: Any, population: Population) -> ClientPool | None:
        return clients_of(
            private, population, self._config, self._components, self.ledger.plan, self._noise, self._questions
        )
