"""The public texts of a run: which of those that were given, for which label, and in which order."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import PrivateEvolutionConfig
from ..data import draw_rows, list_rows
from ..data.labels import has_column, read_labels
from ..forms import Plain, form_of
from .parts import divide_public

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

RESERVE = 15
"""Public texts that later rounds may draw from, as a multiple of the population."""


def public_texts_of_parts(
    public: "Dataset | IterableDataset | Sequence[str]",
    truncate: Callable[[str], str],
    config: PrivateEvolutionConfig,
    run: int = 1,
) -> list[list[str]]:
    """Draw the public texts of each label. Without labels, there is one list. See `sample_public_texts`.

    If the public texts have the column of labels, each is a candidate of its own label, and all of them are read into
    memory. Otherwise each may be a candidate of any label, and the labels begin with different ones.

    Raises:
        ValueError: As in `sample_public_texts`, or rows have a label that is not among `config.labels`, or there are
            fewer than two texts of a label.
    """
    column, sizes = config.label_column, config.candidates_per_label
    if column is None:
        return [sample_public_texts(public, truncate, config, run)]
    if not has_column(public, column):
        return divide_public(sample_public_texts(public, truncate, config, run), sizes)
    rows = _in_memory(public)
    texts = list_rows(rows, form_of(config), "initial_population")
    labels = read_labels("initial_population", rows, column, config.label_names)
    own: list[list[str]] = [[] for _ in sizes]
    for text, label in zip(texts, labels, strict=True):
        own[label].append(text)
    each = zip(own, sizes, config.label_names, strict=True)
    return [_sample(part, truncate, config, size, run, f" with the label {name!r}") for part, size, name in each]


def _in_memory(public: Any) -> "Dataset":
    """Read a stream once: another pass could be in another order."""
    from datasets import Dataset

    return public if isinstance(public, Dataset) else Dataset.from_list(list(public), features=public.features)


def sample_public_texts(
    public: "Dataset | IterableDataset | Sequence[str]",
    truncate: Callable[[str], str],
    config: PrivateEvolutionConfig,
    run: int = 1,
) -> list[str]:
    """Draw the public texts of a run without replacement: the initial population `S_1`, and more for later rounds.

    (The paper draws with replacement. A candidate that is there twice only splits its votes.)

    Args:
        public (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`):
            Public texts, in column `config.text_column` (`str`) of a dataset, or rows of another form (`forms`). Blank
            ones and repetitions are left out. A stream is read to its end, and only what is drawn of it is kept in
            memory. Its beginning is read before as well, so it has to give the same rows again.
        truncate (`Callable`): Cuts a text to the longest that is varied. It is empty if that breaks its form.
        config (`PrivateEvolutionConfig`): Population size and seed.
        run (`int`, *optional*, defaults to `1`): Number of the run, so that another one begins with other texts.

    Returns:
        `list` of `str`: `config.population_size` different texts, or all there are, with a warning. If
        `config.new_public_share` or `config.mean_fraction` can use them, up to `RESERVE` times as many others.

    Raises:
        ValueError: A column is missing, rows are not whole, or there are fewer than two texts.
        TypeError: Some texts are not strings.
    """
    from datasets import IterableDataset

    form, size = form_of(config), config.population_size
    if isinstance(public, IterableDataset):
        texts = draw_rows(public, form, "initial_population", _most_texts(size, config), config.seed)
    else:
        texts = list_rows(public, form, "initial_population")
    return _sample(texts, truncate, config, size, run)


def _sample(
    texts: Sequence[str],
    truncate: Callable[[str], str],
    config: PrivateEvolutionConfig,
    size: int,
    run: int,
    with_label: str = "",
) -> list[str]:
    """Draw the first candidates of a label, and more for later rounds."""
    clean = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(clean, with_label)
    if len(clean) < size:
        wanted = f"its {size} candidates" if with_label else f"`population_size`={size}"
        warnings.warn(
            f"`initial_population` holds {len(clean)} different texts{with_label}, fewer than {wanted}: the first "
            "round has that many candidates, later ones have all.",
            stacklevel=7,
        )
    rng = np.random.default_rng([config.seed, 0, run - 1])
    chosen = [clean[index] for index in rng.permutation(len(clean))[: _most_texts(size, config)]]
    texts = [truncate(text) for text in chosen]
    num_cut = sum(text != short for text, short in zip(chosen, texts, strict=True))
    if num_cut:
        logger.warning(
            "%d texts of `initial_population` were cut to `max_length`=%d tokens.", num_cut, config.max_length
        )
    form = form_of(config)
    num_broken = texts.count("") if not isinstance(form, Plain) else 0
    if num_broken:
        logger.warning(
            "%d of %d rows of `initial_population` are left out, because a whole %s of theirs does not fit into "
            "`max_length`=%d tokens. Raise it.",
            *(num_broken, len(texts), form.name, config.max_length),
        )
    # What a model does not know may be all that a text begins with.
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(texts, with_label)
    return texts


def _most_texts(size: int, config: PrivateEvolutionConfig) -> int:
    return size * (1 + RESERVE if config.new_public_share or config.mean_fraction else 1)


def _check_size(texts: Sequence[str], with_label: str) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"`initial_population` holds {len(texts)} different texts{with_label} that are not blank. It needs at "
            "least 2."
        )
