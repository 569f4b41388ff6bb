"""Checks of a node's own budget, and mutations that each of them has to catch. See `tests/support/guarantee.py`.

None of them is statistical, but for the instants of kills. The clients' texts name bins, which are their embeddings,
so that no model is loaded. All else is real: the ClientApp, secure aggregation, ledgers on disk, processes and kills.
"""

import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from functools import wraps
from pathlib import Path
from unittest import mock

from flwr.app import ConfigRecord, Message, RecordDict

from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.federated import client, graph, node, node_texts
from hf_pretext.federated.masking import MASKS
from hf_pretext.federated.node import NodeBudget
from hf_pretext.federated.node_ledger import NodeLedger, epsilon_of
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.privacy import ReleaseLostError
from hf_pretext.privacy.noise import DiscreteGaussian
from support.federation import SCRATCH, make_federation
from support.guarantee import CANDIDATES, DRAW, NUM_BINS, BinEncoder

NUM_NODES = 3
COLLECT = "answer"
LARGE = {"max-epsilon": 1e6, "max-delta": 1e-5}
THREE = {"max-epsilon": 3.0, "max-delta": 1e-5}


def with_bins(function):
    """Let nodes embed the text "bin 7" where candidate 7 is."""

    @wraps(function)
    def wrapped(*arguments, **named):
        with mock.patch.object(node_texts, "_embedder", lambda name: TextEmbedder(BinEncoder())):
            return function(*arguments, **named)

    return wrapped


NUM_CONSPIRING, FEW_SHARES = 50, 2
"""Of a thousand clients, and shares that open a secret. That many holders of a client conspire in nearly all graphs.
"""


def check_few_shares(num_runs=None):
    """A server that links everyone to many others may not let a few holders open a client's secrets."""
    graph._privacy_failure.cache_clear()
    for degree in (251, 300, 998):
        try:
            graph.Graph(1000, NUM_CONSPIRING, 800, degree, FEW_SHARES).check()
        except ValueError:
            continue
        raise AssertionError(f"A graph of degree {degree} in which conspiring holders open secrets was taken.")


def make_files():
    """Write the texts of the nodes into a new folder, in which there is no ledger yet."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir=SCRATCH.name))
    files = [folder / f"{number}.jsonl" for number in range(NUM_NODES)]
    for number, file in enumerate(files):
        file.write_text(json.dumps({"client_id": f"c{number}", "text": f"bin {number}"}) + "\n")
    return files


def begin(files, run_id=1, node_config=THREE, meddle=None, **changes):
    """Begin a run of a server among the nodes that hold these files: three rounds at an epsilon of 3."""
    settings = {"num-rounds": 3, "epsilon": 3.0, "population-size": NUM_BINS, "max-dropout": 0.4, **changes}
    without = ("noise-multiplier",) if "noise-multiplier" not in changes else ("epsilon",)
    settings = {name: value for name, value in settings.items() if name not in without}
    return make_federation(
        *(files, "bins"), meddle=meddle, without=without, node_config=node_config, run_id=run_id, **settings
    )


def run_to_its_end(made):
    """Release until the plan has no more or the nodes refuse, and return the number of released answers."""
    for number in range(made.ledger.plan.num_releases):
        try:
            made.release(CANDIDATES)
        except (ValueError, ReleaseLostError):
            return number
    return made.ledger.plan.num_releases


def entries(file):
    """Read the entries of a node's ledger off the disk."""
    path = Path(f"{file}.budget.json")
    return json.loads(path.read_text())["answers"] if path.exists() else []


def spent(file, delta=1e-5):
    """Compute what the ledger of a node says."""
    return epsilon_of([(each.mechanism, each.num_bins) for each in NodeLedger(file).answers()], delta)


@with_bins
def check_total_of_all_runs(num_runs):
    """A server that starts 20 runs, each at an epsilon of 3, gets one run from nodes with a limit of 3."""
    files = make_files()
    released = 0
    for run in range(20):
        released += run_to_its_end(begin(files, 1 + run))
        assert released <= 3, f"{released} answers of nodes whose limit allows 3, in {run + 1} runs"
    assert released == 3 and all(len(entries(file)) == 3 and 2.99 < spent(file) <= 3 for file in files)


@with_bins
def check_total_against_a_lying_server(num_runs):
    """A server that says of each of 20 runs that it wants one answer more, and one that does not say it at all."""
    files = make_files()
    released = 0
    for run in range(20):
        made = begin(files, 1 + run, epsilon=5.0)
        question, mechanism = NearestCandidates.of(CANDIDATES), made.ledger.plan.entry("votes").mechanism
        made.pool._wanted = {"votes": 1}
        made.pool._nodes = list(made.grid.contexts)
        with contextlib.suppress(ValueError, ReleaseLostError):
            if run % 2:
                made.pool._prepare(question, mechanism)
            made.pool._answer(question, mechanism)
            released += 1
        assert all(spent(file) <= 3 for file in files), f"{[spent(file) for file in files]} after {run + 1} runs"
    assert released == 1


