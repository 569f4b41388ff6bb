"""The recipes' scripts as modules, for tests."""

import importlib.util
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def load_script(name):
    """Import a script under a name of its own: `evaluate` is a library's."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
