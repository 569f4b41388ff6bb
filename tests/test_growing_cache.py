"""A cache with room holds what the cache of transformers holds, bit by bit."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hf_pretext.models import growing_cache
from hf_pretext.models.growing_cache import GrowingLayer, with_room

STEPS = [None, [2, 0], None, None, [0, 0, 1, 1, 0], None, None, [4], None]
"""Rows that are kept before a token is added, where rows leave or come."""


@pytest.mark.parametrize("room", [1, 2, 32])
@pytest.mark.parametrize("num_new", [1, 3])
def test_tokens_and_rows_are_those_of_the_usual_cache(monkeypatch, room, num_new):
    monkeypatch.setattr(growing_cache, "ROOM", room)
    rng = torch.Generator().manual_seed(room)
    usual, roomy = DynamicCache(), DynamicCache()
    rows = 3

    def add(number):
        nonlocal roomy
        new = [torch.randn(rows, 2, number, 4, generator=rng) for _ in range(2)]
        held = [cache.update(*new, 0) for cache in (usual, roomy)]
        assert all(torch.equal(*pair) for pair in zip(*held, strict=True))
        roomy = with_room(roomy)

    add(5)
    assert type(roomy.layers[0]) is GrowingLayer
    for kept in STEPS:
        if kept is not None:
            rows = len(kept)
            for cache in (usual, roomy):
                cache.reorder_cache(torch.tensor(kept))
        add(num_new)
        assert roomy.get_seq_length() == usual.get_seq_length()


def test_what_was_read_is_not_copied_for_a_token():
    cache = DynamicCache()
    for number in (4, 1, 1):
        cache.update(torch.zeros(2, 2, number, 4), torch.zeros(2, 2, number, 4), 0)
        cache = with_room(cache)
    before = cache.layers[0].keys.data_ptr()
    cache.update(torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4), 0)
    assert cache.layers[0].keys.data_ptr() == before


def test_layers_of_other_types_stay_as_they_are():
    class Sliding(DynamicLayer):
        pass

    cache = DynamicCache()
    cache.layers = [Sliding(), DynamicLayer()]
    before = list(cache.layers)
    assert with_room(cache).layers == before  # The second holds nothing yet.
    assert with_room([1, 2]) == [1, 2]
