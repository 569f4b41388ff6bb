"""The audit as a statistical claim: how much it shows of a run, how often it is wrong, and what it notices.

`make prove` runs `audit_power` and `null_runs`, and checks and mutations like those of `tests/support/guarantee.py`.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from scipy.special import ndtr
from scipy.stats import binom
from sentence_transformers import SentenceTransformer

from hf_pretext.audit import AuditedGenerator, PopulationWithCanaries, read_audit, read_audit_scores
from hf_pretext.evolution.population import Population
from hf_pretext.privacy import Plan
from hf_pretext.quickstart import CONFIG
from support.guarantee import STANDARD_ERRORS, _halved_noise, _mean_with_half_of_its_noise, patched
from support.guarantee_tokens import _tokens_with_half_of_their_noise

NUM_CANARIES = 768
NUM_CLIENTS = 200
NUM_TEXTS = NUM_CANARIES + 2 * CONFIG.population_size
PUBLIC = [str(number) for number in range(NUM_CANARIES, NUM_TEXTS)]

AUDITED = replace(CONFIG, smooth_votes=False, new_public_share=0.0)
"""The quickstart's settings. Smoothing is left out: it is post-processing, and would take most of the time."""

CLEAR = replace(AUDITED, epsilon=16.0, num_rounds=6, mean_fraction=0.35, token_fraction=0.35)
"""A run in which each canary shows much."""


class UnitEncoder(SentenceTransformer):
    """An embedding model that gives each text a dimension of its own. Public texts have a little in common as well.

    So a client whose text is no candidate votes for a public one, and not for a canary.
    """

    max_seq_length = None
    tokenizer = None

    def __init__(self):
        super().__init__(modules=[torch.nn.Identity()], device="cpu")
        self.rows = np.eye(NUM_TEXTS + 1, dtype=np.float32)
        self.rows[NUM_CANARIES:, -1] = 0.2
        self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)

    def get_embedding_dimension(self):
        return NUM_TEXTS + 1

    def encode(self, texts, **kwargs):
        # Public words are at the place of none of them.
        return self.rows[[int(text) if text.isdigit() else -1 for text in texts]]


class OtherTexts:
    """A variation operator that returns other public texts."""

    def vary(self, texts, seed):
        return list(np.random.default_rng(seed).choice(PUBLIC, len(texts)))


class NumberTokens:
    """A tokenizer for which a text, which is a number, is one token."""

    fingerprint, special = "numbers", frozenset()

    def __call__(self, text):
        return [int(text)] if text.isdigit() else []

    def decode(self, token):
        return str(token)


class Writer:
    """A language model that no one asks to write."""

    def complete(self, prompts, max_new_tokens, seed, stop=None):
        raise AssertionError("an audit of releases writes nothing")

    answer = complete

    def complete_tilted(self, prompts, max_new_tokens, seed, stop, bias):
        raise AssertionError("an audit of releases writes nothing")

    def truncate(self, text, max_tokens):
        return text

    def token_reader(self):
        return NumberTokens()


def audit_once(rng, config=AUDITED, num_canaries=NUM_CANARIES):
    """Run the generator with canaries and other clients, with its own pool, ledger and noise, and audit it."""
    canaries = [str(number) for number in range(num_canaries)]
    coins = rng.random(num_canaries) < 0.5
    rows = [
        {"client_id": f"canary {text}", "text": text} for text, is_in in zip(canaries, coins, strict=True) if is_in
    ]
    rows += [{"client_id": f"other {number}", "text": str(rng.choice(PUBLIC))} for number in range(NUM_CLIENTS)]
    models = {"variation_model": OtherTexts(), "embedding_model": UnitEncoder(), "expansion_model": Writer()}
    models["batch_size"] = 4096
    generator = AuditedGenerator(canaries, config=config, **models)
    generator.evolve(Dataset.from_list(rows), initial_population=PUBLIC)
    return read_audit(generator.ledger.plan, generator.released, generator.canary_samples, coins, {})


def audit_power(num_runs):
    """Audit runs of the quickstart's settings as they are, and with half of their noise behind the claim's back."""
    rng = np.random.default_rng()
    audits = [audit_once(rng) for _ in range(num_runs)]
    with _halved_noise():
        caught = sum(bool(audit_once(rng).refuting) for _ in range(num_runs))
    bounds = [audit.primary.epsilon_lower_bound for audit in audits]
    return {
        "claimed_epsilon": CONFIG.epsilon,
        "num_canaries": NUM_CANARIES,
        "num_runs": num_runs,
        "bound": float(np.mean(bounds)),
        "standard_deviation": float(np.std(bounds)),
        "smallest": float(np.min(bounds)),
        "largest": float(np.max(bounds)),
        "refuted": sum(bool(audit.refuting) for audit in audits),
        "halved_noise_refuted": caught,
    }


