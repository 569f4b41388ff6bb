"""What each process of `tests/test_ranks.py` runs: `torchrun ranks.py FOLDER WHAT`, on integers without a model.

`WHAT` is `run`, or `kill-RANK-MOMENT-ROUND`: a process ends without a word at that moment of that round.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.clients.in_memory import InMemoryClientPool
from hf_pretext.clients.questions import MeanEmbedding, NearestCandidates, TokenCounts
from hf_pretext.clients.samples import PROBES
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.processes import ALONE, Group, broadcast, is_main_process
from hf_pretext.runs.folder import RunFolder, working
from hf_pretext.runs.run import Run

NUM_DIMENSIONS, NUM_BINS, NUM_CLIENTS, NUM_ROUNDS = 24, 16, 41, 4
SETTINGS = {"noise_multiplier": 1.0, "delta": 1e-3, "num_rounds": NUM_ROUNDS, "population_size": NUM_BINS}
DRAWN = []


class HashEmbedder:
    """Embeds a text by its own bytes."""

    max_length = None

    def __init__(self, fails_on=()):
        self.fails_on, self.seen = fails_on, []

    def cuts(self, texts):
        return False

    def __call__(self, texts):
        self.seen += texts
        if set(texts) & set(self.fails_on):
            raise ValueError("quokka")
        rows = [np.random.default_rng(list(text.encode())).normal(size=NUM_DIMENSIONS) for text in texts]
        points = np.array(rows, dtype=np.float32).reshape(len(rows), NUM_DIMENSIONS)
        return points / np.linalg.norm(points, axis=1, keepdims=True)


class Reader:
    """Reads the characters of a text as tokens."""

    fingerprint, special = "characters", frozenset()

    def __call__(self, text):
        return list(text.encode())

    def decode(self, token):
        return chr(token)


def counted(scale, size):
    """Noise that is known. Each draw is written down."""
    DRAWN.append(size)
    if "DRAWS" in os.environ:
        with open(os.environ["DRAWS"], "a") as file:
            file.write("one\n")
    return np.full(size, 1000, dtype=np.int64)


def private_rows(number=NUM_CLIENTS):
    """Clients whose rows lie in two places, with blank texts among them, and one who has blank texts only."""
    rows = [{"client_id": f"c{client}", "text": f"{client} and {each}"} for client in range(number) for each in (0, 1)]
    rows += [{"client_id": "blank", "text": " "}, {"client_id": "c3", "text": ""}]
    rows += [{"client_id": f"c{client}", "text": f"{client} again"} for client in range(0, number, 2)]
    return Dataset.from_list(rows)


def questions():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(NUM_BINS, NUM_DIMENSIONS))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tokens = np.arange(40, 72)
    return [
        NearestCandidates.of(points.astype(np.float32)),
        MeanEmbedding.of(points[:4].astype(np.float32)),
        TokenCounts(tokens, np.ones(len(tokens)), Reader.fingerprint),
    ]


def make_pool(rows, group, embedder=None, **changes):
    config = PrivateEvolutionConfig(**{**SETTINGS, "mean_fraction": 0.2, "token_fraction": 0.2, **changes})
    plan = Plan.from_config(config)
    return InMemoryClientPool(rows, embedder or HashEmbedder(), config, plan, counted, Reader(), group), plan


def answers(pool, plan):
    """What the pool says to each question, in whole numbers."""
    ledger, found = PrivacyLedger(plan), []
    for question in questions():
        noisy = pool.release(question, ledger)
        found.append((noisy * ledger.mechanism(question).units).round().astype(np.int64).tolist())
    return found


def refused(call, kind=Exception):
    try:
        call()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return None


class About:
    """One round of a run that asks the same each time."""

    kind, num_bins = "votes", NUM_BINS

    def __init__(self, number):
        self.step = f"release-{number}"

    def ask(self):
        return questions()[0]


def run_to_the_end(folder, rows, group):
    """All rounds of a run, which resumes."""
    config = PrivateEvolutionConfig(**SETTINGS, mean_fraction=0.0, token_fraction=0.0)
    plan = Plan.from_config(config)
    run_folder = RunFolder(folder, {"config": {}}) if is_main_process() else None
    ledger = PrivacyLedger(plan) if run_folder is None else run_folder.ledger(plan)
    pool = InMemoryClientPool(rows, HashEmbedder(), config, plan, counted, None, group)
    with working(run_folder, ledger):
        run = Run(1, config, ledger, run_folder)
        run.begin(pool)
        released = [run.release(About(number), pool) for number in range(1, NUM_ROUNDS + 1)]
    return [None if each is None else each.tolist() for each in released], ledger


MOMENTS = {
    "part": (InMemoryClientPool, "_part"),  # Before it has sent the sum over its own clients.
    "answer": (InMemoryClientPool, "_answer"),  # When it has the noisy sum, before that is kept.
    "share": (PrivacyLedger, "share"),  # When the main process has kept it.
}


def end_at(rank, moment, number):
    """Let one process end at a moment of a round."""
    kind, name = MOMENTS[moment]
    original, calls = getattr(kind, name), []

    def ending(*arguments):
        calls.append(1)
        found = original(*arguments) if moment == "answer" else None
        if int(os.environ["RANK"]) == rank and len(calls) == number:
            os._exit(9)
        return found if moment == "answer" else original(*arguments)

    setattr(kind, name, ending)


def main(folder, what):
    rows, group = load_from_disk(str(folder / "rows")), Group.of_launch()
    assert group.size == int(os.environ["WORLD_SIZE"])
    if what != "run":
        _, rank, moment, number = what.split("-")
        end_at(int(rank), moment, int(number))
        run_to_the_end(folder / what, rows, group)
        return
    embedder = HashEmbedder()
    pool, plan = make_pool(rows, group, embedder)
    own = sorted(each for each in embedder.seen if each not in PROBES)
    found = {"rank": group.rank, "own": own, "num_clients": pool.num_clients}
    found["answers"] = answers(pool, plan)
    found["draws"] = len(DRAWN)
    found["dimensions"] = [pool._samples.embeddings.dtype.name, pool._samples.num_dimensions]
    few, plan = make_pool(private_rows(1), group)  # Fewer clients than processes.
    found["few"] = answers(few, plan)
    failing, plan = make_pool(rows, group, HashEmbedder([f"{each} and 0" for each in range(40)]))
    found["failing"] = answers(failing, plan)
    other = rows.select(range(len(rows) - group.rank))
    found["other_rows"] = refused(lambda: make_pool(other, group))
    renamed = rows.map(lambda row: {"client_id": row["client_id"] + "x" * group.rank}, keep_in_memory=True)
    found["other_clients"] = refused(lambda: make_pool(renamed, group))
    turned = rows.select(range(len(rows))[:: 1 if group.rank else -1])
    found["turned"] = answers(*make_pool(turned, group))
    fails = HashEmbedder([text for text in rows["text"] if text.strip()])
    found["all_fail"] = refused(lambda: make_pool(rows, group, fails))
    other_question = questions()[0] if group.rank else NearestCandidates(questions()[0].candidates[::-1].copy())
    ledger = PrivacyLedger(plan)
    found["other_question"] = refused(lambda: pool.release(other_question, ledger))
    found["spent_by_that"] = ledger.num_releases
    if group.rank:  # What one process alone fails at.
        pool._num_own = None
    ledger = PrivacyLedger(plan)
    draws = len(DRAWN)
    found["one_fails"] = refused(lambda: pool.release(questions()[0], ledger), RuntimeError)
    found["counted"], found["lost"] = ledger.num_releases, ledger.num_lost
    found["drawn_for_it"] = len(DRAWN) - draws
    if group.rank:
        found["alone"] = refused(lambda: make_pool(rows, ALONE))
    found["released"], ledger = run_to_the_end(folder / "run", rows, group)
    found["num_lost"] = ledger.num_lost
    broadcast(None)
    (folder / f"outcome-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
