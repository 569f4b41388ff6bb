"""The question about tokens in a federation: the real ClientApp, whose clients have the tokenizer and no more."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_pretext import InMemoryClientPool, PrivateEvolutionGenerator
from hf_pretext.clients.questions import LabeledTokenCounts, NearestCandidates, TokenCounts
from hf_pretext.evolution.token_list import TokenList
from hf_pretext.federated import protocol
from hf_pretext.federated.settings import FederationSettings
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.models.token_reader import TokenizerReader
from hf_pretext.privacy import PrivacyLedger
from support.federation import make_federation, make_run_config, no_noise
from support.tiny import random_texts

LABELS = {"label-column": "kind", "labels": json.dumps({"a": "one kind", "b": "another kind"})}
ASKED = {"token-fraction": 0.5, "num-tokens": 40, "num-rounds": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five clients with 2 to 14 samples of two labels."""
    folder = tmp_path_factory.mktemp("clients")
    paths = [folder / f"{number}.jsonl" for number in range(5)]
    for number, path in enumerate(paths):
        texts = random_texts(2 + 3 * number, seed=number)
        rows = [
            {"client_id": f"c{number}", "text": text, "kind": "ab"[row % 3 == 0]} for row, text in enumerate(texts)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.fixture
def reader(llama):
    return TokenizerReader(llama[1])


@pytest.fixture
def federate(files, models_folder):
    def federate(tokenizer=models_folder / "expansion_model", **changes):
        settings = {**ASKED, "tokenizer": str(tokenizer), **changes}
        return make_federation(files, models_folder / "embedding_model", noise=no_noise, **settings)

    return federate


def in_memory(files, models_folder, made, reader, question):
    """The clean sum of the in-memory pool, in the federation's units."""
    embedder = TextEmbedder(
        load_sentence_transformer(str(models_folder / "embedding_model"), torch.device("cpu"), torch.float32)
    )
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    ledger = PrivacyLedger(made.ledger.plan)
    pool = InMemoryClientPool(Dataset.from_list(rows), embedder, made.config, ledger.plan, no_noise, reader)
    return pool.release(question, ledger)


@pytest.mark.parametrize("labels", [{}, LABELS])
@pytest.mark.parametrize("bits", [16, 8])
def test_the_sum_is_that_of_the_in_memory_pool_bin_by_bin(files, models_folder, federate, reader, labels, bits):
    """A question about tokens travels exactly, also when candidates are sent on a coarser grid."""
    made = federate(**{"candidate-bits": bits, **labels})
    asked = TokenList.of(random_texts(50, seed=9), reader, made.config)
    question = asked.question(2 if labels else 0)
    assert type(question) is (LabeledTokenCounts if labels else TokenCounts)
    assert protocol.decode(protocol.encode(question, bits)).fingerprint() == question.fingerprint()
    answer = made.pool.release(question, made.ledger)
    assert answer.any() and np.array_equal(answer, in_memory(files, models_folder, made, reader, question))
    assert answer.max() < 5 and (answer >= 0).all()


def test_a_run_of_a_federation_gets_the_answer(files, models_folder, federate, bert, sentence_transformer, llama):
    generator = PrivateEvolutionGenerator(bert, sentence_transformer, llama, config=federate().config)
    made = federate(generator=generator)
    generator.evolve(made.pool, initial_population=random_texts(60, seed=3))
    answer = generator.token_answer
    assert [each.question for each in made.pool.rounds] == ["token_counts", "votes"]
    assert answer.counts.shape == (1, 40) and answer.num_clients == 5
    # All answered, so there is more noise than the plan needs.
    assert answer.noise_std > made.ledger.plan.entry("token_counts").mechanism.noise_std


def test_clients_with_another_tokenizer_do_not_answer(models_folder, federate, reader):
    """The variation model's, for example. Whether they answer does not depend on their texts, and nothing is spent."""
    made = federate(tokenizer=models_folder / "variation_model")
    question = TokenList.of(random_texts(50), reader, made.config).question()
    with pytest.raises(ValueError, match="0 of 5 clients .* Nothing was spent.*about tokens of a tokenizer with the"):
        made.pool.release(question, made.ledger)
    assert made.ledger.num_releases == 0


def test_clients_with_another_embedding_model_do_not_answer(federate, reader):
    """A question about tokens needs no embeddings. It would be paid for, and the votes after it refused."""
    made = federate()
    question = TokenList.of(random_texts(50), reader, made.config).question()
    made.pool.check_dimensions(31)
    with pytest.raises(
        ValueError, match="Nothing was spent.*The server's embeddings have .*31.* use the embedding model"
    ):
        made.pool.release(question, made.ledger)
    assert made.ledger.num_releases == 0


def test_clients_without_the_tokenizer_do_not_answer(tmp_path, federate, reader):
    made = federate(tokenizer=tmp_path / "nowhere")
    question = TokenList.of(random_texts(50), reader, made.config).question()
    with pytest.raises(ValueError, match="Nothing was spent.*The tokenizer .* cannot be loaded here"):
        made.pool.release(question, made.ledger)
    assert made.ledger.num_releases == 0


def test_a_run_that_names_no_tokenizer_is_refused():
    run = make_run_config("unused", **ASKED)
    with pytest.raises(ValueError, match="`token_fraction`=0.5 asks the clients about tokens, but `tokenizer` is"):
        FederationSettings.split(run)
    settings, config = FederationSettings.split({**run, "tokenizer": "me/tokenizer"})
    assert (settings.tokenizer, config.token_fraction) == ("me/tokenizer", 0.5)
    assert FederationSettings.split(make_run_config("unused"))[0].tokenizer is None


def test_a_client_without_texts_adds_its_noise_and_no_counts(files, tmp_path, models_folder, federate, reader):
    """Nobody learns from its answer that it has none."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    settings = {**ASKED, "tokenizer": str(models_folder / "expansion_model")}
    made = make_federation([*files[:4], empty], models_folder / "embedding_model", noise=no_noise, **settings)
    question = TokenList.of(random_texts(50, seed=9), reader, made.config).question()
    answer = made.pool.release(question, made.ledger)
    assert np.array_equal(answer, in_memory(files[:4], models_folder, made, reader, question))
    assert made.pool.rounds[0].num_answered == 5


def test_votes_need_no_tokenizer(files, models_folder):
    made = make_federation(files, models_folder / "embedding_model", noise=no_noise)
    points = np.eye(32)[:24]
    assert made.pool.release(NearestCandidates.of(points), made.ledger).any()
