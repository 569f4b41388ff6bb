"""Stages of the benchmark, whose results are kept in files that are named after their inputs."""

import dataclasses
import json
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmark_plots import NOT_DP
from huggingface_hub.utils import tqdm

from hf_pretext.files import write_durably


class NotInCacheError(Exception):
    """A stage would have to be made, and `only_cached` forbids it."""


class Stages:
    """Results of stages, kept in files that are named after the stage and its inputs.

    The code is none of the inputs: who changes what a stage does removes its files.

    Args:
        folder (`Path`): Where the files are.
        only_cached (`bool`, *optional*, defaults to `False`): Make no result that is not there.

    Attributes:
        seconds (`float`): What the stages that were asked for took, in this call or in earlier ones.
    """

    def __init__(self, folder: Path, only_cached: bool = False) -> None:
        self.folder = folder
        self.only_cached = only_cached
        self.seconds = 0.0
        self._used: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, stage: str, inputs: dict[str, Any]) -> Path:
        """Return the place of a stage's result."""
        return self.folder / f"{stage}-{fingerprint(inputs)}"

    def __call__(self, stage: str, inputs: dict[str, Any], make: Callable[[], Any]) -> dict[str, Any]:
        """Read the result of a stage, or make it: `value`, `seconds`, and its `inputs`."""
        path = self.place(stage, inputs).with_suffix(".json")
        if not path.is_file():
            if self.only_cached:
                raise NotInCacheError(path.name)
            tqdm.write(f"{stage}: {inputs}")
            started = time.perf_counter()
            value = make()
            seconds = round(time.perf_counter() - started, 1)
            record = {"note": NOT_DP, "inputs": inputs, "value": value, "seconds": seconds}
            write_durably(path, json.dumps(record))
        result = json.loads(path.read_text(encoding="utf-8"))
        if path not in self._used:
            self._used.add(path)
            self.seconds += result["seconds"]
        return result


def made(make: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was made; nothing, where that is not in the cache and must be."""
    try:
        return [make()]
    except NotInCacheError:
        return []


def fingerprint(value: Any) -> str:
    """Digest a configuration, or texts."""
    content = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return blake2b(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
