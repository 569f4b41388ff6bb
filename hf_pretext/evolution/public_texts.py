"""The public texts of a run: which of those that were given, for which label, and in which order."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..data import list_texts
from ..labels import read_labels
from .parts import divide_public

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

RESERVE = 15
"""Public texts that later rounds may draw from, as a multiple of the population."""


def public_texts_of_parts(
    public: "Dataset | Sequence[str]", truncate: Callable[[str], str], config: PrivateEvolutionConfig
) -> list[list[str]]:
    """Draw the public texts of each label. Without labels, there is one list. See `sample_public_texts`.

    If the public texts have the column of labels, each is a candidate of its own label. Otherwise each may be a
    candidate of any label, and the labels begin with different ones.

    Raises:
        ValueError: As in `sample_public_texts`, or rows have a label that is not among `config.labels`, or there are
            fewer than two texts of a label.
    """
    from datasets import Dataset

    texts, sizes = list_texts(public, config.text_column, "initial_population"), config.candidates_per_label
    column = config.label_column
    if column is None:
        return [sample_public_texts(texts, truncate, config)]
    if not isinstance(public, Dataset) or column not in public.column_names:
        return divide_public(sample_public_texts(texts, truncate, config), sizes)
    labels = read_labels("initial_population", public, column, config.label_names)
    own: list[list[str]] = [[] for _ in sizes]
    for text, label in zip(texts, labels, strict=True):
        own[label].append(text)
    each = zip(own, sizes, config.label_names, strict=True)
    return [sample_public_texts(part, truncate, config, size, name) for part, size, name in each]


def sample_public_texts(
    texts: Sequence[str],
    truncate: Callable[[str], str],
    config: PrivateEvolutionConfig,
    population_size: int | None = None,
    label: str | None = None,
) -> list[str]:
    """Draw the public texts of a run without replacement: the initial population `S_1`, and more for later rounds.

    (The paper draws with replacement. A candidate that is there twice only splits its votes.)

    Args:
        texts (`Sequence[str]`): Public texts. Blank ones and repetitions are left out.
        truncate (`Callable`): Cuts a text to the longest that is varied.
        config (`PrivateEvolutionConfig`): Seed, and whether later rounds draw from public texts.
        population_size (`int`, *optional*): Number of first candidates. By default that of the settings.
        label (`str`, *optional*): Label of the texts, for messages.

    Returns:
        `list` of `str`: `population_size` different texts, or all there are, with a warning. If
        `config.new_public_share` or `config.mean_fraction` can use them, up to `RESERVE` times as many others.

    Raises:
        ValueError: There are fewer than two texts.
    """
    population_size = population_size or config.population_size
    clean = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(clean, label)
    if len(clean) < population_size:
        wanted = f"`population_size`={population_size}" if label is None else f"{population_size} candidates"
        warnings.warn(
            f"`initial_population` holds {len(clean)} different texts{_with(label)}, fewer than {wanted}: "
            "the first round has that many candidates, later ones have all.",
            stacklevel=6,
        )
    rng = np.random.default_rng([config.seed, 0])
    size = population_size * (1 + RESERVE if config.new_public_share or config.mean_fraction else 1)
    chosen = [clean[index] for index in rng.permutation(len(clean))[:size]]
    texts = [truncate(text) for text in chosen]
    num_cut = sum(text != short for text, short in zip(chosen, texts, strict=True))
    if num_cut:
        logger.warning(
            "%d texts of `initial_population` were cut to `max_length`=%d tokens.", num_cut, config.max_length
        )
    # What a model does not know may be all that a text begins with.
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(texts, label)
    return texts


def _check_size(texts: Sequence[str], label: str | None) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"`initial_population` holds {len(texts)} different texts{_with(label)} that are not blank. It needs at "
            "least 2."
        )


def _with(label: str | None) -> str:
    return "" if label is None else f" with the label {label!r}"
