"""Chats: conversations of two roles that alternate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .form import Row

SYSTEM = "system"
"""Role that a conversation may have before the first turn."""

MESSAGES = "messages"
"""Column of conversations in what is written, as `trl` and chat models know it."""

INDENT = "  "
"""What stands before the further lines of a turn, so that no line of it looks like the beginning of another turn."""

_LINE_BREAK = re.compile(r"\r\n?|[\n\x85\u2028\u2029]")
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Chat:
    """A row is a conversation: a list of turns with `role` and `content`, as chat models know it.

    Two roles alternate, and the first one begins. A turn `system` may stand before them. Each turn is a line `role:
    content`, and the further lines of its content are indented.

    Args:
        column (`str`): Column of conversations.
        roles (`tuple` of two `str`): The roles.
    """

    column: str
    roles: tuple[str, str]

    columns = (MESSAGES,)
    has_lines = True
    name = "conversation"

    @property
    def source(self) -> tuple[str, ...]:
        """Columns that rows are read from."""
        return (self.column,)

    @property
    def beginning(self) -> str:
        """What the first turn begins with."""
        return f"{self.roles[0]}: "

    @property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """How a conversation of four turns can be written turn by turn."""
        first, second = self.roles
        return ((f"{first}:", "\n"), (f"\n{second}:", "\n"), (f"\n{first}:", "\n"), (f"\n{second}:", "\n"))

    @property
    def layout(self) -> str:
        """What a text looks like."""
        first, second = self.roles
        return f"lines that begin with '{first}: ' and '{second}: ' in turn, with further lines of a turn indented"

    def problem(self, row: Row) -> str | None:
        """Say what is wrong with a conversation. See `Form`. It may end with either role."""
        turns = row[0]
        if not isinstance(turns, (list, tuple)):
            return "it is not a list of turns"
        if not all(isinstance(turn, dict) and {"role", "content"} <= set(turn) for turn in turns):
            return "a turn has no `role` or no `content`"
        if not all(isinstance(turn["content"], str) for turn in turns):
            return "the content of a turn is not a string"
        roles = [turn["role"] for turn in turns]
        roles = roles[1:] if roles[:1] == [SYSTEM] else roles
        if not roles:
            return "it has no turns"
        if not set(map(str, roles)) <= set(self.roles):
            return f"a role is not one of `chat_roles`={list(self.roles)}"
        expected = [self.roles[number % 2] for number in range(len(roles))]
        return None if roles == expected else f"its turns do not alternate, beginning with {self.roles[0]!r}"

    def read(self, row: Row) -> str:
        """Write a conversation as lines. It is empty if no turn says anything."""
        turns = row[0]
        if not any(turn["content"].strip() for turn in turns):
            return ""
        return "\n".join(f"{turn['role']}: {_indented(_tidy(turn['content']))}" for turn in turns)

    def parse(self, text: str) -> Row | None:
        """Read a conversation, as far as its turns are whole. None if there is not one of each role.

        What follows a line that belongs to no turn, or a turn that says nothing, is cut off. So is a last turn of the
        first role.
        """
        turns: list[tuple[str, list[str]]] = []
        for line in _LINE_BREAK.sub("\n", text).split("\n"):
            role, colon, content = line.partition(":")
            if colon and self._may_follow(role, turns):
                turns.append((role, [content.removeprefix(" ")]))
            elif turns and (line.startswith(INDENT) or not line):
                turns[-1][1].append(line.removeprefix(INDENT))
            else:
                break
        whole = [{"role": role, "content": _tidy("\n".join(lines))} for role, lines in turns]
        while whole and not (all(turn["content"] for turn in whole) and whole[-1]["role"] == self.roles[1]):
            whole.pop()
        return (whole,) if whole else None

    def _may_follow(self, role: str, turns: Sequence[tuple[str, Any]]) -> bool:
        if not turns:
            return role in (SYSTEM, self.roles[0])
        return role == (self.roles[1] if turns[-1][0] == self.roles[0] else self.roles[0])

    def features(self) -> dict[str, Any]:
        """Return the features of the columns."""
        from datasets import List, Value

        return {MESSAGES: List({"role": Value("string"), "content": Value("string")})}


def _indented(content: str) -> str:
    """Indent the further lines of a content that are not empty."""
    return re.sub(r"\n(?=[^\n])", f"\n{INDENT}", content)


def _tidy(content: str) -> str:
    """Remove blank lines before a content and blanks after it, and write all line breaks alike."""
    return _BLANK_LINES.sub("", _LINE_BREAK.sub("\n", content)).rstrip()
