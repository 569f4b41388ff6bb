"""The private side around a release: subsets, ids, errors, copies of objects, and public texts that are private."""

import copy
import pickle
import traceback
import unicodedata
import warnings
from dataclasses import fields, is_dataclass
from importlib import import_module

import numpy as np
import pytest
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.clients import in_memory
from hf_pretext.clients.copies import check_public_texts
from hf_pretext.clients.guard import attempted
from hf_pretext.clients.identity import look_of
from hf_pretext.clients.rows import group_by_client
from hf_pretext.clients.samples import cap_samples, embed_clients, quantize_embeddings
from hf_pretext.forms import Plain
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, PrivacyLedger
from support.federation import make_federation, no_noise
from support.guarantee import BinEncoder
from support.guarantee_clients import Writes, make_pool
from support.tiny import random_texts

CONFIG = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5, population_size=24)


def test_every_sample_has_the_same_chance_and_copies_count():
    """No false alarm: the seeds are fixed. Six standard errors of 4,000 draws are 0.05."""
    samples = [*random_texts(15, seed=1), "twice", "twice"]
    drawn = [cap_samples("client", samples, 8, seed) for seed in range(4000)]
    assert all(len(each) == 8 for each in drawn)
    chances = {text: sum(each.count(text) for each in drawn) / 4000 for text in set(samples)}
    assert all(abs(chance - (2 if text == "twice" else 1) * 8 / 17) < 0.07 for text, chance in chances.items())
    both = sum(each.count("twice") == 2 for each in drawn) / 4000
    assert abs(both - 8 * 7 / (17 * 16)) < 0.05, "copies are drawn independently"


def test_one_text_exchanges_at_most_one_sample_in_any_order():
    rng = np.random.default_rng(0)
    num_exchanged = 0
    for number in range(300):
        samples = [f"text {each}" for each in rng.integers(0, 12, size=rng.integers(9, 30))]
        whole = cap_samples("client", samples, 8, number)
        assert cap_samples("client", list(rng.permutation(samples)), 8, number) == whole
        without = cap_samples("client", samples[:-1], 8, number)
        lost, gained = ([*a] for a in (whole, without))
        for text in whole:
            if text in gained:
                gained.remove(text)
                lost.remove(text)
        assert len(lost) == len(gained) <= 1
        num_exchanged += len(lost)
    assert num_exchanged > 30


def test_subsets_of_two_clients_with_the_same_texts_differ():
    texts = random_texts(40, seed=1)
    subsets = {tuple(cap_samples(client, texts, 8, seed)) for client in ("a", "b", 1) for seed in (0, 1)}
    assert len(subsets) == 6


def grouped(ids):
    return group_by_client(Dataset.from_dict({"client_id": ids, "text": random_texts(len(ids))}), CONFIG)


@pytest.mark.parametrize("missing", ["", " ", "\u200b", "nan", "NaN", "None", "null", "<NA>", "N/A", " nan ", None])
def test_an_id_that_names_no_one_is_refused(missing):
    """All rows without an id would be one client: a person without an id is no unit of privacy."""
    with pytest.raises(ValueError, match="rows without a client in column 'client_id'.*Name or drop them"):
        grouped(["ann", missing])


@pytest.mark.parametrize(
    "ids",
    [
        ["c1", "c1 "],
        ["c1", "C1"],
        ["7", "7.0", "07"],
        ["bob", "bob\u200b"],
        ["straße", "STRASSE"],
        ["c①", "c1"],
        [unicodedata.normalize(form, "José") for form in ("NFC", "NFD")],
    ],
)
def test_ids_that_look_alike_are_warned_of_without_showing_them(ids):
    with pytest.warns(UserWarning, match="differ only in case, blanks") as caught:
        assert len(grouped(ids)) == len(ids), "they stay apart: the library merges no one"
    (message,) = {str(each.message) for each in caught}
    assert not any(each in message for each in ids) and "2" not in message and "3" not in message


