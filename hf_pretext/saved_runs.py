"""Saving and loading of a run: its configuration, report, models, seeds, history, texts, card and picture."""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifacts import (
    CARD_NAME,
    CONFIG_NAME,
    DATA_FILE,
    EVIDENCE_NAME,
    FILES_OF_A_RUN,
    FIRST_WRITER,
    HISTORY_NAME,
    MODELS_NAME,
    PAGE_NAME,
    PICTURE_NAME,
    REPORT_NAME,
    SEEDS_FILE,
    SEEDS_NAME,
    TOKENS_NAME,
)
from .cards import NUM_SAMPLES, dataset_card
from .configuration import PrivateEvolutionConfig
from .coverage import texts_of
from .croissant import write_croissant
from .evolution.kept_evidence import RunEvidence
from .evolution.token_answer import TokenAnswer
from .files import atomic_folder, check_is_free, check_is_writable, read_json, write_json
from .forms import form_of, texts_in
from .hub import fetch_folder, push_folder
from .models.components import ModelSource
from .page import Excluded, PageData, Point, RunFacts, ShownText, cut, render_page
from .personal import REGION
from .plots import plot_run, project
from .privacy.report import PrivacyReport
from .privacy.texts import PATTERN
from .processes import is_main_process
from .quality import MOST_TEXTS, TextQuality, evenly, sampled, words_shown
from .runs.history import RoundRecord
from .saved_files import (
    check_has_run,
    digest_of_seeds,
    read_evidence,
    read_seeds,
    read_texts,
    read_tokens,
    write_evidence,
)
from .settings import DECIDED, shortened

if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)

MAP_SIZE = 500
"""Number of texts of a stage that the map shows, in the picture and on the page."""

SHOWN = 1_000
"""Number of texts of a stage that the page shows."""

Maps = Mapping[str, tuple[list[int], np.ndarray]]
"""Indices of some texts of each stage of a run, and their embeddings."""


