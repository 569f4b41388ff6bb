"""Results of the benchmark's stages, kept in files that are named after their inputs."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock
from huggingface_hub.utils import tqdm

from hf_pretext.files import atomic_write

Value = TypeVar("Value")

NOT_DP = "evaluation only, not DP"
"""Part of every file and picture of the benchmark, because they are computed from clean private data."""


class NotInCacheError(Exception):
    """A stage would have to run, and `only_cached` forbids it."""


class Result(NamedTuple):
    """What a stage made.

    Args:
        value (`Any`): The result.
        seconds (`float`, *optional*, defaults to `0.0`): Time that the stage took, when it ran.
    """

    value: Any
    seconds: float = 0.0


class Cache:
    """A folder of results. Each is in a file that is named after the stage and its inputs.

    The code is not one of the inputs. Remove the files of a stage after changing what it does.

    Args:
        folder (`Path`): The folder. It is created if it does not exist.
        only_cached (`bool`, *optional*, defaults to `False`): Refuse to run a stage whose result is not there.

    Attributes:
        seconds (`float`): Time that the stages which were asked for took, in this call or in earlier ones.
    """

    def __init__(self, folder: Path, only_cached: bool = False) -> None:
        self.folder = folder
        self.only_cached = only_cached
        self.seconds = 0.0
        self._used: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: str, inputs: dict[str, Any]) -> Path:
        """Return the path of a stage's result, without a suffix."""
        return self.folder / f"{stage}-{fingerprint(inputs)}"

    def __call__(self, stage: str, inputs: dict[str, Any], make: Callable[[], Any]) -> Result:
        """Read the result of a stage, or run it.

        Args:
            stage (`str`): Name of the stage.
            inputs (`dict`): All that the result depends on, as JSON.
            make (`Callable`): Makes the result, as JSON.

        Raises:
            NotInCacheError: The result is not there, and `only_cached` is set.
        """
        path = self.path(stage, inputs).with_suffix(".json")
        if not path.is_file():
            self._check_allowed(path)
            with self.alone(path) as is_missing:
                if is_missing:
                    tqdm.write(f"{stage}: {inputs}")
                    started = time.perf_counter()
                    value = make()
                    seconds = round(time.perf_counter() - started, 1)
                    record = {"note": NOT_DP, "inputs": inputs, "value": value, "seconds": seconds}
                    atomic_write(path, json.dumps(record))
        record = json.loads(path.read_text(encoding="utf-8"))
        if path not in self._used:
            self._used.add(path)
            self.seconds += record["seconds"]
        return Result(record["value"], record["seconds"])

    def array(self, stage: str, inputs: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Read an array, or make it, even with `only_cached`: embeddings take little time."""
        path = self.path(stage, inputs).with_suffix(".npy")
        if not path.is_file():
            with self.alone(path) as is_missing:
                if is_missing:
                    scratch = path.with_suffix(".writing.npy")
                    np.save(scratch, make())
                    scratch.replace(path)
        return np.load(path)

    def model(self, stage: str, inputs: dict[str, Any], train: Callable[[Path], None]) -> Path:
        """Return the folder of a model, which `train` writes if it is not there.

        Raises:
            NotInCacheError: The model is not there, and `only_cached` is set.
        """
        folder = self.path(stage, inputs)
        if not (folder / "config.json").is_file():
            self._check_allowed(folder)
            with self.alone(folder / "config.json") as is_missing:
                if is_missing:
                    train(folder)
        return folder

    @contextmanager
    def alone(self, path: Path) -> Iterator[bool]:
        """Wait for another process that makes the same result, and return whether it is still missing."""
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        with FileLock(locks / fingerprint(str(path.relative_to(self.folder)))):
            yield not path.is_file()

    def _check_allowed(self, path: Path) -> None:
        if self.only_cached:
            raise NotInCacheError(path.name)


def cached(make: Callable[[], Value]) -> list[Value]:
    """Return a list of what `make` returns. The list is empty if `only_cached` forbids a stage that it needs."""
    try:
        return [make()]
    except NotInCacheError:
        return []


def fingerprint(value: Any) -> str:
    """Digest a configuration, or anything else that JSON can hold."""
    is_object = dataclasses.is_dataclass(value) and not isinstance(value, type)
    content = dataclasses.asdict(value) if is_object else value
    return blake2b(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
