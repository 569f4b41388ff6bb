"""The quickstart: a whole run on real text with real models, in minutes on two cores, without any hub."""

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .artifacts import FILES_OF_A_RUN, METRICS_NAME, PAGE_NAME, REPORT_NAME, RUN_FOLDER
from .configuration import PrivateEvolutionConfig
from .evaluation.measures import frechet_distance
from .files import write_json
from .generator import PrivateEvolutionGenerator
from .pages import quality_in
from .plays import load_plays
from .privacy.texts import PATTERN
from .saved_runs import check_folder

EMBEDDING_MODEL = "packaged/all-MiniLM-L6-v2"
EXPANSION_MODEL = "packaged/SmolLM2-135M-Instruct"
NUM_SAMPLES = 160
HELD_OUT_SPEECHES = 600

CONFIG = PrivateEvolutionConfig(
    epsilon=3.0,
    delta=1e-5,
    num_rounds=2,
    mean_fraction=0.3,
    population_size=288,
    keep_survivors=True,
    lookahead=0,
    variation_steps=1,
    top_p=0.9,
    max_length=64,
    domain="speeches by characters in the plays of Shakespeare",
    seeds_per_prompt=3,
    continuations_per_prompt=3,  # A prompt is read once for them.
    token_fraction=0.0,  # Reading the model's own tokens would take as long as the texts.
    max_new_tokens=48,
    min_words=5,
)


def run_quickstart(output_dir: str | Path, seed: int = 0) -> dict[str, float]:
    """Generate synthetic speeches from Shakespeare's roles as clients, and measure them against held-out roles.

    A run that was killed is resumed. After one that ended, another begins.

    Args:
        output_dir (`str` or `Path`):
            Gets the dataset (for `load_from_disk`), its card, the privacy report, the picture, the configuration and
            `metrics.json`.
        seed (`int`, *optional*, defaults to `0`): Seed of everything but the noise.

    Returns:
        `dict`: What `metrics.json` holds: `frechet_initial`, `frechet_synthetic`, `num_texts` on either side of
        them, and `seconds`.
    """
    started = time.perf_counter()
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)  # Fails now, if at all, and not after minutes of work.
    private, held_out = load_plays()
    num_private, num_held_out = (len(set(part["client_id"])) for part in (private, held_out))
    print(f"Private clients: {num_private} speaking roles of Shakespeare with {len(private)} speeches.")
    print(f"Held out for evaluation: {num_held_out} other roles.")
    config = dataclasses.replace(CONFIG, seed=seed)
    forget_earlier_run(output)
    generator = PrivateEvolutionGenerator(
        variation_model=None,
        embedding_model=EMBEDDING_MODEL,
        expansion_model=EXPANSION_MODEL,
        config=config,
        dtype="fastest",
        run_dir=output / RUN_FOLDER,
    )
    check_folder(output, generator.privacy_report)
    seeds = generator.evolve(private)
    synthetic = generator.expand(seeds, num_samples=NUM_SAMPLES)

    generator.save_pretrained(output)
    metrics = _measure(generator, synthetic["text"][:], held_out["text"][:])
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    write_json(output / METRICS_NAME, metrics)
    _print_results(generator, synthetic["text"][:], metrics, output)
    return metrics


def forget_earlier_run(output: Path) -> None:
    """Remove an earlier quickstart. The plays are public, so it does no harm to forget what it spent."""
    if (output / METRICS_NAME).exists() and (output / REPORT_NAME).exists():
        shutil.rmtree(output / RUN_FOLDER, ignore_errors=True)
        # The files by which it is known go last.
        for name in (*FILES_OF_A_RUN, PATTERN, REPORT_NAME, METRICS_NAME):
            for path in output.glob(name):
                path.unlink()


def _measure(
    generator: PrivateEvolutionGenerator, synthetic: Sequence[str], held_out: Sequence[str]
) -> dict[str, float]:
    """Compare with the held-out roles: an evaluation that the guarantee does not cover."""
    initial = generator.initial_population
    size = min(len(initial), len(synthetic), len(held_out))
    chosen = np.random.default_rng(0).permutation(len(held_out))[:HELD_OUT_SPEECHES]
    speeches = [held_out[index] for index in chosen]
    reference, *others = (generator.embed(list(texts)) for texts in (speeches, initial[:size], synthetic[:size]))
    distances = [frechet_distance(reference, other) for other in others]
    return {"frechet_initial": distances[0], "frechet_synthetic": distances[1], "num_texts": size}


def _print_results(
    generator: PrivateEvolutionGenerator, texts: Sequence[str], metrics: dict[str, float], output: Path
) -> None:
    print("\nSynthetic texts:")
    for text in texts[:5]:
        print(f"  - {text}")
    print(f"\n{generator.privacy_report}")
    change = metrics["frechet_synthetic"] / metrics["frechet_initial"] - 1
    print(
        "\nFréchet distance to the held-out roles' speeches (evaluation only, not covered by the guarantee):\n"
        f"  initial population {metrics['frechet_initial']:.4f}\n"
        f"  synthetic texts    {metrics['frechet_synthetic']:.4f} ({change:+.0%})"
    )
    print(f"\n{quality_in(output)}\n\n{generator.time_table}")
    print(f"{len(texts)} texts, their card, report and picture are in {output}/, after {metrics['seconds']:.0f} s.")
    print(f"See all of it in a browser: {output / PAGE_NAME}")
    python = os.path.relpath(sys.executable)
    print(f"""Try next: {python} -c "from datasets import load_from_disk; print(load_from_disk('{output}')[:3])\"""")
