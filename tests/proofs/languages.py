"""Runs of the quickstart's size in German, Chinese and Japanese, on real texts of packages: `README.md` beside this.

`python tests/proofs/languages.py --languages de zh ja --work-dir DIR` downloads packages into the folder, installs
nothing, and writes `languages.json` and `languages.md` there. Exits with status 1 if a claim fails.
"""

import argparse
import dataclasses
import json
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from language_texts import (
    HELD_OUT_SHARE,
    IS_LANGUAGE,
    LANGUAGES,
    download_pypi,
    private_samples,
    public_texts,
)
from multilingual import PACKAGE, multilingual_embedder

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.data import read_dataset, split_by_client
from hf_pretext.evaluation.measures import frechet_distance, precision_recall
from hf_pretext.models.packaged import packaged_embedder
from hf_pretext.quickstart import CONFIG, HELD_OUT_SPEECHES, NUM_SAMPLES

WRITER = "packaged/gemma-3-270m"
BATCH_SIZE = 96  # All prompts at once: the matrix of a vocabulary of 262,144 tokens is then read once per token.
SHARE_IN_SCRIPT = 0.95
FALL = 0.30
"""What the issue asks for: texts in the right script, and how far the Fréchet distance falls."""

CHANGES = {
    **{"temperature": 0.8, "texts_per_prompt": 1, "continuations_per_prompt": 1},
    **{"num_rounds": 3, "mean_fraction": 0.0},
}
"""What differs from the quickstart, which had three rounds when this was measured.

At temperature 1 a small model of many languages mixes them. A text that follows seeds, and not texts of its own,
repeats less.
"""

SETTINGS = {
    "de": {"list_title": "Liste mit {size} verschiedenen deutschen Texten", "list_heading": "Originaltext"},
    "zh": {"list_title": "{size} 个不同的中文原文", "list_heading": "原文", "min_words": 10},
    "ja": {"list_title": "{size} 個のさまざまな日本語の原文", "list_heading": "原文", "min_words": 10},
}
"""The prompt in the language. In Chinese and Japanese a word counts as a character or a few."""


