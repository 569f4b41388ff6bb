"""Which rows of a dataset a privacy report is about.

A generator marks its dataset with its report, in `info.description`. `datasets` keeps it through `select`, `filter`,
`shuffle`, `train_test_split`, `concatenate_datasets`, saving and loading. The mark names a list of hashes, one for
each text that the report is about (`privacy.texts.CoveredTexts`). The list lies beside saved texts. A dataset has a
guarantee if each of its rows is in the list of a report. If a single row is not, there is none.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .artifacts import REPORT_NAME
from .privacy.figures import rounded_up
from .privacy.report import PrivacyReport
from .privacy.texts import CoveredTexts, file_name, hash_texts

if TYPE_CHECKING:
    from datasets import Dataset

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
    names = f"About the {len(texts)} texts with the digest {texts.digest[:16]}, and no others:"
    dataset.info.description = f"{names}\n{about}\n{_MARK}{json.dumps(about.to_dict())}"


def marks_of(dataset: "Dataset") -> list[PrivacyReport]:
    """Read the reports that a dataset carries. One that was joined from several carries several."""
    lines = (dataset.info.description or "").split("\n")
    return [PrivacyReport.from_dict(json.loads(line[len(_MARK) :])) for line in lines if line.startswith(_MARK)]


def check_is_public(argument: str, texts: object) -> None:
    """Refuse synthetic texts of a run as public texts of another one, whose report would not count the first.

    Raises:
        ValueError: `texts` is a dataset that carries a report.
    """
    from datasets import Dataset

    if isinstance(texts, Dataset) and (reports := marks_of(texts)):
        raise ValueError(
            f"`{argument}` is synthetic text of a run with epsilon = {rounded_up(reports[0].epsilon)}, and not "
            "public: the report of a new run would not count that one. Begin with public texts. If the clients of "
            "that run are others, whose guarantee is not to be claimed, give the texts as a list."
        )


def report_of_rows(
    dataset: "Dataset", folders: Iterable[Path] = (), text_column: str = "text"
) -> PrivacyReport | None:
    """Find the guarantee of all rows of a dataset.

    Args:
        dataset (`datasets.Dataset`): A dataset that a generator made, or that was derived from such.
        folders (`Iterable` of `Path`, *optional*):
            Folders with a report of theirs, or with lists of texts. The folder that the dataset was loaded from is
            always among them.
        text_column (`str`, *optional*, defaults to `"text"`):
            Column of texts, which the guarantee is about. Other columns have none.

    Returns:
        `PrivacyReport`: The report, or the sum of several, if each row is in one of their lists. Else None, and a
        warning says which rows are not, or what is missing.
    """
    own = [Path(file["filename"]).parent for file in dataset.cache_files]
    places = list(dict.fromkeys([*folders, *own]))
    reports = marks_of(dataset)
    reports += [PrivacyReport.from_pretrained(place) for place in places if (place / REPORT_NAME).is_file()]
    named = {(each.texts_digest, each.release_ids): each for each in reports if each.texts_digest is not None}
    lists = {digest: _find(digest, report, places) for (digest, _), report in named.items()}
    if text_column not in dataset.column_names or not any(lists.values()):
        return None
    used = _lists_that_cover(hash_texts(_texts(dataset, text_column)), lists)
    found = [report for (digest, _), report in named.items() if digest in used]
    if not found:
        return None
    total = PrivacyReport.of_several(found)
    return total if total in found else total.without_names()


def _lists_that_cover(rows: np.ndarray, lists: Mapping[str, CoveredTexts | None]) -> set[str]:
    """Return the digests of the lists that rows are in. None of them if a single row is in no list."""
    is_covered = np.zeros(len(rows), dtype=bool)
    used = set()
    for digest, texts in lists.items():
        found = is_covered if texts is None else texts.contains(rows)
        if found.any():
            used.add(digest)
        is_covered = is_covered | found
    if is_covered.all():
        return used
    foreign = np.flatnonzero(~is_covered)
    logger.warning(
        "%d of %d rows are not among the texts that a privacy report names, such as row %d. No guarantee is claimed "
        "for any of them together. Drop these rows, or find out where they are from.",
        len(foreign),
        len(rows),
        foreign[0],
    )
    return set()


def texts_of(*datasets: "Dataset | None") -> CoveredTexts:
    """List the texts of datasets."""
    return CoveredTexts.of(text for dataset in datasets if dataset is not None for text in _texts(dataset, "text"))


def _texts(dataset: "Dataset", column: str) -> Iterator[str]:
    for batch in dataset.select_columns(column).iter(BATCH):
        yield from (text or "" for text in batch[column])


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
