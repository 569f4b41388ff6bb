"""Texts that are given as files: anyone's private sets, and public texts for them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from hf_pretext.data import read_dataset, read_texts, split_by_client

from .cache import fingerprint
from .data import PRIVATE_SETS, load_private, public_texts, some_clients, without_copies
from .sizes import Sizes

FEWEST_TEXTS = 33
"""Texts that a Fréchet distance needs on either side: one more than its components."""

FEWEST_CLIENTS = 10
"""With fewer private clients, every method with a guarantee is noise."""

HELD_OUT_FRACTION = 0.15


class PrivateSet(NamedTuple):
    """A private set, split by client.

    Args:
        private (`datasets.Dataset`): The private texts. Columns `client_id` and `text`.
        held_out (`datasets.Dataset`): Texts of other clients (evaluation only: no guarantee covers those).
        version (`str`): Its name, with a digest of what is in it if it was read from a file that is given.
    """

    private: Dataset
    held_out: Dataset
    version: str


def given_sets(entries: Sequence[str]) -> dict[str, Path]:
    """Read which private sets are given: `PATH`, or `NAME=PATH`. The name of a path is that of its file.

    Raises:
        ValueError: Two sets have one name, or a name has a colon in it or is that of the benchmark's own sets.
        FileNotFoundError: There is no such file.
    """
    found: dict[str, Path] = {}
    for entry in entries:
        is_path = Path(entry).exists() or "=" not in entry
        name, path = (Path(entry).stem, entry) if is_path else entry.split("=", 1)
        if name in PRIVATE_SETS or name in found or not name or ":" in name:
            raise ValueError(
                f"`private`={entry!r} needs a name of its own, without a colon. Write `--private NAME={path}`. Taken "
                f"are {[*PRIVATE_SETS, *found]}."
            )
        if not Path(path).exists():
            raise FileNotFoundError(f"`private`={entry!r}: there is no file or folder {path!r}.")
        found[name] = Path(path)
    return found


def load_set(name: str, arguments: Sizes) -> PrivateSet:
    """Load a private set, and check that it can be learned from and scored.

    Args:
        name (`str`): A name in `PRIVATE_SETS` or in `arguments.private`, with or without a number of clients.
        arguments (`Sizes`): What is given, and the folder for what is downloaded.

    Raises:
        ValueError: There are too few clients or held-out texts, or a column is missing.
    """
    base, _, number = name.partition(":")
    path = given_sets(arguments.private).get(base)
    if path is None:
        private, held_out = load_private(name, Path(arguments.output_dir) / "packages", HELD_OUT_FRACTION)
        return _checked(name, PrivateSet(private, held_out, name))
    rows = read_dataset(path, arguments.text_column, arguments.client_column)
    clients, texts = rows[arguments.client_column][:], rows[arguments.text_column][:]
    samples = [
        (client, text) for client, text in zip(clients, texts, strict=True) if text.strip() and client is not None
    ]
    num_clients = len({client for client, _ in samples})
    if num_clients < FEWEST_CLIENTS:
        raise ValueError(
            f"`private`={str(path)!r} has {num_clients} clients in the column {arguments.client_column!r}. At least "
            f"{FEWEST_CLIENTS} are needed. Is it the column that says whose text it is?"
        )
    everyone, held_out = split_by_client(samples, HELD_OUT_FRACTION)
    private = some_clients(everyone, number)
    version = f"{name}-{fingerprint([private['client_id'][:], private['text'][:], held_out['text'][:]])}"
    return _checked(name, PrivateSet(private, without_copies(held_out, everyone), version))


def _checked(name: str, found: PrivateSet) -> PrivateSet:
    num_clients = len(set(found.private["client_id"]))
    if num_clients < FEWEST_CLIENTS or len(found.held_out) < FEWEST_TEXTS:
        raise ValueError(
            f"The private set {name!r} has {num_clients} private clients, and the clients that are set aside have "
            f"{len(found.held_out)} texts. At least {FEWEST_CLIENTS} clients and {FEWEST_TEXTS} held-out texts are "
            "needed."
        )
    return found


def load_public(arguments: Sizes) -> list[str]:
    """Load the public texts: those that are given, each once, or the benchmark's own.

    Raises:
        ValueError: There are too few, or the column is missing.
    """
    if arguments.public is None:
        return public_texts(Path(arguments.output_dir) / "packages")
    column = arguments.text_column
    texts = list(dict.fromkeys(text for text in read_texts(arguments.public, column)[column] if text.strip()))
    if len(texts) < FEWEST_TEXTS:
        raise ValueError(f"`public`={arguments.public!r} has {len(texts)} texts. At least {FEWEST_TEXTS} are needed.")
    return texts


def check_numbers(arguments: Sizes, sets: Mapping[str, int], num_public: int) -> None:
    """Refuse sizes that ask for more texts than there are.

    A ceiling of fewer private texts would not be one, and public texts are drawn, chosen or mixed in as well.

    Args:
        arguments (`Sizes`): Numbers of texts.
        sets (`Mapping` of `str` to `int`): Number of private texts in each private set, at most eight of a client.
        num_public (`int`): Number of public texts.

    Raises:
        ValueError: There are fewer texts than `num_samples` or `curve` ask for.
    """
    most = max([arguments.num_samples, *arguments.curve])
    mixed = round(most * arguments.public_fraction / (1 - arguments.public_fraction))
    of_set = "The private set {!r} has {} texts, at most eight of a client"
    needs = [(of_set.format(name, own), own, most) for name, own in sets.items()]
    for what, number, wanted in [*needs, (f"There are {num_public} public texts", num_public, max(most, mixed))]:
        if number < wanted:
            raise ValueError(
                f"{what}, and `num_samples`={arguments.num_samples}, `curve`={list(arguments.curve)} "
                f"and `public_fraction`={arguments.public_fraction} ask for {wanted}. Lower them."
            )
