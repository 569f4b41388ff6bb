"""How a training was started, as far as it can be known and may be published, for the card of its model."""

import os
import re
import shlex
import sys
from pathlib import Path

from .texts import public_name


def command() -> str:
    """Name the launcher, the script and its options, without tokens and without folders of this machine."""
    words = [re.sub(r"(?<=token=).+", "...", _public_word(word)) for word in sys.argv[1:]]
    # A token of the Hub is a password.
    shown = [
        "..." if before.startswith("--") and before.endswith("token") else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    return f"{_launcher()} {shlex.join([_script(Path(sys.argv[0])), *shown])}"


def _launcher() -> str:
    """Name what started this process. `accelerate launch` may hand over to torchrun, so its sign comes first."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # No library sets this one later.
        return "accelerate launch"
    return "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "python"


def _script(path: Path) -> str:
    """Name a script from the folder of the recipes, or from the working directory if it lies there."""
    place = path.resolve()
    if "recipes" in place.parts[:-1]:
        start = len(place.parts) - 1 - place.parts[::-1].index("recipes")
        return Path(*place.parts[start:]).as_posix()
    is_here = place.is_relative_to(Path.cwd().resolve())
    return place.relative_to(Path.cwd().resolve()).as_posix() if is_here else place.name


def _public_word(word: str) -> str:
    """Shorten a path of this machine, also behind the equals sign of an option."""
    option, sign, value = word.partition("=")
    return f"{option}={public_name(value)}" if sign and option.startswith("--") else public_name(word)
