"""Embedding without padding, on a CPU: the texts of a pass stand one after another, and each attends to itself only.

A pass over the few texts of one client is then as fast for each token as one over many texts of like length. Whether
a model can be read like this is found out by a trial on public text, not by its name.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

logger = logging.getLogger(__name__)

ATTENTION = "hf_pretext_text_by_text"

TRIAL = (
    "A short public text.",
    "It is tried how the Embedding Model reads several texts at once, of which one is Much Longer than the others. "
    * 4,
    "Another one",
)
TOLERANCE = 1e-4
TOLERANCE_OF_HALF = 2e-2
"""Largest difference between entries of unit rows that were read in two ways. Half precision rounds."""

_KNOWN = {"cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids", "dropout", "is_causal", "use_cache"}
"""Arguments that change nothing about the attention of an encoder to one whole text."""


class PackedEncoder:
    """Reads texts one after another in one row.

    Args:
        model (`SentenceTransformer`): The embedding model.
        first_position (`int`): Number of the first position of a text in this model.
    """

    def __init__(self, model: Any, first_position: int) -> None:
        self._model, self._first_position = model, first_position
        self._config = model[0].auto_model.config
        self._lock, self._inside, self._before = Lock(), 0, None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Let the model attend text by text inside, in all threads, and as before after it."""
        with self._lock:
            if not self._inside:
                self._before, self._config._attn_implementation = self._config._attn_implementation, ATTENTION
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._config._attn_implementation = self._before

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Tokenize texts as the model does, and put their tokens into one row."""
        padded = self._model.preprocess(list(texts))
        is_token = padded["attention_mask"].bool()
        lengths = is_token.sum(1)
        ends = F.pad(lengths.cumsum(0), (1, 0)).int()
        positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
        longest = int(lengths.max())
        packed = {name: value[is_token][None] for name, value in padded.items() if name in _PER_TOKEN}
        return packed | {
            "position_ids": positions[None] + self._first_position,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
            "modality": "text",
        }

    @torch.inference_mode()
    def read(self, features: dict[str, Any]) -> np.ndarray:
        """Embed what `features` returned, as unit rows of float32. It may run in several threads at a time."""
        rows = self._model(features)["sentence_embedding"].float()
        return F.normalize(rows, dim=1).numpy()


_PER_TOKEN = ("input_ids", "token_type_ids")


def find_packed_encoder(model: Any) -> PackedEncoder | None:
    """Return a packed encoder that gives what the model says, or None if there is none.

    Args:
        model (`SentenceTransformer`): The embedding model, or an object like it.
    """
    try:
        if not _may_be_packed(model):
            return None
        expected = model.encode(list(TRIAL), normalize_embeddings=True, show_progress_bar=False)
        padding = model[0].auto_model.config.pad_token_id or 0
        # Models of the RoBERTa type count positions from the one after that of padding.
        for first_position in (0, padding + 1):
            if _reads_alike(PackedEncoder(model, first_position), expected):
                return PackedEncoder(model, first_position)
    except Exception as error:  # Whatever a model raises about what it does not know.
        logger.debug("`embedding_model` reads padded batches: %s", error)
    return None


def _may_be_packed(model: Any) -> bool:
    from sentence_transformers import SentenceTransformer

    is_plain = isinstance(model, SentenceTransformer) and model.encode.__func__ is SentenceTransformer.encode
    if not is_plain or model.device.type != "cpu" or model.default_prompt_name or model[0].backend != "torch":
        return False
    _register()
    # Each pass writes the frequencies of these where those of other threads are read.
    if rotary_kinds(model) & {"dynamic", "longrope"}:
        return False
    return model[0].auto_model.config._attn_implementation == "sdpa"


def rotary_kinds(model: Any) -> set[str]:
    """Return the kinds of rotary embeddings of a model as transformers names them, such as "default" or "dynamic"."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    found = [vars(module).get("rope_type") for module in modules]
    kinds = [kind for each in found for kind in (each.values() if isinstance(each, dict) else [each])]
    return {kind for kind in kinds if isinstance(kind, str)}


def _reads_alike(encoder: PackedEncoder, expected: np.ndarray) -> bool:
    try:
        with encoder.ready():
            found = encoder.read(encoder.features(TRIAL))
    except Exception as error:
        logger.debug("`embedding_model` reads padded batches: %s", error)
        return False
    is_precise = next(encoder._model.parameters()).dtype in (torch.float32, torch.float64)
    tolerance = TOLERANCE if is_precise else TOLERANCE_OF_HALF
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= tolerance)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attend_text_by_text)
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


def _attend_text_by_text(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to each text by itself, as transformers calls it: tensors of shape `(1, heads, tokens, d)`.

    Raises:
        ValueError: The model attends in a way that is not known here, such as to a window or with a bias.
    """
    unknown = sorted(name for name, given in others.items() if given is not None and name not in _KNOWN)
    if cu_seq_lens_q is None or attention_mask is not None or unknown:
        raise ValueError(f"It attends in another way: {unknown}.")
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], scale=scaling
        )
        for start, end in pairwise(cu_seq_lens_q.tolist())
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None
