"""What variation and expansion ask of a language model, and the collection of texts that it writes. Without torch."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import compress, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ..processes import progress_label

if TYPE_CHECKING:
    from ..clients.tokens import TokenReader

TEXTS_AT_ONCE = 2048
"""Texts that `collect_texts` asks for at a time. What it has got by then can be kept."""


@runtime_checkable
class TextEngine(Protocol):
    """A causal language model, on this machine or on another. Give an object of your own as `expansion_model`."""

    def complete(self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None = None) -> list[str]:
        """Sample one continuation of each prompt.

        Args:
            prompts (`Sequence[str]`): The prompts. They hold seeds and public texts, nothing private.
            max_new_tokens (`int`): Longest continuation, in tokens.
            seed (`int`): Seed of the sampling.
            stop (`str`, *optional*): A continuation may end when it holds this string.
        """
        ...

    def answer(self, instructions: Sequence[str], max_new_tokens: int, seed: int) -> list[str]:
        """Sample an answer to each instruction."""
        ...

    def truncate(self, text: str, max_tokens: int) -> str:
        """Cut a text after `max_tokens` tokens."""
        ...


@runtime_checkable
class ChecksContext(Protocol):
    """An engine that knows how many tokens its model reads."""

    def check_context(self, length: int) -> None:
        """Raise a `ValueError` if the model cannot read `length` tokens, prompt and continuation together."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """An engine that knows its model's tokenizer."""

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, without special ones."""
        ...


@runtime_checkable
class TakesBias(Protocol):
    """An engine that can write some tokens more often, and others less often, than its model would."""

    def complete_tilted(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None, bias: Mapping[int, float]
    ) -> list[str]:
        """Sample one continuation of each prompt, as `complete` does, with a bias.

        Args:
            prompts (`Sequence[str]`): The prompts.
            max_new_tokens (`int`): Longest continuation, in tokens.
            seed (`int`): Seed of the sampling.
            stop (`str`, *optional*): A continuation may end when it holds this string.
            bias (`Mapping[int, float]`): What is added to the logits of tokens, by their ids, before the temperature.
        """
        ...


class TokenFractions(NamedTuple):
    """How often a language model writes each token.

    Args:
        means (`np.ndarray` of shape `(n,)`): Fractions of all that it writes.
        variances (`np.ndarray` of shape `(n,)`): Their variances, since they are known from some texts only.
        num_tokens (`float`): Number of tokens of these texts.
    """

    means: np.ndarray
    variances: np.ndarray
    num_tokens: float


@runtime_checkable
class ForeseesTokens(Protocol):
    """An engine that sees its model's probabilities."""

    def token_fractions(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None, tokens: Sequence[int]
    ) -> TokenFractions:
        """Compute how often the model writes each of some tokens: its mean probability while it writes.

        Args:
            prompts (`Sequence[str]`): See `TextEngine.complete`.
            max_new_tokens (`int`): See `TextEngine.complete`.
            seed (`int`): See `TextEngine.complete`.
            stop (`str`, *optional*): See `TextEngine.complete`.
            tokens (`Sequence[int]`): Ids of the `n` tokens.
        """
        ...


@runtime_checkable
class ShowsTokenizer(Protocol):
    """An engine whose model's tokenizer is on this machine, so that private text can be read with it here."""

    def token_reader(self) -> "TokenReader | None":
        """Return what reads texts as the model's tokens. None if the tokenizer is not known after all."""
        ...


class KnownTexts:
    """Texts that were seen before, remembered by 8 bytes each, so that millions of them fit into memory.

    Args:
        texts (`Iterable[str]`, *optional*): Texts to begin with.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._digests = np.unique(_digests(texts))

    def add(self, texts: Sequence[str]) -> np.ndarray:
        """Remember different texts, and return which of them are new."""
        digests = _digests(texts)
        # By sorting: NumPy 2.0 has an error in its other way with unsigned numbers.
        is_new = ~np.isin(digests, self._digests, kind="sort")
        self._digests = np.union1d(self._digests, digests)
        return is_new


def collect_texts(
    num_texts: int,
    propose: Callable[[int, int], Iterable[str]],
    description: str,
    known: "Iterable[str] | KnownTexts" = (),
    max_attempts: int = 20,
    hint: str = "",
) -> Iterator[str]:
    """Ask for texts until there are enough different ones.

    Args:
        num_texts (`int`): Number of texts wanted.
        propose (`Callable`):
            `propose(number, attempt)` returns about `number` texts, or fewer if some are not usable.
        description (`str`): What the texts are for, as progress bars and errors name it.
        known (`Iterable[str]` or `KnownTexts`, *optional*):
            Texts that do not count as new. Several calls with the same `KnownTexts` give different texts.
        max_attempts (`int`, *optional*, defaults to `20`):
            Times that `propose` is called before giving up. There are more if many texts are wanted.
        hint (`str`, *optional*): A sentence for the error.

    Yields:
        `str`: One of `num_texts` texts, all different.

    Raises:
        RuntimeError: There are not enough texts after `max_attempts` calls.
    """
    seen = known if isinstance(known, KnownTexts) else KnownTexts(known)
    num_found = num_asked = 0
    # A tenth of what is asked for is expected to be usable, in the worst case.
    max_attempts += 10 * (num_texts // TEXTS_AT_ONCE)
    for attempt in range(max_attempts):
        # Ask for as many more as were not usable before, so that a second time is enough.
        usable = max(num_found / num_asked, 0.1) if num_asked else 1.0
        number = min(math.ceil((num_texts - num_found) / usable), TEXTS_AT_ONCE)
        num_asked += number
        with progress_label(f"{description}: {num_found} of {num_texts} texts so far" if attempt else description):
            proposed = list(dict.fromkeys(propose(number, attempt)))
        for text in islice(compress(proposed, seen.add(proposed)), num_texts - num_found):
            num_found += 1
            yield text
        if num_found == num_texts:
            return
    raise RuntimeError(
        f"{description}: the language model gave only {num_found} usable, different texts of {num_texts} in "
        f"{max_attempts} attempts. Use a stronger `expansion_model`, raise `temperature`, lower `min_words`, or ask "
        f"for fewer texts.{f' {hint}' if hint else ''}"
    )


def _digests(texts: Iterable[str]) -> np.ndarray:
    """Hash texts to 64 bits: two of a million differ, and are taken for the same, once in ten million runs."""
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
