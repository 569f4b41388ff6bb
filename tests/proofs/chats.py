"""Synthetic conversations from private ones, on which `trl` trains as they are: `README.md` beside this.

`python tests/proofs/chats.py --work-dir DIR` writes `chats.json` and `chats.md` there. Exits with status 1 if a claim
fails. The private conversations are dialogues of Shakespeare's plays. The public ones are modern small talk.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import Dataset, load_from_disk

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.data import list_rows
from hf_pretext.evaluation.measures import frechet_distance
from hf_pretext.files import write_json
from hf_pretext.forms import form_of, texts_in
from hf_pretext.hub import find_privacy_report
from hf_pretext.models.loading import load_causal_lm
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.packaged import locate, package_folder
from hf_pretext.plays import load_dialogues

ROLES = ("user", "assistant")
WRITER = "packaged/SmolLM2-135M-Instruct"
NUM_SAMPLES = 100
NUM_CLIENTS = 1000
VALID_SHARE = 0.5
"""Fraction of what the model writes that has to be a whole conversation."""

TRAINING_STEPS = 6

CONFIG = PrivateEvolutionConfig(
    epsilon=3.0,
    delta=1e-5,
    num_rounds=3,
    population_size=256,
    text_column="messages",
    chat_roles=ROLES,
    variation_steps=1,
    top_p=0.9,
    token_fraction=0.0,  # The figures in the README are of a run without.
    max_length=192,
    domain="conversations of two characters in a play",
    seeds_per_prompt=4,
    best_of=1,
    max_new_tokens=160,
    min_words=6,
)


def public_conversations() -> list[list[dict[str, str]]]:
    """Read modern small talk and questions with answers, from the package `chatterbot-corpus`."""
    folder = package_folder("chatterbot_corpus", "conversations", "pip install --no-deps chatterbot-corpus")
    found = []
    for path in sorted((folder / "data" / "english").glob("*.yml")):
        for lines in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            turns = [str(line).strip() for line in lines]
            turns = turns[: len(turns) // 2 * 2][:6]
            if turns and all(turns):
                found.append([{"role": ROLES[n % 2], "content": turn} for n, turn in enumerate(turns)])
    return found


def clients_and_others(rows: list[dict[str, Any]]) -> tuple[Dataset, Dataset]:
    """Choose clients at random, and 200 others that are set aside, with all of their rows."""
    order = np.random.default_rng(0).permutation(sorted({row["client_id"] for row in rows})).tolist()
    parts = (set(order[:NUM_CLIENTS]), set(order[NUM_CLIENTS : NUM_CLIENTS + 200]))
    private, held_out = (Dataset.from_list([row for row in rows if row["client_id"] in part]) for part in parts)
    return private, held_out


class CountingEngine:
    """A language model of which is known how many texts it was asked for."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine, self.num_asked = engine, 0
        self.answer, self.truncate, self.check_context = engine.answer, engine.truncate, engine.check_context

    def complete(self, prompts: Any, *arguments: Any, **options: Any) -> list[str]:
        """Continue prompts."""
        self.num_asked += len(prompts)
        return self._engine.complete(prompts, *arguments, **options)


def is_whole(messages: Any) -> bool:
    """Say again, without the library, what a conversation is."""
    roles = [turn["role"] for turn in messages if set(turn) == {"role", "content"} and turn["content"].strip()]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    return len(roles) >= 2 and len(roles) % 2 == 0 and roles == list(ROLES) * (len(roles) // 2)


def train(synthetic: Dataset, folder: Path) -> list[float]:
    """Train LoRA adapters for a few steps on the conversations as they are, and return the losses."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from hf_pretext.finetuning import GuaranteeCallback

    settings = SFTConfig(
        output_dir=str(folder),
        max_steps=TRAINING_STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        max_length=256,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to=[],
    )
    trainer = SFTTrainer(
        model=str(locate(WRITER)),
        args=settings,
        train_dataset=synthetic,
        peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
    )
    trainer.add_callback(GuaranteeCallback(trainer, synthetic))
    trainer.train()
    logged = trainer.state.log_history
    assert any("privacy_epsilon" in each for each in logged), "the guarantee of the conversations is not known"
    return [each["loss"] for each in logged if "loss" in each]


def prove(work_dir: Path) -> dict[str, Any]:
    """Run it, and measure it."""
    private, held_out = clients_and_others(load_dialogues(ROLES))
    public = Dataset.from_list([{"messages": turns} for turns in public_conversations()])
    shutil.rmtree(
        work_dir / "run", ignore_errors=True
    )  # The texts are public: what an earlier run spent is forgotten.
    shutil.rmtree(work_dir / "out", ignore_errors=True)
    started = time.perf_counter()
    engine = CountingEngine(LocalEngine(*load_causal_lm(WRITER, "cpu", "float32", None), CONFIG, 32))
    generator = PrivateEvolutionGenerator(
        variation_model=None,
        embedding_model="packaged/all-MiniLM-L6-v2",
        expansion_model=engine,
        config=CONFIG,
        batch_size=32,
        run_dir=work_dir / "run",
    )
    seeds = generator.evolve(private, initial_population=public)
    engine.num_asked = 0
    generator.expand(seeds, num_samples=NUM_SAMPLES)
    kept = [len(json.loads(path.read_text())) for path in (work_dir / "run").glob("run-1-texts-*.json")]
    generator.save_pretrained(work_dir / "out")
    seconds = time.perf_counter() - started
    synthetic = load_from_disk(str(work_dir / "out"))
    form = form_of(CONFIG)
    held_out_texts = list_rows(held_out.select(range(min(len(held_out), 600))), form, "held_out")
    real = generator.embed(list(filter(None, held_out_texts)))
    distances = {
        name: round(float(frechet_distance(generator.embed(texts), real)), 4)
        for name, texts in (
            ("initial", generator.initial_population[: len(synthetic)]),
            ("synthetic", texts_in(synthetic, form)),
        )
    }
    turns = [len(messages) for messages in synthetic["messages"]]
    report = find_privacy_report(work_dir / "out")
    return {
        "private conversations": len(private),
        "clients": len(set(private["client_id"])),
        "public conversations": len(public),
        "synthetic conversations": len(synthetic),
        "whole": sum(map(is_whole, synthetic["messages"])),
        "share of written texts that are whole, usable and new": round(sum(kept) / engine.num_asked, 3),
        "mean turns": round(float(np.mean(turns)), 2),
        "longer than two turns": sum(number > 2 for number in turns),
        "epsilon of the rows": None if report is None else report.epsilon,
        "frechet distance to held-out clients": distances,
        "seconds of the run": round(seconds),
        "losses": [round(loss, 3) for loss in train(synthetic, work_dir / "adapter")],
    }


def main() -> int:
    """Run it, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    measured = prove(options.work_dir)
    distances = measured["frechet distance to held-out clients"]
    claims = {
        f"{NUM_SAMPLES} conversations, all whole": measured["whole"] == NUM_SAMPLES,
        f"at least {VALID_SHARE:.0%} of what the model wrote is used": measured[
            "share of written texts that are whole, usable and new"
        ]
        >= VALID_SHARE,
        "the rows are covered": measured["epsilon of the rows"] is not None,
        "SFTTrainer trains on them": measured["losses"][-1] < measured["losses"][0],
        "closer to the private ones than the public ones": distances["synthetic"] < distances["initial"],
    }
    measured["claims"] = claims
    write_json(options.work_dir / "chats.json", measured)
    line = "| " + " | ".join(str(value) for name, value in measured.items() if name not in ("claims", "losses")) + " |"
    (options.work_dir / "chats.md").write_text(line + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
