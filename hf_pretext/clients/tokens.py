"""The tokens of private texts, as the tokenizer of the language model that will write reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..processes import ALONE, Group, progress_bar
from .guard import attempted, tell_owner
from .rows import PrivateRows
from .samples import Samples, cap_samples

MAX_CHARACTERS = 2**15
"""Characters of a text whose tokens count, so that one text cannot take forever."""


PROBE = "Public words that are read before private texts and after them."


class TokenReader(Protocol):
    """The tokenizer of a language model (`models.token_reader.TokenizerReader`). It runs where the texts are."""

    @property
    def fingerprint(self) -> str:
        """Digest of what tells this tokenizer from others."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """Tokens that stand for no characters of a text."""
        ...

    def __call__(self, text: str) -> Sequence[int]:
        """Return the tokens of a text that begins a line, with those of the line's end before it."""
        ...

    def decode(self, token: int) -> str:
        """Return the characters that a token stands for."""
        ...


def with_tokens(
    embedded: Samples,
    samples: PrivateRows | Mapping[object, list[Any]],
    reader: TokenReader,
    cap: int,
    seed: int,
    group: Group = ALONE,
) -> Samples:
    """Add the tokens of every client's samples to their embeddings.

    *Released*: to no one. The tokens stay in the memory of the process that holds the texts, and are never on disk.
    The tokens of a client depend on its own texts only, because a tokenizer reads one text at a time. A client whose
    texts cannot be read has no tokens: one client must not decide whether a run takes place. If a tokenizer reads
    public words differently after that, a text has broken it for the clients that follow, and nothing is released.

    Args:
        embedded (`Samples`): The samples. A client that could not be embedded has none, and has no tokens either.
        samples (`PrivateRows`, or `Mapping` of clients to `list` of `str` or `LabeledText`):
            What they were made of, before the cap.
        reader (`TokenReader`): The tokenizer.
        cap (`int`): Most samples that a client answers with.
        seed (`int`): Seed of the run.
        group (`Group`, *optional*): The processes whose clients they are. If a tokenizer breaks in one, all stop.

    Returns:
        `Samples`: The same samples, with the tokens of each.

    Raises:
        ValueError: The tokenizer does not read public words after the private texts as before them.
    """
    expected = list(reader(PROBE))
    numbers = np.bincount(embedded.owners, minlength=len(samples)).tolist()
    tokens: list[np.ndarray] = []
    failure = None
    with progress_bar(len(samples), "client", "Reading the tokens of clients") as bar:
        for (client, own), number in zip(samples.items(), numbers, strict=True):
            found, failed = attempted(_tokens_of, cap_samples(client, own, cap, seed)[:number], reader)
            tokens += [np.zeros(0, dtype=np.int64)] * number if found is None else found
            failure = failed or failure
            bar.update()
    is_alike = attempted(lambda: list(reader(PROBE)))[0] == expected
    if not all(group.gather(is_alike)):
        raise ValueError(
            "The tokenizer of `expansion_model` does not read public words as it did before the private texts. Then "
            "the text of one client may have changed what others answer, so nothing was asked of them. Start again, "
            "or set `token_fraction`=0."
        )
    if failure:
        tell_owner(
            f"The tokenizer of `expansion_model` failed on the texts of some clients, with a {failure}. Their tokens "
            "are not counted.",
            stacklevel=5,
        )
    return embedded.with_tokens(tokens, reader.fingerprint)


def _tokens_of(samples: Sequence[Any], reader: TokenReader) -> list[np.ndarray]:
    texts = [sample if isinstance(sample, str) else sample.text for sample in samples]
    return [np.array(reader(text[:MAX_CHARACTERS]), dtype=np.int64).reshape(-1) for text in texts]