@with_bins
def check_whole_run(num_runs):
    """A run whose single rounds would fit the limit, but not all of them, gets not one answer."""
    files = make_files()
    assert run_to_its_end(begin(files, epsilon=5.0)) == 0
    assert not any(map(entries, files)), "a node answers a run that its limit does not allow"


@with_bins
def check_two_runs_at_once(num_runs):
    """Two runs that fit the limit one by one, of which one answers while the other is about to."""
    files, once, released = make_files(), {"num-rounds": 1, "epsilon": 2.5}, []

    def let_another_run_answer(number, stage, reply):
        if stage == "shares" and not released:
            released.append("begun")
            released.append(run_to_its_end(begin(files, 2, **once)))
        return reply

    run_to_its_end(begin(files, 1, meddle=let_another_run_answer, **once))
    assert released == ["begun", 1]
    runs = [[entry["run"] for entry in entries(file)] for file in files]
    assert runs == [[2]] * NUM_NODES, f"a limit of 3 allows one run at 2.5, and the nodes answered the runs {runs}"


@with_bins
def check_ledger_before_noise(num_runs):
    """When the noise of an answer is drawn, its entry is on the disk."""
    files, draw, seen = make_files(), DiscreteGaussian.__call__, []

    def draw_and_look(noise, scale, size):
        seen.append(sum(len(entries(file)) for file in files))
        return draw(noise, scale, size)

    made = begin(files)
    with mock.patch(DRAW, draw_and_look):
        run_to_its_end(made)
    assert seen == list(range(1, 3 * NUM_NODES + 1)), f"{seen} entries when noise is drawn"


@with_bins
def check_asked(num_runs):
    """A node divides the noise among no more clients than the run has."""
    made = begin(make_files())
    for asked in (4, 1000):
        content = RecordDict({MASKS: ConfigRecord({"num_asked": asked})})
        message = Message(content, dst_node_id=1000, message_type="train.keys")
        message.metadata.__dict__.update(_message_id="x", _run_id=1, _src_node_id=1)
        with contextlib.suppress(client.RefusalError):
            made.grid.apps[1000](message, made.grid.contexts[1000])
            raise AssertionError(f"{asked} clients are asked in a run of {NUM_NODES}, and the node agrees")


@with_bins
def check_older_copy(num_runs):
    """An older copy of the ledger that is put back, and a ledger that is removed, get no answer."""
    files = make_files()
    run_to_its_end(begin(files, **{"num-rounds": 1, "epsilon": 1.0}))
    for file in files:
        shutil.copy(f"{file}.budget.json", f"{file}.older")
    assert run_to_its_end(begin(files, 2, **{"num-rounds": 1, "epsilon": 1.0})) == 1
    for file in files:
        os.replace(f"{file}.older", f"{file}.budget.json")
    assert run_to_its_end(begin(files, 3, **{"num-rounds": 1, "epsilon": 1.0})) == 0, "an older copy is not noticed"
    for file in files:
        Path(f"{file}.budget.json").unlink()
    assert run_to_its_end(begin(files, 4, **{"num-rounds": 1, "epsilon": 1.0})) == 0, "a removal is not noticed"


