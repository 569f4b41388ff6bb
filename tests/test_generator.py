import pytest
from datasets import Dataset

from hf_pretext import PrivateEvolutionGenerator


@pytest.fixture
def generator(bert, sentence_transformer, llama, config):
    return PrivateEvolutionGenerator(bert, sentence_transformer, llama, config=config, batch_size=16)


def test_private_clients_in_synthetic_dataset_out(generator, private, public):
    synthetic = generator(private, initial_population=public, num_samples=20)
    assert type(synthetic) is Dataset
    assert synthetic.column_names == ["text"]
    assert len(set(synthetic["text"])) == len(synthetic) == 20
