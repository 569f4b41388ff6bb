"""Expansion: a causal language model writes many texts like the seeds. Post-processing, so free of privacy cost."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .cleaning import has_lines, is_usable, whole_sentences
from .configuration import PrivateEvolutionConfig
from .data import list_rows
from .data.labels import read_labels
from .evolution.evidence import Evidence, SeedsReading
from .forms import Form, Plain, form_of, mended, texts_in
from .labels import domain_of, split_by_shares
from .models.engine import ChecksContext, CountsTokens, KnownTexts, TextEngine, collect_texts
from .processes import broadcast, progress_label
from .prompts import ListPrompt
from .prompts import list_prompt as list_prompt
from .prompts import parse_list as parse_list

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

CONTINUE_HINT = (
    "The seeds are there, and another model spends nothing again: make the generator with the same `run_dir` and "
    "another `expansion_model`, or save it, and give another to `from_pretrained` or to `hf-pretext expand --seeds`."
)
"""What to do after an expansion that failed."""


def check_num_samples(num_samples: int) -> None:
    """Raise a `ValueError` if `num_samples` is not a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples`={num_samples!r} must be a positive integer.")


class SeedTexts:
    """Seeds as the expansion reads them.

    Args:
        seeds (`datasets.Dataset` or `Sequence[str]`):
            Column `text` (`str`), or the columns of another form, and `votes`, `preference` and `share` (`float`) if
            they are known. Or a list of texts.
        form (`Form`, *optional*): What a row is. By default a plain text.
        label_column (`str`, *optional*): Column of labels. A text may be a seed of several.
        label_names (`Sequence[str]`, *optional*): The labels that there are.

    Raises:
        ValueError: There is no text, some are broken, a column does not hold a number per seed, or a label is not
            valid.
    """

    def __init__(
        self,
        seeds: "Dataset | Sequence[str]",
        form: Form | None = None,
        label_column: str | None = None,
        label_names: Sequence[str] = (),
    ) -> None:
        from datasets import Dataset

        self._seeds, self._form = seeds, form or Plain("text")
        self.texts = list_rows(seeds, self._form, "seeds", self._form.columns)
        if not self.texts:
            raise ValueError("`seeds` holds no text to expand.")
        columns = seeds.column_names if isinstance(seeds, Dataset) else []
        self.votes, self.preference, self.share = (
            _numbers(seeds, name) if name in columns else None for name in ("votes", "preference", "share")
        )
        if self.preference is not None and (self.preference == 0).any():
            raise ValueError("`seeds` holds a `preference` of zero. It must be above.")
        self._label_column, self._label_names = label_column, list(label_names)
        self.labels: np.ndarray | None = None
        if label_column is not None:
            self.labels = np.array(_read_labels(seeds, label_column, label_names))

    @classmethod
    def of(cls, seeds: "Dataset | Sequence[str]", config: PrivateEvolutionConfig) -> "SeedTexts":
        """Read seeds, with labels if the settings have any."""
        return cls(seeds, form_of(config), config.label_column, config.label_names)

    @property
    def weights(self) -> np.ndarray | None:
        """How often to show each seed. None if all are shown equally often.

        Votes alone would show seeds as often as clients hold text like them. But a language model falls back to text
        of its own kind, and the preferences counteract that.
        """
        if self.votes is None:
            return None
        return self.votes if self.preference is None else self.votes * self.preference

    def with_label(self, label: int) -> "SeedTexts":
        """Return the seeds with a label, as seeds without one."""
        from datasets import Dataset

        own = np.flatnonzero(self.labels == label)
        columns = {"text": self.texts, "votes": self.votes, "preference": self.preference}
        chosen = {name: [column[row] for row in own] for name, column in columns.items() if column is not None}
        return SeedTexts(Dataset.from_dict(chosen))

    def numbers(self, num_samples: int, shares: Mapping[str, float] | None) -> list[int]:
        """Divide a number of texts among the labels, by given shares or those that come with the seeds.

        Raises:
            ValueError: A label is to get texts, but has no seeds. Or its share is not known.
        """
        assert self.labels is not None  # Labels are what this is about.
        names, present = self._label_names, np.unique(self.labels)
        if shares is None and self.share is None:
            raise ValueError(
                "`seeds` has no column 'share' that says how common each label is. Give `label_shares`, which maps "
                f"each of {names} to its fraction of the texts."
            )
        wanted = np.zeros(len(names))
        if shares is not None:
            wanted[:] = [shares[name] for name in names]
        else:
            # The share of a label whose seeds were left out goes to the others.
            wanted[present] = [self.share[self.labels == label].mean() for label in present]  # type: ignore[index]
        if not wanted.any():
            raise ValueError("`seeds` holds only labels with a `share` of zero. Give `label_shares`.")
        numbers = split_by_shares(num_samples, wanted.tolist())
        missing = [name for label, name in enumerate(names) if numbers[label] and label not in present]
        if missing:
            raise ValueError(f"`seeds` has no seed with the labels {missing}, whose `label_shares` are not zero.")
        return numbers

    def are_among(self, known: "Dataset | None") -> bool:
        """Return whether all of these are rows of a dataset, each once, with the same numbers and label.

        A seed that is there twice has another weight, and so would one with votes or preferences from elsewhere.
        """
        columns: dict[str, Any] = {"votes": self.votes, "preference": self.preference, "share": self.share}
        own = {name: column.tolist() for name, column in columns.items() if column is not None}
        if self._label_column is not None and self.labels is not None:
            own[self._label_column] = self.labels.tolist()
        if known is None or not set(own) <= set(known.column_names):
            return False
        rows = list(zip(self.texts, *own.values(), strict=True))
        there = zip(texts_in(known, self._form), *(known[name] for name in own), strict=True)
        labels = [0] * len(rows) if self.labels is None else self.labels.tolist()
        are_different = len(set(zip(self.texts, labels, strict=True))) == len(rows)
        return are_different and set(rows) <= set(there)

    def are_all_of(self, known: "Dataset | None") -> bool:
        """Return whether these are the rows of a dataset, all of them, in their order."""
        from datasets import Dataset

        is_dataset = known is not None and isinstance(self._seeds, Dataset)
        return is_dataset and self._seeds.to_dict() == known.to_dict()  # type: ignore[union-attr]


Keep = Callable[[str, Callable[[], list[str]]], list[str]]
"""`keep(part, write)` returns what `write()` does, or what it returned for the part of this name before."""


def _write_again(part: str, write: Callable[[], list[str]]) -> list[str]:
    return write()


class _Shown(NamedTuple):
    """What prompts show: how they are written, the texts, how often each is chosen, and how many stand in one."""

    prompt: ListPrompt
    examples: list[str]
    chances: np.ndarray
    number: int


class Expander:
    """Writes new texts from seeds with the paper's prompt (Algorithm 1, `Expand`).

    Args:
        engine (`TextEngine`): The causal language model.
        config (`PrivateEvolutionConfig`): Seeds per prompt, texts per prompt, longest text, fewest words, seed.
        embed (`Callable`): Embeds texts as unit rows, to judge what was written.

    Raises:
        ValueError: The longest prompt with one seed and its continuation do not fit into the model's context.
    """

    def __init__(
        self, engine: TextEngine, config: PrivateEvolutionConfig, embed: Callable[[Sequence[str]], np.ndarray]
    ) -> None:
        self._engine, self._config, self._embed = engine, config, embed
        self._list, self._form = ListPrompt.of(config), form_of(config)
        domains = [domain_of(config.domain, words) for words in (config.labels or {}).values()] or [config.domain]
        self._lists = [replace(self._list, domain=domain) for domain in domains]
        # Two models may count a text's tokens differently.
        self._longest_seed = 2 * config.max_length
        if not self._fits(1, self._longest_seed):
            self._longest_seed = config.max_length
            self._check_context(1, self._longest_seed)

    def rows(
        self,
        seeds: SeedTexts,
        num_samples: int,
        label_shares: Mapping[str, float] | None = None,
        keep: Keep = _write_again,
    ) -> Iterator[dict[str, Any]]:
        """Write the rows of a synthetic dataset: texts, and their labels if the settings have labels.

        The texts of all labels are different. The labels are in a random order.

        Args:
            seeds (`SeedTexts`): Texts to imitate. A prompt shows those of one label.
            num_samples (`int`): Number of rows wanted.
            label_shares (`Mapping[str, float]`, *optional*): Fraction of each label. By default that of the seeds.
            keep (`Callable`, *optional*): See `Keep`.

        Returns:
            `Iterator` of `dict`: The rows, as they are asked for. See `expand`.
        """
        column = self._config.label_column
        if column is None:
            return ({"text": text} for text in self.expand(seeds, num_samples, keep))
        numbers = seeds.numbers(num_samples, label_shares)
        known = KnownTexts(seeds.texts)

        def keep_of(label: int) -> Keep:
            return lambda part, write: keep(f"{label}-{part}", write)

        written = {
            label: self.expand(seeds.with_label(label), number, keep_of(label), label, known)
            for label, number in enumerate(numbers)
            if number
        }
        order = np.random.default_rng([self._config.seed, num_samples]).permutation(
            np.repeat(range(len(numbers)), numbers)
        )
        return ({"text": next(written[label]), column: label} for label in order.tolist())

    def expand(
        self,
        seeds: SeedTexts,
        num_samples: int,
        keep: Keep = _write_again,
        label: int = 0,
        known: KnownTexts | None = None,
    ) -> Iterator[str]:
        """Write texts of one label, or without labels.

        Args:
            seeds (`SeedTexts`): Texts to imitate. Each prompt shows a random few of them.
            num_samples (`int`): Number of texts wanted.
            keep (`Callable`, *optional*): See `Keep`.
            label (`int`, *optional*, defaults to `0`): Number of the label, which the prompts speak of.
            known (`KnownTexts`, *optional*): Texts that do not count as new. By default the seeds.

        Returns:
            `Iterator` of `str`: Exactly `num_samples` texts, all different and none of them a seed. They are written
            part by part as they are asked for.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        weights = seeds.weights if self._config.weight_seeds else None
        chances = np.ones(len(seeds.texts)) if weights is None or not weights.any() else weights
        # Once and not in each prompt that shows it: a seed may be very long.
        examples = [self._engine.truncate(seed, self._longest_seed) for seed in seeds.texts]
        number = min(self._num_shown(examples), int(np.count_nonzero(chances)))
        shown = _Shown(self._lists[label], examples, chances / chances.sum(), number)
        judge, entropy = self.judge(seeds), [self._config.seed, *self._number_of(label)]

        def propose(missing: int, attempt: int) -> list[str]:
            rng = np.random.default_rng([*entropy, attempt, len(seeds.texts)])
            return keep(str(attempt + 1), lambda: self._write_best(shown, missing, rng, judge))

        taken = seeds.texts if known is None else known
        return collect_texts(num_samples, propose, "Expanding", known=taken, hint=CONTINUE_HINT)

    def write_population(self, truncate: Callable[[str], str], label: int = 0) -> list[str]:
        """Write the initial population of a label from `config.domain`, without any private access.

        Args:
            truncate (`Callable`): Cuts a text to the longest that is varied.
            label (`int`, *optional*, defaults to `0`): Number of the label, whose words stand in the prompt.

        Returns:
            `list` of `str`: Different texts, as many as the label has candidates.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        config, entropy = self._config, [self._config.seed, *self._number_of(label)]
        prompt, pieces = self._lists[label].write([], 6), self._form.pieces

        def propose(missing: int, attempt: int) -> Iterator[str]:
            seed = int(np.random.default_rng([*entropy, attempt]).integers(2**32))
            written = [""] * missing
            # A model that sees no example does not find the form by itself, so it fills one in.
            for number, (words, end) in enumerate(pieces):
                begun, stop = [text + words for text in written], end or self._list.stop(2)
                length = -(-config.max_length // len(pieces))
                filled = self._engine.complete([prompt + text for text in begun], length, seed + number, stop=stop)
                is_last = number == len(pieces) - 1
                filled = filled if is_last else [piece.split(stop)[0].rstrip() for piece in filled]
                written = [text + piece for text, piece in zip(begun, filled, strict=True)]
            for each in written:
                text = truncate(self._list.read(each, 1, self._form.has_lines)[0])
                if is_usable(text, config):
                    yield text

        return list(collect_texts(config.candidates_per_label[label], propose, "Writing the initial population"))

    def _number_of(self, label: int) -> list[int]:
        """Return what tells the random streams of labels apart. Nothing if there are none."""
        return [label] if self._config.labels else []

    def judge(self, seeds: SeedTexts) -> Callable[[list[str]], np.ndarray] | None:
        """Return what computes the evidence for new texts from that of the seeds, or None if all texts are kept."""
        preference = seeds.preference
        if self._config.best_of == 1 or preference is None:
            return None
        evidence = Evidence()

        def judge(texts: list[str]) -> np.ndarray:
            if not evidence:
                with progress_label("Embedding the seeds"):
                    evidence.add(SeedsReading(self._embed(seeds.texts), preference))
            with progress_label("Judging what was written"):
                # Processes on different machines would differ by rounding, and so in what they keep.
                return broadcast(evidence.ratios(self._embed(texts)))

        return judge

    def _num_shown(self, examples: Sequence[str]) -> int:
        """Compute how many seeds a prompt shows: as many as fit even if they are the longest ones."""
        most, longest = self._config.seeds_per_prompt, self._longest_seed
        if self._fits(most, longest):
            return most
        if isinstance(self._engine, CountsTokens):
            longest = min(longest, max(map(self._engine.count_tokens, examples)))
        shown = next((number for number in range(most, 1, -1) if self._fits(number, longest)), 1)
        if shown < most:
            logger.warning(
                "Prompts show %d seeds instead of `seeds_per_prompt`=%d: more of up to %d tokens do not fit into the "
                "context of `expansion_model`.",
                *(shown, most, longest),
            )
        return shown

    def _fits(self, num_seeds: int, longest: int) -> bool:
        try:
            self._check_context(num_seeds, longest)
        except ValueError:
            return False
        return True

    def _check_context(self, num_seeds: int, longest: int) -> None:
        """Raise a `ValueError` if a prompt of this many seeds of at most `longest` tokens may be too long."""
        config, engine = self._config, self._engine
        if not isinstance(engine, ChecksContext):
            return
        beginning = self._form.beginning
        frames = [each.write([""] * num_seeds, config.texts_per_prompt) + beginning for each in self._lists]
        # A token has at least one byte. What is put together may have a few more tokens than its parts.
        count = engine.count_tokens if isinstance(engine, CountsTokens) else lambda frame: len(frame.encode())
        frame_length = max(map(count, frames))
        prompt_length = 16 + frame_length + num_seeds * (longest + 4)
        engine.check_context(prompt_length + config.max_new_tokens * config.texts_per_prompt)

    def _write_best(
        self,
        shown: _Shown,
        missing: int,
        rng: np.random.Generator,
        judge: Callable[[list[str]], np.ndarray] | None,
    ) -> list[str]:
        best_of = 1 if judge is None else self._config.best_of
        texts = list(dict.fromkeys(self._propose(shown, best_of * missing, rng)))
        if judge is None or not texts:
            return texts
        best = np.argsort(-judge(texts), kind="stable")[: math.ceil(len(texts) / best_of)]
        return [texts[index] for index in np.sort(best)]

    def _propose(self, shown: _Shown, missing: int, rng: np.random.Generator) -> Iterator[str]:
        config = self._config
        prompts, beginnings, with_lines = [], [], []
        for _ in range(math.ceil(missing / (config.texts_per_prompt * config.continuations_per_prompt))):
            chosen = rng.choice(len(shown.examples), shown.number, replace=False, p=shown.chances)
            seeds = [shown.examples[index] for index in chosen]
            beginning = self._beginning(seeds)
            text = shown.prompt.write(seeds, config.texts_per_prompt) + beginning
            prompts += [text] * config.continuations_per_prompt
            beginnings += [beginning] * config.continuations_per_prompt
            with_lines += self._with_lines(seeds, rng)
        continuations = self._engine.complete(
            prompts,
            max_new_tokens=config.max_new_tokens * config.texts_per_prompt,
            seed=int(rng.integers(2**32)),
            stop=self._list.stop(shown.number + config.texts_per_prompt + 1),
        )
        for beginning, continuation, may_have_lines in zip(beginnings, continuations, with_lines, strict=True):
            for text in self._list.read(beginning + continuation, config.texts_per_prompt, may_have_lines):
                short = self._engine.truncate(text, config.max_new_tokens)
                short = mended(self._form, text if short == text else whole_sentences(short) or short)
                if is_usable(short, config):
                    yield short

    def _with_lines(self, seeds: Sequence[str], rng: np.random.Generator) -> list[bool]:
        """Decide of each continuation of a prompt whether its texts keep line breaks.

        A model that sees one text of several lines writes several itself. So as many keep them as seeds have them.
        """
        number, share = self._config.continuations_per_prompt, float(np.mean([has_lines(seed) for seed in seeds]))
        if self._form.has_lines or share in (0, 1):
            return [share > 0] * number
        return (rng.random(number) < share).tolist()

    def _beginning(self, seeds: Sequence[str]) -> str:
        """Return what the new text begins with, so that the model need not guess it. Empty if some seed differs."""
        beginning = self._form.beginning.rstrip()
        return beginning if all(seed.startswith(beginning) for seed in seeds) else ""


def _numbers(seeds: Any, column: str) -> np.ndarray:
    """Read a column of seeds that holds a number for each."""
    values = seeds[column][:]
    if not all(isinstance(each, (int, float)) and 0 <= each < 1e100 for each in values):
        raise ValueError(
            f"`seeds` has a column {column!r} that does not hold a finite number, zero or above, per row."
        )
    return np.array(values, dtype=np.float64)


def _read_labels(seeds: Any, column: str, names: Sequence[str]) -> list[int]:
    """Read the number of each seed's label, which must be one of the settings."""
    from datasets import Dataset

    if not isinstance(seeds, Dataset):
        raise TypeError(
            f"`seeds` is a list of texts, but the settings have labels. Give a dataset with the column {column!r}, as "
            "`evolve` returns it."
        )
    return read_labels("seeds", seeds, column, names)
