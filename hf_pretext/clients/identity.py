"""Who a client is: ids that name no one are refused, and ids that look alike are warned of.

Nothing here is released. Errors and warnings are for the owner of the data, at the console of the trusted side. They
name the column, but no id and no number of ids.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from ..data.texts import NO_IDS, look_of
from .guard import tell_owner


def check_one_value(client: object, column: str) -> None:
    """Raise a `ValueError` if an id is a list or dictionary."""
    if isinstance(client, (list, dict)):
        raise ValueError(f"`private` has lists in column {column!r}. A client's id is one value.")


def check_clients(ids: Iterable[object], column: str) -> None:
    """Check the client ids.

    The unit of the guarantee is the client. All rows without an id would be one client, and a person with two ids is
    protected as two.

    Args:
        ids (`Iterable`): The different ids, each once. Of each, 8 bytes are kept: two that look different have the
            same ones by chance with 2^-64, and then cause a warning in vain.
        column (`str`): Name of the column, for the message.

    Raises:
        ValueError: Rows have no id (None, NaN, blanks, or a word such as "null").
    """

    def hashes() -> Iterator[int]:
        for client in ids:
            look = look_of(client)
            if look in NO_IDS:
                raise ValueError(
                    f"`private` has rows without a client in column {column!r}: an id that is missing, blank, or a "
                    "word such as 'nan' or 'null'. Name or drop them. If such a word really is an id, write it in "
                    "another way, such as 'id-na'."
                )
            yield hash(look)

    looks = np.fromiter(hashes(), dtype=np.int64)
    if len(np.unique(looks)) < len(looks):
        tell_owner(
            f"`private` has client ids in column {column!r} that differ only in case, blanks, the form of a number or "
            "characters that look alike. They count as different clients. If they are the same person, give that "
            "person one id: a person with two ids is protected as two clients.",
            stacklevel=6,
        )
