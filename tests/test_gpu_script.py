"""`make gpu` on a machine without a GPU: tiny sizes, every section guarded, and a page that says what it is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "tests" / "gpu"
CORRECTNESS = ["card", "votes", "scores", "variation", "expansion", "lora_8b", "qlora_8b", "full_1b", "texts_20000"]


@pytest.fixture
def script(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this is about a machine without a GPU")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = torch.get_num_threads()
    import run

    yield run
    torch.set_num_threads(before)
    for name in ("run", "card", "models", "locality", "writing", "training", "whole_runs", "page"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_section_runs_and_a_failure_is_kept_with_its_traceback(script, tmp_path, monkeypatch):
    import writing

    def fails(seconds):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(writing, "variation", fails)
    script.work([*CORRECTNESS, "locality"], 60, tmp_path)
    results = script.collect(tmp_path, list(script.SECTIONS))
    sections = results["sections"]
    assert "in fails" in sections["variation"]["failed"] and "no kernel image" in sections["variation"]["failed"]
    assert [name for name, found in sections.items() if "failed" in found] == ["variation"]
    assert set(sections) == {*CORRECTNESS, "locality"} and "four bits" in sections["qlora_8b"]["skipped"].lower()
    assert sections["locality"]["clients"]["float32"]["same_alone"] > 0
    assert sections["votes"]["library_votes_that_differ"] == 0
    from page import write_page

    page = write_page({**results, "seconds": 1.0})
    assert "There is no GPU here" in page and "no kernel image" in page and "| card | done |" in page


def test_what_hangs_is_stopped_and_the_others_go_on(script, tmp_path, monkeypatch):
    """The parent alone, with workers that are not the script's."""
    started = []

    def worker(command, env, start_new_session):
        names = command[command.index("--sections") + 1].split(",")
        started.append(names)
        code = "import time; time.sleep(60)" if names[0] == "votes" else "import sys; sys.exit(1)"
        return popen([sys.executable, "-c", code], start_new_session=start_new_session)

    popen = subprocess.Popen
    monkeypatch.setattr(script.subprocess, "Popen", worker)
    monkeypatch.setattr(script, "GRACE_SECONDS", 0)
    monkeypatch.setattr(script, "SECTIONS", {"votes": ("locality", 1), "card": ("card", 20)})
    began = time.monotonic()
    assert script.watch(["votes", "card"], 30, tmp_path) == 1
    assert started == [["votes", "card"], ["card"]] and time.monotonic() - began < 30
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert "took too long" in sections["votes"]["failed"] and "ended with 1" in sections["card"]["failed"]
    assert "too long" in (tmp_path / "results.md").read_text()


def test_a_budget_that_is_used_up_is_no_failure(script, tmp_path, monkeypatch):
    """What the worker has started ends with it: it would hold the GPU."""

    def worker(command, env, start_new_session):
        code = (
            "import pathlib, subprocess, time; child = subprocess.Popen(['sleep', '60']);"
            f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); time.sleep(60)"
        )
        return popen([sys.executable, "-c", code], start_new_session=start_new_session)

    popen = subprocess.Popen
    monkeypatch.setattr(script.subprocess, "Popen", worker)
    monkeypatch.setattr(script, "LATE_SECONDS", 0)
    monkeypatch.setattr(script, "LEAST_SECONDS", 0.5)
    assert script.watch(["card"], 3.0, tmp_path) == 0
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert sections == {"card": {"skipped": "The time was used up."}}
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(process):
    """Wait until a process has ended, or is a zombie that nobody has waited for."""
    stat = Path(f"/proc/{process}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_packages_that_are_too_old_are_not_used(tmp_path):
    """`make gpu` then installs its own, instead of failing in most sections."""
    (tmp_path / "transformers.py").write_text("__version__ = '4.57.0'")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "gpu_packages.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "transformers 4.57.0 is too old, as 5 is needed" in done.stdout


def test_the_packages_that_were_brought_along_stay_on_the_path():
    command = ["make", "--dry-run", "gpu", "ARGS=--seconds 9"]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "$PYTHONPATH" in planned and "run.py --seconds 9" in planned


def test_an_unknown_section_is_refused():
    command = [sys.executable, str(SCRIPTS / "run.py"), "--sections", "card,nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing" in done.stderr
