"""Expansion: a causal language model writes many texts like the seeds. Post-processing, so free of privacy cost."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .cleaning import has_lines, is_usable, whole_sentences
from .configuration import PrivateEvolutionConfig
from .data import list_rows
from .evolution.evidence import Evidence, SeedsReading
from .forms import Form, Plain, form_of, mended, texts_in
from .models.engine import ChecksContext, CountsTokens, TextEngine, collect_texts
from .processes import broadcast, progress_label
from .prompts import ListPrompt
from .prompts import list_prompt as list_prompt
from .prompts import parse_list as parse_list

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def check_num_samples(num_samples: int) -> None:
    """Raise a `ValueError` if `num_samples` is not a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples`={num_samples!r} must be a positive integer.")


class SeedTexts:
    """Seeds as the expansion reads them.

    Args:
        seeds (`datasets.Dataset` or `Sequence[str]`):
            Column `text` (`str`), or the columns of another form, and `votes` and `preference` (`float`) if they are
            known. Or a list of texts.
        form (`Form`, *optional*): What a row is. By default a plain text.

    Raises:
        ValueError: There is no text, some are broken, or a column does not hold a number per seed.
    """

    def __init__(self, seeds: "Dataset | Sequence[str]", form: Form | None = None) -> None:
        from datasets import Dataset

        self._seeds, self._form = seeds, form or Plain("text")
        self.texts = list_rows(seeds, self._form, "seeds", self._form.columns)
        if not self.texts:
            raise ValueError("`seeds` holds no text to expand.")
        columns = seeds.column_names if isinstance(seeds, Dataset) else []
        self.votes, self.preference = (
            _numbers(seeds, name) if name in columns else None for name in ("votes", "preference")
        )
        if self.preference is not None and (self.preference == 0).any():
            raise ValueError("`seeds` holds a `preference` of zero. It must be above.")

    @property
    def weights(self) -> np.ndarray | None:
        """How often to show each seed. None if all are shown equally often.

        Votes alone would show seeds as often as clients hold text like them. But a language model falls back to text
        of its own kind, and the preferences counteract that.
        """
        if self.votes is None:
            return None
        return self.votes if self.preference is None else self.votes * self.preference

    def are_among(self, known: "Dataset | None") -> bool:
        """Return whether all of these are rows of a dataset, each once, with the same votes and preferences.

        A seed that is there twice has another weight, and so would one with votes or preferences from elsewhere.
        """
        if known is None or len(set(self.texts)) < len(self.texts):
            return False
        columns = {"votes": self.votes, "preference": self.preference}
        names = [name for name, column in columns.items() if column is not None]
        if not set(names) <= set(known.column_names):
            return False
        own = zip(self.texts, *(columns[name].tolist() for name in names), strict=True)  # type: ignore[union-attr]
        return set(own) <= set(zip(texts_in(known, self._form), *(known[name] for name in names), strict=True))

    def are_all_of(self, known: "Dataset | None") -> bool:
        """Return whether these are the rows of a dataset, all of them, in their order."""
        from datasets import Dataset

        is_dataset = known is not None and isinstance(self._seeds, Dataset)
        return is_dataset and self._seeds.to_dict() == known.to_dict()  # type: ignore[union-attr]


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
        # Two models may count a text's tokens differently.
        self._longest_seed = 2 * config.max_length
        if not self._fits(1, self._longest_seed):
            self._longest_seed = config.max_length
            self._check_context(1, self._longest_seed)

    def expand(
        self,
        seeds: SeedTexts,
        num_samples: int,
        keep: Callable[[int, Callable[[], list[str]]], list[str]] = lambda part, write: write(),
    ) -> Iterator[str]:
        """Write texts.

        Args:
            seeds (`SeedTexts`): Texts to imitate. Each prompt shows a random few of them.
            num_samples (`int`): Number of texts wanted.
            keep (`Callable`, *optional*):
                `keep(part, write)` returns what `write()` does, or what it returned for this part before.

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
        judge = self.judge(seeds)

        def propose(missing: int, attempt: int) -> list[str]:
            rng = np.random.default_rng([self._config.seed, attempt, len(seeds.texts)])
            return keep(attempt + 1, lambda: self._write_best(examples, chances / chances.sum(), missing, rng, judge))

        return collect_texts(num_samples, propose, "Expanding", known=seeds.texts)

    def write_population(self, truncate: Callable[[str], str]) -> list[str]:
        """Write the initial population from `config.domain`, without any private access.

        Args:
            truncate (`Callable`): Cuts a text to the longest that is varied.

        Returns:
            `list` of `str`: `config.population_size` different texts.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        config = self._config
        prompt, pieces = self._list.write([], 6), self._form.pieces

        def propose(missing: int, attempt: int) -> Iterator[str]:
            seed = int(np.random.default_rng([config.seed, attempt]).integers(2**32))
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

        return list(collect_texts(config.population_size, propose, "Writing the initial population"))

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
        frame = self._list.write([""] * num_seeds, config.texts_per_prompt) + self._form.beginning
        # A token has at least one byte. What is put together may have a few more tokens than its parts.
        frame_length = engine.count_tokens(frame) if isinstance(engine, CountsTokens) else len(frame.encode())
        prompt_length = 16 + frame_length + num_seeds * (longest + 4)
        engine.check_context(prompt_length + config.max_new_tokens * config.texts_per_prompt)

    def _write_best(
        self,
        examples: Sequence[str],
        chances: np.ndarray,
        missing: int,
        rng: np.random.Generator,
        judge: Callable[[list[str]], np.ndarray] | None,
    ) -> list[str]:
        best_of = 1 if judge is None else self._config.best_of
        texts = list(dict.fromkeys(self._propose(examples, chances, best_of * missing, rng)))
        if judge is None or not texts:
            return texts
        best = np.argsort(-judge(texts), kind="stable")[: math.ceil(len(texts) / best_of)]
        return [texts[index] for index in np.sort(best)]

    def _propose(
        self, examples: Sequence[str], chances: np.ndarray, missing: int, rng: np.random.Generator
    ) -> Iterator[str]:
        config = self._config
        shown = min(self._num_shown(examples), int(np.count_nonzero(chances)))
        prompts, beginnings, with_lines = [], [], []
        for _ in range(math.ceil(missing / (config.texts_per_prompt * config.continuations_per_prompt))):
            chosen = rng.choice(len(examples), shown, replace=False, p=chances)
            seeds = [examples[index] for index in chosen]
            beginning = self._beginning(seeds)
            prompt = self._list.write(seeds, config.texts_per_prompt) + beginning
            prompts += [prompt] * config.continuations_per_prompt
            beginnings += [beginning] * config.continuations_per_prompt
            with_lines += [any(map(has_lines, seeds))] * config.continuations_per_prompt
        continuations = self._engine.complete(
            prompts,
            max_new_tokens=config.max_new_tokens * config.texts_per_prompt,
            seed=int(rng.integers(2**32)),
            stop=self._list.stop(shown + config.texts_per_prompt + 1),
        )
        for beginning, continuation, may_have_lines in zip(beginnings, continuations, with_lines, strict=True):
            for text in self._list.read(beginning + continuation, config.texts_per_prompt, may_have_lines):
                short = self._engine.truncate(text, config.max_new_tokens)
                short = mended(self._form, text if short == text else whole_sentences(short) or short)
                if is_usable(short, config):
                    yield short

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
