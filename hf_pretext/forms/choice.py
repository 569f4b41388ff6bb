"""Which form rows have, by the settings of a run."""

import re
from typing import Any, Protocol

from ..settings import shortened
from .chat import SYSTEM, Chat
from .form import Form
from .plain import Plain
from .record import Record, check_template, default_template

OWN_COLUMNS = ("round", "votes", "preference", "share", "label_scores")
"""Columns of the seeds besides the row itself."""

_ROLE = re.compile(r"\w[\w -]{0,62}\w|\w")


class HasForm(Protocol):
    """Settings that say what a row is, such as `PrivateEvolutionConfig`."""

    @property
    def text_column(self) -> str | tuple[str, ...]:
        """Column of texts or conversations, or the columns of records."""
        ...

    @property
    def template(self) -> str | None:
        """Template of records."""
        ...

    @property
    def chat_roles(self) -> tuple[str, ...] | None:
        """Roles of conversations."""
        ...


def form_of(config: HasForm) -> Form:
    """Return what a row is under these settings."""
    columns = config.text_column
    if not isinstance(columns, str):
        return Record(columns, config.template or default_template(columns))
    if config.chat_roles is not None:
        first, second = config.chat_roles
        return Chat(columns, (first, second))
    return Plain(columns)


def check_text_column(argument: str, value: Any) -> None:
    """Raise an error if this is neither a column nor a list of different columns."""
    columns = [value] if isinstance(value, str) else value
    if not isinstance(columns, (list, tuple)) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"`{argument}`={shortened(value)} must be the name of a column, or a list of names.")
    if not columns or not all(name.strip() for name in columns) or len(set(columns)) < len(columns):
        raise ValueError(f"`{argument}`={shortened(value)} must be a non-empty string, or a list of different ones.")
    taken = sorted(set(columns) & set(OWN_COLUMNS)) if not isinstance(value, str) else []
    if taken:
        raise ValueError(f"`{argument}` names {taken[0]!r}, which is a column of the seeds. Rename that column.")


def check_chat_roles(argument: str, value: Any) -> None:
    """Raise an error if these are not two different roles."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(role, str) for role in value):
        raise TypeError(f"`{argument}`={shortened(value)} must be a list of two roles, such as ['user', 'assistant'].")
    if len(value) != 2 or len(set(value)) < 2 or SYSTEM in value or not all(map(_ROLE.fullmatch, value)):
        raise ValueError(
            f"`{argument}`={shortened(value)} must be two different roles of letters, digits, spaces, hyphens and "
            f"underscores, such as ['user', 'assistant']. A turn {SYSTEM!r} may begin a conversation without being "
            "named."
        )


def check_form(config: HasForm) -> None:
    """Check that the settings say one thing that a row is.

    Raises:
        ValueError: A template is given without columns or cannot be parsed back, or chats have several columns.
    """
    columns, template = config.text_column, config.template
    if not isinstance(columns, str) and config.chat_roles is not None:
        raise ValueError(
            f"`chat_roles`={list(config.chat_roles)} needs one column of conversations, but `text_column`="
            f"{shortened(list(columns))}. Give the name of that column, such as 'messages'."
        )
    if isinstance(columns, str) and template is not None:
        raise ValueError(
            f"`template`={shortened(template)} puts several columns together, but `text_column`={columns!r} is one. "
            "Give a list of columns, or leave `template` out."
        )
    if not isinstance(columns, str):
        check_template(columns, template or default_template(columns))
