"""Which rows of a dataset a privacy report is about.

A generator marks its dataset with its report, in `info.description`. `datasets` keeps it through `select`, `filter`,
`shuffle`, `train_test_split`, `concatenate_datasets`, saving and loading. The mark names a list of hashes, one for
each text that the report is about (`privacy.texts.CoveredTexts`). The list lies beside saved texts. A dataset has a
guarantee if each of its rows is in the list of a report. If a single row is not, there is none.

A report names the columns that it is about. If there are several, such as a text and its label, a row is covered if
its values in all of them belong together. Fewer columns of covered rows are post-processing, and are as private. But
they cannot be looked up, so no guarantee is claimed for a dataset that has lost one of the columns.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .artifacts import REPORT_NAME
from .data.columns import has_transform
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport
from .privacy.texts import TEXT_ALONE, CoveredTexts, file_name, hash_texts
from .settings import shortened

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset, IterableDataset

logger = logging.getLogger(__name__)

BATCH = 10_000
"""Rows that are read at a time."""

_MARK = "privacy_report.json: "

_LISTS: dict[str, CoveredTexts] = {}
"""Lists that this process made or read, by their digest, for datasets in memory, beside which no file lies."""


def mark(dataset: "Dataset", report: PrivacyReport, texts: CoveredTexts) -> None:
    """Mark a dataset with the report of its texts.

    Args:
        dataset (`datasets.Dataset`): Gets the mark, in `info.description`.
        report (`PrivacyReport`): The guarantee.
        texts (`CoveredTexts`): All texts that the report is about, such as those of the dataset and its seeds.
    """
    _LISTS[texts.digest] = texts
    about = report.about(texts)
    rows = "texts" if texts.columns == TEXT_ALONE else f"rows of the columns {list(texts.columns)}"
    names = f"About the {len(texts)} {rows} with the digest {texts.digest[:16]}, and no others:"
    dataset.info.description = f"{names}\n{about}\n{_MARK}{json.dumps(about.to_dict())}"


def marks_of(dataset: "Dataset") -> list[PrivacyReport]:
    """Read the reports that a dataset carries. One that was joined from several carries several."""
    lines = (dataset.info.description or "").split("\n")
    return [PrivacyReport.from_dict(json.loads(line[len(_MARK) :])) for line in lines if line.startswith(_MARK)]


def check_is_public(argument: str, texts: object) -> None:
    """Refuse synthetic texts of a run as public texts of another one, whose report would not count the first.

    They are known by the report that a dataset carries. One that was read again from Parquet or JSON carries none.

    Raises:
        ValueError: `texts` is a dataset that carries a report, or a stream of one.
    """
    from datasets import Dataset, IterableDataset
    from datasets.arrow_dataset import Column
    from datasets.iterable_dataset import IterableColumn

    while isinstance(texts, Column | IterableColumn):
        texts = texts.source
    behind = _datasets_behind(texts) if isinstance(texts, IterableDataset) else [texts]
    reports = [report for each in behind if isinstance(each, Dataset) for report in marks_of(each)]
    if reports:
        raise ValueError(
            f"`{argument}` is synthetic text of a run with epsilon = {rounded_up(reports[0].epsilon)}, and not "
            "public: the report of a new run would not count that one. Begin with public texts. If the clients of "
            "that run are others, whose guarantee is not to be claimed, give the texts as a list."
        )


def _datasets_behind(stream: "IterableDataset") -> Iterator[Any]:
    """Yield what a stream reads, such as a dataset that `to_iterable_dataset` made a stream, without its mark."""
    steps: list[Any] = [stream._ex_iterable]
    while steps:
        inside = vars(steps.pop())
        steps += [each for each in (inside.get("ex_iterable"), *inside.get("ex_iterables", ())) if each is not None]
        yield from inside.get("kwargs", {}).get("shards", ())


def report_of_rows(
    dataset: "Dataset", folders: Iterable[Path] = (), columns: str | Sequence[str] | None = None
) -> PrivacyReport | None:
    """Find the guarantee of all rows of a dataset.

    Args:
        dataset (`datasets.Dataset`): A dataset that a generator made, or that was derived from such.
        folders (`Iterable` of `Path`, *optional*):
            Folders with a report of theirs, or with lists of texts. The folder that the dataset was loaded from is
            always among them.
        columns (`str` or `Sequence[str]`, *optional*):
            Columns that are to be covered, by default those that the reports name. Other columns have no guarantee.
            Give the new names of columns that were renamed, in the order of the report.

    Returns:
        `PrivacyReport`: The report, or the sum of several, if each row is in one of their lists. Else None, and a
        warning says which rows are not, or what is missing.
    """
    own = [Path(file["filename"]).parent for file in dataset.cache_files]
    places = list(dict.fromkeys([*folders, *own]))
    reports = marks_of(dataset)
    reports += [PrivacyReport.from_pretrained(place) for place in places if (place / REPORT_NAME).is_file()]
    named = {(each.texts_digest, each.release_ids): each for each in reports if each.texts_digest is not None}
    asked = (columns,) if isinstance(columns, str) else None if columns is None else tuple(columns)
    hashes: dict[tuple[str, ...], np.ndarray] = {}
    lists = []
    for (digest, _), report in named.items():
        names = _columns_in(dataset, report, asked)
        texts = _find(str(digest), report, places) if names is not None else None
        if names is not None and texts is not None:
            hashes[names] = hashes[names] if names in hashes else hash_texts(units(dataset, names))
            lists.append((report, texts.contains(hashes[names])))
    found = _those_that_cover(lists)
    return _sum_of(found, asked is not None) if found else None


def _sum_of(found: Sequence[PrivacyReport], are_asked: bool) -> PrivacyReport | None:
    """Add up the reports of rows. None, with a warning, if they are about different columns and none is asked for."""
    different = {report.columns for report in found}
    if not are_asked and len(different) > 1:
        logger.warning(
            "The rows are covered by privacy reports about different columns, %s, so no guarantee is claimed for all "
            "of these. Say by `text_column` which columns it is to be about.",
            shortened(sorted(map(list, different))),
        )
        return None
    total = PrivacyReport.of_several(found)
    if total in found:
        return total
    # A sum names no rows, but still the columns that all of its reports are about.
    return replace(total.without_names(), columns=found[0].columns if len(different) == 1 else TEXT_ALONE)


def _columns_in(dataset: "Dataset", report: PrivacyReport, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return where a dataset has the columns of a report, or None if it lacks one, with a warning."""
    is_renamed = asked is not None and not set(asked) <= set(report.columns) and len(asked) == len(report.columns)
    names = report.columns if asked is None or not is_renamed else asked
    if asked is not None and not set(asked) <= set(names):
        logger.warning(
            "A privacy report is about the columns %s, and not about %s, so no guarantee is claimed.",
            shortened(list(report.columns)),
            shortened(list(asked)),
        )
        return None
    lost = [name for name in names if name not in dataset.column_names]
    if lost:
        logger.warning(
            "A privacy report is about the columns %s together, and the dataset has no column %s. Without it, rows "
            "cannot be looked up, so no guarantee is claimed. Keep the columns, or look the guarantee up before you "
            "drop or rename one.",
            shortened(list(report.columns)),
            shortened(lost[0]),
        )
    return None if lost else names


