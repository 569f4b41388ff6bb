"""The rows that a guarantee is about, as a list of hashes that goes with a report."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

HASH_BYTES = 12
"""Bytes of a hash. To find another text with one of a million hashes takes some 2^76 trials."""

PATTERN = "covered-texts-*.hashes"
"""Names of the files. Each is named after its content, so that lists of several runs fit in one folder."""

TEXT_ALONE = ("text",)
"""Columns of a dataset of plain texts. A report names its columns if they are others."""

_HASH = np.dtype((np.void, HASH_BYTES))


class CoveredTexts:
    """A set of texts, of which only hashes are kept: 12 bytes per text.

    Whoever has a text can find out whether it is in the set. The texts themselves are synthetic, and are published
    beside the list.

    Args:
        hashes (`np.ndarray` of shape `(n,)`): Hashes, sorted, each once.
        columns (`Sequence[str]`, *optional*, defaults to `("text",)`):
            Columns whose values make the text of a row (`coverage.units`).
    """

    def __init__(self, hashes: np.ndarray, columns: Sequence[str] = TEXT_ALONE) -> None:
        self._hashes = hashes
        self.columns = tuple(columns)
        self.digest: str = hashlib.sha256(hashes.tobytes()).hexdigest()
        """Names this set, and no other (SHA-256)."""

    @classmethod
    def of(cls, texts: Iterable[str], columns: Sequence[str] = TEXT_ALONE) -> "CoveredTexts":
        """Make the set of these texts, which rows have in these columns."""
        return cls(np.unique(hash_texts(texts)), columns)

    @classmethod
    def load(cls, folder: str | Path, digest: str, num_texts: int) -> "CoveredTexts":
        """Read the list of a report from a folder.

        Args:
            folder (`str` or `Path`): The folder.
            digest (`str`): Digest of the list, as the report names it.
            num_texts (`int`): Number of texts, as the report names it. A file of another size is not read.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It is not the list that the report names.
        """
        path = Path(folder) / file_name(digest)
        expected, found = num_texts * HASH_BYTES, path.stat().st_size
        if found != expected:
            raise ValueError(f"{str(path)!r} has {found} bytes instead of the {expected} that the report names.")
        texts = cls(np.frombuffer(path.read_bytes(), dtype=_HASH))
        if texts.digest != digest:
            raise ValueError(f"{str(path)!r} is not the list of texts that the privacy report names.")
        return texts

    def save(self, folder: str | Path) -> Path:
        """Write the list to a folder, and return its path."""
        path = Path(folder) / file_name(self.digest)
        path.write_bytes(self._hashes.tobytes())
        return path

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Return which of the texts with these hashes (see `hash_texts`) are in the set, as `bool`."""
        if not len(self._hashes):
            return np.zeros(len(hashes), dtype=bool)
        positions = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return self._hashes[positions] == hashes

    def __len__(self) -> int:
        return len(self._hashes)


def file_name(digest: str) -> str:
    """Return the name of the file of a list."""
    return PATTERN.replace("*", digest[:16])


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """Hash texts (BLAKE2b), in their order."""
    blake = hashlib.blake2b
    return np.frombuffer(
        b"".join(blake(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest() for text in texts),
        dtype=_HASH,
    )