@with_bins
def check_two_copies(num_runs):
    """Two processes that count answers of one node at the same time lose none of them."""
    file, each = make_files()[0], 15
    plan = begin([file] * 3, node_config=LARGE, **{"num-rounds": 2 * each}).ledger.plan
    settings = node.NodeSettings(private=str(file), max_epsilon=1e6, max_delta=1e-5)

    together = multiprocessing.get_context("fork").Barrier(2)

    def count(run):
        for _ in range(each):
            with contextlib.suppress(threading.BrokenBarrierError):  # The other one may have failed.
                together.wait(timeout=5)
            NodeBudget(settings, True).record(node.AskedRun(run, plan), "votes", NUM_BINS, NUM_NODES)

    write = NodeLedger.write

    def slow_write(self, *arguments):
        time.sleep(0.02)  # Long enough for the other process to read in between, if nothing keeps it away.
        write(self, *arguments)

    with mock.patch.object(NodeLedger, "write", slow_write):
        children = [in_a_process(lambda run=run: count(run)) for run in (1, 2)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    runs = Counter(entry["run"] for entry in entries(file))
    assert statuses == [0, 0] and runs == {1: each, 2: each}, f"entries of two processes: {dict(runs)}"


def check_kills(num_runs):
    """Five kills. `make prove` has thirty."""
    kill_nodes(5)


def in_a_process(work):
    """Begin work in a process of its own, which ends with status 0 if it comes to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # The terminal belongs to the parent.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


@with_bins
def kill_nodes(num_kills, seed=0):
    """Kill nodes with SIGKILL while they answer in a loop, start them again, and compare answers with ledgers.

    Each answer that leaves a node is noted in a file, with the newest entry of the ledger at that time.

    Returns:
        `dict`: Numbers of kills, answers that left, entries, and entries whose answer a kill took.

    Raises:
        AssertionError: An answer left without an entry of its own.
    """
    # Everything is imported before processes are forked, so that the instants of kills fall into answers.
    for _ in range(2):
        started = time.perf_counter()
        run_to_its_end(begin(make_files()))
        seconds = time.perf_counter() - started
    files = make_files()
    notes = files[0].parent / "notes.txt"
    instants = random.Random(seed)

    def answer_for_good(run_id):
        note = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def leaves(number, stage, reply):
            if stage == COLLECT and not reply.has_error():
                ids = [entry["id"] for entry in entries(files[number - 1000])]
                os.write(note, f"{number - 1000} {ids[-1] if ids else 'none'}\n".encode())
            return reply

        many = {"num-rounds": 1000, "noise-multiplier": 1.0}
        made = begin(files, run_id, node_config=LARGE, meddle=leaves, **many)
        while True:
            made.release(CANDIDATES)

    for kill in range(num_kills):
        child = in_a_process(lambda kill=kill: answer_for_good(1 + kill))
        time.sleep(instants.uniform(0.2, 1.5) * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the loop ended before its kill"
    noted = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    assert noted, "no node has answered before its kill"
    lost = 0
    for number, file in enumerate(files):
        answered = [entry for of_node, entry in noted if int(of_node) == number]
        counted = [entry["id"] for entry in entries(file)]
        assert len(set(answered)) == len(answered), f"node {number} answered twice for one entry of its ledger"
        assert set(answered) <= set(counted), f"node {number} answered without an entry in its ledger"
        lost += len(counted) - len(answered)
    assert lost <= num_kills * NUM_NODES
    total = sum(len(entries(file)) for file in files)
    return {"kills": num_kills, "answers": len(noted), "entries": total, "entries_without_answer": lost}


def _only_this_run():
    check = NodeBudget._check_limits

    def of_one_run(self, run, answers):
        check(self, run, [answer for answer in answers if answer.run == run.id])

    return mock.patch.object(NodeBudget, "_check_limits", of_one_run)


def _only_one_round():
    return mock.patch.object(node, "epsilon_of", lambda releases, delta: epsilon_of(releases[-1:], delta))


def _only_before_it_answers():
    record = NodeBudget.record

    def record_unchecked(self, *arguments):
        with mock.patch.object(NodeBudget, "_check_limits", lambda *_: None):
            record(self, *arguments)

    return mock.patch.object(NodeBudget, "record", record_unchecked)


def _counted_after_the_answer():
    record, late = NodeBudget.record, []

    def record_the_one_before(self, *arguments):
        for work in late:
            work()
        late[:] = [lambda: record(self, *arguments)]

    return mock.patch.object(NodeBudget, "record", record_the_one_before)


def _only_standing_apart():
    tail = graph.log2_tail

    def without_conspirators(total, marked, drawn, at_least):
        is_of_them_alone = marked == NUM_CONSPIRING and at_least == FEW_SHARES
        return -math.inf if is_of_them_alone else tail(total, marked, drawn, at_least)

    graph._privacy_failure.cache_clear()
    return mock.patch.object(graph, "log2_tail", without_conspirators)


MUTATIONS = {
    "conspiring holders may have shares enough for a secret": (_only_standing_apart, check_few_shares),
    "a node's ledger is not written": (
        lambda: mock.patch.object(NodeLedger, "write", lambda *_: None),
        check_kills,
    ),
    "a node's ledger is written after its answer": (_counted_after_the_answer, check_ledger_before_noise),
    "a node's limit is held against one run only": (_only_this_run, check_total_of_all_runs),
    "a node's limit is held against one round only": (_only_one_round, check_whole_run),
    "a node's limit is not held again before each answer": (_only_before_it_answers, check_two_runs_at_once),
    "a node's limit is not held against anything": (
        lambda: mock.patch.object(NodeBudget, "_check_limits", lambda *_: None),
        check_total_against_a_lying_server,
    ),
    "a node lets a server ask more clients than the run has": (
        lambda: mock.patch.object(client, "_check_asked", lambda *_: None),
        check_asked,
    ),
    "a node takes an older copy of its ledger": (
        lambda: mock.patch.object(NodeLedger, "_check_marker", lambda *_: None),
        check_older_copy,
    ),
    "two copies of a node's app write its ledger at once": (
        lambda: mock.patch("filelock.FileLock", lambda *_, **__: contextlib.nullcontext()),
        check_two_copies,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (
    check_few_shares,
    *(check_total_of_all_runs, check_total_against_a_lying_server, check_whole_run, check_ledger_before_noise),
    *(check_two_runs_at_once, check_asked, check_older_copy, check_two_copies, check_kills),
)
