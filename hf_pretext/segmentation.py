"""Words, sentences and characters of texts in any script, by the rules of Unicode: pure functions on strings."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

import regex

_UNSPACED = (
    r"[[\p{Line_Break=Complex_Context}\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tibetan}\p{Javanese}"
    r"\p{Balinese}\u30fc\uff70]--[\p{P}\p{S}]]"
)
"""Letters of scripts that are written without spaces between words. Thai and its like are "complex context"."""

_SYLLABLES = r"(?:(?=[[\p{Katakana}\u30fc\uff70]--\p{P}])\X)+|(?:(?=[\p{Tibetan}--\p{P}])\X)+"
"""Words of Katakana have no mark inside them, and syllables of Tibetan have one after them."""

_OF_A_WORD = r"[\p{L}\p{M}\p{N}]"
_OPENING = r"[\p{Ps}\p{Pi}]"
_CHUNK = re.compile(r"\S+")  # As `str.split` finds them. What `regex` calls white space differs.
_HAS_UNSPACED = regex.compile(_UNSPACED, regex.VERSION1)
_WORD_OF_A_CHUNK = regex.compile(
    rf"(?:(?!{_OF_A_WORD})\X)*+"
    rf"(?:{_SYLLABLES}|(?={_UNSPACED})\X|(?:(?!{_UNSPACED}|{_OPENING})\X)+)?+"
    rf"(?:(?!{_OF_A_WORD}|{_OPENING})\X)*+",
    regex.VERSION1,
)
_GRAPHEME = regex.compile(r"\X")

_CLOSING = r"\"'”’)\]\p{Pe}\p{Pf}"
# Before white space a quotation mark of any form closes: German has “ there.
_SENTENCE_END = regex.compile(
    rf"[.!?…․．﹒][{_CLOSING}\p{{Pi}}]*(?=\s|$)|[[\p{{Sentence_Terminal}}།༎]--[.!?․．﹒]][{_CLOSING}]*", regex.VERSION1
)
_PARAGRAPH_END = re.compile(r"\n(?=[^\S\n]*\n)")


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Find the words of a text, with the punctuation that is written to them.

    Where a script puts spaces between words, a word is what white space separates, as in `str.split`. What is written
    without spaces, such as Chinese, Japanese and Thai, is divided further: a word is a character there, with the marks
    that belong to it. Rules know no more without a dictionary. A word in Katakana and a syllable of Tibetan are whole.

    Args:
        text (`str`): The text.

    Yields:
        `tuple` of `int`: Where a word begins and ends.
    """
    for chunk in _CHUNK.finditer(text):
        start, end = chunk.span()
        if _HAS_UNSPACED.search(text, start, end) is None:
            yield start, end
        else:
            # An empty match stands at the end of a chunk.
            yield from (word.span() for word in _WORD_OF_A_CHUNK.finditer(text, start, end) if word.group())


def words(text: str) -> list[str]:
    """List the words of a text. See `word_spans`."""
    return [text[start:end] for start, end in word_spans(text)]


def words_with_neighbors(text: str) -> list[tuple[str, str]]:
    """List the words of a text so that equal ones are repetitions: a character goes together with the one after it.

    A language has few characters, so that all of them come again and again in a text.
    """
    found = words(text)
    following = [*found[1:], ""][: len(found)]
    return [(word, after if _HAS_UNSPACED.search(word) else "") for word, after in zip(found, following, strict=True)]


def whole_sentences(text: str) -> str:
    """Cut a text after its last whole sentence or paragraph, or else after its last whole line.

    Marks that end sentences in any script count. Those of Latin texts need white space after them, because they stand
    in numbers and names as well. It is empty if nothing is whole.
    """
    ends = [list(pattern.finditer(text)) for pattern in (_SENTENCE_END, _PARAGRAPH_END)]
    last = max((found[-1].end() for found in ends if found), default=text.rfind("\n"))
    return text[: max(last, 0)].rstrip("\n")


def grapheme_ends(text: str) -> list[int]:
    """List where each character of a text ends, as readers see them: an emoji with its parts, a letter with marks."""
    return [character.end() for character in _GRAPHEME.finditer(text)]


def longest_beginning(text: str, fits: Callable[[str], bool], guess: int) -> str:
    """Cut a text to a long beginning that fits, at the end of a character as readers see them.

    Args:
        text (`str`): The text.
        fits (`Callable`): Returns whether a beginning is short enough.
        guess (`int`): Length that is probably right. No longer beginning is tried.

    Returns:
        `str`: A beginning that fits, or an empty string.
    """
    # The character at the guess may be a long one. What comes after it plays no part.
    ends = [0, *grapheme_ends(text[: guess + 64])]
    last = bisect_right(ends, min(guess, len(text))) - 1
    too_long, step = last + 1, 1
    while last > 0 and not fits(text[: ends[last]]):
        too_long, last, step = last, max(last - step, 0), 2 * step
    while too_long - last > 1:
        middle = (last + too_long) // 2
        if fits(text[: ends[middle]]):
            last = middle
        else:
            too_long = middle
    return text[: ends[last]]
