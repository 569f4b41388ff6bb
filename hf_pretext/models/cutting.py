"""Cutting of texts by tokens: never beyond the limit, and never inside of what readers see as one character."""

from collections.abc import Iterator
from typing import Any

from ..cleaning import valid_unicode
from ..segmentation import longest_beginning

MAX_CHARACTERS_PER_TOKEN = 256
"""Longer texts are cut before the tokenizer gets them. It would read a whole text to use its beginning."""


def token_ids(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Tokenize a text. What looks like a special token in it is read as the characters that it is written with.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        text (`str`): The text. A lone surrogate in it counts as a question mark.
        **options: Arguments of the tokenizer, such as `add_special_tokens`.
    """
    # A warning about a long text would tell the log how long it is.
    return tokenizer(valid_unicode(text), split_special_tokens=True, verbose=False, **options)["input_ids"]


def count_tokens(tokenizer: Any, text: str, **options: Any) -> int:
    """Count the tokens of a text. See `token_ids`."""
    return len(token_ids(tokenizer, text, **options))


def cut_to_tokens(tokenizer: Any, text: str, max_tokens: int, **options: Any) -> str:
    """Cut a text to a beginning of at most `max_tokens` tokens, as the tokenizer counts the tokens of that beginning.

    The cut is at the end of a character as readers see them: not inside an emoji with its parts, a letter with its
    marks, or a character of several tokens. So the text may be a little shorter than the limit. It is empty if not
    even its first character fits.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        text (`str`): The text. One that is short enough is returned unchanged.
        max_tokens (`int`): Most tokens.
        **options: Arguments of the tokenizer, such as `add_special_tokens`.
    """
    window = text[: MAX_CHARACTERS_PER_TOKEN * max_tokens]

    def fits(beginning: str) -> bool:
        return count_tokens(tokenizer, beginning, **options) <= max_tokens

    if len(window) == len(text) and fits(text):
        return text
    guess = len(window)
    if tokenizer.is_fast:
        limit = {"truncation": True, "max_length": max_tokens, "return_offsets_mapping": True, **options}
        read = tokenizer(valid_unicode(window), split_special_tokens=True, **limit)
        guess = max((end for _, end in read["offset_mapping"]), default=0)
    return longest_beginning(window, fits, guess)


def parts_of(tokenizer: Any, text: str, max_tokens: int, most: int, **options: Any) -> Iterator[str]:
    """Divide a text into parts that have about equally many tokens, at most `max_tokens` each.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        text (`str`): The text.
        max_tokens (`int`): Most tokens of a part.
        most (`int`): Most parts. What comes after them is left out.
        **options: Arguments of the tokenizer, such as `add_special_tokens`.

    Yields:
        `str`: The parts, in order.
    """
    special = count_tokens(tokenizer, "", **options)
    rest = cut_to_tokens(tokenizer, text, most * max(max_tokens - special, 1) + special, **options)
    for left in range(most, 0, -1):
        length = count_tokens(tokenizer, rest, **options) - special
        num_parts = min(-(-length // max(max_tokens - special, 1)), left)
        if num_parts < 2 and length + special <= max_tokens:
            yield rest
            return
        part = cut_to_tokens(tokenizer, rest, min(-(-length // num_parts) + special, max_tokens), **options)
        if not part:
            return  # A character is longer than a part.
        yield part
        rest = rest[len(part) :]