@dataclass(frozen=True)
class SavedRun:
    """Everything of a run that is saved. Nothing of it is private.

    Args:
        config (`PrivateEvolutionConfig`): The settings.
        report (`PrivacyReport`): The guarantee.
        sources (`dict` of `str` to `ModelSource`): Where the models and other objects are from, by their argument.
        history (`list` of `RoundRecord`): The rounds.
        seeds (`datasets.Dataset`, *optional*): The seeds.
        synthetic (`datasets.Dataset`, *optional*): Texts expanded from the seeds.
        initial_population (`Sequence[str]`, *optional*): The public texts that the run began with.
        seconds (`Mapping[str, float]`, *optional*): Time of each stage of public work.
        costs (`Mapping[str, Any]`, *optional*): What the releases cost the clients of a federation.
        token_answer (`TokenAnswer`, *optional*): What the clients said about tokens.
        token_fraction (`float`, *optional*): Fraction of the budget for that, if the settings leave it to the library.
        evidence (`RunEvidence`, *optional*): What the releases say of any text.
        region (`str`, *optional*, defaults to `"US"`):
            Country whose phone numbers are looked for without their country code.
    """

    config: PrivateEvolutionConfig
    report: PrivacyReport
    sources: Mapping[str, ModelSource]
    history: Sequence[RoundRecord]
    seeds: "Dataset | None" = None
    synthetic: "Dataset | None" = None
    initial_population: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, Any] | None = None
    token_answer: TokenAnswer | None = None
    token_fraction: float | None = None
    evidence: RunEvidence | None = None
    region: str = REGION

    @classmethod
    def load(cls, name: str | Path, revision: str | None = None, token: str | None = None) -> "SavedRun":
        """Read a run from a folder, or from a dataset repository of the Hub, whose texts are not read.

        Raises:
            FileNotFoundError: `name` is neither, or lacks what a run has.
        """
        folder = fetch_folder(name, ["*.json", SEEDS_FILE, EVIDENCE_NAME], revision, token)
        check_has_run(folder, name)
        report = PrivacyReport.from_pretrained(folder)
        models = read_json(folder / MODELS_NAME)
        sources = {argument: ModelSource.from_dict(source) for argument, source in models.items()}
        config = PrivateEvolutionConfig.from_pretrained(folder)
        decided = read_json(folder / CONFIG_NAME).get(DECIDED)
        # A version without token counts decided nothing.
        fraction = decided.get("token_fraction", 0.0) if isinstance(decided, dict) else 0.0
        seeds, answer, evidence = read_seeds(folder, config), read_tokens(folder), read_evidence(folder)
        if seeds is not None and digest_of_seeds(seeds, answer, evidence) != report.seeds_digest:
            logger.warning(
                "The seeds in %r, with the token counts and the evidence beside them, are not those that its privacy "
                "report names: they were changed, or saved by an older version. They are not loaded, because texts "
                "written from them would have no guarantee.",
                str(name),
            )
            seeds = None
        found = cls(config, report, sources, [], token_fraction=fraction)
        if seeds is None:
            return found
        return replace(
            found,
            history=[RoundRecord.from_dict(record) for record in read_json(folder / HISTORY_NAME)],
            seeds=seeds,
            synthetic=read_texts(folder, report),
            token_answer=answer,
            evidence=evidence,
            costs=_read_costs(folder),
        )

    def config_or(self, given: PrivateEvolutionConfig | None) -> PrivateEvolutionConfig:
        """Return the saved settings, or others that are given and say the same about what a row is.

        Raises:
            ValueError: They name other columns, roles or labels, or the labels in another order. The saved seeds and
                texts would become other rows, under the guarantee of these.
        """
        if given is None or self.seeds is None:
            return given or self.config
        there, here = (_settings_of_rows(each) for each in (self.config, given))
        names = [name for name in there if here[name] != there[name]]
        if names:
            raise ValueError(
                f"`config` has `{names[0]}`={shortened(here[names[0]])}, but the saved run has "
                f"{shortened(there[names[0]])}, by which its seeds are read. Keep it, and give the words of labels "
                "and their shares as you like."
            )
        return given

    def decided(self, config: PrivateEvolutionConfig) -> PrivateEvolutionConfig:
        """Return settings in which what was left to the library is what it decided for the saved run."""
        return config if config.token_fraction is not None else replace(config, token_fraction=self.token_fraction)

    def models(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that name the models, for those that are not given.

        Raises:
            ValueError: The name of a model was not saved, and it is not given.
        """
        arguments = {argument: source for argument, source in self.sources.items() if argument != FIRST_WRITER}
        for argument, source in arguments.items():
            if argument not in given and source.given and source.loadable is None:
                raise ValueError(
                    f"The saved run does not say where its `{argument}` is from: it was a loaded object, a server"
                    f"{'' if source.name is None else f' (of {source.name!r})'} or a local folder. Give it: "
                    f"`from_pretrained(..., {argument}=...)`."
                )
        return {argument: source.loadable for argument, source in arguments.items() if argument not in given}

    def sources_of(self, changed: Mapping[str, ModelSource], given: Mapping[str, Any]) -> dict[str, ModelSource]:
        """Return where the models of this run are from, if it goes on with some that are given instead of its own.

        Args:
            changed (`Mapping[str, ModelSource]`): Where those of the generator that continues it are from.
            given (`Mapping[str, Any]`): Arguments of that generator which replace the saved ones.
        """
        # A model that is left out was there when the seeds were made.
        kept = [name for name in self.sources if name == FIRST_WRITER or given.get(name, 0) is None]
        sources = {**changed, **{name: self.sources[name] for name in kept}}
        none = ModelSource(given=False)
        writer, varies = (self.sources.get(name, none) for name in ("expansion_model", "variation_model"))
        wrote = self.seeds is not None and writer.given and (self.config.domain is not None or not varies.given)
        if wrote and writer != sources["expansion_model"]:
            sources.setdefault(FIRST_WRITER, writer)
        return sources

    def maps(self, embed: Callable[[Sequence[str]], np.ndarray]) -> Maps:
        """Embed some texts of each stage for the map. With several processes, all of them call it."""
        if self.evidence is not None:
            _ = self.evidence.num_dimensions  # It may embed candidates as well, when it is first read.
        if self.seeds is None or self.synthetic is None:
            return {}
        maps = {}
        for stage, num_texts in self.counts.items():
            if chosen := evenly(range(num_texts), MAP_SIZE):
                maps[stage] = (chosen, embed([each.text for each in self._shown(stage, chosen)]))
        return maps

    @property
    def counts(self) -> dict[str, int]:
        """Number of texts of each stage (`page.data.STAGES`)."""
        datasets = {"seeds": self.seeds, "synthetic": self.synthetic}
        numbers = {stage: 0 if dataset is None else len(dataset) for stage, dataset in datasets.items()}
        return {"public": len(self.initial_population), **numbers}

    def save(self, folder: str | Path, maps: Maps) -> None:
        """Write the run to a folder. The files appear together, once all of them are written.

        Args:
            folder (`str` or `Path`): The folder.
            maps (`Maps`): What `maps` returned, for the picture and the page.

        Raises:
            ValueError: The folder holds the report of another run, or of one that has spent more, or files of others.
        """
        path = Path(folder)
        check_folder(path, self.report, "folder")
        with atomic_folder(path, replaces=(*FILES_OF_A_RUN, PATTERN), first=REPORT_NAME) as scratch:
            self._write(scratch, maps, self.sources)
            if self.seeds is not None:
                # `to_json` would round the votes.
                lines = [json.dumps(seed, ensure_ascii=False) + "\n" for seed in self.seeds.to_list()]
                (scratch / SEEDS_NAME).write_text("".join(lines), encoding="utf-8", errors="replace")
            if self.synthetic is not None:
                self.synthetic.save_to_disk(str(scratch))

    def push(
        self,
        repo_id: str,
        maps: Maps,
        *,
        license: str | None = None,
        language: str | None = None,
        **options: Any,
    ) -> str:
        """Push the run as a dataset repository, in one commit. See `save` and `hub.push_folder`."""
        with tempfile.TemporaryDirectory() as folder:
            header = {"repo_id": repo_id, "license": license, "language": language}
            self._write(Path(folder), maps, self.published().sources, **header)
            # All configurations of a repository need one format.
            for file, dataset in ((DATA_FILE, self.synthetic), (SEEDS_FILE, self.seeds)):
                assert dataset is not None  # The generator has looked.
                (Path(folder) / file).parent.mkdir()
                dataset.to_parquet(Path(folder) / file)
            assert self.synthetic is not None
            write_croissant(Path(folder), self.synthetic, self.report, repo_id, license)
            return push_folder(folder, repo_id, "dataset", self.report, **options)

    def _write(
        self,
        folder: Path,
        maps: Maps,
        sources: Mapping[str, ModelSource],
        **header: str | None,
    ) -> None:
        """Write everything but the seeds and the synthetic texts."""
        self.config.save_pretrained(folder)
        if self.config.token_fraction is None:
            decided = {DECIDED: {"token_fraction": self.token_fraction or 0.0}}
            write_json(folder / CONFIG_NAME, {**read_json(folder / CONFIG_NAME), **decided})
        report = self.report
        if self.seeds is not None:
            texts = texts_of(self.seeds, self.synthetic, columns=self.config.output_columns)
            texts.save(folder)
            report = report.about(texts, digest_of_seeds(self.seeds, self.token_answer, self.evidence))
        report.save_pretrained(folder)
        write_json(folder / MODELS_NAME, {argument: source.to_dict() for argument, source in sources.items()})
        if self.seeds is None:
            return
        write_json(folder / HISTORY_NAME, [asdict(record) for record in self.history])
        if self.token_answer is not None:
            write_json(folder / TOKENS_NAME, self.token_answer.to_dict())
        write_evidence(folder, self.evidence)
        data = self.page_data(maps)
        data.save(folder)
        page = replace(self, report=report, sources=sources).page(data)
        (folder / PAGE_NAME).write_text(page, encoding="utf-8")
        if self.synthetic is not None:
            embeddings = {_IN_THE_PICTURE[stage]: found for stage, (_, found) in maps.items()}
            footer = time_table(self.seconds)
            plot_run(self.history, self.report, self.config, embeddings, footer, folder / PICTURE_NAME)
            names: Mapping[str, str | None] = {argument: source.label for argument, source in sources.items()}
            samples = self._texts(self.synthetic.select(range(min(NUM_SAMPLES, len(self.synthetic)))))
            about: dict[str, Any] = {
                "federation": self.costs,
                "labels": self._labels,
                "quality": data.quality,
                "num_texts": len(self.synthetic),
                **header,
            }
            card = dataset_card(report, self.config, names, samples, len(self.seeds), **about)
            (folder / CARD_NAME).write_text(card, encoding="utf-8")

    def page(self, data: PageData, notices: Sequence[str] = (), excluded: Excluded | None = None) -> str:
        """Write the page of the run, as HTML. Nothing on it is private, but for what is marked as not covered.

        Args:
            data (`PageData`): The map, the timings and the quality.
            notices (`Sequence[str]`, *optional*): What is missing, and why.
            excluded (`Excluded`, *optional*): Figures that the guarantee does not cover.
        """
        counts = self.counts
        shown = {stage: self._shown(stage, evenly(range(number), SHOWN)) for stage, number in counts.items()}
        if not self.initial_population:  # A saved run does not have them, but for those on its map.
            shown["public"] = [ShownText(each.text) for each in data.points if each.stage == "public"]
            counts["public"] = len(shown["public"])
        names = {argument: source.label for argument, source in self.sources.items()}
        facts = RunFacts(self.report, self.config, names, self.history, counts, shown, self._labels, data)
        return render_page(replace(facts, notices=notices, excluded=excluded or Excluded()))

    def published(self) -> "SavedRun":
        """Leave out the paths of local models, which are not for publication."""
        return replace(self, sources={argument: source.published() for argument, source in self.sources.items()})

    def rows_of_page(self, stage: str) -> list[ShownText]:
        """Return all texts of a stage as a page shows them."""
        return [replace(each, text=cut(each.text)) for each in self._shown(stage, range(self.counts[stage]))]

    def page_data(self, maps: Maps) -> PageData:
        """Collect what the page shows and no other file of the run holds."""
        points = [
            Point(stage, cut(each.text), float(x), float(y), each.note)
            for stage, places in project({stage: found for stage, (_, found) in maps.items()}).items()
            for each, (x, y) in zip(self._shown(stage, maps[stage][0]), places, strict=True)
        ]
        return PageData(points, self.quality(), self.seconds, self.costs)

    def quality(self) -> TextQuality | None:
        """Look at the synthetic texts. None if there are none."""
        if self.synthetic is None or self.seeds is None or not (texts := self._some_texts()):
            return None
        seeds, beginning = self._texts(self.seeds), form_of(self.config).beginning
        return TextQuality.of(texts, seeds, self.initial_population, beginning, len(self.synthetic), self.region)

    def words_shown(self) -> dict[str, Any] | None:
        """Return those figures of `quality` that hold words. None if there are no texts."""
        texts = self._some_texts() if self.seeds is not None else []
        return words_shown(sampled(texts), form_of(self.config).beginning) if texts else None

    def _some_texts(self) -> list[str]:
        if self.synthetic is None:
            return []
        return self._texts(self.synthetic.select(evenly(range(len(self.synthetic)), MOST_TEXTS)))

    def _shown(self, stage: str, indices: Sequence[int]) -> list[ShownText]:
        """Return some texts of a stage, with their labels, and seeds with their votes."""
        if stage == "public":
            return [ShownText(self.initial_population[index]) for index in indices]
        dataset = self.seeds if stage == "seeds" else self.synthetic
        if dataset is None:
            return []
        some = dataset.select(list(indices))
        texts = self._texts(some)
        return [ShownText(text, self._note(row)) for text, row in zip(texts, some.with_format(None), strict=True)]

    def _note(self, row: Mapping[str, Any]) -> str:
        """Say in a few words what is known of a row beside its text."""
        words = []
        if (column := self.config.label_column) is not None and row.get(column) is not None:
            words.append(self.config.label_names[row[column]])
        if row.get("votes") is not None:
            words.append(f"round {row['round']}, {row['votes']:.1f} votes above the threshold")
        return ", ".join(words)

    def _texts(self, dataset: "Dataset") -> list[str]:
        return texts_in(dataset, form_of(self.config))

    @property
    def _labels(self) -> list[dict[str, Any]]:
        """List what the card says of each label. Nothing if there are none."""
        config, column = self.config, self.config.label_column
        if column is None or self.seeds is None or self.synthetic is None:
            return []
        counts, shares = (
            Counter(self.synthetic[column]),
            dict(zip(self.seeds[column], self.seeds["share"], strict=True)),
        )
        return [
            {"name": name, "words": words, "count": counts[number], "share": shares.get(number, 0.0)}
            for number, (name, words) in enumerate((config.labels or {}).items())
        ]


_IN_THE_PICTURE = {"public": "initial population", "seeds": "seeds", "synthetic": "synthetic texts"}


def time_table(seconds: Mapping[str, float]) -> str:
    """Write what each stage of public work took, in a line."""
    return f"Time of the public work: {', '.join(f'{name} {took:,.0f} s' for name, took in seconds.items())}."


def check_no_run_dir(overrides: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a saved run is to be continued in a run folder."""
    if overrides.get("run_dir") is not None:
        raise ValueError(
            f"`run_dir`={str(overrides['run_dir'])!r} cannot continue a saved run, whose releases it does not hold. "
            "Give `run_dir` to the constructor, with the run's own settings, to resume it."
        )


def check_folder(folder: str | Path, report: PrivacyReport, argument: str = "output_dir") -> None:
    """Refuse a folder in which a run with a report cannot be saved, or would hide or remove what is there.

    Raises:
        ValueError: The folder holds the report of another run, or of more releases. Or it holds no report, and files
            of the names that a run has, such as the `README.md` of a project, or a dataset. Or it cannot be written.
    """
    if not (Path(folder) / REPORT_NAME).is_file():
        check_is_free(folder, (*FILES_OF_A_RUN, PATTERN))
    elif not report.covers(there := PrivacyReport.from_pretrained(folder)):
        raise ValueError(
            f"`{argument}`={str(folder)!r} holds the report of another run with {there.num_releases} releases. This "
            f"generator counts {report.num_releases} others. Writing over it would hide what was spent: choose "
            "another folder."
        )
    if is_main_process():
        check_is_writable(argument, folder)


def _read_costs(folder: Path) -> Mapping[str, Any] | None:
    """Read what the releases cost the clients of a federation, also for the cards of texts that are written later."""
    try:
        data = PageData.load(folder)
    except ValueError as error:
        logger.warning("%s", error)
        return None
    return None if data is None else data.costs


def _settings_of_rows(config: PrivateEvolutionConfig) -> dict[str, Any]:
    """Return the settings by which saved seeds and texts are read. Labels are numbered by the order of their names."""
    of_form = {"template": config.template, "chat_roles": config.chat_roles}
    return {"output_columns": config.output_columns, **of_form, "label_names": config.label_names}