def extract(code, folder, packages):
    """Write the private, held-out and public texts of a language as JSON lines, once."""
    if not (folder / "public.jsonl").exists():
        language = LANGUAGES[code]
        private, held_out = split_by_client(private_samples(language, packages), HELD_OUT_SHARE)
        public = public_texts(language, packages)
        folder.mkdir(parents=True, exist_ok=True)
        private.to_json(folder / "private.jsonl", force_ascii=False)
        held_out.to_json(folder / "held_out.jsonl", force_ascii=False)
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in public]
        (folder / "public.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    clients = [read_dataset(folder / f"{name}.jsonl", "text", "client_id") for name in ("private", "held_out")]
    return *clients, read_dataset(folder / "public.jsonl", "text")


def unknown_tokens(texts, encoder):
    """Compute the fraction of tokens that an embedding model does not know: the paper's, and the one used here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged_embedder())
    of_paper = np.concatenate([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    of_encoder = np.concatenate([encoder.token_ids(text) for text in texts])
    return {
        "all-MiniLM-L6-v2": float((of_paper == tokenizer.unk_token_id).mean()),
        "used": float((of_encoder == 0).mean()),
    }


def prove(code, work_dir, written_population):
    """Run one language, and measure it."""
    started = time.perf_counter()
    packages, folder = work_dir / "packages", work_dir / code
    private, held_out, public = extract(code, folder, packages)
    embedder = multilingual_embedder(download_pypi(PACKAGE, packages))
    config = dataclasses.replace(CONFIG, domain=LANGUAGES[code].domain, **CHANGES, **SETTINGS[code])
    # The texts are public, so it does no harm to forget what an earlier run spent.
    for name in ("run", "synthetic"):
        shutil.rmtree(folder / name, ignore_errors=True)
    generator = PrivateEvolutionGenerator(
        variation_model=None,
        embedding_model=embedder,
        expansion_model=WRITER,
        config=config,
        batch_size=BATCH_SIZE,
        run_dir=folder / "run",
    )
    seeds = generator.evolve(private, initial_population=None if written_population else public)
    synthetic = list(generator.expand(seeds, num_samples=NUM_SAMPLES)["text"])
    generator.save_pretrained(folder / "synthetic")
    return {
        "language": LANGUAGES[code].name,
        "clients": len(set(private["client_id"])),
        "held_out_clients": len(set(held_out["client_id"])),
        "private_texts": len(private),
        "public_texts": len(public),
        "written_population": written_population,
        "epsilon": generator.privacy_report.epsilon,
        **measure(code, generator, synthetic, list(held_out["text"]), list(private["text"])),
        "unknown_tokens": unknown_tokens(list(held_out["text"])[:HELD_OUT_SPEECHES], embedder[0]),
        "seconds_by_stage": {name: round(seconds, 1) for name, seconds in generator.seconds.items()},
        "seconds": round(time.perf_counter() - started, 1),
        "samples": random.Random(0).sample(synthetic, min(12, len(synthetic))),
    }


def measure(code, generator, synthetic, held_out, private):
    """Compare with held-out pages: an evaluation that the guarantee does not cover."""
    is_language, initial = IS_LANGUAGE[code], generator.initial_population
    rng = np.random.default_rng(0)
    reference_texts = [held_out[index] for index in rng.permutation(len(held_out))[:HELD_OUT_SPEECHES]]
    size = min(len(initial), len(synthetic), len(reference_texts))
    sides = {
        "initial": initial[:size],
        "synthetic": synthetic[:size],
        "private": [private[index] for index in rng.permutation(len(private))[:size]],
    }
    reference = generator.embed(reference_texts)
    embedded = {name: generator.embed(texts) for name, texts in sides.items()}
    distances = {name: frechet_distance(reference, points) for name, points in embedded.items()}
    return {
        "right_script": float(np.mean([is_language(text) for text in synthetic])),
        "right_script_initial": float(np.mean([is_language(text) for text in initial])),
        "right_script_held_out": float(np.mean([is_language(text) for text in reference_texts])),
        "frechet": distances,
        "fall": 1 - distances["synthetic"] / distances["initial"],
        "precision_recall": {name: precision_recall(reference, points) for name, points in embedded.items()},
        "num_texts": size,
    }


def claims(results):
    """List what was asked for, and whether it holds."""
    return {
        "at least 95 % of texts in the right script": all(
            each["right_script"] >= SHARE_IN_SCRIPT for each in results.values()
        ),
        "Fréchet distance at least 30 % below the initial population's": all(
            each["fall"] >= FALL for each in results.values()
        ),
    }


def table(results):
    """Write the results as a Markdown table."""
    names = ("language", "clients", "private texts", "right script", "Fréchet distance: initial", "synthetic")
    names += ("change", "private texts themselves", "seconds")
    head = f"| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}"
    rows = [
        f"| {each['language']} | {each['clients']} | {each['private_texts']} | {each['right_script']:.1%} | "
        f"{each['frechet']['initial']:.4f} | {each['frechet']['synthetic']:.4f} | {-each['fall']:+.0%} | "
        f"{each['frechet']['private']:.4f} | {each['seconds']:.0f} |"
        for each in results.values()
    ]
    return "\n".join([head, *rows]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=list(LANGUAGES))
    parser.add_argument("--work-dir", type=Path, required=True, help="Folder for packages, texts and results.")
    parser.add_argument("--written-population", action="store_true", help="Let the model write the first candidates.")
    arguments = parser.parse_args()
    for code in arguments.languages:
        try:
            result = prove(code, arguments.work_dir, arguments.written_population)
        except (ImportError, RuntimeError) as error:
            print(f"{LANGUAGES[code].name} could not be proved: {error}", file=sys.stderr)
            return 1
        write(arguments.work_dir / code / "result.json", result)
        print("\n".join([f"{LANGUAGES[code].name}:", *(f"  - {text}" for text in result["samples"])]))
    # Languages may be run one by one.
    files = {code: arguments.work_dir / code / "result.json" for code in LANGUAGES}
    results = {code: json.loads(file.read_text(encoding="utf-8")) for code, file in files.items() if file.exists()}
    verdicts = claims(results)
    write(arguments.work_dir / "languages.json", {"languages": results, "claims": verdicts})
    (arguments.work_dir / "languages.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    for claim, holds in verdicts.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    return 0 if all(verdicts.values()) else 1


def write(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
