"""Loading of models: from a Hub id, a local folder, a package, or an object that is loaded already."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..processes import own_device
from .checkpoints import read_causal_lm
from .packaged import locate

CONFIGURATIONS = ("config.json", "modules.json", "adapter_config.json")
"""Files of which every repository of a model has one."""


PINNED = re.compile(r"((?:[\w.-]+/)?[\w.-]+)@([\w.-]+|refs/pr/\d+)")
"""Name of a repository of the Hub with a revision, as in paths of `HfFileSystem`."""


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return `device`, or that of this process among several, or the accelerator that torch finds, or the CPU."""
    device = own_device() if device is None else device
    if device is not None:
        return torch.device(device)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """Return `dtype`. `"auto"` and `"fastest"` are the checkpoint's on an accelerator, and float32 on a CPU."""
    name = "auto" if isinstance(dtype, str) and dtype == "fastest" else dtype
    if isinstance(name, str) and name != "auto":
        resolved = vars(torch).get(name)
        if not isinstance(resolved, torch.dtype):
            raise ValueError(
                f"`dtype`={dtype!r} is not a torch dtype. Use 'auto', 'fastest', 'float32', 'bfloat16' or 'float16'."
            )
        return resolved
    return torch.float32 if name == "auto" and device.type == "cpu" else name


def resolve_writing_dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """Return the dtype of a causal language model. `"fastest"` is bfloat16 on a CPU that computes with it.

    Embeddings stay in float32 there: half precision would round the distances by which clients vote.
    """
    is_fastest = isinstance(dtype, str) and dtype == "fastest"
    if is_fastest and device.type == "cpu" and computes_in_bfloat16():
        return torch.bfloat16
    return resolve_dtype(dtype, device)


def computes_in_bfloat16() -> bool:
    """Return whether the CPU multiplies matrices in bfloat16. Emulated, that takes hundreds of times as long.

    False if torch is too old to say so.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def max_positions(model: Any) -> int | None:
    """Return how many tokens a model reads, or None if its configuration does not say."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def load_masked_lm(source: Any, device: torch.device, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """Load a masked language model and its tokenizer.

    Args:
        source (`str`, `Path`, `tuple` or `Pipeline`):
            A Hub id, a local folder, a `(model, tokenizer)` pair, or a `transformers` pipeline.
        device (`torch.device`): Device of a model that is loaded here. A loaded one stays where it is.
        dtype (`str` or `torch.dtype`): Its dtype.

    Raises:
        ValueError: The tokenizer has no mask token.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    def read(name: str | Path, revision: str | None) -> tuple[Any, Any]:
        folder = locate(name)
        # Said explicitly: by default, transformers asks at the terminal whether to run a stranger's code.
        options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **options)
        return model.to(device), tokenizer

    model, tokenizer = _load("variation_model", source, read)
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"`variation_model`={name_of(source)!r} has a tokenizer without a mask token, so it cannot fill masks. "
            "Use a masked language model such as 'FacebookAI/roberta-large', or `variation_model=None` to vary texts "
            "by prompting the expansion model."
        )
    return model, tokenizer


def load_causal_lm(
    source: Any, device: torch.device, dtype: str | torch.dtype, device_map: str | dict[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer. `source` is as in `load_masked_lm`.

    A folder or repository may also hold an adapter of another model, such as the recipes make, and a local folder one
    GGUF file. With a `device_map`, as in `from_pretrained` of transformers, the model is spread over devices, and
    `device` is not used.
    """

    def read(name: str | Path, revision: str | None) -> tuple[Any, Any]:
        return read_causal_lm(name, revision=revision, dtype=dtype, device_map=device_map)

    model, tokenizer = _load("expansion_model", source, read)
    # A model that was given, or that is spread, stays where it is.
    moves = isinstance(source, (str, Path)) and device_map is None
    return model.to(device) if moves else model, tokenizer


def load_sentence_transformer(source: Any, device: torch.device, dtype: str | torch.dtype) -> Any:
    """Load a sentence-transformers model from a Hub id or a local folder. A loaded one is returned unchanged."""
    from sentence_transformers import SentenceTransformer

    if isinstance(source, SentenceTransformer):
        return source
    _check_source("embedding_model", source)
    name, revision = without_revision(source)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "model_kwargs": {"dtype": dtype}}
    try:
        return SentenceTransformer(str(locate(name)), device=str(device), **options)
    except (OSError, ValueError) as error:
        raise _unreachable("embedding_model", source, error) from error


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of the Hub that the files of a model in the cache are of, once it was loaded by its name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return None
    try:
        found = [try_to_load_from_cache(name, file, revision=revision) for file in CONFIGURATIONS]
    except HFValidationError:  # No repository has such a name.
        return None
    return next((Path(file).parent.name for file in found if isinstance(file, str)), None)


def without_revision(source: Any) -> tuple[Any, str | None]:
    """Split "organisation/model@revision". Anything else has no revision, also what is there as a folder."""
    pinned = PINNED.fullmatch(source) if isinstance(source, str) else None
    if not pinned or pinned[1].startswith("packaged/") or any(Path(each).exists() for each in (source, pinned[1])):
        return source, None
    return pinned[1], pinned[2]


def cached_commits(name: str) -> list[str]:
    """List the commits of a repository of which the cache has files."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"
    return sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []


def name_of(source: Any) -> str:
    """Return the name by which a source of a model can be loaded again, or an empty string."""
    return str(source) if isinstance(source, (str, Path)) else str(getattr(held_model(source), "name_or_path", ""))


def held_model(source: Any) -> Any:
    """Return the model itself of a pair with its tokenizer, or of a pipeline. Anything else is returned unchanged."""
    from transformers import Pipeline

    if isinstance(source, tuple) and source:
        return source[0]
    return source.model if isinstance(source, Pipeline) else source


def _load(argument: str, source: Any, read: Callable[[str | Path, str | None], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return a loaded model and its tokenizer, or read them from the place that their name says."""
    from transformers import Pipeline

    if isinstance(source, tuple) and len(source) == 2:
        return source[0].eval(), source[1]
    if isinstance(source, Pipeline):
        return source.model.eval(), source.tokenizer
    _check_source(argument, source)
    try:
        model, tokenizer = read(*without_revision(source))
    except (OSError, ValueError) as error:
        raise _unreachable(argument, source, error) from error
    return model.eval(), tokenizer


def _check_source(argument: str, source: Any) -> None:
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"`{argument}` of type {type(source).__name__} must be a Hub id, a local folder, or a loaded object"
            + ("." if argument == "embedding_model" else ": a (model, tokenizer) pair or a transformers pipeline.")
        )
    name = without_revision(source)[0]
    looks_like_path = isinstance(name, Path) or name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_like_path and not Path(source).is_dir():
        raise FileNotFoundError(f"`{argument}`={str(source)!r} is not a folder. Give a Hub id or an existing folder.")


def _unreachable(argument: str, source: Any, error: Exception) -> OSError:
    reason = " ".join(str(error).split())[:1000]
    return OSError(
        f"`{argument}`={str(source)!r} could not be loaded. Is it a Hub id that exists and that you may read (see "
        "`hf auth login`), or a local folder with a configuration, a tokenizer and safetensors weights? "
        f"{type(error).__name__}: {reason}"
    )
