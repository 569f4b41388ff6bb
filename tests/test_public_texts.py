"""Public texts from datasets, streams and transforms: what is drawn of them, and what stays in memory."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.clients.copies import check_public_texts
from hf_pretext.clients.rows import group_by_client
from hf_pretext.data import draw_texts, each_row, list_texts
from hf_pretext.evolution.public_texts import RESERVE, sample_public_texts
from hf_pretext.forms import Plain
from support.tiny import random_texts

CONFIG = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-5, population_size=4)


def stream_of(texts, column="text"):
    def rows():
        yield from ({column: text} for text in texts)

    return IterableDataset.from_generator(rows)


def test_a_stream_gives_as_many_texts_as_a_list():
    texts = [*random_texts(300, seed=1), " ", ""]
    for public in (texts, stream_of(texts)):
        drawn = sample_public_texts(public, lambda text: text, CONFIG)
        assert len(drawn) == len(set(drawn)) == 4 * (1 + RESERVE) and set(drawn) <= set(texts) - {" ", ""}
    assert sample_public_texts(stream_of(texts), lambda text: text, CONFIG) == drawn, "the seed decides"


def test_the_draw_does_not_depend_on_order_or_copies():
    texts = random_texts(200, seed=1)
    once = draw_texts(stream_of(texts), "text", "initial_population", 20, 0)
    shuffled = np.random.default_rng(0).permutation([*texts, *texts[:150] * 5])
    assert draw_texts(stream_of([str(each) for each in shuffled]), "text", "initial_population", 20, 0) == once
    assert draw_texts(stream_of(texts), "text", "initial_population", 20, 1) != once


def test_all_texts_have_the_same_chance_also_those_that_are_there_twice():
    """No false alarm: the seeds are fixed. Six standard errors of 1,000 draws are 0.08."""
    texts = [f"text {number}" for number in range(12)]
    stream = stream_of([*texts, *texts[:4] * 3])
    drawn = Counter(text for seed in range(1000) for text in draw_texts(stream, "text", "x", 3, seed))
    assert set(drawn) == set(texts) and all(abs(each / 1000 - 3 / 12) < 0.085 for each in drawn.values())
    pairs = Counter(frozenset(draw_texts(stream_of(texts[:4]), "text", "x", 2, seed)) for seed in range(600))
    assert len(pairs) == 6 and all(abs(each / 600 - 1 / 6) < 0.09 for each in pairs.values())


def test_memory_does_not_grow_with_the_stream():
    def peak(number):
        def rows():
            yield from ({"text": f"{index} " + "long text " * 200} for index in range(number))

        stream = IterableDataset.from_generator(rows)
        tracemalloc.start()
        assert len(draw_texts(stream, "text", "x", 50, 0)) == 50
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    peak(10**3)  # The first call imports what it needs.
    assert peak(10**4) < peak(10**3) + 50_000  # A tenth of the texts that come later would be 2,000,000 bytes.


@pytest.mark.parametrize(
    ("texts", "column", "error", "message"),
    [
        (["a", None], "text", TypeError, "`initial_population` must hold strings only, but some are of type NoneType"),
        (["a", "b"], "body", ValueError, "`initial_population` has no column 'text' of texts"),
        (["a", " "], "text", ValueError, "holds 1 different texts"),
    ],
)
def test_streams_that_are_not_texts_are_named(texts, column, error, message):
    with pytest.raises(error, match=message):
        sample_public_texts(stream_of(texts, column), lambda text: text, CONFIG)


def test_a_run_begins_with_a_stream_and_resumes_with_it(bert, sentence_transformer, private, tmp_path):
    texts = random_texts(200, seed=2)
    config = PrivateEvolutionConfig(noise_multiplier=1.0, delta=1e-3, population_size=8, num_rounds=2)
    seeds = []
    for order in (texts, texts[::-1]):
        generator = PrivateEvolutionGenerator(bert, sentence_transformer, config=config, run_dir=tmp_path)
        seeds.append(generator.evolve(private, initial_population=stream_of(order)).to_list())
        assert set(generator.initial_population) <= set(texts)
    assert seeds[0] == seeds[1], "the second run reads what the first released"
    with pytest.raises(ValueError, match="not the one that the run in `run_dir` began with"):
        PrivateEvolutionGenerator(bert, sentence_transformer, config=config, run_dir=tmp_path).evolve(
            private, initial_population=stream_of(random_texts(200, seed=3))
        )


def test_a_stream_of_private_text_is_warned_of(private):
    with pytest.warns(UserWarning, match="are in `private` too, word for word"):
        check_public_texts(private, stream_of(private["text"]), Plain("text"))
    check_public_texts(private, stream_of(random_texts(50, seed=9)), Plain("text"))
    with pytest.raises(ValueError, match="the private dataset itself"):
        check_public_texts(private, private, Plain("text"))


def upper(batch):
    return {"text": [text.upper() for text in batch["text"]], "client_id": batch["client_id"]}


def test_a_transform_of_public_texts_is_applied(public):
    data = Dataset.from_dict({"text": public, "client_id": public})
    expected = [text.upper() for text in public]
    assert list_texts(data.with_transform(upper), "text", "x") == expected
    made = data.with_transform(lambda batch: {"body": [text.upper() for text in batch["text"]]})
    assert list_texts(made, "body", "x") == expected
    with pytest.raises(ValueError, match="no column 'text'"):
        list_texts(made, "text", "x")


@pytest.mark.parametrize("format", ["numpy", "torch", "pandas", "arrow", None])
def test_a_format_changes_no_text(public, private, format):
    assert list_texts(Dataset.from_dict({"text": public}).with_format(format), "text", "x") == public
    assert (
        list_texts(Dataset.from_dict({"text": public, "n": public}).with_format(format, ["n"]), "text", "x") == public
    )
    assert group_by_client(private.with_format(format), CONFIG) == group_by_client(private, CONFIG)


def test_a_transform_of_private_texts_is_refused_and_the_fix_leaves_no_file(private, tmp_path):
    """It could mix the rows of clients. What the message names runs it on each row alone."""
    private.save_to_disk(tmp_path / "private")
    data = Dataset.load_from_disk(tmp_path / "private")
    before = sorted(tmp_path.rglob("*"))

    def sees_one_row(batch):
        assert len(batch["text"]) == 1
        return upper(batch)

    with pytest.raises(ValueError, match="could mix them.*batch_size=1, keep_in_memory=True"):
        group_by_client(data.with_transform(upper), CONFIG)
    fixed = data.with_transform(upper).with_format(None)
    fixed = fixed.map(sees_one_row, batched=True, batch_size=1, keep_in_memory=True)
    found = [text for texts in group_by_client(fixed, CONFIG).values() for text in texts]
    assert sorted(found) == sorted(text.upper() for text in private["text"])
    assert sorted(tmp_path.rglob("*")) == before


def test_nested_columns_of_datasets_on_both_sides(private):
    rows = [{"message": {"body": row["text"]}, "who": {"id": row["client_id"]}} for row in private]
    config = PrivateEvolutionConfig(
        noise_multiplier=1.0, delta=1e-5, text_column="message.body", client_column="who.id"
    )
    nested = Dataset.from_list(rows)
    assert group_by_client(nested, config) == group_by_client(private, CONFIG)
    assert list_texts(nested, "message.body", "x") == private["text"][:]
    with pytest.raises(ValueError, match="is not a column of `private`, which has.*message"):
        group_by_client(nested, CONFIG)


def test_a_second_run_begins_with_other_public_texts():
    texts = random_texts(300, seed=1)
    first, same, second = (sample_public_texts(texts, str, CONFIG, *run) for run in ((), (1,), (2,)))
    assert first == same and first[:4] != second[:4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda texts: DatasetDict(train=texts, test=texts),
            r"`texts` of type DatasetDict has the keys .*`texts\['train'\]`",
        ),
        (lambda texts: {"train": list(texts["text"])}, "of type dict has the keys"),
        (lambda texts: texts.to_pandas(), "`texts` is a table"),
        (lambda texts: "one text", "`texts` is one string"),
    ],
)
def test_what_iterates_over_names_is_no_list_of_texts(make, message):
    """The names of the splits were two public texts, and all rounds were spent on them."""
    texts = Dataset.from_dict({"text": ["one text", "another text"]})
    with pytest.raises(TypeError, match=message):
        list_texts(make(texts), "text", "texts")
    with pytest.raises(TypeError, match=message):
        list(each_row(make(texts), Plain("text"), "texts"))
    for read in (np.array(texts["text"]), texts.to_pandas()["text"], texts["text"], tuple(texts["text"])):
        assert list_texts(read, "text", "texts") == ["one text", "another text"]


def test_public_texts_that_can_be_read_only_once_are_refused(bert, sentence_transformer, llama, config):
    """Their beginning is looked at first, and the run would have begun with the rest."""
    generator = PrivateEvolutionGenerator(bert, sentence_transformer, llama, config=config)
    private = Dataset.from_dict({"client_id": ["a", "b"], "text": ["one text", "another text"]})
    with pytest.raises(TypeError, match="`initial_population` can be read only once"):
        generator.evolve(private, initial_population=iter(random_texts(40)))
    assert generator.ledger.num_releases == 0
