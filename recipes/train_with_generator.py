"""A training script that calls the generator: private clients in, a finetuned model with a logged guarantee out.

```bash
python recipes/train_with_generator.py --output_dir build/own-training
```

It is short on purpose, to be copied into a script of your own. The synthetic dataset carries its privacy report, so it
may be selected from, split and joined with others of its kind, and the guarantee is still found. So it is from the
folder that the generator saves, by `recipes/finetune_llm.py --dataset build/own-training/texts`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
from hf_pretext.finetuning import GuaranteeCallback
from hf_pretext.models.packaged import locate
from hf_pretext.plays import load_plays


@dataclass
class Arguments:
    """Models and sizes. The defaults take some four minutes on two cores."""

    output_dir: str = field(metadata={"help": "Folder for the texts and the model."})
    model: str = field(default="packaged/SmolLM2-135M-Instruct", metadata={"help": "Writes and learns the texts."})
    embedding_model: str = field(default="packaged/all-MiniLM-L6-v2", metadata={"help": "In its space clients vote."})
    num_samples: int = field(default=64, metadata={"help": "Number of synthetic texts."})
    population_size: int = field(default=64, metadata={"help": "Number of candidates."})
    max_steps: int = field(default=8, metadata={"help": "Training steps of eight texts."})


def main(arguments: Arguments, private: Dataset) -> Trainer:
    """Generate, train, and log the guarantee."""
    config = PrivateEvolutionConfig(
        epsilon=3.0,
        delta=1e-5,
        num_rounds=1,
        population_size=arguments.population_size,
        lookahead=0,
        top_p=0.9,
        max_length=32,
        max_new_tokens=32,
        domain="speeches by characters in the plays of Shakespeare",
    )
    generator = PrivateEvolutionGenerator(None, arguments.embedding_model, arguments.model, config=config)
    synthetic = generator(private, num_samples=arguments.num_samples)
    generator.save_pretrained(f"{arguments.output_dir}/texts")

    tokenizer = AutoTokenizer.from_pretrained(locate(arguments.model))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def tokenize(batch: dict[str, list[str]]) -> Any:
        tokens = tokenizer([text + tokenizer.eos_token for text in batch["text"]], truncation=True, max_length=64)
        # Labels of their own, whose padding is known by its place. The token that pads may be the one that ends.
        return {**tokens, "labels": tokens["input_ids"]}

    trainer = Trainer(
        # The optimizer's small steps need float32, whatever the weights were saved in.
        model=AutoModelForCausalLM.from_pretrained(locate(arguments.model), dtype="float32", use_safetensors=True),
        args=TrainingArguments(
            output_dir=arguments.output_dir,
            max_steps=arguments.max_steps,
            learning_rate=2e-5,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=synthetic.map(tokenize, batched=True, remove_columns="text"),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    # Epsilon and delta go wherever the trainer logs: its history, TensorBoard, Weights & Biases, Trackio...
    trainer.add_callback(GuaranteeCallback(trainer, synthetic))
    trainer.train()
    trainer.save_model(f"{arguments.output_dir}/model")
    return trainer


if __name__ == "__main__":
    trainer = main(HfArgumentParser(Arguments).parse_args_into_dataclasses()[0], private=load_plays()[0])
    print(trainer.state.log_history[0])
