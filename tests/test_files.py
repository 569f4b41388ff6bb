import os
import resource
import subprocess
import sys
import time

import pytest

from hf_pretext.files import atomic_folder, atomic_write, check_is_writable


def test_files_appear_together_and_others_stay(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.txt").write_text("old")
    (tmp_path / "other.txt").write_text("other")
    with atomic_folder(tmp_path) as scratch:
        (scratch / "a.txt").write_text("a")
        (scratch / "data").mkdir()
        (scratch / "data" / "new.txt").write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")} == {
        "a.txt",
        "other.txt",
        "data/new.txt",
    }


def test_what_belonged_to_older_files_goes_with_them(tmp_path):
    for name in ("report.json", "weights-1.bin", "notes.txt"):
        (tmp_path / name).write_text("old")
    with atomic_folder(tmp_path, replaces=("report.json", "weights-*", "new.txt")) as scratch:
        (scratch / "new.txt").write_text("new")
        assert (tmp_path / "report.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"new.txt", "notes.txt"}


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path) as scratch:
        (scratch / "a.txt").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_kill_leaves_old_files_beside_new_ones_and_loses_none(tmp_path, monkeypatch):
    for name in ("report.json", "texts.txt", "stale.txt"):
        (tmp_path / name).write_text("old")
    replace, left = os.replace, [1]

    def killed(*paths):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        replace(*paths)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path, ("stale.txt",), first="report.json") as scratch:
        (scratch / "report.json").write_text("new")
        (scratch / "texts.txt").write_text("new")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"report.json": "new", "texts.txt": "old", "stale.txt": "old"}


def test_scratch_folders_of_killed_writings_go_after_a_day(tmp_path):
    for name, age in ((".writing-old", 2 * 86400), (".writing-young", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with atomic_folder(tmp_path) as scratch:
        (scratch / "a.txt").write_text("a")
    assert {path.name for path in tmp_path.iterdir()} == {".writing-young", "a.txt"}


def test_a_written_file_is_its_owner_s_unless_it_is_for_others_and_keeps_its_mode(tmp_path):
    new, own, old = tmp_path / "new.json", tmp_path / "own.json", tmp_path / "old.json"
    old.write_text("old")
    old.chmod(0o640)
    before = os.umask(0o022)
    try:
        for path in (new, old):
            atomic_write(path, "new", for_others=True)
        atomic_write(own, "new")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (new, own, old)] == [0o644, 0o600, 0o640]
    assert old.read_text() == "new" and len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "in", "cannot be written")):
        with pytest.raises(ValueError, match=f"`output_dir`='.*' {message}"):
            check_is_writable("output_dir", path)
    for path in (tmp_path, tmp_path / "new" / "folder"):
        check_is_writable("output_dir", path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


FULL_DISK = """
import signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from hf_pretext.files import atomic_folder
# The file size limit sends a signal as well; ignored, writing fails as on a full disk.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = LlamaForCausalLM(LlamaConfig(vocab_size=4000, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=64))
with atomic_folder({folder!r}) as scratch:
    (scratch / "README.md").write_text("a card")
    model.save_pretrained(scratch)
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """Writing fails for real, after 100,000 bytes of a file."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(tests=sys.path[0], folder=str(tmp_path))],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "Error" in done.stderr
    assert list(tmp_path.iterdir()) == []
