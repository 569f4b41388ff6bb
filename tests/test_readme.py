"""README: short, in plain language, and every block of code runs as pasted."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import prose
import pytest

from hf_pretext.cli import main
from hf_pretext.clients.questions import check_question
from hf_pretext.clients.samples import Samples
from hf_pretext.data import read_dataset
from support.hub_server import HubServer
from support.tiny import random_texts

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=TEXT):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def block_with(words, path):
    (found,) = (each for each in blocks("python", (ROOT / path).read_text(encoding="utf-8")) if words in each)
    return found


def test_it_is_short():
    words = re.sub(r"^```.*?^```", "", TEXT, flags=re.S | re.M).split()
    assert len(TEXT.splitlines()) <= 170 and len(TEXT.split()) <= 1300 and len(words) <= 1000


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("A short sentence.", 0),
        ("One thing; another thing.", 1),
        ("`a; b` is code.", 0),
        (f"{'word ' * 35}.", 1),
        (f"{'word ' * 20}. {'Word ' * 20}.", 0),
        ("| a | b |\n|---|---|\n| 0.1; 0.2 | 3 |", 0),
        ("Nobody does it anew.", 2),
        ("```\na; b\n```", 0),
    ],
)
def test_the_check_of_the_language_finds_faults(text, faults):
    assert len(list(prose.faults(text))) == faults


def test_links_lead_to_files():
    for page in subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split():
        folder = (ROOT / page).parent
        if "model_cards/" in page and page != "model_cards/README.md":
            continue  # Cards speak of files in the repository that they are pushed to.
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert (folder / target).exists(), f"{page}: {target}"


def test_shell_commands_name_what_is_there(capsys):
    targets = set(re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    targets = {name for names in targets for name in names.split()}
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) > 5
    for line in lines:
        command = shlex.split(line, comments=True)
        if command[0] == "make":
            assert targets >= set(command[1:]), line
        elif command[0] == "hf-pretext":
            with pytest.raises(SystemExit, match="0"):
                main([command[1], "--help"])
            assert all(option in capsys.readouterr().out for option in command if option.startswith("--"))
        for path in command:
            assert not path.startswith("recipes/") or (ROOT / path).is_file(), line


def test_a_table_of_messages_becomes_conversations_as_the_guide_says(tmp_path, monkeypatch):
    rows = ["a,1,assistant,Hello", "a,1,user,My card", "a,1,user,is lost", "a,1,assistant,Sure", "b,1,assistant,Bye"]
    (tmp_path / "chats.csv").write_text("\n".join(["customer,chat_id,role,content", *rows]))
    monkeypatch.chdir(tmp_path)
    exec(block_with("chats.setdefault", "hf_pretext/data/README.md"), {})
    (row,) = read_dataset("chats.jsonl", None, "client_id", other_columns=["messages"]).to_list()
    turns = [{"role": "user", "content": "My card\nis lost"}, {"role": "assistant", "content": "Sure"}]
    assert row == {"client_id": "a", "messages": turns}


def test_a_question_of_one_s_own_is_one_as_the_guide_says():
    code = block_with("class Sides", ".github/CONTRIBUTING.md").partition("generator = ")[0]
    found = {}
    exec(code, found)
    question = found["Sides"](found["direction"])
    check_question(question, 384)
    samples = Samples(np.zeros(2, dtype=np.int64), np.array([[9] + [0] * 383, [-9] + [0] * 383], dtype=np.int16))
    assert question.answer(samples).tolist() == [1, 1]
    assert question.interpret(np.array([1.0, 5.0]), 1.0, np.eye(384)[:1]).tolist() == [np.tanh(4.0)]


@pytest.mark.slow
def test_python_runs_as_pasted(tmp_path):
    # As many public texts as three rounds ask about, so that none has to be written.
    for name, columns, number in (("messages", ("client_id", "text"), 200), ("public", ("text",), 4000)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows((f"{row % 40}", text)[-len(columns) :] for row, text in enumerate(random_texts(number)))
    script = "\n".join(blocks("python"))
    with HubServer(tmp_path / "server") as server:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **server.environment(tmp_path / "home")}
        environment.pop("HF_HOME")  # The unpacked model of the quickstart is there.
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "differential privacy with epsilon = 3 and delta = 1e-05" in done.stdout
    assert (tmp_path / "synthetic" / "README.md").is_file()
