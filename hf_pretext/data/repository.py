"""Private text in a dataset repository of the Hub, read into memory without a file on this machine's disk."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fsspec.utils import glob_translate

from .columns import WantedColumns
from .formats import SUFFIXES, rows_of
from .reading import collected, split_of

if TYPE_CHECKING:
    from datasets import Dataset

_WORDS_OF_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def read_repository(
    name: str,
    text_column: str | Sequence[str] | None,
    client_column: str | None = None,
    *,
    other_columns: Sequence[str] = (),
    split: str = "train",
    revision: str | None = None,
    token: str | None = None,
) -> "Dataset":
    """Read private texts, and whose they are, from a dataset repository of the Hub.

    The files are read over the network as `read_dataset` reads local ones, strictly and row by row. Nothing of them is
    written to a disk: neither to the caches of the Hugging Face libraries nor to temporary files. (`load_dataset`
    fills its cache, and with `streaming=True` it still keeps the repository's card.) What the Hub learns is that
    these files were read, and by whom.

    Args:
        name (`str`): Name of the repository, such as `"me/chats"`.
        text_column (`str` or `Sequence[str]`, *optional*): As in `read_dataset`.
        client_column (`str`, *optional*): As in `read_dataset`.
        other_columns (`Sequence[str]`, *optional*): As in `read_dataset`.
        split (`str`, *optional*, defaults to `"train"`): Split, as the card's `configs` or the names of files say.
        revision (`str`, *optional*): Branch, tag or commit.
        token (`str`, *optional*): Token of the Hub, by default the one that you logged in with.

    Returns:
        `datasets.Dataset`: These columns, in memory.

    Raises:
        FileNotFoundError: There is no such repository, or this token may not read it.
        ValueError: There is no such split, or a file cannot be read or lacks a column.
        TypeError: Some texts are not strings.
    """
    from huggingface_hub import HfApi, HfFileSystem

    wanted = WantedColumns.of(text_column, client_column, other_columns)
    card, failure = None, ""
    try:
        info: Any = HfApi(token=token).repo_info(name, repo_type="dataset", revision=revision)
        system = HfFileSystem(token=token, use_listings_cache=False)
        paths = [each.rfilename for each in info.siblings or ()]

        def read(path: str) -> bytes:
            with system.open(f"datasets/{name}/{path}", "rb", revision=info.sha) as file:
                return bytes(file.read())

        card = read("README.md") if "README.md" in paths else b""
    except Exception as error:  # The client's transport has its own exceptions. None is shown: one may hold a token.
        failure = type(error).__name__
    if card is None:
        raise FileNotFoundError(
            f"{name!r} is neither a file, a folder, nor a dataset repository of the Hub that can be read "
            f"({failure}). Is its name right, and may your token read it? `hf auth login` stores one."
        )
    files = files_of_splits(paths, card_configs(card))
    if not files.get(split):
        raise ValueError(f"`split`={split!r} is not a split of {name!r}, which has {sorted(files)}.")
    if other := sorted({PurePosixPath(path).suffix for path in files[split]} - set(SUFFIXES)):
        raise ValueError(f"{name!r} has files of the types {other} in `split`={split!r}. It needs {list(SUFFIXES)}.")

    def rows() -> Iterator[dict[str, Any]]:
        for path in files[split]:
            suffix = PurePosixPath(path).suffix
            if suffix != ".parquet":
                yield from rows_of(io.BytesIO(read(path)), suffix, wanted.names)
                continue
            # Only the parts that hold wanted columns cross the network.
            with system.open(f"datasets/{name}/{path}", "rb", revision=info.sha) as file:
                yield from rows_of(file, suffix, wanted.names)

    return collected(name, rows(), wanted, PurePosixPath(files[split][0]).suffix)


def card_configs(card: bytes) -> list[dict[str, Any]]:
    """Read the `configs` of a dataset card: which files belong to which split."""
    import yaml

    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", card.decode("utf-8", "replace"), re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        head = None
    configs = head.get("configs") if isinstance(head, dict) else None
    return [each for each in configs if isinstance(each, dict)] if isinstance(configs, list) else []


def files_of_splits(paths: Sequence[str], configs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Sort the files of a repository by split, as `datasets` does.

    Args:
        paths (`Sequence[str]`): All files.
        configs (`Sequence[dict]`): The card's `configs`. The one that is the default counts, or the only one.

    Returns:
        `dict` of `str` to `list` of `str`: The files of each split.

    Raises:
        ValueError: The card has several configurations, and none is the default.
    """
    configs = [each for each in configs if each.get("data_files")]
    if not configs:
        return _by_name(path for path in sorted(paths) if _is_data(path))
    chosen = [each for each in configs if each.get("default") or each.get("config_name") == "default"] or configs
    if len(chosen) > 1:
        raise ValueError(
            f"The card has the configurations {[each.get('config_name') for each in configs]}, and none of them is "
            "the default. Mark one as the default in the card."
        )
    found = {}
    for split, patterns in _patterns(chosen[0]["data_files"]):
        wanted = [re.compile(glob_translate(each)) for each in patterns]
        found[split] = [path for path in sorted(paths) if any(each.match(path) for each in wanted)]
    return found


def _patterns(data_files: Any) -> Iterator[tuple[str, list[str]]]:
    """List the patterns of each split, of which a card can speak in four ways."""
    if isinstance(data_files, str) or (isinstance(data_files, list) and all(isinstance(e, str) for e in data_files)):
        data_files = {"train": data_files}
    pairs = (
        data_files.items() if isinstance(data_files, dict) else ((e.get("split"), e.get("path")) for e in data_files)
    )
    for split, patterns in pairs:
        yield str(split), [patterns] if isinstance(patterns, str) else list(map(str, patterns or ()))


def _is_data(path: str) -> bool:
    """Return whether a file may hold rows. Hidden ones, and those that describe the dataset, do not."""
    parts = PurePosixPath(path).parts
    hidden = any(part[0] in "._" for part in parts)
    return PurePosixPath(path).suffix in SUFFIXES and not hidden and parts[-1] not in ("dataset_infos.json",)


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        words = re.split(r"[^a-z]+", path.lower())
        by_word = [split for split, known in _WORDS_OF_SPLITS.items() if set(known) & set(words)]
        split = split_of(PurePosixPath(path)) or (by_word[0] if len(by_word) == 1 else "")
        found.setdefault(split, []).append(path)
    rest = found.pop("", [])
    # Files of no split are the only one, or no one knows what they are.
    return found or ({"train": rest} if rest else {})
