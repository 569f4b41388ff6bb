"""Loading of the models that a run uses: a Hub id, a local folder, or an object that is loaded already."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .packaged_models import PACKAGED, locate
from .processes import own_device


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return `device`, or the one of this process among several, or the accelerator that torch finds, or the CPU."""
    device = own_device() if device is None else device
    if device is not None:
        return torch.device(device)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """Return `dtype`; `"auto"` is the checkpoint's on an accelerator, and float32 on a CPU, where half is slow."""
    if isinstance(dtype, str) and dtype != "auto":
        resolved = getattr(torch, dtype, None)
        if not isinstance(resolved, torch.dtype):
            raise ValueError(
                f"`dtype`={dtype!r} is not a torch dtype; use 'auto', 'float32', 'bfloat16' or 'float16'."
            )
        return resolved
    return torch.float32 if dtype == "auto" and device.type == "cpu" else dtype


def load_masked_lm(source: Any, device: torch.device, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """Load a masked language model and its tokenizer.

    Args:
        source (`str`, `Path`, `tuple` or `Pipeline`):
            A Hub id, a local folder, a `(model, tokenizer)` pair, or a `transformers` pipeline.
        device (`torch.device`): Where a model that is loaded here goes; a loaded one stays where it is.
        dtype (`str` or `torch.dtype`): Its dtype.

    Raises:
        ValueError: The tokenizer has no mask token.
    """
    from transformers import AutoModelForMaskedLM

    model, tokenizer = _load("variation_model", source, AutoModelForMaskedLM, device, dtype)
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"`variation_model`={_name(source)!r} has a tokenizer without a mask token, so it cannot fill masks. "
            "Use a masked language model such as 'FacebookAI/roberta-large', or `variation_model=None` to vary texts "
            "by prompting the expansion model."
        )
    return model, tokenizer


def load_causal_lm(
    source: Any, device: torch.device, dtype: str | torch.dtype, device_map: str | dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer; `source` is as in `load_masked_lm`.

    With a `device_map`, which transformers' `from_pretrained` takes, it is spread over devices, and not on `device`.
    """
    from transformers import AutoModelForCausalLM

    return _load("expansion_model", source, AutoModelForCausalLM, device, dtype, device_map)


def load_sentence_transformer(source: Any, device: torch.device, dtype: str | torch.dtype) -> Any:
    """Load a sentence-transformers model from a Hub id or a local folder; a loaded one is returned as it is."""
    from sentence_transformers import SentenceTransformer

    if isinstance(source, SentenceTransformer):
        return source
    _check_source("embedding_model", source)
    try:
        folder = str(locate(source))
        return SentenceTransformer(folder, device=str(device), model_kwargs={"dtype": dtype}, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreachable("embedding_model", source) from error


@dataclass(frozen=True)
class ModelSource:
    """Where a model is from.

    Args:
        name (`str`, *optional*): Hub id, local folder or name of a packaged model by which it can be loaded again.
        revision (`str`, *optional*): Commit of the Hub, or version of the package.
        given (`bool`, *optional*, defaults to `True`): Whether there is such a model at all.
    """

    name: str | None = None
    revision: str | None = None
    given: bool = True

    @classmethod
    def of(cls, source: Any, model: Any) -> "ModelSource":
        """Describe a model by what it was loaded from and what it became."""
        if source is None:
            return cls(given=False)
        if hasattr(model, "follow"):
            # The model behind an address, which is nobody else's business.
            return cls(model.model)
        name = str(source) if isinstance(source, (str, Path)) else _name(source) or None
        if name in PACKAGED:
            return cls(name, PACKAGED[name].version())
        inner = model[0].auto_model if hasattr(model, "encode") else model
        return cls(name, getattr(getattr(inner, "config", None), "_commit_hash", None))

    def published(self) -> "ModelSource":
        """Leave out the place of a local folder, which is nobody else's business."""
        return replace(self, name=None) if self._is_local() else self

    @property
    def label(self) -> str | None:
        """The name for people, without saying where on this machine a folder lies; None where there is none."""
        if self.name is None:
            return "given as an object or a local folder" if self.given else None
        name = "/".join(Path(self.name).parts[-2:]) if self._is_local() else self.name
        return f"{name} ({self.revision})" if self.revision else name

    def to_dict(self) -> dict[str, str | None] | None:
        """Return name and revision as a dictionary that JSON can hold, or None where there is no model."""
        return {"name": self.name, "revision": self.revision} if self.given else None

    def _is_local(self) -> bool:
        return self.name is not None and Path(self.name).is_dir()


def _load(
    argument: str,
    source: Any,
    auto_class: Any,
    device: torch.device,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    if isinstance(source, tuple) and len(source) == 2:
        return source[0].eval(), source[1]
    if hasattr(source, "model") and hasattr(source, "tokenizer"):
        return source.model.eval(), source.tokenizer
    _check_source(argument, source)
    from transformers import AutoTokenizer

    try:
        folder = locate(source)
        # Said in so many words: left out, transformers asks at the terminal whether to run a stranger's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = auto_class.from_pretrained(
            folder, dtype=dtype, device_map=device_map, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise _unreachable(argument, source) from error
    # A model that is spread must stay where it is.
    return (model if device_map is not None else model.to(device)).eval(), tokenizer


def _check_source(argument: str, source: Any) -> None:
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"`{argument}` of type {type(source).__name__} must be a Hub id, a local folder, or a loaded object"
            + ("." if argument == "embedding_model" else ": a (model, tokenizer) pair or a transformers pipeline.")
        )
    looks_like_path = isinstance(source, Path) or source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_like_path and not Path(source).is_dir():
        raise FileNotFoundError(f"`{argument}`={str(source)!r} is not a folder; give a Hub id or an existing folder.")


def _unreachable(argument: str, source: Any) -> OSError:
    return OSError(
        f"`{argument}`={str(source)!r} could not be loaded. Is it a Hub id that exists and that you may read (see "
        "`hf auth login`), or a local folder with a configuration, a tokenizer and safetensors weights?"
    )


def _name(source: Any) -> str:
    holder = source[0] if isinstance(source, tuple) else getattr(source, "model", source)
    return str(getattr(holder, "name_or_path", "") if not isinstance(source, (str, Path)) else source)