def _those_that_cover(lists: Sequence[tuple[PrivacyReport, np.ndarray]]) -> list[PrivacyReport]:
    """Return the reports whose lists rows are in. None of them if a single row is in no list."""
    if not lists:
        return []
    is_covered = np.logical_or.reduce([is_listed for _, is_listed in lists])
    if is_covered.all():
        return [report for report, is_listed in lists if is_listed.any()]
    foreign = np.flatnonzero(~is_covered)
    logger.warning(
        "%d of %d rows are not among the texts that a privacy report names, such as row %d. No guarantee is claimed "
        "for any of them together. Drop these rows, or find out where they are from.",
        len(foreign),
        len(is_covered),
        foreign[0],
    )
    return []


def texts_of(*datasets: "Dataset | None", columns: Sequence[str] = TEXT_ALONE) -> CoveredTexts:
    """List the rows of datasets, by their values in these columns."""
    rows = (unit for dataset in datasets if dataset is not None for unit in units(dataset, columns))
    return CoveredTexts.of(rows, columns)


def units(dataset: "Dataset", columns: Sequence[str]) -> Iterator[str]:
    """Yield for each row the string by which it is looked up.

    It is the text itself if there is one column of texts. Else it is JSON of the values in these columns, in this
    order, with the names of labels instead of their numbers. So values of different rows that are put together are
    no row that a report covers.
    """
    from datasets import ClassLabel

    # A transform may show other values than the columns hold, and a trainer sees what it shows.
    rows = dataset if has_transform(dataset) else dataset.with_format(None)
    rows = rows.select_columns(list(columns))
    labels = {name: rows.features[name] for name in columns if isinstance(rows.features[name], ClassLabel)}
    for batch in rows.iter(BATCH):
        for name, label in labels.items():
            batch[name] = [_name_of(value, label) for value in batch[name]]
        yield from map(_unit, zip(*(batch[name] for name in columns), strict=True))


def _name_of(value: Any, label: "ClassLabel") -> Any:
    is_index = isinstance(value, int) and 0 <= value < label.num_classes
    return label.names[value] if is_index else value


def _unit(values: tuple[Any, ...]) -> str:
    if len(values) == 1 and isinstance(values[0], str | None):
        return values[0] or ""
    return json.dumps(values, sort_keys=True, default=repr)


def _find(digest: str, report: PrivacyReport, places: list[Path]) -> CoveredTexts | None:
    """Find the list of a report, or log a warning that says what to do."""
    problem = "It is not beside the texts."
    for place in places if digest not in _LISTS else ():
        try:
            _LISTS[digest] = CoveredTexts.load(place, digest, report.num_texts or 0)
            break
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            problem = str(error)
    if digest not in _LISTS:
        logger.warning(
            "The list of the texts that a privacy report is about could not be read, so no guarantee is claimed. %s "
            "Copy %r from the folder or repository of the run that made the texts.",
            problem,
            file_name(digest),
        )
    return _LISTS.get(digest)
