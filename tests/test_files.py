import resource
import subprocess
import sys

import pytest

from hf_pretext.files import atomic_folder


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
