"""Fields of a dataclass of settings, with their ranges, and the check of them."""

import re
import reprlib
from dataclasses import MISSING, Field, field, fields
from typing import Any

RANGES = {
    "above": (lambda value, limit: value > limit),
    "at_least": (lambda value, limit: value >= limit),
    "below": (lambda value, limit: value < limit),
    "at_most": (lambda value, limit: value <= limit),
}
"""What a number has to be relative to a limit. A comparison with NaN is false, so NaN is in no range."""


def shortened(value: object) -> str:
    """Show a value in an error by its beginning and end, since a file from a stranger may hold a list of millions."""
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 200
    limits.maxlist = 20
    return limits.repr(value)


_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN_WORDS = re.compile(r"[\w ,.:()'/%+-]{0,300}")


def check_name(argument: str, value: object) -> None:
    """Raise a `ValueError` if a value is not a name of letters, digits, hyphens and underscores."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"`{argument}`={shortened(value)} is not valid: use letters, digits, hyphens, underscores.")


def check_plain_words(argument: str, value: object) -> None:
    """Raise a `ValueError` if a value is not one short line of words, without characters that may be markup."""
    if not isinstance(value, str) or not _PLAIN_WORDS.fullmatch(value):
        raise ValueError(f"`{argument}`={shortened(value)} is not valid: use one short line of plain words.")


def setting(default: Any = MISSING, *, help: str, hint: str = "", **limits: Any) -> Any:
    """Make a field with a help text and a range.

    Args:
        default (*optional*): Its default.
        help (`str`): What it is, in a line.
        hint (`str`, *optional*): What errors say about its range.
        **limits: `above`, `at_least`, `below` or `at_most` of a number, or `choices`.
    """
    return field(default=default, metadata={"help": help, "hint": hint, **limits})


def check_settings(settings: Any) -> None:
    """Check the type and the range of every field.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field is out of its range.
    """
    for each in fields(settings):
        value = vars(settings)[each.name]
        if value is None and type(None) in getattr(each.type, "__args__", ()):
            continue
        kinds = getattr(each.type, "__args__", (each.type,))
        if bool in kinds:
            if not isinstance(value, bool):
                raise TypeError(f"`{each.name}`={shortened(value)} must be true or false.")
        elif int in kinds or float in kinds:
            _check_number(each, value, is_whole=int in kinds)
        elif "choices" not in each.metadata:
            _check_text(each, value)
        choices = each.metadata.get("choices")
        if choices is not None and value not in choices:
            raise ValueError(f"`{each.name}`={shortened(value)} must be one of {list(choices)}.")


def _check_number(each: "Field[Any]", value: Any, is_whole: bool) -> None:
    kind = "an integer" if is_whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
        raise TypeError(f"`{each.name}`={shortened(value)} must be {kind}, not {type(value).__name__}.")
    broken = [
        f"{words.replace('_', ' ')} {each.metadata[words]}"
        for words, holds in RANGES.items()
        if words in each.metadata and not holds(value, each.metadata[words])
    ]
    if abs(value) == float("inf") or value != value:
        broken.append("finite")
    if broken:
        raise ValueError(f"`{each.name}`={value} must be {' and '.join(broken)}. {each.metadata['hint']}".strip())


def _check_text(each: "Field[Any]", value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{each.name}`={shortened(value)} must be a non-empty string.")
