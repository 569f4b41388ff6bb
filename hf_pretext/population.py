"""The initial population: public texts, or texts that the language model writes from a public description."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .cleaning import is_usable
from .configuration import PrivateEvolutionConfig
from .data import list_texts
from .expansion import list_prompt, parse_list
from .generation import GeneratesText, collect_texts
from .selection import MAX_CHANGE
from .variation import Variation

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


RESERVE = 15
"""Public texts that later rounds may draw from, as a multiple of the population."""


def sample_population(
    public: "Dataset | Sequence[str]", variation: Variation, config: PrivateEvolutionConfig
) -> tuple[list[str], list[str]]:
    """Draw the initial population `S_1` from public texts, without replacement, and a reserve for later rounds.

    (The paper draws with replacement; a candidate that is there twice only splits its votes.)

    Args:
        public (`datasets.Dataset` or `Sequence[str]`):
            Public texts; column `config.text_column` (`str`) of a dataset. Blank ones and repetitions are left out.
        variation (`Variation`): Cuts the texts to the longest that it varies.
        config (`PrivateEvolutionConfig`): Population size and seed.

    Returns:
        `tuple` of two `list` of `str`: `config.population_size` different texts, or all there are, with a warning;
        and, where `config.new_public_share` asks for them, up to `RESERVE` times as many others.

    Raises:
        ValueError: The text column is missing, or there are fewer than two texts.
        TypeError: Some texts are not strings.
    """
    texts = list_texts(public, config.text_column, "initial_population")
    clean = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(clean)
    if len(clean) < config.population_size:
        warnings.warn(
            f"`initial_population` holds {len(clean)} different texts, fewer than `population_size`="
            f"{config.population_size}: the first round has that many candidates, later ones have all.",
            stacklevel=4,
        )
    rng = np.random.default_rng([config.seed, 0])
    size = config.population_size * (1 + RESERVE if config.new_public_share else 1)
    chosen = [clean[index] for index in rng.permutation(len(clean))[:size]]
    texts = [variation.truncate(text) for text in chosen]
    num_cut = sum(text != short for text, short in zip(chosen, texts, strict=True))
    if num_cut:
        logger.warning(
            "%d texts of `initial_population` were cut to `max_length`=%d tokens.", num_cut, config.max_length
        )
    # What a model does not know may be all that a text begins with.
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(texts)
    return texts[: config.population_size], texts[config.population_size :]


class Reserve:
    """Public texts that were no candidates yet, and how much the votes so far speak for each of them.

    A round's votes compare its candidates with each other. So what they say of a text multiplies what was known of it:
    the candidates of a round after the first were drawn by that, and tell how far it was wrong.

    Args:
        texts (`Sequence[str]`): The texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.embeddings: np.ndarray | None = None
        self.preferences = np.ones(len(self.texts))
        self._is_new = np.ones(len(self.texts), dtype=bool)

    def learn(self, votes: np.ndarray) -> None:
        """Take in the votes, shape `(len(texts),)`, that the texts are expected to get among a round's candidates."""
        votes = np.maximum(votes, 0)
        if votes.any():
            self.preferences *= np.clip(votes / votes.mean(), 1 / MAX_CHANGE, MAX_CHANGE)

    def draw(self, number: int, random: np.random.Generator) -> list[str]:
        """Draw so many texts without replacement, or all there are, in proportion to their preferences."""
        weights = np.where(self._is_new, self.preferences, 0)
        number = min(number, int(np.count_nonzero(weights)))
        if not number:
            return []
        chosen = random.choice(len(self.texts), number, replace=False, p=weights / weights.sum())
        return [self.texts[index] for index in np.sort(chosen)]

    def leave_out(self, candidates: Sequence[str]) -> None:
        """Never draw these texts again."""
        known = set(candidates)
        self._is_new &= np.array([text not in known for text in self.texts], dtype=bool)


def _check_size(texts: Sequence[str]) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"`initial_population` holds {len(texts)} different texts that are not blank; it needs at least 2."
        )


def write_population(generator: GeneratesText, variation: Variation, config: PrivateEvolutionConfig) -> list[str]:
    """Let a language model write the initial population from `config.domain`, without any private access.

    Args:
        generator (`GeneratesText`): The causal language model.
        variation (`Variation`): Cuts the texts to the longest that it varies.
        config (`PrivateEvolutionConfig`): Domain, population size and seed.

    Returns:
        `list` of `str`: `config.population_size` different texts.

    Raises:
        RuntimeError: The model does not write enough usable texts.
    """
    prompt = list_prompt([], 6, config.domain)

    def propose(missing: int, attempt: int, progress: str) -> Iterator[str]:
        seed = int(np.random.default_rng([config.seed, attempt]).integers(2**32))
        for written in generator([prompt] * missing, config.max_length, seed, stop="\n", progress=progress):
            text = variation.truncate(parse_list(written, 1)[0])
            if is_usable(text, config):
                yield text

    return list(collect_texts(config.population_size, propose, "Writing the initial population"))
