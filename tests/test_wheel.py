"""What is published as a package: the wheel, the sdist, and the commands that they install."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from test_page import make_run, save

from hf_pretext import __version__
from support.tiny import random_texts

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; build_meta.build_{kind}({folder!r})"


def build(kind, source, folder):
    """Build what a front end such as `pip` asks for, without its network."""
    command = [sys.executable, "-c", BUILD.format(kind=kind, folder=str(folder))]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of this tree, the wheel of this tree, and the wheel of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    names = ["pyproject.toml", "README.md", "LICENSE"]
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hf_pretext", folder / "tree" / "hf_pretext", ignore=ignored)
    for name in names:
        shutil.copy(ROOT / name, folder / "tree")
    sdist = build("sdist", folder / "tree", folder / "tree" / "dist")
    wheel = build("wheel", folder / "tree", folder / "wheel")
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none.
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, wheel, build("wheel", unpacked, folder / "again")


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


def test_the_wheel_has_every_file_of_the_library_and_no_others(built):
    found = contents(built[1])
    kinds = ("*.py", "py.typed", "*.jinja", "*.css", "*.js")
    paths = {path for kind in kinds for path in (ROOT / "hf_pretext").rglob(kind)}
    assert len(paths) > 150 and sum("templates" in path.parts for path in paths) >= 6
    about = f"hf_pretext-{__version__}.dist-info"
    extras = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "top_level.txt")}
    assert set(found) == {str(path.relative_to(ROOT)) for path in paths} | extras | {f"{about}/licenses/LICENSE"}
    meta = email.message_from_bytes(found[f"{about}/METADATA"])
    assert (meta["Version"], meta["Requires-Python"], meta["License-Expression"]) == (
        __version__,
        ">=3.11",
        "Apache-2.0",
    )
    assert b"hf-pretext = hf_pretext.cli:main" in found[f"{about}/entry_points.txt"]


def test_the_sdist_builds_the_same_wheel(built):
    assert contents(built[1]) == contents(built[2])


def test_the_command_is_named_as_an_extension_of_hf_has_to_be():
    (command,) = entry_points(group="console_scripts", name="hf-pretext")
    assert command.value == "hf_pretext.cli:main"


@pytest.mark.slow
def test_it_is_an_extension_of_hf(built, tmp_path, monkeypatch):
    """`hf extensions install` takes repositories of GitHub only, so a wheel of this tree is put in their place.

    All else is the installed `hf`: the environment that it makes, the command that it looks for, and `hf pretext`.
    """
    extensions = pytest.importorskip("huggingface_hub.cli.extensions")
    run = subprocess.run

    def install(command, **options):
        urls = [
            index for index, word in enumerate(command) if str(word).startswith("https://github.com/me/hf-pretext/")
        ]
        for index in urls:
            command = [*command[:index], "--no-deps", "--no-index", str(built[1]), *command[index + 1 :]]
        return run(command, **options)

    def github(method, url, **_):
        raise ConnectionError(f"{method} {url}: there is no network in tests.")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(extensions, "_github_request", github)
    monkeypatch.setattr(extensions.subprocess, "run", install)
    manifest = extensions._install_extension(owner="me", repo_name="hf-pretext", short_name="pretext")
    assert manifest.type == "python" and Path(manifest.executable_path).is_relative_to(tmp_path)
    environment = {**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    command = [Path(sys.executable).parent / "hf", "pretext"]
    for arguments, words in ((["--version"], f"hf-pretext {__version__}"), (["--help"], "generate")):
        done = run([*command, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and words in done.stdout, done.stderr


@pytest.mark.slow
def test_an_installed_wheel_works_without_this_tree(built, tmp_path):
    """Its requirements are those of this environment, so that nothing is downloaded."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run(
        [programs / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", built[1]], check=True
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(pytest.__file__).parent.parent)}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(programs / "python", "-c", "import hf_pretext; print(hf_pretext.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert __version__ in run(programs / "hf-pretext", "--version")
    folder = save(make_run(random_texts(20)), tmp_path / "run")
    (folder / "report.html").unlink()
    run(programs / "hf-pretext", "report", folder)
    assert "20 synthetic texts" in (folder / "report.html").read_text()
