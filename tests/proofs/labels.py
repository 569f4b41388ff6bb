"""Runs with labels on real labeled texts with clients, and classifiers trained on what they wrote: `README.md`.

`python tests/proofs/labels.py --sets mail snippets --runs 3 --work-dir DIR` downloads packages into the folder, and
writes `labels.json` and `labels.md` there. Exits with status 1 if a claim fails. The texts and every run are kept in
the folder, so that runs can be made one by one (`--first-run`), also on a machine without a network.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from integer_arithmetic import integer_writer
from kept_embeddings import KeptEmbeddings
from labeled_texts import SETS, load_set, true_shares
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator

NUM_SAMPLES = 1200
WAY_FROM_CHANCE = 0.90
SHARES_WITHIN = 0.05
"""What the issue asks for: how far a classifier gets, and how near the shares of the labels are."""

SETTINGS = {
    "epsilon": 1.29,
    "delta": 3e-6,
    "population_size": 512,
    "mean_fraction": 0.6,
    "token_fraction": 0.0,  # Counts of tokens by label gained two points on `mail`, and take time.
    "num_rounds": 2,
    "temperature": 0.85,
    "seeds_per_prompt": 3,
    "continuations_per_prompt": 4,
    "best_of": 3,
    "max_new_tokens": 48,
    "min_words": 6,
}


def accuracy(points, labels, held_out_points, held_out_labels):
    """Train a classifier on embeddings, and compute its balanced accuracy on held-out clients."""
    classifier = LogisticRegression(class_weight="balanced", max_iter=2000).fit(points, labels)
    return float(balanced_accuracy_score(held_out_labels, classifier.predict(held_out_points)))


def prove(name, seed, work_dir):
    """Make one run on one set, and measure it."""
    started = time.perf_counter()
    texts = load_set(name, work_dir)
    names = list(texts.labels)
    config = PrivateEvolutionConfig(
        labels=texts.labels, label_column="label", domain=texts.domain, seed=seed, **SETTINGS
    )
    folder = work_dir / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # The texts are public, so what an earlier run spent is forgotten.
    has_gpu = torch.cuda.is_available()
    writer = "packaged/SmolLM2-135M-Instruct" if has_gpu else integer_writer(config)
    embedder, size = KeptEmbeddings(work_dir / "embeddings"), 512 if has_gpu else 64
    generator = PrivateEvolutionGenerator(
        None, embedder, writer, config=config, run_dir=folder / "run", batch_size=size
    )
    seeds = generator.evolve(texts.private, initial_population=texts.public)
    embedder.keep()
    evolved = time.perf_counter() - started
    equal = {label: 1 / len(names) for label in names}
    synthetic = generator.expand(seeds, num_samples=NUM_SAMPLES, label_shares=equal)
    generator.save_pretrained(folder / "synthetic")
    seconds = time.perf_counter() - started

    private, held_out = texts.private, texts.held_out
    points = [generator.embed(rows["text"][:]) for rows in (private, held_out)]
    embedder.keep()
    labels = [np.array([names.index(label) for label in rows["label"]]) for rows in (private, held_out)]
    written = generator.embed(synthetic["text"][:])
    own = np.array(synthetic["label"])
    best, reached = accuracy(points[0], labels[0], points[1], labels[1]), accuracy(written, own, points[1], labels[1])
    of_seeds = accuracy(generator.embed(seeds["text"][:]), np.array(seeds["label"]), points[1], labels[1])
    chance = 1 / len(names)
    shares = dict(zip(seeds["label"], seeds["share"], strict=True))
    found = np.array([shares.get(label, 0.0) for label in range(len(names))])
    expected = true_shares(private, config.max_samples_per_client, names)
    return {
        "set": name,
        "seed": seed,
        "num_clients": len(set(private["client_id"])),
        "num_texts": len(private),
        "labels": names,
        "accuracy_private": best,
        "accuracy_synthetic": reached,
        "accuracy_seeds": of_seeds,
        "way_from_chance": (reached - chance) / (best - chance),
        "shares": found.tolist(),
        "shares_private": expected.tolist(),
        "shares_of_all_rows": (np.bincount(labels[0], minlength=len(names)) / len(private)).tolist(),
        "shares_written": (np.bincount(own, minlength=len(names)) / len(own)).tolist(),
        "largest_difference_of_shares": float(np.abs(found - expected).max()),
        "labels_outside": sum(not 0 <= label < len(names) for label in synthetic["label"]),
        "epsilon": generator.privacy_report.epsilon,
        "seconds_of_evolution": round(evolved, 1),
        "seconds": round(seconds, 1),
    }


def summary(results):
    """Write a table, a row a run."""
    lines = [
        "| set | clients | run | private | synthetic | of the way from chance | shares, found (private) | seconds |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for each in results:
        shares = ", ".join(
            f"{label} {found:.3f} ({private:.3f})"
            for label, found, private in zip(each["labels"], each["shares"], each["shares_private"], strict=True)
        )
        lines.append(
            f"| {each['set']} | {each['num_clients']:,} | {each['seed']} | {each['accuracy_private']:.3f} | "
            f"{each['accuracy_synthetic']:.3f} | {each['way_from_chance']:.0%} | {shares} | {each['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--first-run", type=int, default=0)
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    results = []
    for name in options.sets:
        for seed in range(options.first_run, options.first_run + options.runs):
            done = options.work_dir / f"{name}-{seed}.json"
            if not done.exists():
                done.write_text(json.dumps(prove(name, seed, options.work_dir), indent=1) + "\n")
            results.append(json.loads(done.read_text()))
            print(done.read_text(), flush=True)
    claims = {
        "a classifier on synthetic texts gets 90 % of the way from chance, in every run": all(
            each["way_from_chance"] >= WAY_FROM_CHANCE for each in results
        ),
        "shares are within 5 points, in every run": all(
            each["largest_difference_of_shares"] <= SHARES_WITHIN for each in results
        ),
        "no label is outside the list": not any(each["labels_outside"] for each in results),
        "epsilon is at most 1.29": all(each["epsilon"] <= SETTINGS["epsilon"] for each in results),
    }
    table = summary(results)
    (options.work_dir / "labels.json").write_text(json.dumps({"runs": results, "claims": claims}, indent=2) + "\n")
    (options.work_dir / "labels.md").write_text(table)
    print(table, json.dumps(claims, indent=2), sep="\n")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
