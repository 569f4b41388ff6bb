"""Reading of datasets and lists of texts, without a copy in any cache."""

from .reading import SUFFIXES, open_dataset, read_dataset, read_texts
from .texts import draw_texts, list_texts, make_dataset, split_by_client

__all__ = [
    "SUFFIXES",
    "draw_texts",
    "list_texts",
    "make_dataset",
    "open_dataset",
    "read_dataset",
    "read_texts",
    "split_by_client",
]
