"""A node's own budget: its configuration, its ledger, and the command that shows it.

Twenty runs of a server, two runs at once, older copies and kills are the checks of `tests/support/guarantee_node.py`.
"""

import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from hf_pretext.cli import main
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.federated import client, node_texts, protocol
from hf_pretext.federated.client import make_client_app
from hf_pretext.federated.node import AskedRun, NodeBudget, NodeSettings, RefusalError, all_answered
from hf_pretext.federated.node_ledger import NodeError, NodeLedger, epsilon_of, statement
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import Mechanism, ReleaseLostError, compute_epsilon
from support.federation import make_context, make_federation, make_run_config, no_noise
from support.guarantee import CANDIDATES, NUM_BINS, BinEncoder
from support.guarantee_node import (
    COLLECT,
    LARGE,
    THREE,
    begin,
    entries,
    kill_nodes,
    make_files,
    run_to_its_end,
    spent,
    with_bins,
)

PUBLIC = "This node's configuration or ledger is not in order. Its own log says more."


@pytest.fixture(autouse=True)
def _bins(monkeypatch):
    monkeypatch.setattr(node_texts, "_embedder", lambda name: TextEmbedder(BinEncoder()))


@pytest.fixture
def files():
    return make_files()


@pytest.mark.parametrize(
    ("node_config", "message"),
    [
        ({}, "needs the keys \\['max_epsilon', 'max_delta'\\] beside it"),
        ({"max-epsilon": 3.0}, "needs the keys \\['max_delta'\\]"),
        ({"max-delta": 1e-5}, "needs the keys \\['max_epsilon'\\]"),
        ({"max-epsilons": 0.1}, "\\['max_epsilons'\\] are unknown. Did you mean \\['max_epsilon'\\]\\? Known are"),
        ({**THREE, "Max-Epsilon": 0.1}, "\\['Max_Epsilon'\\] are unknown"),
        ({**THREE, "max_epsilon": 0.1}, "\\['max_epsilon'\\] are given twice"),
        ({**THREE, "max-epsilon": math.nan}, "`max_epsilon`=nan must be above 0 and finite"),
        ({**THREE, "max-epsilon": math.inf}, "`max_epsilon`=inf must be finite"),
        ({**THREE, "max-epsilon": 0}, "`max_epsilon`=0 must be above 0"),
        ({**THREE, "max-epsilon": -1.0}, "`max_epsilon`=-1.0 must be above 0"),
        ({**THREE, "max-epsilon": True}, "`max_epsilon`=True must be a number, not bool"),
        ({**THREE, "max-epsilon": "3"}, "`max_epsilon`='3' must be a number, not str"),
        ({**THREE, "max-delta": 1.0}, "`max_delta`=1.0 must be below 1"),
        ({**THREE, "max-delta": math.nan}, "`max_delta`=nan must be above 0 and below 1 and finite"),
        ({**THREE, "ledger": ""}, "`ledger`='' must be a non-empty string"),
        ({**THREE, "private": 5}, "`private`=5 must be a non-empty string"),
    ],
)
def test_a_node_whose_configuration_is_not_valid_answers_no_message(files, node_config, message, caplog):
    """Of any kind, and the server is not told what is wrong with it."""
    configuration = {"private": str(files[0]), **node_config}
    with pytest.raises(NodeError, match=message):
        NodeSettings.from_node_config(configuration)
    context = make_context(make_run_config("bins"), 1000, **configuration)
    for kind in ("train.knows", "train.keys", "train.answer", "train.plain", "train", "train.default", "query"):
        sent = Message(RecordDict(), dst_node_id=1000, message_type=kind)
        sent.metadata.__dict__.update(_message_id="x", _run_id=1, _src_node_id=1)
        with pytest.raises(Exception) as refusal:  # noqa: PT011 - Flower refuses kinds that the app does not have
            make_client_app()(sent, context)
        assert kind in ("train", "train.default", "query") or str(refusal.value) == PUBLIC
    assert not entries(files[0])


