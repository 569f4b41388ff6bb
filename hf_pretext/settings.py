"""Fields of a dataclass of settings, with their ranges, the check of them, and their file."""

import json
import re
import reprlib
import warnings
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from .artifacts import CONFIG_NAME
from .version import __version__

Own = TypeVar("Own", bound="SavedSettings")

RANGES = {
    "above": (lambda value, limit: value > limit),
    "at_least": (lambda value, limit: value >= limit),
    "below": (lambda value, limit: value < limit),
    "at_most": (lambda value, limit: value <= limit),
}
"""What a number has to be relative to a limit. A comparison with NaN is false, so NaN is in no range."""


DECIDED = "decided"
"""Key of a saved configuration for what the settings left to the library."""


def is_missing(value: Any) -> bool:
    """Return whether a value of a row is missing: None, or NaN, which some programs write and which equals nothing."""
    return value is None or bool(value != value)


def as_text(value: Any) -> str:
    """Write a value of a row, whatever the type of its column: the float 5.0 is written as the integer 5.

    In a table, one row with 4.5 or a missing value makes floats of all whole numbers of its column. What a client's
    own row reads as must not tell whether there is such a row. A missing value is empty.
    """
    if is_missing(value):
        return ""
    # Above 2^53 not every whole number is a float, so those are no longer the same.
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():  # A column has one number of decimals.
        return str(int(value)) if value == int(value) else format(value, "f").rstrip("0")
    return str(value)


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


def setting(
    default: Any = MISSING,
    *,
    help: str,
    hint: str = "",
    check: Callable[[str, Any], None] | None = None,
    **limits: Any,
) -> Any:
    """Make a field with a help text and a range.

    Args:
        default (*optional*): Its default.
        help (`str`): What it is, in a line.
        hint (`str`, *optional*): What errors say about its range.
        check (`Callable`, *optional*): `check(name, value)` raises an error if a value is not valid.
        **limits: `above`, `at_least`, `below` or `at_most` of a number, or `choices`.
    """
    return field(default=default, metadata={"help": help, "hint": hint, "check": check, **limits})


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
        if each.metadata["check"] is not None:
            each.metadata["check"](each.name, value)
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


@dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """Settings that round-trip through a dictionary and a file. A dataclass of settings inherits from this."""

    @classmethod
    def from_dict(cls: type[Own], values: dict[str, Any]) -> Own:
        """Make a configuration from a dictionary. Keys that this version does not know are named in a warning."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known - {"hf_pretext_version", DECIDED})
        if unknown:
            warnings.warn(
                f"The configuration holds keys that hf_pretext {__version__} does not know and ignores: {unknown}. "
                f"It was written by version {values.get('hf_pretext_version', 'unknown')}.",
                stacklevel=2,
            )
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the library's version as a dictionary that JSON can hold."""
        return {**asdict(self), "hf_pretext_version": __version__}

    @classmethod
    def from_pretrained(cls: type[Own], folder: str | Path) -> Own:
        """Read a configuration that `save_pretrained` wrote.

        Args:
            folder (`str` or `Path`): Folder that holds `private_evolution_config.json`, or that file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It does not hold a configuration.
        """
        path = Path(folder)
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"`folder`={str(folder)!r} holds no {CONFIG_NAME}. `save_pretrained` writes one.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"{str(path)!r} does not hold a configuration as `save_pretrained` writes it.")
        return cls.from_dict(values)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the configuration to `folder`, which is created if it does not exist."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
