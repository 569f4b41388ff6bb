"""Labels of texts: what a configuration may say of them, and how numbers of texts are divided among them.

The names and words of labels are public. They are never read from private data.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from .forms import MESSAGES, OWN_COLUMNS
from .settings import shortened

LONGEST_NAME, LONGEST_WORDS = 64, 300
"""Most characters of the name of a label, and of the words that describe it."""

OTHER_COLUMNS = ("text", MESSAGES, *OWN_COLUMNS)
"""Columns of seeds beside that of labels."""

_NOT_IN_A_LINE = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
_TURNS_LINES = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_labels(argument: str, labels: Any) -> None:
    """Check the labels of a configuration.

    Raises:
        TypeError: They are not a mapping from names to words.
        ValueError: There are fewer than two, or a name or a description is not one line of words.
    """
    if not isinstance(labels, Mapping):
        raise TypeError(
            f"`{argument}`={shortened(labels)} must map the name of each label to a few public words, such as "
            "{'spam': 'unwanted advertising', 'ham': 'messages that people want'}."
        )
    if len(labels) < 2:
        raise ValueError(
            f"`{argument}`={shortened(dict(labels))} has {len(labels)} labels. Give at least 2, or leave out "
            f"`{argument}` and `label_column` for texts without labels."
        )
    for name, words in labels.items():
        if not isinstance(name, str):
            raise TypeError(
                f"`{argument}` has the name {shortened(name)} of type {type(name).__name__}. Names are strings: in "
                "YAML, put quotation marks around it."
            )
        for what, value, most in (("name", name, LONGEST_NAME), ("description", words, LONGEST_WORDS)):
            if not _is_one_line(value, most):
                raise ValueError(
                    f"`{argument}` has the {what} {shortened(value)}, which is not valid: use one line of 1 to {most} "
                    "characters, without blanks around it."
                )


def check_shares(argument: str, shares: Any) -> None:
    """Check what fraction of the texts each label is to get.

    Raises:
        TypeError: They are not a mapping from names to numbers.
        ValueError: A share is negative or not finite, or their sum is not 1.
    """
    is_mapping = isinstance(shares, Mapping)
    values = list(shares.values()) if is_mapping else []
    if not is_mapping or any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in values):
        raise TypeError(
            f"`{argument}`={shortened(shares)} must map the name of each label to its fraction of the texts, a number."
        )
    if any(not 0 <= each < math.inf for each in values) or not math.isclose(math.fsum(values), 1, abs_tol=1e-6):
        raise ValueError(
            f"`{argument}`={shortened(dict(shares))} must be fractions that are not negative, and their sum must be 1."
        )


def check_shares_of(argument: str, shares: Mapping[str, float] | None, labels: Mapping[str, str]) -> None:
    """Raise a `ValueError` if shares are not about exactly the labels that there are."""
    if shares is not None and set(shares) != set(labels):
        raise ValueError(
            f"`{argument}` names {shortened(list(shares))}, but `labels` are {shortened(list(labels))}. Give a share "
            "of each label, which may be 0."
        )


def check_given_shares(shares: Any, labels: Mapping[str, str] | None) -> None:
    """Check `label_shares` of an expansion, which may be None.

    Raises:
        TypeError: They are not a mapping from names to numbers.
        ValueError: They are not shares of the labels that there are, or there are none.
    """
    if shares is None:
        return
    check_shares("label_shares", shares)
    if labels is None:
        raise ValueError(f"`label_shares`={shortened(dict(shares))}, but the settings have no `labels`.")
    check_shares_of("label_shares", shares, labels)


def check_label_settings(settings: Any) -> None:
    """Refuse labels of a `PrivateEvolutionConfig` that are not whole, or that its other settings do not go with.

    Raises:
        ValueError: They are so.
    """
    if (settings.labels is None) != (settings.label_column is None):
        raise ValueError(
            f"`label_column`={settings.label_column!r} and `labels`={settings.labels!r} need each other: the column "
            "has a label per row, and `labels` are the public names and words of all that there are. Give both or "
            "none."
        )
    if settings.labels is None:
        if settings.label_shares is not None:
            raise ValueError(f"`label_shares`={settings.label_shares!r} needs `label_column` and `labels`.")
        return
    check_shares_of("label_shares", settings.label_shares, settings.labels)
    others = [settings.client_column]
    others += [settings.text_column] if isinstance(settings.text_column, str) else settings.text_column
    if settings.label_column in others:
        raise ValueError(
            f"`label_column`={settings.label_column!r} is also the column of texts or clients. They must differ."
        )
    if settings.label_column in OTHER_COLUMNS:
        raise ValueError(
            f"`label_column`={settings.label_column!r} is the name of another column of the synthetic texts or seeds, "
            f"which have {list(OTHER_COLUMNS)}. Rename that column of the private dataset."
        )
    if settings.vote_clipping == "count":
        raise ValueError(
            "`vote_clipping`='count' is the paper's counting, which has no `labels`. Use `vote_clipping`='l2'."
        )
    fewest, needed = settings.candidates_per_label[-1], max(2, settings.votes_per_sample)
    if needed > fewest:
        raise ValueError(
            f"`population_size`={settings.population_size} leaves {fewest} candidates for a label. A label needs at "
            f"least {needed}, for samples with `votes_per_sample`={settings.votes_per_sample}."
        )


def domain_of(domain: str | None, words: str | None) -> str | None:
    """Say what the texts of a label are: the words for all texts, if there are any, and those of the label."""
    return ": ".join(filter(None, (domain, words))) or None


def split_evenly(total: int, num_parts: int) -> list[int]:
    """Divide a number into parts that differ by one at most, the larger ones first."""
    return [total // num_parts + (part < total % num_parts) for part in range(num_parts)]


def split_by_shares(total: int, shares: Sequence[float]) -> list[int]:
    """Divide a number in proportion to shares, by the largest remainders. A share of zero gets nothing.

    Args:
        total (`int`): The number.
        shares (`Sequence` of `float`): Shares that are not negative and not all zero.

    Returns:
        `list` of `int`: Whole numbers whose sum is `total`.
    """
    whole = math.fsum(shares)
    exact = [total * share / whole for share in shares]
    parts = [math.floor(each) for each in exact]
    # Among equal remainders the first one wins.
    order = sorted(range(len(shares)), key=lambda part: (shares[part] == 0, parts[part] - exact[part]))
    for part in order[: total - sum(parts)]:
        parts[part] += 1
    return parts


def _is_one_line(value: Any, most: int) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= most or value != value.strip():
        return False
    return not any(unicodedata.category(each) in _NOT_IN_A_LINE or each in _TURNS_LINES for each in value)
