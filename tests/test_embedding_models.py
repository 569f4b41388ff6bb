"""Embedding models of other kinds than a transformer in torch: static ones, and those of another runtime."""

import numpy as np
import pytest
import torch

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.models import load_sentence_transformer
from hf_pretext.models.embedder import MAX_PARTS, TextEmbedder
from support.tiny import make_llama, make_sentence_transformer, random_texts


@pytest.fixture
def static_model():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    return SentenceTransformer(
        modules=[StaticEmbedding(make_llama()[1].backend_tokenizer, embedding_dim=48)], device="cpu"
    )


@pytest.fixture
def onnx_like(tmp_path):
    """What `SentenceTransformer(backend="onnx")` looks like: the inner model is no module of torch."""
    model = make_sentence_transformer(tmp_path)
    inner = model[0].auto_model

    class Session:
        config = inner.config

        def forward(self, input_ids, attention_mask, token_type_ids=None, **_):
            return inner(input_ids=input_ids, attention_mask=attention_mask)

        def __call__(self, *arguments, **named):
            return self.forward(*arguments, **named)

    del model[0]._modules["model"]
    object.__setattr__(model[0], "model", Session())
    model[0].backend = "onnx"
    return model


def test_a_static_model_embeds_whole_texts(static_model):
    embedder = TextEmbedder(static_model)
    long = " ".join(random_texts(200))
    one, other = embedder([long, f"{long} another end"])
    assert embedder.max_length is None and not embedder.cuts([long])
    assert np.linalg.norm(one) == pytest.approx(1) and not np.allclose(one, other, atol=1e-5)


def test_an_instruction_before_each_text_takes_room_from_it(tmp_path):
    """What is left of a part is embedded to its end."""
    model = make_sentence_transformer(tmp_path)
    alone = TextEmbedder(model).max_length
    model.prompts, model.default_prompt_name = {"task": "the bank support chat asks about a lost card "}, "task"
    embedder = TextEmbedder(model)
    assert embedder.max_length == alone - 9 * MAX_PARTS
    part, *_ = embedder._parts(" ".join(random_texts(1, low=150, high=151)))
    other = f"{part.rpartition(' ')[0]} {'sun' if part.endswith('rain') else 'rain'}"
    assert not np.allclose(*model.encode([part, other]), atol=1e-5)


def test_a_run_with_a_static_model(static_model, llama, config, private, public):
    generator = PrivateEvolutionGenerator(None, static_model, llama, config=config)
    assert len(generator(private, initial_population=public, num_samples=4)) == 4


def test_a_static_model_is_loaded_from_a_folder(static_model, tmp_path):
    static_model.save(str(tmp_path / "static"))
    loaded = load_sentence_transformer(tmp_path / "static", torch.device("cpu"), torch.float32)
    texts = random_texts(3)
    assert np.allclose(TextEmbedder(loaded)(texts), TextEmbedder(static_model)(texts))


def test_a_run_with_a_model_of_another_runtime(onnx_like, llama, config, private, public):
    generator = PrivateEvolutionGenerator(None, onnx_like, llama, config=config)
    assert len(generator.evolve(private, initial_population=public))
