"""Finetune all weights of a small language model on synthetic texts, as for a model that runs on devices.

```bash
accelerate launch recipes/finetune_small.py --config recipes/configs/small/paper.yaml --dataset me/jobs-dp
```

As in the paper, a first stage on public texts may come before (`--public_dataset`), or they are mixed in
(`--public_dataset public --public_epochs 0 --public_fraction 0.5`). Checkpoints are chosen by a part of the synthetic
texts. `recipes/evaluate.py` measures the chosen one on held-out text.
"""

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer, TrlParser

from hf_pretext.finetuning import (
    FinetuningArguments,
    TrainingTexts,
    is_resumed,
    is_sharded,
    load_base,
    load_public_texts,
    load_training_texts,
    prepare_training,
    run_recipe,
    take_over_text_field,
    train_and_save,
)
from hf_pretext.models.packaged import locate


@dataclass
class SmallModelArguments(FinetuningArguments):
    """The model, and the stage on public text."""

    model_name_or_path: str = field(default="distilbert/distilgpt2", metadata={"help": "Model to finetune."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of its repository."})
    public_epochs: float = field(
        default=1.0,
        metadata={"help": "Epochs of a first stage on `public_dataset`, if there is one. 0: no first stage."},
    )


def make_trainer(model: object, tokenizer: object, training: SFTConfig, texts: TrainingTexts) -> SFTTrainer:
    """Make the trainer of one stage."""
    return SFTTrainer(
        model=model,
        args=training,
        train_dataset=texts.train,
        eval_dataset=texts.validation,
        processing_class=tokenizer,
    )


def main(arguments: SmallModelArguments, training: SFTConfig) -> None:
    """Finetune as the arguments say."""
    take_over_text_field(arguments, training)
    has_stage = arguments.public_dataset is not None and arguments.public_epochs > 0
    if arguments.public_dataset is not None and not has_stage and not arguments.public_fraction:
        raise ValueError(
            f"`public_dataset`={arguments.public_dataset!r} is for a first stage or for mixing, and `public_epochs`=0 "
            "and `public_fraction`=0 make neither. Set one of them, or leave the dataset out."
        )
    if has_stage and is_sharded(training) and not is_resumed(training):
        raise ValueError(
            f"`public_dataset`={arguments.public_dataset!r} with `public_epochs`={arguments.public_epochs} asks for a "
            "first stage, after which FSDP and DeepSpeed have divided the model among the processes, so that a second "
            "stage cannot begin with it. Use `recipes/configs/accelerate/ddp.yaml`, or mix the public texts in "
            "(`--public_epochs 0 --public_fraction 0.5`)."
        )
    texts = load_training_texts(arguments, training.seed)
    public_texts = load_public_texts(arguments, training.seed) if has_stage else None
    texts = replace(texts, first_stage=public_texts)
    name, revision = arguments.model_name_or_path, arguments.model_revision
    report, push = prepare_training(arguments, training, texts, name, revision)
    base = str(locate(name))
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(base, **options)
    # The trainer places it. All of it fits on each device.
    model = load_base(base, training, dtype="float32", device_map=None, **options)
    # A checkpoint is of the second stage, and holds what the first one made of the model.
    if public_texts is not None and not training.resume_from_checkpoint:
        stage = copy.copy(training)
        stage.num_train_epochs, stage.output_dir = arguments.public_epochs, f"{training.output_dir}/stage-public"
        stage.max_steps = -1  # Those are for the synthetic texts. They would go before the epochs.
        trainer = make_trainer(model, tokenizer, stage, public_texts)
        trainer.train()
        model = trainer.model
    trainer = make_trainer(model, tokenizer, training, texts)
    train_and_save(trainer, texts, arguments, name, report, push, revision)


if __name__ == "__main__":
    run_recipe(main, TrlParser((SmallModelArguments, SFTConfig)))
