"""The audit as a statistical claim: how much it shows of a run, how often it is wrong, and what it notices.

`audit_power` and `null_runs` are run by `make prove`, and checks and mutations like those of `tests/guarantee.py`.
"""

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from datasets import Dataset
from guarantee import _halved_noise, _mean_with_half_of_its_noise, _patched
from sentence_transformers import SentenceTransformer

from hf_pretext.audit import AuditedGenerator, Targets, read_audit, read_audit_scores, vote_scores
from hf_pretext.privacy import Plan
from hf_pretext.quickstart import CONFIG

NUM_CANARIES = 768
NUM_CLIENTS = 200
NUM_TEXTS = NUM_CANARIES + 2 * CONFIG.population_size
AUDITED = replace(CONFIG, smooth_votes=False, new_public_share=0.0)
"""The quickstart's settings. Smoothing, which is post-processing, would take most of the time."""

WITH_MEAN = replace(AUDITED, mean_fraction=0.5)


class UnitEncoder(SentenceTransformer):
    """An embedding model that gives each text a dimension of its own. It is large enough for a mean of unit length."""

    max_seq_length = None
    tokenizer = None

    def __init__(self):
        super().__init__(modules=[torch.nn.Identity()], device="cpu")
        self.rows = np.eye(NUM_TEXTS + 1, dtype=np.float32)
        self.rows[NUM_CANARIES:, -1] = 1  # Public texts are more alike than a canary is to any of them.
        self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)

    def get_embedding_dimension(self):
        return NUM_TEXTS + 1

    def encode(self, texts, **kwargs):
        return self.rows[[int(text) for text in texts]]


class OtherTexts:
    """A variation operator that returns any public texts."""

    def vary(self, texts, seed):
        return [str(each) for each in np.random.default_rng(seed).integers(NUM_CANARIES, NUM_TEXTS, len(texts))]


ENCODER = UnitEncoder()


def audit_once(rng, config=AUDITED, num_canaries=NUM_CANARIES):
    """Run the generator with canaries and other clients, with its own pool, ledger and noise, and audit it."""
    canaries = [str(number) for number in range(num_canaries)]
    public = [str(number) for number in range(NUM_CANARIES, NUM_TEXTS)]
    coins = rng.random(num_canaries) < 0.5
    rows = [{"client_id": f"canary {text}", "text": text} for text, is_in in zip(canaries, coins, strict=True) if is_in]
    rows += [{"client_id": f"other {each}", "text": str(rng.choice(public))} for each in range(NUM_CLIENTS)]
    generator = AuditedGenerator(
        canaries, variation_model=OtherTexts(), embedding_model=ENCODER, config=config, batch_size=4096
    )
    generator.evolve(Dataset.from_list(rows), initial_population=public)
    plan, released = generator.ledger.plan, generator.released
    targets = Targets(tuple((text,) for text in canaries), np.ones(num_canaries, dtype=bool), coins)
    attacks = {"votes, canaries": (vote_scores(released[-1:], targets, generator.embed), coins)}
    return read_audit(plan, released, generator.canary_samples, coins, attacks)


def audit_power(num_runs):
    """Audit runs of the quickstart's settings as they are, and with half of their noise behind the claim's back."""
    rng = np.random.default_rng(0)
    bounds = [audit_once(rng).primary.epsilon_lower_bound for _ in range(num_runs)]
    with _halved_noise():
        caught = [bool(audit_once(rng).refuting) for _ in range(num_runs)]
    return {
        "claimed_epsilon": CONFIG.epsilon,
        "num_canaries": NUM_CANARIES,
        "num_runs": num_runs,
        "mean_bound": float(np.mean(bounds)),
        "standard_deviation": float(np.std(bounds, ddof=1)),
        "smallest_bound": float(np.min(bounds)),
        "largest_bound": float(np.max(bounds)),
        "false_alarms": sum(bound > CONFIG.epsilon for bound in bounds),
        "halved_noise_caught": sum(caught),
    }