def test_ids_that_are_different_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(grouped(["c1", "c2", "10", "1", "0", "-1", "1.5", "1e5", "nancy", "natalie"])) == 10
    assert look_of(3) == look_of("3.0") and look_of(0) == look_of("00") != look_of("")


class PanicException(BaseException):
    """Like `pyo3_runtime.PanicException`, which the tokenizers that are written in Rust raise."""


class Panics(BinEncoder):
    """An embedding model that ends with an error that is no `Exception`, on one text."""

    def __init__(self, error=PanicException):
        self.error = error

    def encode(self, texts, **kwargs):
        if "bin 23 quokka" in texts:
            raise self.error(f"byte index 3 is not a char boundary: it is inside {texts}")
        return super().encode(texts, **kwargs)


ROWS = [{"client_id": f"c{number}", "text": f"bin {number % 24}"} for number in range(20)]
HOSTILE = {"client_id": "x", "text": "bin 23 quokka"}


def make_in_memory(rows, encoder, noise=no_noise):
    return InMemoryClientPool(Dataset.from_list(rows), TextEmbedder(encoder), CONFIG, Plan.from_config(CONFIG), noise)


def test_a_panic_on_one_client_s_text_ends_no_run():
    with pytest.warns(UserWarning, match="failed on the texts of some clients, with a PanicException") as caught:
        pool = make_in_memory([*ROWS, HOSTILE], Panics())
    assert pool.num_clients == 21 and "quokka" not in str(caught[0].message)
    question, alone = make_pool({"a": ["bin 1"]}).votes, make_in_memory(ROWS, Panics())
    sums = [each.release(question, PrivacyLedger(Plan.from_config(CONFIG))) for each in (pool, alone)]
    np.testing.assert_array_equal(*sums)
    with pytest.raises(ValueError, match="failed on all private texts, with a PanicException") as error:
        make_in_memory([HOSTILE], Panics())
    assert error.value.__context__ is None


def test_whether_a_client_fails_does_not_depend_on_the_length_of_others_texts():
    """Neighbours: a client with a long text joins, and nobody else's votes move."""

    class Embedder:
        max_length = 3

        def cuts(self, texts):
            if "odd" in texts:
                raise ValueError("quokka")
            return any(len(text) > 3 for text in texts)

        def __call__(self, texts):
            return np.ones((len(texts), 1), dtype=np.float32)

    with pytest.warns(UserWarning, match="texts of some clients|of more than 3 tokens"):
        alone, joined = (
            embed_clients({**first, "b": ["odd"], "c": ["two"]}, Embedder(), 8, 0)
            for first in ({}, {"a": ["a long text"]})
        )
    assert alone.owners.tolist() == [1] and joined.owners.tolist() == [0, 2]


