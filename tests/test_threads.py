"""Threads that each compute alone, embeddings without padding, and what neither may change."""

import threading
import time

import numpy as np
import pytest
import torch

from hf_pretext.clients.samples import embed_clients
from hf_pretext.models import packing, threads
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.packing import find_packed_encoder
from hf_pretext.models.threads import FittingThreads, map_in_threads
from support.tiny import make_sentence_transformer, random_texts


@pytest.fixture(params=[1, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param, "the caller's number of threads is as before"
    torch.set_num_threads(before)


def test_work_is_divided_and_results_are_in_order(num_threads):
    seen = set()

    def work(item):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        time.sleep(0.002)
        # Work inside of work stays in its thread.
        inner = list(map_in_threads(lambda each: (each, threading.current_thread().name), range(3)))
        assert {name for _, name in inner} == {threading.current_thread().name}
        return item * item

    assert list(map_in_threads(work, range(40))) == [item * item for item in range(40)]
    assert {number for _, number in seen} == {1} and len(seen) == num_threads


def test_an_error_ends_the_iteration_and_nothing_is_begun_after_it(num_threads):
    begun = []

    def work(item):
        begun.append(item)
        if item == 5:
            raise ValueError("five")
        return item

    with pytest.raises(ValueError, match="five"):
        list(map_in_threads(work, range(1000)))
    assert len(begun) < 40


@pytest.fixture(scope="module")
def clients():
    texts = random_texts(60, seed=4, low=1, high=30)
    return {f"client {number}": texts[3 * number : 3 * number + 1 + number % 5] for number in range(16)}


def embedded(clients, embedder):
    return [own.embeddings for _, own in embed_clients(clients, embedder, 8, 0).each_client()]


def test_a_client_s_rows_are_the_same_alone_and_in_any_crowd(sentence_transformer, clients, num_threads):
    """Bit by bit, with one thread and with three, in any order."""
    embedder = TextEmbedder(sentence_transformer)
    assert embedder._packed is not None
    together = embedded(clients, embedder)
    turned = embedded(dict(reversed(clients.items())), embedder)[::-1]
    alone = [embedded({client: own}, embedder)[0] for client, own in clients.items()]
    torch.set_num_threads(1)
    with_one_thread = embedded(clients, TextEmbedder(sentence_transformer))
    torch.set_num_threads(num_threads)
    for others in (turned, alone, with_one_thread):
        assert all(map(np.array_equal, together, others))


def test_texts_without_padding_are_read_as_with_it(sentence_transformer, clients):
    embedder = TextEmbedder(sentence_transformer, batch_size=5)
    texts = [text for own in clients.values() for text in own]
    found = embedder(texts)
    assert np.abs(found - embedder._embed_padded(texts)).max() < 1e-6
    assert sentence_transformer[0].auto_model.config._attn_implementation == "sdpa", "as the caller gave it"
    assert embedder([]).shape == (0, 32)


def test_a_model_whose_positions_change_with_the_length_is_not_shared(tmp_path):
    model = make_sentence_transformer(tmp_path)
    rotary = torch.nn.Module()
    rotary.rope_type = {"full_attention": "longrope", "sliding_attention": "default"}
    model[0].rotary = rotary
    assert TextEmbedder(model)._packed is None, "each pass sets the frequencies for all threads"
    rotary.rope_type = "dynamic"
    with pytest.raises(ValueError, match="positions of the type 'dynamic'"):
        TextEmbedder(model)


def test_a_model_that_reads_in_another_way_is_read_with_padding(tmp_path, sentence_transformer, monkeypatch):
    model = make_sentence_transformer(tmp_path)
    model.prompts, model.default_prompt_name = {"query": "find: "}, "query"
    assert find_packed_encoder(model) is None, "a prompt stands before each text"
    assert find_packed_encoder(object()) is None
    # A model that attends to a window: its trial fails, and it is asked for each batch as before.
    monkeypatch.setattr(packing, "_KNOWN", packing._KNOWN - {"max_length_q"})
    embedder = TextEmbedder(sentence_transformer)
    assert embedder._packed is None and embedder(["a text"]).shape == (1, 32)
    monkeypatch.undo()
    # A model that mixes texts gives other rows than alone.
    monkeypatch.setattr(packing, "pairwise", lambda ends: [(ends[0], ends[-1])])
    assert find_packed_encoder(sentence_transformer) is None


class Cpu:
    type = "cpu"


@pytest.mark.parametrize(
    ("seconds", "expected"), [({1: 8, 4: 3, 2: 5}, 4), ({1: 8, 4: 80, 2: 5}, 2), ({1: 8, 4: 80, 2: 9}, 1)]
)
def test_busy_cores_are_not_waited_for(seconds, expected, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    clock = iter(range(0, 10_000, 1))
    monkeypatch.setattr(threads, "_seconds_of_products", lambda count, at_most=None: seconds[count])
    monkeypatch.setattr(threads.time, "monotonic", lambda: float(next(clock)))
    with FittingThreads(Cpu()) as fitting:
        fitting.adapt()
        assert torch.get_num_threads() == expected
        seconds[1] = 0
        fitting.adapt()
        assert torch.get_num_threads() == expected, "one trial in a while"
        for _ in range(30):
            fitting.adapt()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_a_trial_of_the_threads_ends_soon():
    before = torch.get_num_threads()
    assert 0 < threads._seconds_of_products(1) < 60
    assert threads._seconds_of_products(1, at_most=0) == float("inf")
    torch.set_num_threads(before)