def test_keys_may_have_hyphens_or_underscores():
    for limits in (THREE, {"max_epsilon": 3, "max_delta": 1e-5}):
        node = NodeSettings.from_node_config({"private": "a", "partition-id": 0, "num-partitions": 2, **limits})
        assert (node.max_epsilon, node.max_delta, node.partition_id) == (3.0, 1e-5, 0)
    assert NodeSettings.from_node_config({"partition-id": 0, "num-partitions": 2}).private is None


def test_one_entry_per_answer_that_an_owner_can_read(files, capsys):
    assert run_to_its_end(begin(files, 6, **{"epsilon": 0.5, "num-rounds": 1})) == 1
    made = begin(files, 7, **{"epsilon": 2.0})
    assert run_to_its_end(made) == 3
    kept = entries(files[1])
    assert [entry["run"] for entry in kept] == [6, 7, 7, 7] and len({entry["id"] for entry in kept}) == 4
    latest = made.ledger.plan.entry("votes").mechanism
    assert kept[3]["mechanism"] == asdict(latest) and kept[3]["question"] == "votes"
    assert (kept[3]["num_bins"], kept[3]["num_asked"], kept[3]["noise_is_genuine"]) == (NUM_BINS, 3, True)
    files[1].unlink()  # The text is not read.
    assert main(["node", "--private", str(files[1])]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.count("| votes | ") == 2
        and f"| 7 | votes | 3 | {NUM_BINS} | {latest.noise_multiplier:.4g} |" in printed
    )
    total = epsilon_of([(each.mechanism, each.num_bins) for each in NodeLedger(files[1]).answers()], 1e-5)
    assert f"4 answers together cost epsilon = {total:.3f}"[:-1] in printed and "`max-epsilon`=3" in printed


def test_the_command_without_answers_and_without_torch(files):
    script = f"import sys; from hf_pretext.cli import main; main(['node', '--private', {str(files[0])!r}]); "
    script += "print('torch' in sys.modules, 'flwr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "This node has answered nothing" in done.stdout and done.stdout.endswith("False False\n")
    assert main(["node", "--private", f"{files[0]}x"]) == 2, "a name that is mistyped is not a node without answers"


def test_the_total_is_exact_and_says_what_is_hidden(files):
    made = begin(files, node_config=LARGE, **{"num-rounds": 3, "noise-multiplier": 2.0})
    run_to_its_end(made)
    present, exchanged = (compute_epsilon(2.0 / factor, 1e-5, 3) for factor in (1, math.sqrt(2)))
    assert spent(files[0]) == pytest.approx(present, rel=1e-4)
    words = statement(NodeLedger(files[0]))
    assert f"epsilon = {present:.2f}"[:-1] in words and f"and {exchanged:.2f}"[:-1] in words


def test_different_relations_are_counted_as_exchanges():
    """The bound of each of them: the same noise, over the sensitivity to an exchange."""
    votes, mean = Mechanism(2.0), Mechanism(3.0, is_signed=True)
    exchange = Mechanism(1.5, neighboring_relation="replace_one")
    mixed = epsilon_of([(votes, 24), (mean, 24), (exchange, 24)], 1e-5)
    mu = math.sqrt(2 / 2.0**2 + 4 / 3.0**2 + 1 / 1.5**2)
    assert mixed == pytest.approx(compute_epsilon(1 / mu, 1e-5, 1), rel=1e-6)
    assert mixed >= epsilon_of([(votes, 24), (mean, 24)], 1e-5) and mixed >= epsilon_of([(exchange, 24)], 1e-5)
    assert epsilon_of([], 1e-5) == 0


