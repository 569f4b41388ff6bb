"""From the arguments of a generator to the objects that it works with, and where each of them is from."""

from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from ..configuration import PrivateEvolutionConfig
from ..processes import num_processes
from .embedder import TextEmbedder
from .engine import TextEngine
from .loading import (
    commit_of,
    load_causal_lm,
    load_masked_lm,
    load_sentence_transformer,
    name_of,
    resolve_device,
    resolve_dtype,
    resolve_writing_dtype,
    without_revision,
)
from .local_engine import LocalEngine
from .masked_variation import MaskedVariation
from .packaged import PACKAGED
from .prompted_variation import PromptedVariation
from .remote_engine import RemoteEngine, is_remote
from .variation import Truncates, Variation


def written_by(source: Any) -> Any:
    """Return the model of an engine of this library. Anything else is returned unchanged."""
    return source.model if isinstance(source, LocalEngine) else source


@dataclass(frozen=True)
class ModelSource:
    """Where a model is from.

    Args:
        name (`str`, *optional*): Hub id, local folder, or name of a packaged model or of one behind an address.
        revision (`str`, *optional*): Commit of the Hub, or version of the package.
        given (`bool`, *optional*, defaults to `True`): Whether there is such a model at all.
        is_loaded_by_name (`bool`, *optional*, defaults to `True`):
            Whether it was loaded by this name. An object may be quantized, or differ from the model of that name,
            and a server's model is not meant to be loaded here.
    """

    name: str | None = None
    revision: str | None = None
    given: bool = True
    is_loaded_by_name: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, source: Any, model: Any = None, revision: str | None = None) -> "ModelSource":
        """Describe a model by what it was loaded from, what it became, and the revision that was asked for."""
        if source is None:
            return cls(given=False)
        if isinstance(model, RemoteEngine):
            # The model behind an address. The address is not published.
            return cls(model.model, is_loaded_by_name=False)
        source, revision = (source, revision) if revision else without_revision(source)
        name = name_of(written_by(source)) or None
        if name in PACKAGED:
            return cls(name, PACKAGED[name].version())
        # An object says its name, and not which commit it is of.
        is_loaded_by_name = isinstance(source, (str, Path))
        commit = commit_of(source, revision) if isinstance(source, str) else None
        return cls(name, commit, is_loaded_by_name=is_loaded_by_name)

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> "ModelSource":
        """Read what `to_dict` returned. A version before 0.2.0 did not say whether a model was loaded by its name."""
        if values is None:
            return cls(given=False)
        is_loaded_by_name = values.get("is_loaded_by_name", True)
        return cls(values["name"], values["revision"], is_loaded_by_name=is_loaded_by_name)

    def published(self) -> "ModelSource":
        """Leave out the path of a local folder, which is not for publication."""
        return replace(self, name=None) if self._is_local() else self

    @property
    def label(self) -> str | None:
        """The name for people, without the path of a folder on this machine. None if there is no such model."""
        if self.name is None:
            return "given as an object or a local folder" if self.given else None
        name = "/".join(Path(self.name).parts[-2:]) if self._is_local() else self.name
        return f"{name} ({self.revision})" if self.revision else name

    @property
    def loadable(self) -> str | None:
        """The name by which the same model is loaded again, if there is one, with its commit if it is on the Hub."""
        if not self.is_loaded_by_name:
            return None
        is_pinned = self.name is not None and self.revision is not None and self.name not in PACKAGED
        return f"{self.name}@{self.revision}" if is_pinned else self.name

    def to_dict(self) -> dict[str, Any] | None:
        """Return what is known as a dictionary that JSON can hold, or None if there is no model."""
        if not self.given:
            return None
        return {"name": self.name, "revision": self.revision, "is_loaded_by_name": self.is_loaded_by_name}

    def _is_local(self) -> bool:
        if self.name is None:
            return False
        # A path is one of this machine even if nothing is there any more.
        is_path = Path(self.name).is_absolute() or PureWindowsPath(self.name).is_absolute()
        return is_path or self.name.startswith(("~", ".")) or Path(self.name).is_dir()


@dataclass(frozen=True)
class Components:
    """The models of a generator, ready for use.

    Args:
        variation (`Variation`): Varies texts.
        embedder (`TextEmbedder`): Embeds texts in the space where clients vote.
        engine (`TextEngine`, *optional*): The causal language model.
        sources (`dict` of `str` to `ModelSource`): Where each is from, by the argument that took it.
    """

    variation: Variation
    embedder: TextEmbedder
    engine: TextEngine | None
    sources: dict[str, ModelSource]

    @classmethod
    def load(
        cls,
        variation_model: Any,
        embedding_model: Any,
        expansion_model: Any,
        config: PrivateEvolutionConfig,
        device: "str | torch.device | None" = None,
        dtype: "str | torch.dtype" = "auto",
        device_map: "str | dict[str, Any] | None" = None,
        batch_size: int = 64,
    ) -> "Components":
        """Load what has to be loaded. See `PrivateEvolutionGenerator` for the arguments."""
        if batch_size < 1:
            raise ValueError(f"`batch_size`={batch_size} must be at least 1.")
        if variation_model is None and expansion_model is None:
            raise ValueError(
                "`variation_model`=None varies texts by prompting the expansion model, so give an `expansion_model`, "
                "or a masked language model as `variation_model`."
            )
        if device_map is not None and num_processes() > 1:
            raise ValueError(
                f"`device_map`={device_map!r} spreads a model over the devices of one process, and there are "
                f"{num_processes()}, each of which would do so. Start one process, or leave `device_map` out."
            )
        on = resolve_device(device)
        dtype_of_writer, dtype = resolve_writing_dtype(dtype, on), resolve_dtype(dtype, on)
        embedding = load_sentence_transformer(embedding_model, on, dtype)
        variation = variation_model
        if variation_model is not None and not isinstance(variation_model, Variation):
            variation = MaskedVariation(*load_masked_lm(variation_model, on, dtype), config, batch_size)
        engine = expansion_model
        if is_remote(expansion_model):
            engine = RemoteEngine(expansion_model, config, batch_size)
        elif expansion_model is not None and not isinstance(expansion_model, TextEngine):
            model, tokenizer = load_causal_lm(expansion_model, on, dtype_of_writer, device_map)
            engine = LocalEngine(model, tokenizer, config, batch_size)
        sources = {
            "variation_model": ModelSource.of(variation_model),
            "embedding_model": ModelSource.of(embedding_model),
            "expansion_model": ModelSource.of(expansion_model, engine),
        }
        return cls(
            variation or PromptedVariation(engine, config), TextEmbedder(embedding, batch_size), engine, sources
        )

    def truncate(self, text: str) -> str:
        """Cut a text to the longest that is varied. An operator that does not cut leaves it unchanged."""
        return self.variation.truncate(text) if isinstance(self.variation, Truncates) else text

    def needed_engine(self, purpose: str) -> TextEngine:
        """Return the causal language model.

        Raises:
            ValueError: There is none.
        """
        if self.engine is None:
            raise ValueError(
                f"{purpose} needs an `expansion_model`, and this generator has none. Give the constructor a causal "
                "language model: a Hub id, a local folder, a (model, tokenizer) pair, or the address of a server."
            )
        return self.engine
