"""Public texts that a run's releases choose: distribution matching.

What the releases say of any text is public, so choosing by it is post-processing. It spends nothing, and the choice
has the guarantee of the run. The method is that of [Wang et al. 2023](https://huggingface.co/papers/2305.12132), with
the evidence of the run as the measure of how well a public text matches the private ones.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .artifacts import CARD_NAME, DATASET_FILES, MODELS_NAME, REPORT_NAME, SELECTION_NAME
from .cards import NUM_SAMPLES, selection_card
from .coverage import check_is_public, mark, texts_of
from .data import as_rows, check_source, each_row, make_dataset
from .data.sources import stream_public
from .evolution.evidence import EFFECTIVE_FRACTION, strength_of
from .evolution.kept_evidence import RunEvidence
from .evolution.reservoir import DifferentTexts, Reservoir, hash_stream
from .expansion import check_num_samples
from .files import atomic_folder, write_json
from .finetuning.texts import public_name
from .forms import Form, form_of, texts_in
from .hub import is_of_a_run
from .privacy.texts import PATTERN
from .processes import broadcast, map_over_processes, progress_bar
from .saved_runs import SavedRun, check_folder

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

FIRST_TEXTS = 20_000
"""Different texts at the beginning of a stream that decide how sharply the evidence chooses."""

TEXTS_AT_ONCE = 2048
"""Texts that are embedded at once. After the first ones, memory holds this many, and those that are chosen."""

MOST_REPEATED = 10
"""A stream is refused as soon as it has this many times as many rows as different texts. It may have no end."""

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class SelectionFacts:
    """How public texts were chosen.

    Args:
        num_selected (`int`): Number of texts that were chosen, all different.
        num_read (`int`): Number of rows of the stream.
        num_blank (`int`): Number of them that are blank.
        num_different (`int`): Number of different texts among them, estimated if it is above 65,536.
        power (`float`): The chance of a text grows with its preference to this power, which is at most 1.
        effective_size (`float`): Effective sample size `(sum w)^2 / sum w^2` of the weights of all texts that were
            looked at.
        kind (`str`): What the texts are.
    """

    num_selected: int
    num_read: int
    num_blank: int
    num_different: int
    power: float
    effective_size: float
    kind: str = "selected public texts"


@dataclass(frozen=True)
class Selection:
    """Public texts that a run chose.

    Args:
        dataset (`datasets.Dataset`): The texts. See `PrivateEvolutionGenerator.select`.
        facts (`SelectionFacts`): How they were chosen.
        run (`SavedRun`): The run that chose them.
    """

    dataset: "Dataset"
    facts: SelectionFacts
    run: SavedRun

    def save(self, folder: str | Path, source: str | None = None) -> None:
        """Write the texts (for `load_from_disk`), the privacy report, the list of its texts, facts and a card.

        Args:
            folder (`str` or `Path`): Where.
            source (`str`, *optional*): What to call the public texts in the card.

        Raises:
            ValueError: The folder holds a run, or the report of another one.
        """
        config, path = self.run.config, Path(folder)
        check_target(path, self.run)
        texts = texts_of(self.dataset, columns=form_of(config).columns)
        report = self.run.report.about(texts)
        # The settings say what a row is. What else a run has is not there, so no one takes this for one.
        with atomic_folder(path, replaces=(CARD_NAME, PATTERN, *DATASET_FILES), first=REPORT_NAME) as scratch:
            self.dataset.save_to_disk(str(scratch))
            texts.save(scratch)
            report.save_pretrained(scratch)
            config.save_pretrained(scratch)
            write_json(scratch / SELECTION_NAME, asdict(self.facts))
            samples = texts_in(self.dataset.select(range(min(NUM_SAMPLES, len(self.dataset)))), form_of(config))
            names = {argument: each.label for argument, each in self.run.sources.items()}
            known = None if source is None else public_name(source)
            card = selection_card(report, asdict(self.facts), samples, names.get("embedding_model"), known)
            (scratch / CARD_NAME).write_text(card, encoding="utf-8")


def select_public(
    run: SavedRun,
    public: "Dataset | IterableDataset | Iterable[Any] | str | Path",
    num_samples: int,
    embed: Embed,
    split: str | None = None,
    name: str | None = None,
) -> Selection:
    """Choose public texts by what the releases of a run say of them, in one pass.

    The chance of a text grows with the evidence's ratio to a power, which is at most 1. The first `FIRST_TEXTS`
    different texts of the stream decide the power: the largest at which the effective sample size is
    `EFFECTIVE_FRACTION` of them. So no few texts stand for all. Texts are drawn without replacement (`Reservoir`).

    Args:
        run (`SavedRun`): The run, with its evidence.
        public (`datasets.Dataset`, `datasets.IterableDataset`, `Iterable`, `str` or `Path`):
            Public rows or texts, or the file, folder or repository that they are streamed from.
        num_samples (`int`): Number of texts to choose.
        embed (`Callable`): Embeds texts in the space where the clients voted.
        split (`str`, *optional*): Split of a folder or repository.
        name (`str`, *optional*): Configuration of a repository.

    Raises:
        ValueError: The run has no evidence, or the stream has too few different texts. Nothing is embedded before
            that is known. Or the stream repeats itself, which may be seen later.
        TypeError: `public` is not a stream of rows or texts.
    """
    check_num_samples(num_samples)
    evidence, form, seed = evidence_of(run), form_of(run.config), run.config.seed
    if isinstance(public, str | Path):
        public = _opened(str(public), form, split, name)
    check_source(public, "public")
    check_is_public("public", public)
    size = len(public) if isinstance(public, Sized) else None
    if size is not None and size < num_samples:
        raise ValueError(
            f"`public` has {size} texts, fewer than `num_samples`={num_samples}. Give more, or ask for fewer."
        )
    stream = _Stream(each_row(public, form, "public"), seed, num_samples)
    weigh = _Weights(evidence, embed)
    reservoir = Reservoir(num_samples)
    waiting = iter(stream.look_ahead())
    with progress_bar(size, "text", "Selecting public texts") as bar:
        for scored in weigh.of_first(waiting, bar.update):
            reservoir.add(scored.texts, scored.hashes, weigh.power * scored.log_ratios)
        for batch in chain(waiting, stream):
            scored = weigh.of_rest(batch, reservoir)
            reservoir.add(scored.texts, scored.hashes, weigh.power * scored.log_ratios)
            bar.update(len(batch.texts))
    facts = SelectionFacts(
        num_selected=num_samples,
        num_read=stream.num_read,
        num_blank=stream.num_blank,
        num_different=stream.different.number,
        power=weigh.power,
        effective_size=weigh.effective_size,
    )
    _warn_if_few(facts)
    return Selection(_dataset(reservoir, weigh.power, run, form), facts, run)


def check_target(folder: str | Path, run: SavedRun) -> None:
    """Raise a `ValueError` if a folder holds a run, whose report and card selected texts would replace."""
    if (Path(folder) / MODELS_NAME).is_file():
        raise ValueError(f"`output_dir`={str(folder)!r} holds a run. Choose another folder for the selected texts.")
    check_folder(folder, run.report)


def _opened(source: str, form: Form, split: str | None, name: str | None) -> Any:
    """Open public texts that are given by a name."""
    try:
        public = stream_public(source, form, name=name, split=split)
    except (OSError, ValueError, TypeError) as error:
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"`public`: {error}") from None
    if is_of_a_run(source):
        raise ValueError(
            f"`public`={source!r} is synthetic text of a run, and not public: the report would not count that run. "
            "Name public texts."
        )
    return public


def evidence_of(run: SavedRun) -> RunEvidence:
    """Return what a run says of any text.

    Raises:
        ValueError: It says nothing.
    """
    if run.seeds is None:
        raise ValueError(
            "There are no seeds, so no run has ended that could choose public texts. `evolve` comes first."
        )
    if run.evidence is None:
        raise ValueError(
            "The run says nothing of other texts, so it cannot choose public ones: it has no evidence. Its settings "
            "need `smooth_votes`=True or a `mean_fraction`, and `evolve` must have ended. A folder that an older "
            "version saved, that was scrubbed, or whose run asked questions of your own, has no evidence: call "
            "`select` of the generator that made the run, or resume the run in its `run_dir` and save it again."
        )
    return run.evidence


class _Batch(NamedTuple):
    """Some texts of a stream, and their hashes."""

    texts: list[str]
    hashes: np.ndarray

    def part(self, chosen: np.ndarray) -> "_Batch":
        """Return those that are chosen, by a mask."""
        return _Batch([text for text, each in zip(self.texts, chosen, strict=True) if each], self.hashes[chosen])


class _Scored(NamedTuple):
    """Some texts, their hashes, and what the evidence says of them."""

    texts: list[str]
    hashes: np.ndarray
    log_ratios: np.ndarray


class _Stream:
    """The texts of a stream that are not blank, some at a time, with what is counted.

    Args:
        texts (`Iterator[str]`): The texts. Blank ones count as read.
        seed (`int`): Seed of the hashes.
        wanted (`int`): Number of different texts that are needed.
    """

    def __init__(self, texts: Iterator[str], seed: int, wanted: int) -> None:
        self._texts, self._seed, self._wanted = texts, seed, wanted
        self.num_read = self.num_blank = 0
        self.different = DifferentTexts()
        self._is_warned = False

    def __iter__(self) -> Iterator[_Batch]:
        while part := list(islice(self._texts, TEXTS_AT_ONCE)):
            texts = [text for text in part if text.strip()]
            hashes = hash_stream(texts, self._seed)
            self.num_read += len(part)
            self.num_blank += len(part) - len(texts)
            self.different.add(hashes)
            self._check_repetitions()
            if texts:
                yield _Batch(texts, hashes)

    def look_ahead(self) -> list[_Batch]:
        """Read the beginning, before anything is embedded: as many different texts as are needed, each once.

        Raises:
            ValueError: The stream ends before that, or it repeats itself.
        """
        wanted, seen, kept = max(FIRST_TEXTS, self._wanted), set[int](), []
        for batch in self:
            is_new = np.zeros(len(batch.texts), dtype=bool)
            for index, each in enumerate(batch.hashes.tolist()):
                is_new[index] = each not in seen
                seen.add(each)
            kept.append(batch.part(is_new))
            if len(seen) >= wanted:
                break
        if len(seen) < self._wanted:
            raise ValueError(
                f"`public` ends after {self.num_read} rows, of which {len(seen)} are different texts that are not "
                f"blank, fewer than `num_samples`={self._wanted}. Give more public texts, or ask for fewer."
            )
        return kept

    def _check_repetitions(self) -> None:
        """Warn, once, if most of the texts so far were there before, and refuse a stream of hardly anything else."""
        num_texts, number = self.num_read - self.num_blank, self.different.number
        if self.num_read >= MOST_REPEATED * max(number, FIRST_TEXTS):
            raise ValueError(
                f"`public` repeats itself: of its first {self.num_read} rows, {number} are different texts that are "
                "not blank. Drop blank and repeated ones, and give a stream that ends."
            )
        if number < num_texts / 2 and not self._is_warned:
            self._is_warned = True
            warnings.warn(
                f"`public` repeats itself: of {num_texts} texts so far, some {number} are different. Each is chosen "
                "once at most, but repetitions are embedded again. Drop them to save time.",
                stacklevel=4,
            )


class _Weights:
    """What the evidence says of the texts of a stream.

    Args:
        evidence (`RunEvidence`): What the run says of any text.
        embed (`Callable`): Embeds texts.
    """

    def __init__(self, evidence: RunEvidence, embed: Embed) -> None:
        self._evidence, self._embed = evidence, embed
        self.power = 1.0
        self._highest = self._sum = self._sum_of_squares = 0.0

    def of_first(self, batches: Iterator[_Batch], update: Callable[[int], Any]) -> list[_Scored]:
        """Let the first texts decide how sharply the evidence chooses, and return what it says of them."""
        scored: list[_Scored] = []
        while sum(len(each.texts) for each in scored) < FIRST_TEXTS and (batch := next(batches, None)):
            scored.append(self._score(batch))
            update(len(batch.texts))
        first = np.concatenate([each.log_ratios for each in scored])
        if np.ptp(first) < 1e-9:
            warnings.warn(
                "The run says the same of all public texts that were looked at, so they are drawn at random.",
                stacklevel=4,
            )
        self.power = float(broadcast(min(1.0, strength_of(first, EFFECTIVE_FRACTION))))
        self._highest = float(first.max())
        self._count(first)
        return scored

    def of_rest(self, batch: _Batch, reservoir: Reservoir) -> _Scored:
        """Return what the evidence says of texts that are not in the sample already."""
        scored = self._score(batch.part(reservoir.is_new(batch.hashes)))
        self._count(scored.log_ratios)
        return scored

    @property
    def effective_size(self) -> float:
        """The effective sample size of all texts so far."""
        return self._sum**2 / self._sum_of_squares

    def _score(self, batch: _Batch) -> _Scored:
        if not batch.texts:
            return _Scored(batch.texts, batch.hashes, np.zeros(0))
        points, expected = self._embed(batch.texts), self._evidence.num_dimensions
        if expected not in (None, points.shape[1]):
            raise ValueError(
                f"`embedding_model` has {points.shape[1]} dimensions, but the clients of the run voted in a space of "
                f"{expected}. Give the embedding model of the run."
            )
        # Processes on different machines would differ by rounding.
        return _Scored(batch.texts, batch.hashes, broadcast(self._evidence.log_ratios(points)))

    def _count(self, logarithms: np.ndarray) -> None:
        weights = np.exp(np.minimum(self.power * (logarithms - self._highest), 300.0))
        self._sum += float(weights.sum())
        self._sum_of_squares += float((weights**2).sum())


def _warn_if_few(facts: SelectionFacts) -> None:
    if facts.num_selected > facts.effective_size / 2:
        warnings.warn(
            f"`num_samples`={facts.num_selected} is more than half of the effective number of texts in `public`, "
            f"{facts.effective_size:,.0f} of {facts.num_read}: nearly all that the run prefers is chosen, and others "
            "besides. Give more public texts, or ask for fewer.",
            stacklevel=4,
        )


def _dataset(reservoir: Reservoir, power: float, run: SavedRun, form: Form) -> "Dataset":
    drawn = reservoir.drawn(np.random.default_rng([run.config.seed, 3]))

    def preference(log_weight: float) -> float:
        return float(np.exp(np.minimum(log_weight / power, 700.0))) if power else 1.0

    rows = ({"text": each.text, "preference": preference(each.log_weight)} for each in drawn)
    dataset = make_dataset(list(as_rows(form, rows)), form.features())
    mark(dataset, run.report, texts_of(dataset, columns=form.columns))
    return dataset


def embed_together(embedder: Embed, texts: Sequence[str]) -> np.ndarray:
    """Embed public texts in all processes together: unit rows of shape `(len(texts), d)`."""
    rows = map_over_processes(lambda part: list(embedder(part)), texts)
    return np.stack(rows) if rows else embedder([])
