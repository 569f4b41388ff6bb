"""Cleaning of texts, above all of those that language models write: pure functions on strings."""

import re

from .configuration import HEADING as HEADING
from .configuration import PrivateEvolutionConfig
from .segmentation import whole_sentences as whole_sentences
from .segmentation import words, words_with_neighbors

WORDS_OF_A_LOOP = 100
"""Words of a text that are looked at together to find a loop. A longer text repeats words without being one."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_A_LINE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINE_BREAK = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_BLANKS_AND_BROKEN = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufffd"
_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


def valid_unicode(text: str) -> str:
    """Write a question mark for each lone surrogate, which neither tokenizers nor files in UTF-8 accept."""
    return text.encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """Join the words of a text with single spaces. Control characters, including line breaks, count as spaces."""
    return " ".join(_CONTROL.sub(" ", text).split())


def has_lines(text: str) -> bool:
    """Return whether a text has several lines. Blank ones around it do not count."""
    return "\n" in _LINE_BREAK.sub("\n", text).strip()


def keep_lines(text: str) -> str:
    r"""Keep a text as it is if it has several lines, with its indentation. Else write it in one.

    All line breaks become `\n`. Control characters other than tabs become spaces.
    """
    return _CONTROL_IN_A_LINE.sub(" ", _LINE_BREAK.sub("\n", text)) if has_lines(text) else one_line(text)


def clean_text(text: str, with_lines: bool = False) -> str:
    """Remove the blanks around a text, and put it on one line if it may not have several.

    A character at the end that the token limit broke goes as well. What a text begins with stays, although it may look
    like the mark of a list: "3. October", "A: ...", "# include".

    Args:
        text (`str`): What a language model wrote as one text.
        with_lines (`bool`, *optional*, defaults to `False`):
            Keep line breaks and indentation, as in `keep_lines`. Blank lines around the text go.

    Returns:
        `str`: The text. It may be empty.
    """
    text = text.rstrip(_BLANKS_AND_BROKEN)
    return _BLANK_LINES.sub("", keep_lines(text)).rstrip() if with_lines else one_line(text)


def is_usable(text: str, config: PrivateEvolutionConfig) -> bool:
    """Return whether a generated text is worth keeping.

    It has at least `config.min_words` words, does not fall into a loop, as small models do, and does not echo a
    prompt. In a loop fewer than half of the words are different. Texts in any script are divided into words as in
    `segmentation.word_spans`.
    """
    found = words_with_neighbors(text.lower())
    parts = [found[start : start + WORDS_OF_A_LOOP] for start in range(0, len(found), WORDS_OF_A_LOOP)]
    is_loop = any(2 * len(set(part)) < len(part) for part in parts)
    return len(found) >= config.min_words and not is_loop and not is_echo(text, config.list_heading)


def is_echo(text: str, heading: str) -> bool:
    """Return whether a text repeats the heading of a list prompt, in any case of its letters.

    A heading of one or two words, such as "Review", is part of ordinary texts. It needs a number to be an echo.
    """
    if len(words(heading)) > 2:
        return heading.lower() in text.lower()
    return re.search(rf"(?<!\w){re.escape(heading)}\s*\d", text, re.IGNORECASE) is not None