def test_a_panic_in_a_question_of_the_caller_ends_no_run(monkeypatch):
    made = make_pool({"a": ["bin 1"], "b": ["bin 2"]}, no_noise)
    asked = Writes.answer

    def panics(self, samples):
        if samples.embeddings[:, 2].any() and len(samples.owners) == 1 and not samples.embeddings[:, 0].any():
            raise PanicException("quokka")
        return asked(self, samples)

    monkeypatch.setattr(Writes, "answer", panics)
    with pytest.warns(UserWarning, match="failed for some clients, with a PanicException"):
        made.release(Writes())


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_process_is_obeyed_and_nothing_comes_along(ending):
    with pytest.raises(ending) as caught:
        make_in_memory([*ROWS, HOSTILE], Panics(ending))
    assert not str(caught.value) and caught.value.__context__ is None
    assert "encode" not in [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert not left_in_frames(caught.value), "the embeddings of the clients before"


@pytest.mark.filterwarnings("error:`embedding_model` failed")
def test_where_warnings_are_errors_one_text_still_decides_nothing(caplog):
    make_in_memory([*ROWS, HOSTILE], Panics())
    assert "failed on the texts of some clients" in caplog.text


def test_work_that_succeeds_is_returned():
    assert attempted(max, 1, 2) == (2, None) and attempted(int, "x") == (None, "ValueError")


def test_a_panic_in_a_federation_is_a_client_without_votes(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_pretext.federated.node_texts._embedder", lambda name: TextEmbedder(Panics()))
    votes = make_pool({"a": ["bin 1"]}).votes
    answers = []
    for hostile in ([HOSTILE], []):
        files = []
        for number, rows in enumerate([ROWS[:1], ROWS[1:2], ROWS[2:3], hostile]):
            files.append(tmp_path / f"{number}.jsonl")
            lines = [{"client_id": "own", "text": row["text"]} for row in rows or [{"text": " "}]]
            Dataset.from_list(lines).to_json(files[-1])
        made = make_federation(files, "unused", noise=no_noise, **{"population-size": 24})
        answers.append(made.pool.release(votes, made.ledger))
    np.testing.assert_array_equal(*answers)
    assert answers[0].sum() == pytest.approx(3, abs=1e-3)


def arrays_in(value, depth=4):
    """Find the arrays in a local variable of a frame, also in lists, dictionaries and dataclasses."""
    if isinstance(value, np.ndarray):
        return [value]
    if depth == 0 or isinstance(value, (str, bytes, type)):
        return []
    if is_dataclass(value):
        parts = [vars(value).get(each.name) for each in fields(value)]
    elif isinstance(value, dict):
        parts = list(value.values())
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    return [array for part in parts for array in arrays_in(part, depth - 1)]


def left_in_frames(error):
    """Find the arrays in the frames of an error and of those behind it, but for those of this file."""
    found = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                found += [array for value in list(frame.f_locals.values()) for array in arrays_in(value)]
        error = error.__cause__ or error.__context__
    return found


def failing(monkeypatch, target, number, error):
    """Let a function fail at a call of this number, after it did its work."""
    module, _, name = target.rpartition(".")
    function, calls = vars(import_module(module))[name], []

    def fails(*arguments):
        made = function(*arguments)
        calls.append(made)
        if len(calls) == number:
            raise error
        return made

    monkeypatch.setattr(target, fails)


FULL = OSError(28, "No space left on device")
FAILURES = {
    "the ledger cannot be kept": ("hf_pretext.privacy.ledger.atomic_write", 2, FULL, OSError),
    "too little memory": (
        "hf_pretext.clients.questions.summing.quantize",
        1,
        MemoryError(),
        RuntimeError,
    ),
    "a panic": ("hf_pretext.clients.in_memory.sum_answers", 1, PanicException("quokka"), RuntimeError),
    "an interruption": ("hf_pretext.clients.in_memory.sum_answers", 1, KeyboardInterrupt(), KeyboardInterrupt),
}


def release_that_fails(monkeypatch, folder, target, number, error, expected):
    """Let a release fail, and return the error, and the clean sum, noise and embeddings that it was made of."""
    secrets = []

    def remember(function):
        def remembering(*arguments):
            secrets.append(function(*arguments))
            return secrets[-1]

        return remembering

    monkeypatch.setattr("hf_pretext.clients.samples.quantize_embeddings", remember(quantize_embeddings))
    monkeypatch.setattr(in_memory, "sum_answers", remember(in_memory.sum_answers))
    noise = remember(lambda scale, size: np.arange(7, 7 + size))
    samples = {f"c{index}": [f"bin {index % 5}"] * 3 for index in range(20)}
    made = make_pool(samples, noise, lambda plan: PrivacyLedger(plan, folder / "ledger.json"))
    failing(monkeypatch, target, number, error)
    with pytest.raises(expected) as caught:
        made.release()
    # An answer that cannot be kept was released nonetheless.
    assert (made.ledger.num_releases, made.ledger.num_lost) == (1, int(expected is not OSError))
    assert len(secrets) >= 21
    return caught.value, secrets


def test_a_ledger_that_cannot_count_a_release_stops_it_before_any_noise(monkeypatch, tmp_path):
    drawn = []
    noise = lambda scale, size: drawn.append(size) or np.zeros(size, dtype=int)  # noqa: E731
    made = make_pool({"c": ["bin 1"]}, noise, lambda plan: PrivacyLedger(plan, tmp_path / "ledger.json"))
    failing(monkeypatch, "hf_pretext.privacy.ledger.atomic_write", 1, FULL)
    with pytest.raises(OSError, match="No space left"):
        made.release()
    assert not drawn and made.ledger.num_releases == 1, "the process counts it, and it was never drawn"


def leaks(error, secrets):
    found = left_in_frames(error)
    return [each for each in secrets if any(each.shape == other.shape and (each == other).all() for other in found)]


@pytest.mark.parametrize("name", FAILURES)
def test_no_error_leaves_with_clean_sums_noise_or_embeddings(monkeypatch, tmp_path, name):
    """What reports a crash may store the local variables of every frame of its traceback."""
    error, secrets = release_that_fails(monkeypatch, tmp_path, *FAILURES[name])
    assert not leaks(error, secrets) and "quokka" not in str(error)


def test_the_walk_through_frames_finds_what_an_error_without_the_guard_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(InMemoryClientPool, "_answer", InMemoryClientPool._part)
    target, number, error, _ = FAILURES["too little memory"]
    error, secrets = release_that_fails(monkeypatch, tmp_path, target, number, error, MemoryError)
    assert leaks(error, secrets)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_nothing_that_counts_releases_is_copied(duplicate, bert, sentence_transformer):
    """Two copies would each count only their own releases about the same clients."""
    generator = PrivateEvolutionGenerator(bert, sentence_transformer, config=CONFIG)
    pool = make_federation([], "unused", **{"num-clients": 5}).pool
    for counts in (generator, generator.ledger, pool):
        with pytest.raises(TypeError, match="cannot be copied or pickled: two copies would each count"):
            duplicate(counts)


PRIVATE = Dataset.from_dict({"client_id": ["a", "b"] * 20, "text": random_texts(40, seed=1)})


@pytest.mark.parametrize(
    "public",
    [
        lambda: PRIVATE["text"],
        lambda: PRIVATE.select_columns("text"),
        lambda: Dataset.from_dict(PRIVATE.to_dict()),
        lambda: [f" {text}\n" for text in PRIVATE["text"][:30]] + random_texts(20, seed=2),
    ],
)
def test_public_texts_that_are_private_ones_are_warned_of_in_words(public):
    with pytest.warns(UserWarning, match="Most texts of `initial_population` are in `private` too") as caught:
        check_public_texts(PRIVATE, public(), Plain("text"))
    (message,) = {str(each.message) for each in caught}
    assert not any(character.isdigit() for character in message)
    assert not any(text in message for text in PRIVATE["text"])


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (PRIVATE, [*PRIVATE["text"][:19], *random_texts(20, seed=2)]),
        (PRIVATE, random_texts(20, seed=2)),
        (PRIVATE, ["", 5, None]),
        (PRIVATE, Dataset.from_dict({"body": PRIVATE["text"][:]})),
        (None, PRIVATE["text"][:]),
        ("a federation", PRIVATE["text"][:]),
    ],
)
def test_other_public_texts_are_not_warned_of(private, public):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_public_texts(private, public, Plain("text"))


def test_a_run_whose_public_texts_are_private_ones_warns_and_releases_the_same(
    bert, sentence_transformer, monkeypatch
):
    """The check decides nothing: with it and without it, a run of the same noise has the same seeds."""
    seeds = []
    for check in (check_public_texts, lambda *_: None):
        monkeypatch.setattr("hf_pretext.inputs.check_public_texts", check)
        config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-3, population_size=16, num_rounds=1)
        generator = PrivateEvolutionGenerator(bert, sentence_transformer, config=config, noise=no_noise)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seeds.append(generator.evolve(PRIVATE, initial_population=PRIVATE["text"])[:])
        assert any("word for word" in str(each.message) for each in caught) == (check is check_public_texts)
    assert seeds[0] == seeds[1]
