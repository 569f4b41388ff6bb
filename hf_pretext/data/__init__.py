"""Reading of datasets and lists of texts, without a copy in any cache."""

from .database import read_sql
from .formats import SUFFIXES
from .reading import open_dataset, read_dataset, read_texts
from .repository import read_repository
from .rows import as_rows, columns_of, draw_rows, each_row, first_rows, list_rows, output_features
from .texts import check_source, draw_texts, list_texts, make_dataset, split_by_client

__all__ = [
    "SUFFIXES",
    "as_rows",
    "check_source",
    "columns_of",
    "draw_rows",
    "draw_texts",
    "each_row",
    "first_rows",
    "list_rows",
    "list_texts",
    "make_dataset",
    "open_dataset",
    "output_features",
    "read_dataset",
    "read_repository",
    "read_sql",
    "read_texts",
    "split_by_client",
]
