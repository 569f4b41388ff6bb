"""The format of `privacy_report.json`: reading of what another version, or a stranger, may have written."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..settings import check_name, check_plain_words, shortened
from .accounting import ALIASES
from .ledger import read_mechanism
from .mechanism import Mechanism
from .plan import VOTES


@dataclass(frozen=True)
class ReportedRelease:
    """A release, as far as a report shows it.

    Args:
        id (`str`): Its random name. What two reports do not share adds up.
        question (`str`): Kind of the question that was answered.
        num_bins (`int`): Number of bins.
        mechanism (`Mechanism`): Its noise and sensitivity.
    """

    id: str
    question: str
    num_bins: int
    mechanism: Mechanism


def checksum_of(values: Mapping[str, Any]) -> str:
    """Compute the checksum of a report's values, so that a figure that someone edited is noticed.

    It is no signature. Who writes a new report can write a new checksum.
    """
    content = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_checksum(values: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a report was edited after it was written."""
    if values.get("checksum") != checksum_of(values):
        raise ValueError(
            "The privacy report was edited after it was written, or damaged: its checksum does not fit. No guarantee "
            "is claimed. Restore the file as the run wrote it."
        )


TYPES_IN_A_REPORT: dict[str, tuple[type, ...]] = {
    "<class 'float'>": (int, float),
    "<class 'int'>": (int,),
    "<class 'str'>": (str,),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "str | None": (str, type(None)),
}
"""What JSON gives for the fields of a report, by their annotation."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_digest(name: str, value: Any) -> None:
    """Raise a `ValueError` if a value is neither a SHA-256 digest in hexadecimal digits nor None."""
    if value is not None and not _DIGEST.fullmatch(value):
        raise ValueError(f"A privacy report with `{name}`={shortened(value)} is not valid.")


def read_list(name: str, values: Any) -> list[Any]:
    """Return a list of at most a thousand values. A `ValueError` if it is anything else."""
    if not isinstance(values, (list, tuple)) or len(values) > 1000:
        raise ValueError(f"A privacy report with `{name}`={shortened(values)} is not valid.")
    return list(values)


def read_columns(values: Any) -> tuple[str, ...]:
    """Read the names of a report's columns. A `ValueError` if they are not different names."""
    names = read_list("columns", values)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f"A privacy report with `columns`={shortened(values)} is not valid.")
    return tuple(names)


def read_releases(values: Any) -> tuple[ReportedRelease, ...]:
    """Read the releases of a report. A `ValueError` if they are not valid."""
    try:
        releases = tuple(
            ReportedRelease(each["id"], each["question"], each["num_bins"], read_mechanism(each["mechanism"]))
            for each in values
        )
    except (KeyError, TypeError):
        raise ValueError("A privacy report with `releases` that lack a field is not valid.") from None
    for each in releases:
        is_size = isinstance(each.num_bins, int) and not isinstance(each.num_bins, bool) and each.num_bins > 0
        if not (is_size and isinstance(each.id, str)):
            raise ValueError(f"A privacy report with the release {shortened(each)} is not valid.")
        check_name("question", each.question)
    return releases


def read_descriptions(values: Any) -> dict[str, str]:
    """Read the descriptions of a report's questions. A `ValueError` if they are not plain words."""
    if not isinstance(values or {}, Mapping):
        raise ValueError(f"A privacy report with `descriptions`={shortened(values)} is not valid.")
    descriptions = dict(values or {})
    for name, words in descriptions.items():
        check_name("question", name)
        check_plain_words("description", words)
    return descriptions


def with_releases(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make the releases of a report of the first edition, which has one mechanism for all of them."""
    try:
        relation = values["neighboring_relation"]
        by_sensitivity = math.sqrt(2) if relation == "replace_one" else 1.0
        mechanism = {
            "noise_multiplier": values["noise_multiplier"],
            "clip_norm": values["sensitivity"] / by_sensitivity,
            "neighboring_relation": relation,
            "max_dropout": values.get("max_dropout"),
        }
        names, sizes = values.get("release_ids", ()), values.get("bins_per_release", ())
        releases = [
            {"id": name, "question": VOTES.name, "num_bins": num_bins, "mechanism": mechanism}
            for name, num_bins in zip(names, sizes, strict=True)
        ]
        if len(releases) != values["num_rounds"]:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError("A privacy report whose releases do not add up, or lack a figure, is not valid.") from None
    accountant = values.get("accountant")
    return {**values, "releases": releases, "accountant": ALIASES.get(str(accountant), accountant)}
