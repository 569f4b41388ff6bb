"""Fixtures: tiny models, and small data with clients. Nothing here needs the network."""

import os

# Set before any Hugging Face library is imported: a test that reaches for the Hub fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.models.embedder import TextEmbedder
from support.tiny import (
    SIZES,
    byte_tokenizer,
    make_llama,
    make_sentence_transformer,
    random_texts,
    wordpiece_tokenizer,
)


@pytest.fixture(scope="session")
def bert():
    """A masked language model of the BERT type, whose head has more rows than the tokenizer has tokens."""
    torch.manual_seed(0)
    tokenizer = wordpiece_tokenizer()
    config = BertConfig(vocab_size=len(tokenizer) + 8, max_position_embeddings=64, **SIZES)
    return BertForMaskedLM(config).eval(), tokenizer


@pytest.fixture(scope="session")
def roberta():
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(with_mask=True)
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SIZES)
    return RobertaForMaskedLM(config).eval(), tokenizer


@pytest.fixture(scope="session")
def llama():
    return make_llama()


@pytest.fixture(scope="session")
def sentence_transformer(tmp_path_factory):
    return make_sentence_transformer(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory, bert, llama, sentence_transformer):
    """The tiny models in folders, named after the arguments that take them."""
    folder = tmp_path_factory.mktemp("models")
    for name, (model, tokenizer) in {"variation_model": bert, "expansion_model": llama}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    sentence_transformer.save(str(folder / "embedding_model"))
    return folder


@pytest.fixture(scope="session")
def embedder(sentence_transformer):
    return TextEmbedder(sentence_transformer, batch_size=16)


@pytest.fixture(scope="session")
def private():
    """Twelve clients with 1, 2, ..., 12 texts."""
    clients = [f"client-{number}" for number in range(1, 13) for _ in range(number)]
    return Dataset.from_dict({"client_id": clients, "text": random_texts(len(clients), seed=1)})


@pytest.fixture(scope="session")
def public():
    return random_texts(60, seed=2)


@pytest.fixture(scope="session")
def config():
    return PrivateEvolutionConfig(
        epsilon=4.0,
        delta=1e-3,
        num_rounds=2,
        token_fraction=0.0,
        population_size=32,
        lookahead=2,
        max_length=32,
        max_new_tokens=24,
        min_words=1,
    )
