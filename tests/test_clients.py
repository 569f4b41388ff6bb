import pickle
import warnings

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_pretext import InMemoryClientPool, PrivateEvolutionConfig
from hf_pretext.clients.pool import warn_of_few_clients
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.clients.samples import embed_clients
from hf_pretext.clients.tokens import with_tokens
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.privacy.mechanism import UNITS
from support.tiny import random_texts


def no_noise(scale, size):
    return np.zeros(size, dtype=np.int64)


class CountedPool:
    """A pool with a ledger, which asks for votes."""

    def __init__(self, pool, config):
        self.pool, self.config, self.num_clients = pool, config, pool.num_clients
        self.ledger = PrivacyLedger(Plan.from_config(config))

    def votes(self, candidates):
        return self.pool.release(NearestCandidates.of(candidates, self.config.votes_per_sample), self.ledger)


def make_pool(private, embedder, noise=no_noise, **changes):
    config = PrivateEvolutionConfig(**{"epsilon": 1.0, "delta": 1e-3, **changes})
    return CountedPool(InMemoryClientPool(private, embedder, config, Plan.from_config(config), noise), config)


@pytest.fixture
def candidates(embedder):
    return embedder(random_texts(40, seed=3))


def dataset(texts_by_client):
    rows = [(client, text) for client, texts in texts_by_client.items() for text in texts]
    return Dataset.from_dict({"client_id": [client for client, _ in rows], "text": [text for _, text in rows]})


@pytest.mark.parametrize(("vote_clipping", "votes"), [("l2", 1), ("l2", 7), ("count", 1)])
def test_one_client_changes_the_histogram_by_no_more_than_the_sensitivity(
    embedder, private, candidates, vote_clipping, votes
):
    """The neighbouring relation itself: all of one client's samples, in or out, for every client."""
    settings = {"vote_clipping": vote_clipping, "max_samples_per_client": 5, "votes_per_sample": votes}
    whole = make_pool(private, embedder, **settings)
    sensitivity = whole.ledger.plan.entry("votes").mechanism.clip_norm
    with_everybody = whole.votes(candidates)
    changes = []
    for client in sorted(set(private["client_id"])):
        without = private.filter(lambda row, left_out=client: row["client_id"] != left_out)
        change = with_everybody - make_pool(without, embedder, **settings).votes(candidates)
        assert (change >= 0).all(), "somebody else's votes changed"
        changes.append(np.linalg.norm(change))
    assert max(changes) <= sensitivity
    # Any client reaches the bound under "l2"; under "count" it takes five votes for one candidate, which nobody has.
    assert max(changes) > (0.999 if vote_clipping == "l2" else 0.4) * sensitivity


def test_votes_are_spread_and_nobody_s_norm_grows(embedder, candidates):
    """However many candidates a sample votes for, and whoever else is there."""
    both = {"one": ["a lost card"], "two": ["a lost card", "my account is locked"]}
    sharp = make_pool(dataset(both), embedder).votes(candidates)
    parts = [
        make_pool(dataset({client: both[client]}), embedder, votes_per_sample=5).votes(candidates) for client in both
    ]
    spread = make_pool(dataset(both), embedder, votes_per_sample=5).votes(candidates)
    np.testing.assert_array_equal(spread, sum(parts))
    assert (parts[0] > 0).sum() == 5 and (sharp > 0).sum() == 2 and (spread[sharp > 0] > 0).all()
    assert spread.sum() > 1.9 * sharp.sum(), "sqrt(5) times as many votes, if no two fall on one candidate"
    assert all(0.999 < np.linalg.norm(part) <= 1 for part in parts)


@pytest.mark.parametrize(
    ("epsilon", "num_clients", "votes", "better"),
    [(1.29, 100, 1, 16), (1.29, 300, 1, 5), (1.29, 300, 4, None), (1.29, 1000, 1, None), (7.58, 100, 1, 3)],
)
def test_few_clients_are_told_how_many_votes_tell_more(caplog, epsilon, num_clients, votes, better):
    config = PrivateEvolutionConfig(epsilon=epsilon, delta=3e-6, votes_per_sample=votes)
    warn_of_few_clients(config, Plan.from_config(config), num_clients)
    assert len(caplog.messages) == (better is not None)
    assert better is None or f"`votes_per_sample`={better} instead of {votes}" in caplog.text


