"""Labels of the rows of a dataset, read as numbers of public names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..configuration import PrivateEvolutionConfig
from ..settings import as_text
from .columns import MissingColumnError, has_transform, value_at, values_of

if TYPE_CHECKING:
    from datasets import Dataset


def has_column(source: Any, column: str) -> bool:
    """Return whether this is a dataset with such a column, or with the field that a path leads to."""
    from datasets import Dataset, IterableDataset

    if not isinstance(source, (Dataset, IterableDataset)):
        return False
    row: Any = next(iter(source), {})
    try:
        value_at(row, column)
    except MissingColumnError:
        return False
    return True


def read_labels(argument: str, dataset: "Dataset", column: str, names: Sequence[str]) -> list[int]:
    """Read the label of each row.

    Args:
        argument (`str`): What the dataset was given as, for the message.
        dataset (`datasets.Dataset`): The rows.
        column (`str`): Column of labels: names, or numbers of a `ClassLabel`, which has names.
        names (`Sequence` of `str`): The labels that there are.

    Returns:
        `list` of `int`: Number of each row's label among `names`.

    Raises:
        ValueError: The column is missing, or rows have a label that is not among the names. The message has the number
            of such rows and the first of them, and quotes neither their labels nor their texts.
    """
    from datasets import ClassLabel

    try:
        values = values_of(dataset, column)
    except MissingColumnError:
        raise ValueError(f"`label_column`={column!r} is not a column of `{argument}`.") from None
    # A transform makes other values than those that the column is described by.
    feature = None if has_transform(dataset) else dataset.features.get(column)
    own = dict(enumerate(feature.names)) if isinstance(feature, ClassLabel) else None
    numbers = {name: number for number, name in enumerate(names)}
    labels = [_number(value if own is None else own.get(value), numbers) for value in values]
    unknown = [row for row, label in enumerate(labels) if label < 0]
    if unknown:
        raise ValueError(
            f"`{argument}` has {len(unknown)} rows, such as row {unknown[0]}, whose label in column {column!r} is not "
            f"one of `labels`={list(names)}. Add their labels there, if their existence is public, or drop these rows."
        )
    return labels


def class_labels(config: PrivateEvolutionConfig) -> dict[str, Any]:
    """Return the feature of the column of labels, by its name. Empty without labels."""
    from datasets import ClassLabel

    return {} if config.label_column is None else {config.label_column: ClassLabel(names=config.label_names)}


def _number(value: Any, numbers: dict[str, int]) -> int:
    is_label = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return numbers.get(as_text(value), -1) if is_label else -1
