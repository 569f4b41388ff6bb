"""Reading of datasets and lists of texts, without a copy in any cache."""

from .reading import SUFFIXES, read_dataset, read_texts
from .rows import as_rows, columns_of, list_rows, read_form
from .texts import list_texts, make_dataset, split_by_client

__all__ = [
    "SUFFIXES",
    "as_rows",
    "columns_of",
    "list_rows",
    "list_texts",
    "make_dataset",
    "read_dataset",
    "read_form",
    "read_texts",
    "split_by_client",
]