def test_nobody_s_votes_depend_on_who_else_is_there(embedder, private, candidates):
    """Bit for bit: the histogram of two groups of clients is the sum of their histograms."""
    first = private.filter(lambda row: int(row["client_id"].split("-")[1]) <= 6)
    second = private.filter(lambda row: int(row["client_id"].split("-")[1]) > 6)
    parts = [make_pool(part, embedder).votes(candidates) * UNITS for part in (first, second)]
    for whole in (private, concatenate_datasets([second, first])):
        together = make_pool(whole, embedder).votes(candidates) * UNITS
        np.testing.assert_array_equal(together, parts[0] + parts[1])


def test_a_client_with_ten_thousand_samples_is_capped(embedder, candidates):
    private = dataset({"many": random_texts(10_000, seed=5), "one": ["a lost card"]})
    histogram = make_pool(private, embedder, vote_clipping="count", max_samples_per_client=8).votes(candidates)
    assert histogram.sum() == 9


class CrowdEncoder:
    """An embedding model whose vectors depend on what else is in the batch."""

    max_seq_length = None
    tokenizer = None

    def get_embedding_dimension(self):
        return 16

    def encode(self, texts, **kwargs):
        rng = np.random.default_rng(sum(map(ord, "".join(texts))))
        rows = rng.normal(size=(len(texts), 16))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_client_s_samples_are_embedded_among_themselves(private):
    """Even an embedder that mixes up a batch cannot carry one client's text into another's votes."""
    candidates = TextEmbedder(CrowdEncoder())(random_texts(40, seed=3))
    whole = make_pool(private, TextEmbedder(CrowdEncoder())).votes(candidates)
    rest = private.filter(lambda row: row["client_id"] != "client-5")
    change = whole - make_pool(rest, TextEmbedder(CrowdEncoder())).votes(candidates)
    assert (change >= 0).all() and np.linalg.norm(change) <= 1


def test_a_copy_in_another_process_does_not_release(embedder, private, candidates, monkeypatch):
    pool = make_pool(private, embedder)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="in the process that made it only"):
        pool.votes(candidates)


