"""The quality of written texts, measured without private data: what repeats, what was copied, how long texts are.

All of it is computed from synthetic and public texts, so it is post-processing. It costs no privacy.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import regex

from .evaluation.measures import distinct_n
from .personal import HINT, REGION, count_personal, is_installed
from .segmentation import word_spans

MOST_TEXTS = 10_000
"""Texts that are looked at. Of more, an even sample is."""

MOST_CHARACTERS = 10_000_000
"""Characters of all texts of a side that are looked at. If there are more, the sample is of fewer texts."""

MOST_OF_A_TEXT = 20_000
"""Characters of one text that are looked at, from its beginning."""

ALIKE = 0.6
"""Two texts are near-duplicates if the Jaccard index of their sequences of three words is at least this."""

SHINGLE, BANDS, ROWS = 3, 16, 3
"""Words of a sequence, and the shape of the MinHash: it finds a pair at the threshold with probability 0.98."""

FEW = 8
"""Texts of a bucket that another one is compared with."""

SCRIPTS = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Han"),
    *("Hiragana", "Katakana", "Hangul", "Georgian", "Armenian", "Ethiopic", "Khmer", "Tibetan"),
)
LETTERS_LOOKED_AT = 200_000
"""Characters of all texts together in which scripts are counted."""


@dataclass(frozen=True)
class TextQuality:
    """What a look at written texts found. All fractions are of the texts that were looked at.

    Args:
        num_texts (`int`): Number of texts.
        num_looked_at (`int`): Number of them that were looked at, the long ones by their beginning (`sampled`).
        lengths (`dict` of `str` to `int`): Number of words: `shortest`, `tenth`, `median`, `ninetieth`, `longest`.
        near_duplicates (`float`): Fraction that is nearly the same as an earlier text.
        copies_of_seeds (`float`): Fraction that is nearly the same as a seed.
        copies_of_public (`float`, *optional*): Fraction that is nearly the same as a public text that the run began
            with. None if those are not known.
        distinct_bigrams (`float`): Different pairs of words among all pairs of words.
        scripts (`dict` of `str` to `float`): Fraction of the letters, by the name of their Unicode script.
        openings (`tuple`): The commonest beginnings of three words, each with its fraction of the texts.
        personal (`dict` of `str` to `int`, *optional*):
            Number of texts with personal data, by its kind (`personal.KINDS`). None if it was not looked for.
        histogram (`dict`): `edges` in words, and fractions of texts under the names of the sides.
        num_cut (`int`, *optional*): Number of texts of which only the first 20,000 characters were looked at.
        region (`str`, *optional*): Country whose phone numbers were looked for without their country code.
    """

    num_texts: int
    num_looked_at: int
    lengths: Mapping[str, int]
    near_duplicates: float
    copies_of_seeds: float
    copies_of_public: float | None
    distinct_bigrams: float
    scripts: Mapping[str, float]
    openings: tuple[tuple[str, float], ...]
    personal: Mapping[str, int] | None = None
    histogram: Mapping[str, list[float]] = field(default_factory=dict)
    num_cut: int = 0
    region: str = REGION

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        seeds: Sequence[str],
        public: Sequence[str] = (),
        beginning: str = "",
        num_texts: int | None = None,
        region: str = REGION,
    ) -> "TextQuality":
        """Look at texts that a run wrote.

        Args:
            texts (`Sequence[str]`): The texts, at least one.
            seeds (`Sequence[str]`): The seeds that they were written from.
            public (`Sequence[str]`, *optional*): Public texts that the run began with.
            beginning (`str`, *optional*): What every text begins with by its form. It is no repeated opening.
            num_texts (`int`, *optional*): Number of texts that there are, if `texts` is a sample.
            region (`str`, *optional*, defaults to `"US"`):
                Country whose phone numbers are found without their country code.
        """
        own, others = sampled(texts), {"seeds": sampled(seeds)}
        if public:
            others["public"] = sampled(public)
        looked_at = [_words(text) for text in own]
        shingles = _Shingles(looked_at)
        words = {name: [_words(text) for text in side] for name, side in others.items()}
        copied = {name: float(_copies(shingles, _Shingles(side)).mean()) for name, side in words.items()}
        sizes = {"texts": looked_at, **words}
        lengths = np.array([len(found) for found in looked_at])
        shown = np.percentile(lengths, [0, 10, 50, 90, 100], method="nearest").astype(int).tolist()
        return cls(
            num_texts=num_texts or len(texts),
            num_looked_at=len(own),
            lengths=dict(zip(("shortest", "tenth", "median", "ninetieth", "longest"), shown, strict=True)),
            near_duplicates=float(_copies(shingles).mean()),
            copies_of_seeds=copied["seeds"],
            copies_of_public=copied.get("public"),
            distinct_bigrams=distinct_n(own, 2),
            personal=count_personal(own, region) if is_installed() else None,
            histogram=_histogram({name: [len(found) for found in side] for name, side in sizes.items()}),
            num_cut=sum(len(text) == MOST_OF_A_TEXT for text in own),
            region=region,
            **words_shown(own, beginning),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TextQuality":
        """Read what `to_dict` returned."""
        return cls(**{**values, "openings": tuple((str(words), float(share)) for words, share in values["openings"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary that JSON can hold."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """The figures in a few lines, for the end of a run."""
        scripts = ", ".join(f"{name} {share:.0%}" for name, share in self.scripts.items() if share >= 0.01)
        lengths, copies = self.lengths, [f"{self.copies_of_seeds:.1%} nearly copy a seed"]
        if self.copies_of_public is not None:
            copies.append(f"{self.copies_of_public:.1%} a public text that the run began with")
        lines = [
            f"Quality of {self.num_texts:,} texts{self._of_sample}: {self.near_duplicates:.1%} are nearly the same as "
            f"another text, {', '.join(copies)}.",
            f"Length: {lengths['median']} words in the middle, {lengths['tenth']} to {lengths['ninetieth']} for most. "
            f"Script: {scripts or 'none'}.",
        ]
        if self.openings:
            words, share = self.openings[0]
            lines.append(f"The most common opening, {words!r}, begins {share:.1%} of them.")
        lines.append(self._about_personal_data)
        return "\n".join([*lines, *(f"Note: {each}" for each in self.notes)])

    @property
    def notes(self) -> tuple[str, ...]:
        """What should make a user look twice, each with what to do."""
        notes = []
        if self.near_duplicates > 0.1:
            notes.append(
                "many texts are alike. Write fewer, raise `temperature`, or show more seeds per prompt "
                "(`seeds_per_prompt`)."
            )
        if self.copies_of_seeds > 0.1:
            notes.append("many texts copy a seed. Raise `seeds_per_prompt`, or use a larger language model.")
        if self.openings and self.openings[0][1] > 0.1:
            notes.append("many texts begin with the same words. Look at some of them before you train on them.")
        if self.personal:
            notes.append(
                "models wrote numbers or addresses that may be someone's. Replace them: `hf-pretext scrub FOLDER "
                "--output-dir NEW`."
            )
        return tuple(notes)

    @property
    def _about_personal_data(self) -> str:
        if self.personal is None:
            return f"Personal data was not looked for. {HINT}"
        found = ", ".join(f"{kind} in {count:,}" for kind, count in self.personal.items())
        numbers = "" if self.region == REGION else f", with phone numbers of {self.region}"
        return f"Personal data by rules, which do not find names{numbers}: {found or 'none'}."

    @property
    def _of_sample(self) -> str:
        parts = [] if self.num_looked_at == self.num_texts else [f"a sample of {self.num_looked_at:,}"]
        if self.num_cut:
            parts.append(f"{self.num_cut:,} by their first {MOST_OF_A_TEXT:,} characters")
        return f" ({', '.join(parts)})" if parts else ""


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Choose at most this many items, evenly spaced, so that every part of a sorted list is among them."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).round().astype(int).tolist()]


def sampled(texts: Sequence[str]) -> list[str]:
    """Choose the texts that are looked at: an even sample of many, fewer of them if they are long, and cut.

    Otherwise the hashes of long texts would fill the memory, and the rules for numbers would take hours.
    """
    some = [text[:MOST_OF_A_TEXT] for text in evenly(texts, MOST_TEXTS)]
    length = sum(map(len, some))
    return some if length <= MOST_CHARACTERS else evenly(some, max(1, len(some) * MOST_CHARACTERS // length))


def words_shown(texts: Sequence[str], beginning: str = "") -> dict[str, Any]:
    """Return the figures of texts that hold words: `scripts` and `openings`. The others hold numbers.

    Args:
        texts (`Sequence[str]`): What `sampled` chose.
        beginning (`str`, *optional*): What every text begins with by its form.
    """
    return {
        "scripts": scripts_of(texts),
        "openings": _openings([text.removeprefix(beginning) for text in texts]),
    }


def scripts_of(texts: Sequence[str]) -> dict[str, float]:
    """Compute the fraction of the letters in each Unicode script, the commonest first."""
    cut, most = [], max(1, LETTERS_LOOKED_AT // max(1, len(texts)))
    for text in texts:
        cut.append(text[:most])
    joined = "".join(cut)[:LETTERS_LOOKED_AT]
    counts = {name: len(regex.findall(rf"(?=\p{{L}})\p{{Script={name}}}", joined)) for name in SCRIPTS}
    total = len(regex.findall(r"\p{L}", joined))
    counts["others"] = total - sum(counts.values())
    return {name: count / total for name, count in sorted(counts.items(), key=lambda each: -each[1]) if count > 0}


def _words(text: str) -> list[str]:
    """List the words of a text in lower case, without the punctuation around them."""
    lower = text.lower()
    return [word for start, end in word_spans(lower) if (word := lower[start:end].strip(_MARKS))]


_MARKS = "".join(chr(code) for code in range(33, 127) if not chr(code).isalnum()) + "“”‘’„«»–—…。、，！？：；（）「」"


class _Shingles:
    """The sequences of three words of texts, as hashes, and a MinHash of each text.

    Args:
        texts (`Sequence` of `list` of `str`): The words of each text.
    """

    def __init__(self, texts: Sequence[list[str]]) -> None:
        self.sets = [_sequences(found) for found in texts]
        sizes = np.array([len(each) for each in self.sets], dtype=np.int64)
        flat = np.fromiter((item for each in self.sets for item in each), dtype=np.uint64, count=int(sizes.sum()))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
        # Fixed, so that two looks at the same texts find the same.
        rng = np.random.default_rng(0)
        factors = rng.integers(1, 2**63, size=(BANDS, ROWS), dtype=np.uint64) | np.uint64(1)
        shifts = rng.integers(0, 2**63, size=(BANDS, ROWS), dtype=np.uint64)
        self.bands = []
        for band in range(BANDS if len(flat) else 0):
            least = [
                np.minimum.reduceat((flat * factor + shift) >> np.uint64(24), starts)
                for factor, shift in zip(factors[band], shifts[band], strict=True)
            ]
            self.bands.append(list(zip(*(row.tolist() for row in least), strict=True)))


def _sequences(found: list[str]) -> frozenset[int]:
    """Hash the sequences of three words of a text, or all of a shorter one."""
    last = max(1, len(found) - SHINGLE + 1)
    joined = (" ".join(found[start : start + SHINGLE]) for start in range(last))
    return frozenset(zlib.crc32(each.encode("utf-8", "surrogatepass")) for each in joined)


def _copies(texts: _Shingles, originals: _Shingles | None = None) -> np.ndarray:
    """Return which texts are nearly the same as one of the originals, by default as an earlier text."""
    found = np.zeros(len(texts.sets), dtype=bool)
    among = texts if originals is None else originals
    for keys, keys_of_originals in zip(texts.bands, among.bands, strict=False):
        buckets: dict[Any, list[int]] = {}
        for index, key in enumerate(keys_of_originals):
            bucket = buckets.setdefault(key, [])
            if len(bucket) < FEW:
                bucket.append(index)
        for index in np.flatnonzero(~found).tolist():
            near = buckets.get(keys[index], ())
            found[index] = any(
                (originals is not None or other < index) and _are_alike(texts.sets[index], among.sets[other])
                for other in near
            )
    return found


def _are_alike(one: frozenset[int], other: frozenset[int]) -> bool:
    return len(one & other) >= ALIKE * len(one | other)


def _openings(texts: Sequence[str], most: int = 3) -> tuple[tuple[str, float], ...]:
    """List the commonest beginnings of three words that several texts have, each with its fraction of the texts."""
    counts = Counter(" ".join(found[:SHINGLE]) for text in texts if len(found := _words(text)) >= SHINGLE)
    return tuple((words, count / len(texts)) for words, count in counts.most_common(most) if count > 1)


def _histogram(sides: Mapping[str, Sequence[int]], num_bins: int = 24) -> dict[str, list[float]]:
    """Compute histograms of lengths with common bins. The last bin holds all that is longer than most texts are."""
    longest = max(float(np.percentile(side, 99)) for side in sides.values() if len(side))
    width = max(1, int(np.ceil((longest + 1) / num_bins)))
    edges = np.arange(min(num_bins, int(np.ceil((longest + 1) / width))) + 1) * width
    cut = {name: np.minimum(side, edges[-1] - 1) for name, side in sides.items()}
    fractions = {name: (np.histogram(side, edges)[0] / max(1, len(side))).tolist() for name, side in cut.items()}
    return {"edges": edges.tolist(), **fractions}
