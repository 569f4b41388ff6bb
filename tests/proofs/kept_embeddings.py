"""An embedding model that keeps in a folder what it computed. The texts of the proofs are public."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from hf_pretext.models.packaged import packaged_embedder


class KeptEmbeddings(SentenceTransformer):
    """all-MiniLM-L6-v2. Runs on the same texts then embed them once.

    Args:
        folder (`Path`): Folder of the embeddings. Several processes may add to it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(packaged_embedder()))
        self._kept_in, self._known, self._new = folder, {}, {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.npz"):
            part = np.load(path)
            self._known.update(zip(part["keys"].tolist(), part["rows"], strict=True))

    def encode(self, sentences: Sequence[str], **options: Any) -> np.ndarray:
        """Look texts up, and embed those that are not there."""
        keys = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32] for text in sentences]
        missing = {key: text for key, text in zip(keys, sentences, strict=True) if key not in self._known}
        if missing:
            rows = super().encode(list(missing.values()), **options)
            self._new.update(zip(missing, rows, strict=True))
            self._known.update(self._new)
        return np.stack([self._known[key] for key in keys])

    def keep(self) -> None:
        """Write what is new to the folder."""
        if self._new:
            path = self._kept_in / f"{os.getpid()}-{len(self._known)}.npz"
            partial = path.with_suffix(".tmp")
            with open(partial, "wb") as file:
                np.savez(file, keys=np.array(list(self._new)), rows=np.stack(list(self._new.values())))
            partial.rename(path)
            self._new = {}