def test_several_processes_are_refused(embedder, private, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("hf_pretext.clients.in_memory.is_main_process", lambda: False)
    with pytest.raises(RuntimeError, match="not the main one of 2 processes"):
        make_pool(private, embedder)


def test_noise_that_would_overflow_is_refused(embedder, private):
    with pytest.raises(ValueError, match="`noise_multiplier` of 1e\\+16 overflow"):
        make_pool(private, embedder, epsilon=None, noise_multiplier=1e16)


def test_the_subset_is_random_not_the_first(embedder, candidates):
    """The first eight samples of forty are drawn with a probability of one in 77 million."""
    texts = random_texts(40, seed=6)
    capped, first = (
        make_pool(dataset({"c": own}), embedder, vote_clipping="count").votes(candidates) for own in (texts, texts[:8])
    )
    assert not np.array_equal(capped, first)


def test_the_subset_follows_from_seed_and_client_alone(embedder, candidates):
    private = dataset({"c": random_texts(40, seed=6), "d": random_texts(40, seed=7)})
    histograms = [make_pool(private, embedder, seed=seed).votes(candidates) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(histograms[0], histograms[1])
    assert not np.array_equal(histograms[0], histograms[2])


def test_noise_is_added_at_the_scale_that_is_accounted_for(embedder, private, candidates):
    seen = []

    def noise(scale, size):
        seen.append((scale, size))
        return np.arange(size)

    pool = make_pool(private, embedder, noise)
    clean = make_pool(private, embedder).votes(candidates)
    noisy = pool.votes(candidates)
    assert seen == [(pool.ledger.plan.entry("votes").mechanism.noise_scale, len(candidates))]
    np.testing.assert_allclose((noisy - clean) * UNITS, np.arange(len(candidates)), atol=1e-6)


def test_default_noise_is_there(embedder, private, candidates):
    pool = make_pool(private, embedder, noise=None)
    assert not np.array_equal(pool.votes(candidates), pool.votes(candidates))


def test_every_release_is_counted_and_a_refused_one_is_not(embedder, private, candidates):
    pool = make_pool(private, embedder)
    pool.votes(candidates)
    for wrong in (candidates[:, :5], candidates[0], np.full_like(candidates, np.nan)):
        with pytest.raises(ValueError):
            pool.votes(wrong)
    assert pool.ledger.num_releases == 1


def test_a_client_with_blank_texts_counts_but_has_no_vote(embedder, candidates):
    private = dataset({"silent": ["", "  \n"], "one": ["a lost card"]})
    with pytest.warns(UserWarning, match="blank"):
        pool = make_pool(private, embedder)
    assert pool.num_clients == 2 and pool.votes(candidates).sum() == 1


def test_missing_client_column_names_the_fix(embedder):
    with pytest.raises(ValueError, match=r"`client_column`='client_id' is not a column.*add_column"):
        make_pool(Dataset.from_dict({"text": ["a", "b"]}), embedder)


def test_missing_text_column_is_named(embedder):
    with pytest.raises(ValueError, match=r"`text_column`='text' is not a column of `private`, which has \['body'\]"):
        make_pool(Dataset.from_dict({"body": ["a"]}), embedder)


@pytest.mark.parametrize("wrap", [lambda data: DatasetDict(train=data), lambda data: data.to_pandas(), list])
def test_other_tables_are_refused(embedder, private, wrap):
    with pytest.raises(TypeError, match=r"`private` of type .* must be one `datasets\.Dataset`.*from_pandas"):
        make_pool(wrap(private), embedder)


@pytest.mark.parametrize("texts", [[1, 2], ["fine", None]])
def test_rows_that_are_not_strings_are_refused(embedder, texts):
    with pytest.raises(TypeError, match="not strings"):
        make_pool(Dataset.from_dict({"text": texts, "client_id": ["a", "b"]}), embedder)


def test_rows_without_a_client_are_refused(embedder):
    with pytest.raises(ValueError, match="without a client"):
        make_pool(Dataset.from_dict({"text": ["a", "b"], "client_id": ["a", None]}), embedder)


def test_nan_is_no_client(embedder):
    with pytest.raises(ValueError, match="without a client"):
        make_pool(Dataset.from_dict({"text": ["a", "b"], "client_id": [1.0, float("nan")]}), embedder)


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_text_at_all_is_refused(embedder, texts):
    with pytest.raises(ValueError, match="holds no text"):
        make_pool(Dataset.from_dict({"text": texts, "client_id": ["a"] * len(texts)}), embedder)


def test_a_delta_that_protects_nobody_is_warned_of(embedder, private):
    with pytest.warns(UserWarning, match=r"`delta`=0.1 is not below one over the number of clients \(12\)"):
        make_pool(private, embedder, delta=0.1)


def test_texts_longer_than_the_embedder_reads_are_warned_of(embedder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_pool(dataset({"c": [" ".join(random_texts(40))]}), embedder)
    # The model reads 62 tokens and two special ones, of each of 16 parts.
    with pytest.warns(UserWarning, match="more than 992 tokens"):
        make_pool(dataset({"c": [" ".join(random_texts(200))]}), embedder)


def test_integer_client_ids(embedder, candidates):
    private = Dataset.from_dict({"text": ["a lost card", "new loan"], "client_id": [7, 8]})
    assert make_pool(private, embedder).num_clients == 2


def test_nan_embeddings_are_refused_before_budget_is_spent(private):
    class BrokenEncoder(CrowdEncoder):
        def encode(self, texts, **kwargs):
            return np.full_like(super().encode(texts), np.nan)

    with pytest.raises(ValueError, match="`embedding_model` failed on public words"):
        make_pool(private, TextEmbedder(BrokenEncoder()))


class Sticky(CrowdEncoder):
    """An embedding model that a text breaks for all texts after it, as an error of some kinds does to a GPU."""

    broken = False

    def encode(self, texts, **kwargs):
        self.broken = self.broken or "quokka" in texts[0]
        if self.broken:
            raise RuntimeError(f"device-side assert: {texts[0]}")
        return super().encode(texts)


class Grows(CrowdEncoder):
    """An embedding model that keeps something of the longest text that it has read."""

    longest = 0

    def encode(self, texts, **kwargs):
        self.longest = max(self.longest, *map(len, texts))
        rows = super().encode(texts) + 1e-4 * self.longest
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_text_that_breaks_the_model_for_others_ends_the_run():
    """Without that, the first client would take away the vote of the second one."""
    private = dataset({"a": ["quokka"], "b": ["a new loan"]})
    with pytest.raises(ValueError, match="some failed with a RuntimeError.*nothing was asked") as caught:
        make_pool(private, TextEmbedder(Sticky()))
    assert caught.value.__context__ is None and "quokka" not in str(caught.value)


def test_a_model_that_keeps_something_of_longer_texts_is_refused(private):
    with pytest.raises(ValueError, match="embeds the same public text differently after it has embedded others"):
        make_pool(private, TextEmbedder(Grows()))


def test_a_model_that_is_never_the_same_is_refused_for_that(private):
    class Random(CrowdEncoder):
        def encode(self, texts, **kwargs):
            rows = super().encode(texts) + 1e-4 * np.random.default_rng().normal(size=(len(texts), 1))
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    with pytest.raises(ValueError, match="embeds the same public text differently each time"):
        make_pool(private, TextEmbedder(Random()))


def test_a_text_that_breaks_the_tokenizer_for_others_ends_the_run(embedder):
    class Reader:
        fingerprint, special, broken = "t", frozenset(), False

        def __call__(self, text):
            self.broken = self.broken or text == "quokka"
            return [0] if self.broken else [1, 2]

    private = {"a": ["quokka"], "b": ["a new loan"]}
    samples = embed_clients(private, embedder, 8, 0)
    assert [own.tolist() for own in with_tokens(samples, {"a": ["x"], "b": ["y"]}, Reader(), 8, 0).tokens] == [
        [1, 2]
    ] * 2
    with pytest.raises(ValueError, match="does not read public words as it did before"):
        with_tokens(samples, private, Reader(), 8, 0)


def test_no_client_decides_whether_a_run_takes_place():
    """A client whose texts break the embedding model has no vote; the others' votes stay what they are."""

    class BreaksOnOne(CrowdEncoder):
        def encode(self, texts, **kwargs):
            if "quokka" in texts[0]:
                raise KeyError(texts[0])
            return super().encode(texts)

    others = {"a": ["a lost card"], "b": ["a new loan"]}
    with pytest.warns(
        UserWarning, match="failed on the texts of some clients, with a KeyError. They contribute nothing"
    ):
        pool = make_pool(dataset({**others, "c": ["quokka"]}), TextEmbedder(BreaksOnOne()), noise=no_noise)
    without = make_pool(dataset(others), TextEmbedder(BreaksOnOne()), noise=no_noise)
    assert pool.num_clients == 3 and without.num_clients == 2
    candidates = CrowdEncoder().encode(["a lost card", "a new loan"])
    assert np.array_equal(pool.votes(candidates), without.votes(candidates))


def test_the_tokenizer_is_kept_from_reading_all_of_a_long_text(embedder):
    """How long the private side takes must not follow one client's longest text, which may be of any length."""
    read = []

    class Reads:
        max_seq_length = 8
        prompts, default_prompt_name = {}, None

        def tokenizer(self, text, **kwargs):
            read.append(len(text))
            return {"input_ids": [1] * 3}

    assert TextEmbedder(Reads()).cuts(["x" * 10_000_000]) and not TextEmbedder(Reads()).cuts(["x" * 100])
    assert max(read, default=0) <= 16 * 8 * 256


def test_private_text_leaves_through_no_side_door(embedder, candidates, caplog, capfd):
    """Neither logs nor prints nor representations hold a canary; the pool does not even keep texts."""
    canary = "xylophone quokka marzipan"
    private = dataset({"a": [canary] * 3, "b": ["a lost card", ""]})
    with caplog.at_level(0), pytest.warns(UserWarning):
        pool = make_pool(private, embedder)
        pool.votes(candidates)
    with pytest.raises(TypeError, match="private data"):
        pickle.dumps(pool.pool)
    output = capfd.readouterr()
    for words in (caplog.text, output.out, output.err, repr(pool.pool), str(vars(pool.pool))):
        assert "quokka" not in words


def test_errors_do_not_quote_private_text(embedder):
    rows = {"text": ["xylophone quokka", 5.0], "client_id": ["a", "b"]}
    private = Dataset.from_dict({"text": [str(text) for text in rows["text"]], "client_id": [None, "b"]})
    with pytest.raises(ValueError) as error:
        make_pool(private, embedder)
    assert "quokka" not in str(error.value)


def test_an_embedder_that_fails_does_not_quote_private_text(private):
    class Quoting(CrowdEncoder):
        def encode(self, texts, **kwargs):
            if texts[0].startswith("Public words"):
                return super().encode(texts)
            raise KeyError(f"cannot embed {texts}")

    with pytest.raises(ValueError, match="failed on all private texts, with a KeyError") as caught:
        make_pool(private, TextEmbedder(Quoting()))
    assert caught.value.__context__ is None and caught.value.__cause__ is None