SECONDARY = [("canaries", NUM_CANARIES)] * 3 + [("clients", 32)] * 4
"""Kind and number of the targets of each secondary attack of `recipes/audit.py`, with a model."""


def null_audit(rng, plan, effect):
    """Read simulated scores of a run that keeps its claim: exactly at its worst case, or without any effect at all.

    All attacks are as strong as the claim allows, and independent, which makes the most false alarms.
    """
    coins = rng.random(NUM_CANARIES) < 0.5
    of_kind = {
        entry.question: sum(
            (effect * coins + rng.normal(0, entry.mechanism.noise_std, NUM_CANARIES)) / entry.mechanism.noise_std**2
            for _ in range(entry.count)
        )
        for entry in plan.releases
    }
    attacks = {}
    for number, (kind, size) in enumerate(SECONDARY):
        is_member = rng.random(size) < 0.5
        attacks[f"{number}, {kind}"] = (effect / plan.noise_multiplier * is_member + rng.normal(size=size), is_member)
    return read_audit_scores(plan, of_kind, coins, attacks)


def null_runs(num_runs):
    """Count false alarms of simulated audits of runs that keep their claim. The simulation has a fixed seed."""
    rng = np.random.default_rng(0)
    plan = Plan.from_config(replace(AUDITED, mean_fraction=0.3))
    at_the_claim = [null_audit(rng, plan, effect=1.0) for _ in range(num_runs)]
    without_effect = [null_audit(rng, plan, effect=0.0) for _ in range(num_runs)]
    return {
        "num_runs": num_runs,
        "claim_refuted": sum(bool(audit.refuting) for audit in at_the_claim),
        "claim_refuted_by_the_primary_attack": sum(audit.primary.is_refuted for audit in at_the_claim),
        "zero_refuted": sum(audit.epsilon_lower_bound > 0 for audit in without_effect),
        "zero_refuted_by_the_primary_attack": sum(audit.primary.epsilon_lower_bound > 0 for audit in without_effect),
    }


def check_canaries(num_runs):
    """Real audits: mu of all releases, and of each kind of question, is what the plan claims, on either side.

    Four readings within five standard errors have a false-alarm rate below 3e-6.
    """
    audits = [audit_once(np.random.default_rng(), CLEAR, num_canaries=512) for _ in range(max(1, num_runs // 1000))]
    for number, name in enumerate(("all", "mean_embedding", "token_counts", "votes")):
        readings = [(audit.primary, *audit.kinds)[number] for audit in audits]
        claim = readings[0].claimed_mu
        measured = float(np.mean([reading.mu for reading in readings]))
        error = math.sqrt((4 + claim**2 / 2) / readings[0].num_targets / len(readings))
        assert abs(measured - claim) < STANDARD_ERRORS * error, f"{name}: mu is {measured:.3f}, not {claim:.3f}"


def check_false_alarms(num_runs):
    """Simulated audits of runs that keep their claim: no more say otherwise than a rate of 5 % explains.

    The simulation is always the same. With another seed, a rate of 5 % would fail once in 10,000 times.
    """
    counts = null_runs(num_runs // 10)
    for name in ("claim_refuted", "zero_refuted"):
        assert counts[name] <= binom.ppf(1 - 1e-4, counts["num_runs"], 0.05), counts
    return counts


def _canaries_in_the_first_round_only():
    represent = PopulationWithCanaries.represent

    def forgetful(self, texts, number):
        if number == 1:
            return represent(self, texts, number)
        others = [text for text in texts if text not in self._canaries]
        self.asked.append(Population.represent(self, others, number))
        return self.asked[-1]

    return patched("hf_pretext.audit.canaries.PopulationWithCanaries.represent", forgetful)


MUTATIONS = {
    "an audited run has half of its noise": (_halved_noise, check_canaries),
    "in an audited run, a mean gets half of its noise": (_mean_with_half_of_its_noise, check_canaries),
    "in an audited run, token counts get half of their noise": (_tokens_with_half_of_their_noise, check_canaries),
    "canaries are candidates in the first round only": (_canaries_in_the_first_round_only, check_canaries),
    "attacks of an audit do not pay for their number": (
        lambda: patched("hf_pretext.audit.verdict.confidence_of_each", lambda confidence, number: confidence),
        check_false_alarms,
    ),
    "the interval of mu is half as long": (
        lambda: patched(
            "hf_pretext.audit.primary._exceeds", lambda seen, true, freedom: float(ndtr(2 * (true - seen)))
        ),
        check_false_alarms,
    ),
}
"""What may go wrong: how to make it so, and the check that has to fail then."""

CHECKS = (check_canaries, check_false_alarms)
