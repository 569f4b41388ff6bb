"""The method as it was recorded, with fixed noise and tiny models: seeds, texts, history and every file of the run.

`golden.json` was recorded with the code of the first edition, before the second one moved it. Since then one change of
the method changed it: which eight of its texts answer for a client that has more. (The clients of the federation have
at most eight.) A change of the method changes it, and `RECORD_GOLDEN=1 pytest tests/test_golden.py` writes it again.
Words and whole numbers must be equal. Numbers with a fraction may differ by rounding, since processors order sums
differently.
"""

import json
import math
import os
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from support.federation import make_federation
from support.tiny import random_texts

GOLDEN = Path(__file__).parent / "golden.json"
NUM_ROUNDS = 3

SHARED = PrivateEvolutionConfig(
    epsilon=4.0,
    delta=1e-3,
    num_rounds=NUM_ROUNDS,
    population_size=16,
    max_length=32,
    max_new_tokens=16,
    min_words=1,
    token_fraction=0.0,
)
NO_SMOOTHING = {"smooth_votes": False, "new_public_share": 0.0, "best_of": 1}
CONFIGURATIONS = {
    "the defaults": {},
    "no smoothing and lookahead, as in the paper": {
        **NO_SMOOTHING,
        "lookahead": 2,
        "vote_clipping": "count",
        "accountant": "rdp",
        "threshold": 0.0,
        "weight_seeds": False,
        "seeds_per_prompt": 3,
    },
    "reuse of lookahead": {"lookahead": 2, "reuse_lookahead": True, "new_public_share": 0.5},
    "kept survivors": {"keep_survivors": True, "new_public_share": 0.0, "votes_per_sample": 3},
    "a domain instead of public texts": {"domain": "messages to a bank", "continuations_per_prompt": 2},
    "a federation of five": {"max_dropout": 0.4},
}


class FixedNoise:
    """Noise that follows from the number of the draw."""

    def __init__(self):
        self.number = 0

    def __call__(self, scale, size):
        self.number += 1
        return np.rint(np.random.default_rng(self.number).normal(size=size) * scale).astype(np.int64)


def run(name, folder, private, public, models):
    """Run a configuration with a run folder, and return what came of it, by name."""
    config, noise = replace(SHARED, **CONFIGURATIONS[name]), FixedNoise()
    public = None if config.domain else public
    variation = None if config.domain else models["variation_model"]
    generator = PrivateEvolutionGenerator(
        variation, models["embedding_model"], models["expansion_model"], config=config, run_dir=folder, noise=noise
    )
    clients = private if config.max_dropout is None else federated_pool(generator, private, folder.parent, models)
    seeds = generator.evolve(clients, initial_population=public)
    texts = generator.expand(seeds, num_samples=12)
    history = [{**asdict(record), "seconds": 0} for record in generator.history]
    return {"seeds": seeds.to_dict(), "texts": texts["text"][:], "history": history, **files_of(folder)}


def federated_pool(generator, private, folder, models):
    """Make a federation of the first five clients, whose embedding model is the generator's."""
    paths = []
    for number in range(5):
        rows = private.filter(lambda row, client=f"client-{number + 4}": row["client_id"] == client)
        paths.append(folder / f"{number}.jsonl")
        rows.to_json(paths[-1])
    models["embedding_model"].save(str(folder / "embedding_model"))
    fields = {key: value for key, value in asdict(generator.config).items() if value is not None}
    made = make_federation(
        paths,
        folder / "embedding_model",
        noise=FixedNoise(),
        generator=generator,
        without=["noise-multiplier"],
        **{name.replace("_", "-"): value for name, value in fields.items()},
    )
    return made.pool


def files_of(folder):
    """Read every file of a run folder, without what is random or a time."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("run-") and path.suffix == ".json":
            content = json.loads(path.read_text())
            found[path.name] = {**content, "seconds": 0} if isinstance(content, dict) else content
        elif path.suffix == ".arrow":
            found["run-1-texts.arrow"] = Dataset.from_file(str(path))["text"][:]
    releases = json.loads((folder / "ledger.json").read_text())["releases"]
    found["ledger.json"] = [[each["num_bins"], each.get("answer", each.get("votes"))] for each in releases]
    return found


def fingerprint(value):
    """Digest words and whole numbers; of numbers with a fraction, how many there are and one weighted sum."""
    fractions = []

    def without_fractions(part):
        if isinstance(part, float):
            fractions.append(part)
            return "fraction"
        if isinstance(part, dict):
            return {key: without_fractions(each) for key, each in sorted(part.items())}
        return [without_fractions(each) for each in part] if isinstance(part, (list, tuple)) else part

    words = json.dumps(without_fractions(value)).encode("utf-8", "surrogatepass")
    weights = np.random.default_rng(0).uniform(1, 2, size=len(fractions))
    digest = blake2b(words, digest_size=8).hexdigest()
    return {"words": digest, "num_fractions": len(fractions), "fractions": math.fsum(weights * np.array(fractions))}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_method_is_as_it_was_recorded(name, tmp_path, private, bert, sentence_transformer, llama):
    models = {"variation_model": bert, "embedding_model": sentence_transformer, "expansion_model": llama}
    made = run(name, tmp_path / "run", private, random_texts(200, seed=2), models)
    found = {part: fingerprint(content) for part, content in made.items()}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("RECORD_GOLDEN"):
        GOLDEN.write_text(json.dumps({**golden, name: found}, indent=1) + "\n")
        golden = {name: found}
    assert set(found) == set(golden[name])
    for part, expected in golden[name].items():
        assert found[part] == {**expected, "fractions": pytest.approx(expected["fractions"], rel=1e-5)}, part
