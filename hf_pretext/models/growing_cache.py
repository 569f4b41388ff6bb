"""A cache of keys and values with room for more tokens: one more is written in its place, and nothing is copied."""

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens for which there is room after a cache was copied."""


class GrowingLayer(DynamicLayer):
    """A layer of transformers' cache, which holds the beginning of longer tensors.

    The usual layer copies all that it holds for each token, which takes a fifth of the time of writing on a CPU.

    Args:
        layer (`DynamicLayer`): What was read so far.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.__dict__.update(layer.__dict__)
        self._roomy: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values of shape `(rows, heads, tokens, d)`, and return all of them."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._roomy or self._roomy[0].shape[-2] < end:
            self._roomy = [_with_room(held, new) for held, new in self._pairs(key_states, value_states)]
        for roomy, new in zip(self._roomy, (key_states, value_states), strict=True):
            roomy[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows. One may be left out, or be there several times."""
        if not self._roomy:
            super().reorder_cache(beam_idx)
            return
        length = self.get_seq_length()
        self._roomy = [roomy.index_select(0, beam_idx.to(roomy.device)) for roomy in self._roomy]
        self._show(length)

    def _pairs(self, keys: torch.Tensor, values: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self.keys, keys), (self.values, values)]

    def _show(self, length: int) -> None:
        self.keys, self.values = (roomy[:, :, :length] for roomy in self._roomy)


def with_room(cache: Any) -> Any:
    """Give the layers of a cache room if they are the usual ones. Layers of other types stay as they are."""
    layers = getattr(cache, "layers", None)
    if isinstance(layers, list):
        layers[:] = [
            GrowingLayer(layer) if type(layer) is DynamicLayer and layer.get_seq_length() else layer
            for layer in layers
        ]
    return cache


def _with_room(held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    rows, heads, length, width = held.shape
    roomy = held.new_empty((rows, heads, length + new.shape[-2] + ROOM, width))
    roomy[:, :, :length] = held
    return roomy