def test_the_count_survives_restarts_links_and_copies_of_the_app(files, tmp_path, monkeypatch):
    """Each run has a state of its own, and the second one another app, names with links, and another folder."""
    assert run_to_its_end(begin(files, 1)) == 3
    (tmp_path / "link").symlink_to(files[0].parent)
    monkeypatch.chdir(tmp_path)
    linked = [Path("link") / file.name for file in files]
    assert run_to_its_end(begin(linked, 2)) == 0
    assert [len(entries(file)) for file in files] == [3, 3, 3]
    folder = NodeLedger(f"{tmp_path}/link/")
    assert folder.path == Path(f"{files[0].parent.resolve()}.budget.json")


def test_a_run_that_is_resumed_needs_only_the_rest(files):
    """The server is killed after a round, and starts a new run of Flower from its folder."""
    first = begin(files, 1)
    first.release(CANDIDATES)
    again = begin(files, 2)
    with pytest.raises(ValueError, match="answered so far and the rest of this run cost together"):
        again.release(CANDIDATES)
    resumed = begin(files, 3)
    resumed.pool._wanted = {"votes": 2}
    assert run_to_its_end(resumed) == 2
    assert [entry["run"] for entry in entries(files[0])] == [1, 3, 3] and 2.99 < spent(files[0]) <= 3


def test_a_run_that_wants_less_than_its_plan_is_told_so(files):
    made = begin(files)
    entry = made.ledger.plan.entry("votes")
    few, all_of_them = (AskedRun(1, made.ledger.plan, wanted).number(entry) for wanted in ({"votes": 1}, {}))
    assert "This run has 1 releases" in all_answered("votes", few)
    assert f"This run has {entry.count} releases" in all_answered("votes", all_of_them)


def test_the_server_app_says_how_much_of_its_plan_is_left(files):
    made = begin(files)
    made.release(CANDIDATES)
    pool = type(made.pool)(made.grid, None, made.pool._settings, made.ledger.plan, earlier=made.ledger.releases)
    assert pool._wanted == {"votes": 2}
    announced = protocol.announce(NearestCandidates.of(CANDIDATES), made.ledger.plan, pool._wanted, b"")
    assert protocol.read_wanted(announced) == {"votes": 2}
    for wanted in ([-1], ["2"], [1.5], [True], []):
        with pytest.raises(ValueError, match="wants|shorter"):
            protocol.read_wanted({**announced, "wanted": wanted})


CORRUPT = {
    "nothing": "",
    "no JSON": "{",
    "a list": "[]",
    "another format": '{"format": 2, "max_epsilon": 3, "max_delta": 1e-5, "answers": []}',
    "no limits": '{"format": 1, "answers": []}',
    "no entries": '{"format": 1, "max_epsilon": 3, "max_delta": 1e-5, "answers": [{}]}',
    "nested": "[" * 100_000,
}


@pytest.fixture(scope="module")
def answered():
    """Nodes that have answered once, and the ledger of the first one."""
    files = make_files()
    assert with_bins(run_to_its_end)(begin(files, 1, **{"num-rounds": 1, "epsilon": 1.0})) == 1
    path = Path(f"{files[0]}.budget.json")
    return files, path, json.loads(path.read_text())


@pytest.mark.parametrize("name", [*CORRUPT, "not text", "an entry without noise", "an entry twice", "a folder"])
def test_a_corrupt_ledger_releases_nothing_and_tells_only_the_owner(answered, name, caplog, capsys):
    files, path, whole = answered
    if name == "a folder":
        path.unlink()
        path.mkdir()
    elif name == "not text":
        path.write_bytes(b"\xff\xfe")
    elif name == "an entry twice":
        path.write_text(json.dumps({**whole, "answers": whole["answers"] * 2}))
    elif name == "an entry without noise":
        (entry,) = whole["answers"]
        mechanism = {**entry["mechanism"], "noise_multiplier": math.inf}
        path.write_text(json.dumps({**whole, "answers": [{**entry, "mechanism": mechanism}]}))
    else:
        path.write_text(CORRUPT[name])
    logging.getLogger("flwr").addHandler(caplog.handler)
    made = begin(files, 2, **{"num-rounds": 1, "epsilon": 1.0})
    made.grid.contexts = {1000: made.grid.contexts[1000]}
    made.pool._wait_for = lambda number: [1000]
    with pytest.raises(ValueError, match="0 of 1 clients will answer") as refused:
        made.release(CANDIDATES)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert PUBLIC in str(refused.value) and str(files[0].parent) not in str(refused.value)
    told = next(record.getMessage() for record in caplog.records if str(path) in record.getMessage())
    assert ("cannot be read" if name == "a folder" else "Restore its latest copy") in told
    assert main(["node", "--private", str(files[0])]) == 2
    assert str(path) in capsys.readouterr().err
    if name == "a folder":
        path.rmdir()


