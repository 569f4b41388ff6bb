"""`make prove`: tries to break the guarantee, and writes `build/guarantee/results.json`; some 22 minutes on two cores.

Kills and resumes a run of the quickstart's size thirty times, kills nodes of a federation as often, breaks the code in
every way of `support/mutations.py`, measures mu with and without a worst-case client, audits many runs with a made-up
embedding model, audits real runs with and without noise and the models finetuned on them, and weighs what ledger and
noise cost. Exits with status 1 if a claim fails. By chance alone, one audit of a real run in 20 refutes a claim that
holds.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from test_guarantee import (
    test_a_million_draws_are_discrete_gaussian,
    test_a_million_draws_at_the_scale_of_a_run_are_gaussian,
)
from tqdm import tqdm

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.clients.questions import NearestCandidates
from hf_pretext.plays import load_plays
from hf_pretext.privacy import Plan, PrivacyLedger
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.quickstart import CONFIG, NUM_SAMPLES
from support.guarantee_audit import audit_power, null_runs
from support.guarantee_node import kill_nodes
from support.mutations import CHECKS, MUTATIONS, is_caught
from support.tiny import make_llama, make_sentence_transformer

BUILD = Path("build/guarantee")
NUM_KILLS = 30
NUM_RUNS = 4000
NUM_AUDITS = 60
NUM_NULL_AUDITS = 200
AUDIT = ("--config", "recipes/configs/audit/plays.yaml", "--client_share", 0.03)


def in_a_process(work, kill_after=None):
    """Do work in a process of its own, which is killed after some seconds; tell whether it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # A sibling that is killed while it holds the lock that forks share would stop all others for good.
            tqdm.set_lock(threading.RLock())
            # The terminal belongs to the parent.
            os.dup2(os.open(BUILD / "children.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


class Killing:
    """Runs of the quickstart's size: its clients, candidates and number of texts, with tiny models and short texts."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.private, _ = load_plays()
        with tempfile.TemporaryDirectory() as folder:
            self.models = {"embedding_model": make_sentence_transformer(folder), "expansion_model": make_llama()}

    def run(self, folder, name):
        """Return what a process is to do: a run in that folder, with a letter in a file for each draw of noise."""
        draw = DiscreteGaussian.__call__

        def logged_draw(noise, scale, size):
            with self.draws(folder).open("a") as file:
                file.write("x")
            return draw(noise, scale, size)

        def work():
            DiscreteGaussian.__call__ = logged_draw
            config = replace(CONFIG, max_new_tokens=8, min_words=1)
            generator = PrivateEvolutionGenerator(None, **self.models, config=config, run_dir=self.scratch / folder)
            texts = generator(self.private, num_samples=NUM_SAMPLES)["text"][:]
            result = {"texts": texts, "releases": generator.ledger.num_releases, "lost": generator.ledger.num_lost}
            (self.scratch / f"{folder}-{name}.json").write_text(json.dumps(result))

        return work

    def draws(self, folder):
        return self.scratch / f"{folder}-draws"

    def result(self, folder, name):
        return json.loads((self.scratch / f"{folder}-{name}.json").read_text())

    def __call__(self, number_and_instant):
        """Kill a run after some seconds, resume it, and make its texts a third time, from its ledger alone."""
        number, instant = number_and_instant
        folder = f"run-{number}"
        # On a machine whose load changes, a run may end before its instant has come.
        while not (killed := not in_a_process(self.run(folder, "killed"), kill_after=instant)):
            shutil.rmtree(self.scratch / folder)
            self.draws(folder).unlink()
            instant /= 2
        resumed = in_a_process(self.run(folder, "end"))
        draws, end = len(self.draws(folder).read_text()), self.result(folder, "end")
        for path in (self.scratch / folder).glob("run-1-*"):
            if not path.name.startswith(("run-1-release", "run-1-clients")):
                path.unlink()
        in_a_process(self.run(folder, "again"))
        drawn_again = len(self.draws(folder).read_text()) - draws
        planned = Plan.from_config(CONFIG).num_releases
        return {
            "kills": killed,
            "resumes": resumed,
            "double_draws": max(0, draws - planned) + drawn_again,
            "lost_releases": end["lost"],
            "within_budget": end["releases"] == planned,
            "identical": self.result(folder, "again") == end,
        }


def kill_and_resume():
    """Kill runs at random instants, two at a time."""
    scratch = Path(tempfile.mkdtemp(dir=BUILD))
    killing = Killing(scratch)
    started = time.perf_counter()
    assert in_a_process(killing.run("undisturbed", "end"))
    seconds = time.perf_counter() - started
    instants = random.Random(0)
    plan = [(number, instants.uniform(0, 0.95 * seconds)) for number in range(NUM_KILLS)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        outcomes = list(tqdm(pool.imap(killing, plan), "Killing and resuming", total=NUM_KILLS, unit="run"))
    shutil.rmtree(scratch)
    counts = {name: sum(outcome[name] for outcome in outcomes) for name in outcomes[0]}
    return {**counts, "seconds_of_a_run": round(seconds, 1)}


def measure_claims():
    """Run every check as it is, and each mutation, which its check has to catch."""
    measured = {check.__name__: check(NUM_RUNS) for check in tqdm(CHECKS, "Checking the release path", unit="check")}
    test_a_million_draws_are_discrete_gaussian()
    test_a_million_draws_at_the_scale_of_a_run_are_gaussian()
    caught = {name: is_caught(name, 2000) for name in tqdm(MUTATIONS, "Mutating", unit="mutation")}
    effect = measured["check_one_bin"]
    return {
        "mu": {"measured": effect["measured"], "claimed": 1.0, "interval": [effect["low"], effect["high"]]},
        "effects": {name: figures for name, figures in measured.items() if figures},
        "draws_tested": 2_000_000,
        "mutations": caught,
        "mutations_caught": sum(caught.values()),
        "mutations_missed": len(caught) - sum(caught.values()),
    }


def command(*parts):
    print("\n$", *parts, flush=True)
    subprocess.run([sys.executable, *map(str, parts)], check=True)


def audit(name, *options):
    """Audit a run of the quickstart with real models, finetune a model on it, and audit that as well."""
    folder, model = BUILD / name, BUILD / f"{name}-adapter"
    command("recipes/audit.py", *AUDIT, "--output_dir", folder, *options)
    command(
        *("recipes/finetune_llm.py", "--config", "recipes/configs/llm/quickstart.yaml", "--dataset", folder),
        *("--output_dir", model, "--num_train_epochs", 1),
    )
    command("recipes/audit.py", *AUDIT, "--output_dir", folder, "--model", model, *options)
    figures = json.loads((folder / "audit.json").read_text())
    primary, secondary = figures["primary"], figures["secondary"]
    return {
        "claimed_epsilon": figures["claimed_epsilon"],
        "primary": primary,
        "kinds": figures["kinds"],
        "bounds": {reading["attack"]: reading["epsilon_lower_bound"] for reading in secondary},
        "auc": {reading["attack"]: reading["auc"] for reading in secondary},
        "largest": figures["epsilon_lower_bound"],
        "refuted_by": figures["refuted_by"],
        "verdict": figures["verdict"],
    }


def weigh():
    """Compare ledger and noise with the public work of a round, in the audited run with noise."""
    history = json.loads((BUILD / "with-noise" / "history.json").read_text())
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        ledger = PrivacyLedger(Plan.from_config(CONFIG), Path(folder) / "ledger.json")
        question = NearestCandidates(np.zeros((CONFIG.population_size, 384), dtype=np.int16))
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            ledger.record(question)
            noise = DiscreteGaussian()(ledger.mechanism(question).noise_scale, question.num_bins)
            ledger.keep(noise.astype(np.float64))
            seconds.append(time.perf_counter() - started)
    of_round = statistics.median(record["seconds"] for record in history)
    return {"ledger_and_noise": statistics.median(seconds), "round": of_round}


def main():
    started = time.perf_counter()
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    torch.set_num_threads(1)  # A process that has started threads cannot be forked safely.
    kills = kill_and_resume()
    claims = measure_claims()
    nodes = kill_nodes(NUM_KILLS)
    power, nulls = audit_power(NUM_AUDITS), null_runs(NUM_NULL_AUDITS)
    command("-m", "hf_pretext.cli", "plays", "--output-dir", "plays")
    with_noise, without_noise = audit("with-noise"), audit("without-noise", "--noise", "false")
    seconds = weigh()
    overhead = seconds["ledger_and_noise"] / seconds["round"]
    verdicts = {
        "every run was killed and came to its end": kills["kills"] == kills["resumes"] == NUM_KILLS,
        "no noise was drawn twice": kills["double_draws"] == 0 and kills["within_budget"] == NUM_KILLS,
        "identical ledgers gave identical datasets": kills["identical"] == NUM_KILLS,
        "every node was killed, and answered once for each entry": nodes["kills"] == NUM_KILLS,
        "every mutation was caught": claims["mutations_missed"] == 0,
        "audits show an epsilon of at least 1.8 on average": power["bound"] >= 1.8,
        "halved noise was refuted in at least 95 % of audits": power["halved_noise_refuted"] >= 0.95 * NUM_AUDITS,
        "at most 5 % of audits refuted a claim that holds": nulls["claim_refuted"] <= 0.05 * NUM_NULL_AUDITS,
        "at most 5 % of audits refuted an epsilon of zero": nulls["zero_refuted"] <= 0.05 * NUM_NULL_AUDITS,
        "the real run without noise was refuted": bool(without_noise["refuted_by"]),
        "the real run with noise was not refuted": not with_noise["refuted_by"],
        "ledger and noise cost less than 3 % of a round": overhead < 0.03,
    }
    results = {
        **kills,
        **claims,
        "nodes": nodes,
        "audit": {"power": power, "null": nulls, "with_noise": with_noise, "without_noise": without_noise},
        "overhead": overhead,
        "seconds_of_ledger_and_noise": seconds["ledger_and_noise"],
        "seconds_of_a_round": seconds["round"],
        "claims": verdicts,
        "seconds": round(time.perf_counter() - started, 1),
    }
    (BUILD / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    return 0 if all(verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
