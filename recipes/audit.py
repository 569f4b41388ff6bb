"""Audit a run: attack it to find out who participated, and derive a lower bound on epsilon.

```bash
hf-pretext plays --output-dir plays
python recipes/audit.py --config recipes/configs/audit/plays.yaml
```

Its targets are canaries, which are clients with made-up texts, and some of the real clients. A fair coin decides
whether each target participates. The audit runs the generator with the settings of a file for `hf-pretext generate`.
The canaries are candidates in every round, beside those of the run. The primary attack reads what they change in the
releases as mu. Others attack the releases and the synthetic texts. Then finetune a model on `output_dir` with the
recipes, and call the audit again with `--model`. It reads the run from its folder, and attacks the model's losses as
well. `audit.json` and `audit.png` are about private data and for its owner. Do not publish an audited run: its
canaries are in the synthetic texts.
"""

import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

import numpy as np
from trl import TrlParser

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.artifacts import (
    AUDIT_NAME,
    AUDIT_PICTURE_NAME,
    AUDIT_SETTINGS_NAME,
    CARD_NAME,
    PAGE_NAME,
    RUN_FOLDER,
)
from hf_pretext.audit import (
    AuditedGenerator,
    Targets,
    check_coins,
    check_is_plain,
    loss_scores,
    ngram_scores,
    read_audit,
    sample_targets,
    similarity_scores,
    target_texts,
    vote_scores,
)
from hf_pretext.cli import read_private_source, read_public_source, read_run, source_of
from hf_pretext.evaluation import score_next_tokens
from hf_pretext.files import atomic_folder, atomic_write, write_json
from hf_pretext.finetuning import load_before_and_after, run_recipe
from hf_pretext.hub import fetch_folder
from hf_pretext.models.checkpoints import read_tokenizer
from hf_pretext.pages import write_page
from hf_pretext.plots import plot_audit
from hf_pretext.processes import num_processes
from hf_pretext.saved_runs import check_folder

NO_CARD = """# An audited run: not to be published

Made-up clients are among those that this run learned from, and their texts are among the synthetic ones. The noise was
drawn for the audit. `audit.json` and `audit.png` are about who participated. No guarantee covers them.
"""


@dataclass
class AuditArguments:
    """What to audit, and how."""

    run: str = field(metadata={"help": "YAML file of the run, as `hf-pretext generate` reads it."})
    output_dir: str = field(metadata={"help": "Folder for the audited run and the audit."})
    public: str | None = field(
        default=None, metadata={"help": "Public texts to start from. By default the run's own."}
    )
    num_canaries: int = field(default=768, metadata={"help": "Clients with made-up texts."})
    client_share: float = field(default=0.1, metadata={"help": "Share of the real clients that are targets as well."})
    noise: bool = field(default=True, metadata={"help": "false: a run without noise, which an audit must catch."})
    model: str | None = field(
        default=None, metadata={"help": "A model that was finetuned on `output_dir`: a folder of the recipes."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts per forward pass of that model."})
    confidence: float = field(default=0.95, metadata={"help": "Confidence of all bounds together."})
    seed: int | None = field(
        default=None,
        metadata={"help": "Seed of targets, coins, canaries. By default drawn, and kept beside the run."},
    )


def main(arguments: AuditArguments) -> None:
    """Audit as the arguments say."""
    if num_processes() > 1:
        raise RuntimeError(
            f"An audit runs in one process, and this is one of {num_processes()}: each would draw coins of its own. "
            "Start it with `python`."
        )
    output = Path(arguments.output_dir)
    run, settings = read_run(Path(arguments.run))
    config = PrivateEvolutionConfig(**settings)
    check_is_plain(config)  # Before anything is spent.
    private = read_private_source(source_of(run, "private"), config)
    source = {"source": arguments.public} if arguments.public else source_of(run, "initial_population")
    public = read_public_source(source, config)
    seed = seed_of_audit(arguments, output)
    audited, targets = sample_targets(private, config, arguments.num_canaries, arguments.client_share, seed)
    coins = targets.is_member[targets.is_canary]
    check_coins(coins)  # Refused, if at all, before anything is spent.
    of_models = ("device", "dtype", "device_map", "batch_size")
    generator = AuditedGenerator(
        targets.canaries,
        config=config,
        run_dir=output / RUN_FOLDER,
        noise=None if arguments.noise else no_noise,
        **{name: run[name] for name in run if name.endswith("_model") or name in of_models},
    )
    check_folder(output, generator.privacy_report)
    synthetic = generator(audited, initial_population=public, num_samples=run["num_samples"])
    generator.save_pretrained(output)
    (output / CARD_NAME).write_text(NO_CARD, encoding="utf-8")
    (output / PAGE_NAME).unlink()  # Until it shows the audit.
    assert generator.seeds is not None  # As the run has ended.
    outputs, released = [*synthetic["text"], *generator.seeds["text"]], generator.released
    attacks = {"votes": vote_scores(released, targets, generator.embed)}
    attacks["similarity"] = similarity_scores(outputs, targets, generator.embed)
    attacks["n-grams"] = ngram_scores(outputs, generator.initial_population, targets)
    if arguments.model is not None:
        attacks["loss"] = loss_of_model(arguments, targets)
    kinds = {"canaries": targets.is_canary, "clients": ~targets.is_canary}
    secondary = {
        f"{attack}, {kind}": (scores[chosen], targets.is_member[chosen])
        for kind, chosen in kinds.items()
        for attack, scores in attacks.items()
        if chosen.any() and (attack, kind) != ("votes", "canaries")  # That is what the primary attack reads.
    }
    plan, samples = generator.ledger.plan, generator.canary_samples
    audit = read_audit(plan, released, samples, coins, secondary, arguments.confidence)
    facts = {**audit.to_dict(), "noise_is_genuine": arguments.noise, "covered_by_the_guarantee": False}
    with atomic_folder(output) as scratch:
        write_json(scratch / AUDIT_NAME, facts)
        plot_audit(facts, audit.scores, scratch / AUDIT_PICTURE_NAME)
    write_page(output)
    print(f"{audit.table}\n\n{audit.verdict}")
    print(f"\n{output}/{AUDIT_NAME} and {AUDIT_PICTURE_NAME} have these figures. They are about private data.")


def seed_of_audit(arguments: AuditArguments, output: Path) -> int:
    """Return the seed of the coins, which a first audit draws and keeps, with its arguments, for the next reading."""
    path = output / AUDIT_SETTINGS_NAME
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


def loss_of_model(arguments: AuditArguments, targets: Targets) -> np.ndarray:
    """Score the targets by a finetuned model."""
    folder = fetch_folder(str(arguments.model), ["*"], repo_type="model")
    base, finetuned = load_before_and_after(folder)
    tokenizer, texts = read_tokenizer(folder), target_texts(targets)
    options: dict[str, Any] = {"batch_size": arguments.batch_size}
    before = score_next_tokens(base(), tokenizer, texts, progress="Before finetuning", **options)
    after = score_next_tokens(finetuned(), tokenizer, texts, progress="After finetuning", **options)
    return loss_scores(before, after, targets)


if __name__ == "__main__":
    run_recipe(main, TrlParser((AuditArguments,)))