@pytest.mark.parametrize("place", ["/sys/budget.json", "/dev/null/budget.json", "/nowhere/budget.json"])
def test_a_ledger_that_cannot_be_written_is_refused_before_anything_is_spent(files, place):
    if place.startswith("/sys/") and not Path("/sys").is_mount():
        pytest.skip("This system has no /sys, to which not even root can write.")
    made = begin(files, node_config={**THREE, "ledger": place})
    with pytest.raises(ValueError, match="0 of 3 clients will answer") as refused:
        made.release(CANDIDATES)
    assert PUBLIC in str(refused.value) and place not in str(refused.value)
    node = NodeSettings(private=str(files[0]), max_epsilon=3.0, max_delta=1e-5, ledger=place)
    with pytest.raises(NodeError, match="so nothing is answered. Give the SuperNode a folder on a lasting disk"):
        NodeBudget(node, True).check(AskedRun(1, made.ledger.plan))


def test_a_disk_that_is_full_when_the_answer_is_counted_releases_nothing(files, monkeypatch):
    """The node has agreed before. The server has counted the release, and gets no answer of this node."""
    made = begin(files, **{"num-rounds": 1, "epsilon": 1.0})
    original = NodeBudget.record

    def on_a_full_disk(self, *arguments):
        # A real limit of the operating system: no file may have more than 100 bytes.
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            original(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(NodeBudget, "record", on_a_full_disk)
    with pytest.raises(ReleaseLostError):
        made.release(CANDIDATES)
    assert not any(map(entries, files))
    reasons = {each.reason for each in made.grid.seen if each.stage == COLLECT}
    assert len(reasons) == 1 and PUBLIC in reasons.pop()


def test_a_marker_that_is_damaged_or_cannot_be_kept(files, monkeypatch):
    node = NodeSettings(private=str(files[0]), max_epsilon=3.0, max_delta=1e-5)
    run = AskedRun(1, begin(files).ledger.plan)
    NodeBudget(node, True).record(run, "votes", NUM_BINS, 3)
    (marker,) = NodeLedger(files[0]).markers
    whole = marker.read_text()
    for content in ("", "{}", '{"num_answers": "x", "newest": 1}', '{"num_answers": -1, "newest": null}'):
        marker.write_text(content)
        with pytest.raises(NodeError, match="marker"):
            NodeBudget(node, True).check(run)
    marker.write_text(whole)
    NodeBudget(node, True).check(run)
    with monkeypatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", "/proc/nowhere")
        with pytest.raises(NodeError, match="Also let it write the markers .'/proc/nowhere"):
            NodeBudget(node, True).record(run, "votes", NUM_BINS, 3)
    # Another file for the ledger, which would begin with nothing.
    with pytest.raises(NodeError, match="lacks the newest of 1 answers"):
        NodeBudget(replace(node, ledger=f"{files[0]}.other"), True).check(run)


def test_other_noise_than_the_library_s_has_no_epsilon(files):
    """An app of the node's owner, in tests. The ledger says so, and a genuine run is refused from then on."""
    changes = {"population-size": NUM_BINS}
    made = make_federation(files, "bins", noise=no_noise, node_config=LARGE, **changes)
    made.release(CANDIDATES)
    assert [entry["noise_is_genuine"] for entry in entries(files[0])] == [False]
    assert "epsilon = inf" in statement(NodeLedger(files[0]))
    assert run_to_its_end(begin(files, 2, node_config=LARGE)) == 0


class PanicException(BaseException):
    """What a panic of a tokenizer that is written in Rust raises."""


@pytest.mark.parametrize("name", ["embed_clients", "sum_answers"])
def test_a_panic_is_no_way_around_the_guards(files, name, monkeypatch):
    """It quotes text. The client contributes zero where its text is read, and else fails as with any error."""
    module = node_texts if name == "embed_clients" else client
    original = getattr(module, name)

    def panics(*arguments):
        if "bin 2" in str(arguments) or name == "sum_answers":
            raise PanicException("panicked at a quokka")
        return original(*arguments)

    monkeypatch.setattr(module, name, panics)
    made = begin(files)
    if name == "embed_clients":
        made.release(CANDIDATES)
        assert made.pool.rounds[0].num_answered == 3
        return
    with pytest.raises(ReleaseLostError):
        made.release(CANDIDATES)
    reasons = {each.reason for each in made.grid.seen if each.stage == COLLECT}
    assert len(reasons) == 1 and "The client failed" in (reason := reasons.pop()) and "quokka" not in reason


def test_a_node_whose_model_is_broken_says_so_instead_of_contributing_zero(files, monkeypatch):
    """It is broken for any text, such as by that of an earlier client of a simulation."""
    monkeypatch.setattr(BinEncoder, "encode", lambda *_, **__: np.full((1, NUM_BINS), np.nan))
    made = begin(files)
    with pytest.raises(ValueError, match="Nothing was spent.*`embedding_model` failed on public words"):
        made.release(CANDIDATES)


def test_a_simulated_node_needs_no_limits_and_has_no_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv(node_texts.SIMULATION, "1")
    everyone = tmp_path / "all.jsonl"
    everyone.write_text("".join(json.dumps({"client_id": n, "text": f"bin {n}"}) + "\n" for n in "123"))
    changes = {"num-clients": 3, "population-size": NUM_BINS, "secure-aggregation": False, "num-rounds": 1}
    run_config = make_run_config("bins", **changes, **{"simulated-private": str(everyone)})
    contexts = {n: make_context(run_config, n, **{"partition-id": n, "num-partitions": 3}) for n in range(3)}
    made = make_federation([everyone] * 3, "bins", **changes, **{"simulated-private": str(everyone)})
    made.grid.contexts, made.grid.apps = contexts, dict.fromkeys(contexts, make_client_app())
    made.release(CANDIDATES)
    assert made.pool.rounds[0].num_answered == 3 and os.listdir(tmp_path) == ["all.jsonl"]
    # Nor does it share its noise among more clients than the run has.
    with pytest.raises(RefusalError, match="4 clients are asked, more than `num_clients`=3 of this run"):
        client._check_asked(4, 3)


@pytest.mark.slow
def test_thirty_kills_and_each_answer_has_an_entry_of_its_own():
    counts = kill_nodes(30)
    assert counts["kills"] == 30 and counts["entries"] == counts["answers"] + counts["entries_without_answer"]


def test_one_text_under_two_names_has_one_budget(files):
    """A link to the texts, with another file for the ledger, does not begin a budget of its own."""
    run = AskedRun(1, begin(files).ledger.plan)
    link = files[0].with_name("link.jsonl")
    link.symlink_to(files[0])
    first, second = (
        NodeSettings(private=str(path), max_epsilon=3.0, max_delta=1e-5, ledger=str(files[0].with_name(name)))
        for path, name in ((files[0], "one"), (link, "two"))
    )
    NodeBudget(first, True).record(run, "votes", NUM_BINS, 3)
    with pytest.raises(NodeError, match="lacks the newest of 1 answers"):
        NodeBudget(second, True).record(run, "votes", NUM_BINS, 3)
    NodeBudget(NodeSettings(**{**vars(second), "ledger": first.ledger}), True).record(run, "votes", NUM_BINS, 3)
