"""What each process of `tests/test_processes.py` runs: `torchrun two_processes.py FOLDER MODELS`."""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.evaluation import score_next_tokens
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.masked_variation import MaskedVariation
from hf_pretext.privacy.noise import DiscreteGaussian
from hf_pretext.processes import is_main_process, map_over_processes
from support.tiny import random_texts

COUNTS = {"draws": 0, "prompts": 0, "varied": 0}


def counted(cls, method, name, index=None):
    """Count the calls of a method, or the items of an argument."""
    original = getattr(cls, method)

    def counting(self, *arguments, **named):
        COUNTS[name] += 1 if index is None else len(arguments[index])
        return original(self, *arguments, **named)

    setattr(cls, method, counting)


def load_causal_lm(folder):
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def labeled_run(private, models, folder):
    """Make a run with labels, each of which the language model writes a population of its own for."""
    config = PrivateEvolutionConfig(
        **{"epsilon": 4.0, "delta": 1e-3, "num_rounds": 2, "population_size": 8, "max_length": 16},
        **{"max_new_tokens": 16, "min_words": 1, "domain": "messages", "label_column": "kind"},
        **{"token_fraction": 0.3, "num_tokens": 40},
        labels={"ham": "messages that people want", "spam": "unwanted advertising"},
    )
    if private is not None:
        private = private.add_column("kind", [("ham", "spam")[row % 2] for row in range(len(private))])
    sources = {name: models / name for name in ("embedding_model", "expansion_model")}
    generator = PrivateEvolutionGenerator(None, **sources, config=config, run_dir=folder / "labeled")
    seeds = generator.evolve(private)
    synthetic, answer = generator.expand(seeds, num_samples=8), generator.token_answer
    return {"seeds": seeds.to_list(), "synthetic": synthetic.to_list(), "token_counts": answer.to_dict()}


def main(folder, models):
    torch.set_num_threads(1)
    counted(DiscreteGaussian, "__call__", "draws")
    counted(LocalEngine, "_continue_part", "prompts", 0)
    counted(MaskedVariation, "_vary", "varied", 0)
    private = None
    if is_main_process():
        clients = [f"client-{number}" for number in range(1, 13) for _ in range(number)]
        private = Dataset.from_dict({"client_id": clients, "text": random_texts(len(clients), seed=1)})
    config = PrivateEvolutionConfig(
        epsilon=4.0,
        delta=1e-3,
        num_rounds=3,
        token_fraction=0.0,
        population_size=16,
        lookahead=1,
        max_length=16,
        max_new_tokens=16,
        min_words=1,
    )
    names = ("variation_model", "embedding_model", "expansion_model")

    def make_generator():
        sources = {name: models / name for name in names}
        return PrivateEvolutionGenerator(**sources, config=config, batch_size=4, run_dir=folder / "run")

    generator = make_generator()
    seeds = generator.evolve(private, initial_population=random_texts(60, seed=2))
    synthetic = list(generator.expand(seeds, num_samples=20)["text"])
    counts = dict(COUNTS)
    # As after a kill at the end: all is read, by the main process, and handed to the other.
    again = make_generator()
    texts_again = list(again.expand(again.evolve(None, random_texts(60, seed=2)), num_samples=20)["text"])
    outcome = {
        "world_size": int(os.environ["WORLD_SIZE"]),
        "had_private": private is not None,
        "initial_population": generator.initial_population,
        "seeds": seeds.to_list(),
        "synthetic": synthetic,
        "same_again": texts_again == synthetic and again.privacy_report == generator.privacy_report,
        "drawn_again": COUNTS["draws"] - counts["draws"],
        "report": generator.privacy_report.to_dict(),
        "doubled": map_over_processes(lambda share: [2 * item for item in share], range(7)),
        "seeds_of_shares": map_over_processes(lambda share, seed: [seed] * len(share), range(7), seed=3),
        "totals": score_next_tokens(*load_causal_lm(models / "expansion_model"), random_texts(15, seed=5)).totals(),
        **counts,
    }
    outcome["labeled"] = labeled_run(private, models, folder)
    (folder / f"outcome-{os.environ['RANK']}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
