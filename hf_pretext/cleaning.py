"""Cleaning of texts, above all of those that language models write: pure functions on strings."""

import re

from .configuration import PrivateEvolutionConfig

HEADING = "Original Text Sample"
"""Heading of a text in the paper's list prompt. What a model repeats of it is not a text."""

_LIST_MARK = re.compile(r"^(?:[-*•>#]+|\(?\d{1,2}[.):])\s+")
_ANSWER_LABEL = re.compile(r"^(?:(?:possible )?answer(?: [a-z0-9])?:|\(?[a-z][):])\s+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"))


def valid_unicode(text: str) -> str:
    """Write a question mark for each lone surrogate, which neither tokenizers nor files in UTF-8 accept."""
    return text.encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """Join the words of a text with single spaces. Control characters, including line breaks, count as spaces."""
    return " ".join(_CONTROL.sub(" ", text).split())


def clean_text(text: str) -> str:
    """Remove what is around a text: line breaks, a list's bullet, number or answer label, and quotation marks.

    Args:
        text (`str`): What a language model wrote as one text.

    Returns:
        `str`: The text on one line. It may be empty.
    """
    text = _ANSWER_LABEL.sub("", _LIST_MARK.sub("", one_line(text)))
    for opening, closing in _QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == opening and text[-1] == closing and not {opening, closing} & set(inner):
            return inner.strip()
    return text


def whole_sentences(text: str) -> str:
    """Cut a text after its last whole sentence. It is empty if there is none."""
    ends = list(_SENTENCE_END.finditer(text))
    return text[: ends[-1].end()] if ends else ""


def is_usable(text: str, config: PrivateEvolutionConfig) -> bool:
    """Return whether a generated text is worth keeping.

    It has at least `config.min_words` words, at least half of them different (a small model falls into loops), and
    does not echo a prompt.
    """
    words = text.lower().split()
    return len(words) >= config.min_words and 2 * len(set(words)) >= len(words) and HEADING.lower() not in text.lower()
