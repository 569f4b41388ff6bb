"""A run on texts of several lines: are the lines of seeds and synthetic texts alike? See `README.md`.

`python tests/proofs/lines.py --work-dir DIR` downloads packages into the folder, and writes `lines.json` and
`lines.md` there. Exits with status 1 if a claim fails.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.data import split_by_client
from hf_pretext.evaluation.measures import frechet_distance
from recipes.benchmark import data

NUM_SAMPLES = 160
NUM_SNIPPETS = 600
WITHIN = 0.10
"""How near the share of synthetic texts with a line break is to that of the seeds."""

SETTINGS = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "population_size": 256,
    "max_length": 128,
    "max_new_tokens": 128,
    "seeds_per_prompt": 4,
    "top_p": 0.95,
    "token_fraction": 0.0,  # The figures in the README are of runs without.
    "domain": "messages to a mailing list",
}


def mails(folder, kind):
    """Yield sender and message: its paragraphs as they were written, without quotations and signatures."""
    for _, sender, paragraphs in data.mails(folder, kind):
        own = [each.strip("\n") for each in paragraphs if not data._QUOTED.search(each)]
        text = "\n\n".join(each for each in own if each.strip() and not data._MARKUP.search(each))
        if 8 <= len(text.split()) <= 80:
            yield sender, text


def public_texts(folder):
    """Load advertising mail with its lines, and snippets of one line."""
    snippets = data._shuffled(dict.fromkeys(filter(data._is_short, data._snippets(folder))))[:NUM_SNIPPETS]
    return data._shuffled(dict.fromkeys([*(text for _, text in mails(folder, "spam")), *snippets]))


def share_with_lines(texts):
    """Compute the fraction of texts with a line break."""
    return float(np.mean(["\n" in text for text in texts]))


def prove(work_dir):
    """Make one run, and measure it."""
    started = time.perf_counter()
    private, held_out = split_by_client(list(dict.fromkeys(mails(work_dir / "packages", "ham"))), 0.15)
    public = public_texts(work_dir / "packages")
    folder = work_dir / "lines"
    shutil.rmtree(folder, ignore_errors=True)  # The texts are public, so what an earlier run spent is forgotten.
    generator = PrivateEvolutionGenerator(
        None,
        "packaged/all-MiniLM-L6-v2",
        "packaged/SmolLM2-135M-Instruct",
        config=PrivateEvolutionConfig(**SETTINGS),
        run_dir=folder / "run",
    )
    seeds = generator.evolve(private, initial_population=public)
    synthetic = generator.expand(seeds, num_samples=NUM_SAMPLES)
    generator.save_pretrained(folder / "synthetic")
    seconds = time.perf_counter() - started
    # As often as prompts show them.
    weights = np.array(seeds["votes"][:]) * np.array(seeds["preference"][:])
    of_seeds = float(np.average(["\n" in text for text in seeds["text"]], weights=weights))
    reference = generator.embed(held_out["text"][:])
    sides = {"initial population": generator.initial_population, "synthetic texts": synthetic["text"][:]}
    return {
        "num_clients": len(set(private["client_id"])),
        "private_with_lines": share_with_lines(private["text"]),
        "public_with_lines": share_with_lines(public),
        "seeds_with_lines": share_with_lines(seeds["text"]),
        "seeds_with_lines_weighted": of_seeds,
        "synthetic_with_lines": share_with_lines(synthetic["text"]),
        "frechet": {name: frechet_distance(reference, generator.embed(texts)) for name, texts in sides.items()},
        "samples": synthetic["text"][:6],
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    found = prove(options.work_dir)
    difference = abs(found["synthetic_with_lines"] - found["seeds_with_lines_weighted"])
    claims = {
        "the share of texts with a line break is within 10 points of the seeds', as often as they are shown": (
            difference <= WITHIN
        ),
    }
    table = (
        "| clients | private with a line break | seeds (as shown) | synthetic | Fréchet, initial | synthetic | s |\n"
        "|--:|--:|--:|--:|--:|--:|--:|\n"
        f"| {found['num_clients']:,} | {found['private_with_lines']:.1%} | {found['seeds_with_lines']:.1%} "
        f"({found['seeds_with_lines_weighted']:.1%}) | {found['synthetic_with_lines']:.1%} | "
        f"{found['frechet']['initial population']:.4f} | {found['frechet']['synthetic texts']:.4f} | "
        f"{found['seconds']:.0f} |\n"
    )
    report = json.dumps({"run": found, "claims": claims}, indent=2, ensure_ascii=False)
    (options.work_dir / "lines.json").write_text(report + "\n", encoding="utf-8")
    (options.work_dir / "lines.md").write_text(table, encoding="utf-8")
    print(report, table, sep="\n")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
