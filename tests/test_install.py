"""What `make` says before it downloads gigabytes, and how it installs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    monkeypatch.setenv("VENV", str(tmp_path / ".venv"))
    sys.modules.pop("install", None)
    import install

    yield install
    sys.modules.pop("install", None)


@pytest.mark.parametrize(
    ("version", "free", "has_gpu", "said"),
    [
        ((3, 12, 1), 100.0, True, None),
        ((3, 11, 9), 2.6, False, None),
        ((3, 13, 0), 2.6, True, r"8.5 GB of disk are needed \(CUDA 6.0\), and 2.6 GB are free"),
        ((3, 12, 1), 2.0, False, r"2.5 GB of disk are needed, and 2.0 GB are free"),
        ((3, 10, 4), 100.0, False, r"Python 3.10, .* for 3.11 to 3.13.*make quickstart PYTHON=python3.12"),
        ((3, 14, 0), 100.0, False, r"Python 3.14"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_downloaded(
    script, monkeypatch, tmp_path, version, free, has_gpu, said
):
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    problems = script.missing("quickstart", version, free, has_gpu)
    assert len(problems) == (said is not None), problems
    assert said is None or re.search(said, problems[0])


def test_a_cache_on_another_disk_needs_room_as_well(script, monkeypatch, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    monkeypatch.setenv("UV_CACHE_DIR", str(other / "no" / "such" / "folder"))
    monkeypatch.setattr(script, "free_gigabytes", lambda folder: 1.0 if folder == other else 100.0)
    (problem,) = script.missing("test", (3, 12, 0), None, False)
    assert re.search(r"4.5 GB of disk are needed, and 1.0 GB are free in /dev/shm", problem)


def test_what_is_installed_needs_no_room_again(script, monkeypatch, tmp_path):
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(script, "gigabytes_of", lambda folder: 2.1)
    assert script.missing("test", (3, 12, 0), 2.5, False) == []
    (problem,) = script.missing("test", (3, 12, 0), 2.0, False)
    assert "2.4 GB of disk are needed, and 2.0 GB are free" in problem


@pytest.mark.parametrize(
    ("said", "has_gpu"),
    [
        ("GPU 0: NVIDIA H100 (UUID: GPU-1)\n", True),
        ("No devices were found\n", False),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", False),
        (None, False),
    ],
)
def test_a_driver_or_a_cuda_build_without_a_gpu_asks_for_no_cuda(script, monkeypatch, said, has_gpu):
    monkeypatch.setattr(script.Path, "glob", lambda *_: iter(()))

    def run(command, **_):
        if said is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, said.encode())

    monkeypatch.setattr(script.subprocess, "run", run)
    assert script.has_nvidia_gpu() is has_gpu


def test_a_python_without_venv_is_told_how_to_get_it(script, monkeypatch):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    (problem,) = script.missing("test", (3, 12, 0), 100.0, False)
    assert "no venv and no ensurepip" in problem and "python3.12-venv" in problem
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: pytest.fail("something was begun"))
    monkeypatch.setattr(script, "missing", lambda target: ["It is odd."])
    assert script.main("test") == 1


def test_pip_installs_where_uv_cannot(script, monkeypatch):
    ran = []

    class Done:
        def __init__(self, code):
            self.returncode = code

    def run(command, **_):
        ran.append(" ".join(map(str, command)))
        return Done(int("uv pip install" in ran[-1]))

    monkeypatch.setattr(script.subprocess, "run", run)
    assert script.install(["hf_pretext"])
    assert " uv " in ran[-2] and " uv " not in ran[-1] and "-m pip" in ran[-1]
    assert all("--constraint constraints.txt" in each for each in ran[-2:])
    # pip would take a build with CUDA, for which there may be no room.
    assert not script.install(["torch"], cpu=True) and "--torch-backend cpu" in ran[-1]


@pytest.mark.parametrize(("free", "status"), [(4.6, 1), (100.0, 0)])
def test_where_no_cpu_build_is_reached_there_must_be_room_for_cuda(
    script, monkeypatch, tmp_path, capsys, free, status
):
    monkeypatch.setattr(script, "VENV", tmp_path / "venv")
    monkeypatch.setattr(script, "free_gigabytes", lambda folder: free)
    monkeypatch.setattr(script, "has_nvidia_gpu", lambda: False)
    monkeypatch.setattr(script, "is_installed", lambda name: False)
    monkeypatch.setattr(script, "usual_torch_has_cuda", lambda: True)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(script, "install", lambda arguments, cpu=False: not cpu)
    assert script.main("test") == status
    assert ("GB of disk are needed (CUDA 6.0)" in capsys.readouterr().err) == bool(status)


def test_the_makefile_installs_less_for_the_quickstart():
    def planned(*target):
        command = ["make", "--dry-run", "--always-make", *target, f"VENV={ROOT / 'no-such-folder'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ).stdout

    assert "install.py quickstart" in planned("quickstart") and "install.py test" not in planned("quickstart")
    assert "install.py test" in planned("test")
