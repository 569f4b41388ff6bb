"""Audit a run: attack it to find out who participated, and derive a lower bound on epsilon.

```bash
hf-pretext plays --output-dir plays
python recipes/audit.py --config recipes/configs/audit/plays.yaml
```

Its targets are canaries, which are clients with made-up texts, and some of the real clients. A fair coin decides
whether each target participates. The audit runs the generator with the settings of a file for `hf-pretext generate`,
and attacks the releases and the synthetic texts. Then finetune a model on `output_dir` with the recipes, and call the
audit again with `--model`. It reads the run from its folder, and attacks the model's losses as well. `audit.json` and
`audit.png` are about private data and for its owner. Do not publish an audited run: its canaries are in the synthetic
texts.
"""

import json
import math
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

import numpy as np
from transformers import AutoTokenizer
from trl import TrlParser

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.artifacts import RUN_FOLDER
from hf_pretext.audit import (
    AuditReading,
    Targets,
    loss_scores,
    ngram_scores,
    read_scores,
    sample_targets,
    similarity_scores,
    target_texts,
    vote_scores,
)
from hf_pretext.cli import read_input, read_run
from hf_pretext.data import list_texts
from hf_pretext.evaluation import score_next_tokens
from hf_pretext.files import atomic_folder, atomic_write
from hf_pretext.finetuning import load_before_and_after, run_recipe
from hf_pretext.hub import fetch_folder
from hf_pretext.plots import plot_audit

NO_CARD = """# An audited run: not to be published

Made-up clients are among those that this run learned from, and their texts are among the synthetic ones. The noise was
drawn for the audit. `audit.json` and `audit.png` show who participated. No guarantee covers them.
"""


