"""Import paths of the first edition, which still work: `hf_pretext.voting` and the like."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NEW_HOMES = {
    "checkpoint": ("runs.folder", "artifacts"),
    "embedding": ("models.embedder",),
    "generation": ("models.local_engine", "models.engine"),
    "measures": ("evaluation.measures",),
    "noise": ("privacy.noise",),
    "packaged_models": ("models.packaged",),
    "population": ("evolution.population",),
    "sampling": ("models.sampling",),
    "selection": ("evolution.selection", "evolution.smoothing", "evolution.evidence", "runs.history"),
    "served": ("models.remote_engine",),
    "variation": ("models.variation", "models.masked_variation", "models.prompted_variation"),
    "voting": ("clients.samples", "clients.rows", "clients.clipping", "clients.questions", "privacy.mechanism"),
}
"""Modules of the first edition, and the modules that hold their names now."""

NEW_NAMES = {
    "GeneratesText": "TextEngine",
    "ServedTextGenerator": "RemoteEngine",
    "TextGenerator": "LocalEngine",
    "VOTE_UNITS": "UNITS",
    "VOTE_UNITS_OF_A_FEDERATION": "UNITS_OF_A_FEDERATION",
}
"""Names of the first edition that are called otherwise now."""


class _OldModule(ModuleType):
    """A module of the first edition, which finds its names in their new homes."""

    def __getattr__(self, name: str) -> object:
        old = self.__name__.rpartition(".")[2]
        if not name.startswith("__"):
            for home in NEW_HOMES[old]:
                module = import_module(f".{home}", __package__)
                for each in (name, NEW_NAMES.get(name, name)):
                    if each in vars(module):
                        return vars(module)[each]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}. It moved to {NEW_HOMES[old]}.")


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of the first edition."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        """Return the specification of an old module, and nothing for others."""
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in NEW_HOMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the old module."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Say where it moved."""
        old = module.__name__.rpartition(".")[2]
        homes = ", ".join(f"{__package__}.{home}" for home in NEW_HOMES[old])
        warnings.warn(f"{module.__name__} moved to {homes}.", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Let the old import paths work, after all others."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