@dataclass
class AuditArguments:
    """What to audit, and how."""

    run: str = field(metadata={"help": "YAML file of the run, as `hf-pretext generate` reads it."})
    output_dir: str = field(metadata={"help": "Folder for the audited run and the audit."})
    public: str | None = field(
        default=None, metadata={"help": "Public texts to start from, beside the canaries. By default the run's own."}
    )
    num_canaries: int = field(default=192, metadata={"help": "Clients with made-up texts."})
    client_share: float = field(default=0.1, metadata={"help": "Share of the real clients that are targets as well."})
    noise: bool = field(default=True, metadata={"help": "false: a run without noise, which an audit must catch."})
    model: str | None = field(
        default=None, metadata={"help": "A model that was finetuned on `output_dir`: a folder of the recipes."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts per forward pass of that model."})
    confidence: float = field(default=0.95, metadata={"help": "Confidence of the bounds."})
    seed: int | None = field(
        default=None,
        metadata={"help": "Seed of targets, coins, canaries. By default drawn, and kept beside the run."},
    )


def main(arguments: AuditArguments) -> None:
    """Audit as the arguments say."""
    output = Path(arguments.output_dir)
    run, settings = read_run(Path(arguments.run))
    config = PrivateEvolutionConfig(**settings)
    private = read_input("private", run["private"], config.text_column, config.client_column)
    source = arguments.public or run.get("initial_population")
    if source is None:
        raise ValueError("`public` is needed: canaries have to be among the candidates, beside public texts.")
    public = list_texts(read_input("public", source, config.text_column), config.text_column, "public")
    seed = seed_of_audit(arguments, output)
    audited, targets = sample_targets(private, config, arguments.num_canaries, arguments.client_share, seed)
    of_models = ("device", "dtype", "device_map", "batch_size")
    generator = PrivateEvolutionGenerator(
        **{name: run[name] for name in run if name.endswith("_model") or name in of_models},
        config=config,
        run_dir=output / RUN_FOLDER,
        noise=None if arguments.noise else no_noise,
    )
    population = population_with_canaries(targets, public, config)
    synthetic = generator(audited, initial_population=population, num_samples=run["num_samples"])
    generator.save_pretrained(output)
    (output / "README.md").write_text(NO_CARD, encoding="utf-8")
    outputs = [*synthetic["text"], *generator.seeds["text"]]
    kinds = {"canaries": targets.is_canary, "clients": ~targets.is_canary}
    attacks = {"votes": vote_scores(output / RUN_FOLDER, targets, generator.embed, config.votes_per_sample)}
    attacks["similarity"] = similarity_scores(outputs, targets, generator.embed)
    attacks["n-grams"] = ngram_scores(outputs, population, targets)
    if arguments.model is not None:
        attacks["loss"] = loss_of_model(arguments, targets)
    of_kind = {
        f"{attack}, {kind}": (scores[chosen], targets.is_member[chosen])
        for kind, chosen in kinds.items()
        for attack, scores in attacks.items()
        if chosen.any()
    }
    readings = [
        read_scores(name, scores, is_member, config.delta, arguments.confidence)
        for name, (scores, is_member) in of_kind.items()
    ]
    report = generator.privacy_report
    sides = {name: (scores[is_member], scores[~is_member]) for name, (scores, is_member) in of_kind.items()}
    with atomic_folder(output) as scratch:
        facts = {
            "claimed_epsilon": report.epsilon if report.is_finite else None,
            "delta": report.delta,
            "num_releases": report.num_releases,
            "covered_by_the_guarantee": False,
            "readings": [reading.to_dict() for reading in readings],
        }
        (scratch / "audit.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        plot_audit(readings, sides, report.epsilon, scratch / "audit.png")
    print(table(readings, report.epsilon))
    print(f"\n{output}/audit.json and audit.png have these figures. They are about private data.")


def seed_of_audit(arguments: AuditArguments, output: Path) -> int:
    """Return the seed of the coins, which a first audit draws and keeps, with its arguments, for the next reading."""
    path = output / "audit_settings.json"
    meant = {name: getattr(arguments, name) for name in ("num_canaries", "client_share", "noise", "seed")}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name, value in meant.items():
            if value != kept[name] and not (name == "seed" and value is None):
                raise ValueError(
                    f"`output_dir`={str(output)!r} holds an audit with `{name}`={kept[name]}, not {value}: its coins "
                    "have fallen. Use the same, or another folder for another audit."
                )
        return int(kept["seed"])
    seed = secrets.randbits(31) if arguments.seed is None else arguments.seed
    output.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps({**meant, "seed": seed}) + "\n")
    return seed


def no_noise(scale: float, size: int) -> np.ndarray:
    """Stand in for the noise of a run that an audit has to catch."""
    return np.zeros(size, dtype=np.int64)


def population_with_canaries(targets: Targets, public: list[str], config: PrivateEvolutionConfig) -> list[str]:
    """Make an initial population of exactly the size that is asked for, so that every canary is in it."""
    canaries = [own[0] for own, is_canary in zip(targets.texts, targets.is_canary, strict=True) if is_canary]
    others = list(dict.fromkeys(public))
    order = np.random.default_rng(config.seed).permutation(len(others))
    rest = config.population_size - len(canaries)
    if not 0 <= rest <= len(others):
        raise ValueError(
            f"`num_canaries`={len(canaries)} and {len(others)} public texts cannot make a population of "
            f"`population_size`={config.population_size}. Change one of them."
        )
    return canaries + [others[index] for index in order[:rest]]


def loss_of_model(arguments: AuditArguments, targets: Targets) -> np.ndarray:
    """Score the targets by a finetuned model."""
    folder = fetch_folder(str(arguments.model), ["*"], repo_type="model")
    base, finetuned = load_before_and_after(folder)
    tokenizer, texts = AutoTokenizer.from_pretrained(folder), target_texts(targets)
    options: dict[str, Any] = {"batch_size": arguments.batch_size}
    before = score_next_tokens(base(), tokenizer, texts, progress="Before finetuning", **options)
    after = score_next_tokens(finetuned(), tokenizer, texts, progress="After finetuning", **options)
    return loss_scores(before, after, targets)


def table(readings: list[AuditReading], claim: float) -> str:
    """Show the readings as a Markdown table."""
    lines = [
        f"Claimed: epsilon {claim:.4g}. Each bound holds with a confidence of {readings[0].confidence:.0%}.\n",
        "| attack on | targets | right guesses | epsilon is at least | AUC [95 % interval] |",
        "|---|---|---|---|---|",
    ]
    for reading in readings:
        lines.append(
            f"| {reading.attack} | {reading.num_targets} | {reading.num_correct} of {reading.num_guesses} | "
            f"{reading.epsilon_lower_bound:.3f} | {reading.auc:.3f} [{reading.auc_low:.3f}, {reading.auc_high:.3f}] |"
        )
    largest = max(reading.epsilon_lower_bound for reading in readings)
    if math.isinf(claim):
        verdict = f"There is no claim to refute: this run has no guarantee. Epsilon is at least {largest:.3f}."
    elif largest > claim:
        verdict = f"The claim is refuted: epsilon is at least {largest:.3f}. Something is wrong with run or code."
    else:
        verdict = (
            "The claim is not refuted. That proves nothing beyond these attacks: a bound of 0 says that they found "
            "nothing, and few targets cannot show much. An AUC of 0.5 is chance."
        )
    lines.append(f"\n{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_recipe(main, TrlParser((AuditArguments,)))
