# /// script
# requires-python = ">=3.10"
# dependencies = ["hf_pretext[recipes]>=0.2"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "8h"
# name = "finetune-on-synthetic-text"
# secrets = ["HF_TOKEN"]
# ///
"""Finetune a LoRA adapter on a published synthetic dataset, and push it with the guarantee of its texts in the card.

```bash
hf jobs uv run recipes/uv/finetune.py --dataset me/jobs-dp --model_name_or_path Qwen/Qwen3-0.6B-Base \
    --base_is_public true --output_dir adapter --push_to_hub --hub_model_id me/jobs-adapter
```

It takes the arguments of `recipes/finetune_llm.py`, which also runs on many GPUs. The settings below are those of
`recipes/configs/llm/modern.yaml` for one GPU. What is on the command line comes first.
"""

from typing import Any

from transformers import AutoTokenizer
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config

from hf_pretext.finetuning import (
    FinetuningArguments,
    load_training_texts,
    report_of_model_to_be,
    run_recipe,
    take_over_push,
    take_over_text_field,
    train_and_save,
)
from hf_pretext.models.packaged import locate

SETTINGS: dict[str, Any] = {
    **{"lora_r": 32, "lora_alpha": 32, "use_rslora": True, "lora_target_modules": ["all-linear"], "use_peft": True},
    **{"learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "num_train_epochs": 2},
    **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_length": 1024},
    **{"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, "load_best_model_at_end": True},
    "report_to": "none",
}


def main(arguments: FinetuningArguments, training: SFTConfig, model: ModelConfig) -> None:
    """Finetune as the arguments say."""
    take_over_text_field(arguments, training)
    texts = load_training_texts(arguments, training.seed)
    report = report_of_model_to_be(
        texts, model.model_name_or_path, model.model_revision, base_is_public=arguments.base_is_public
    )
    push = take_over_push(training, report, arguments)
    base = str(locate(model.model_name_or_path))
    # The revision whose earlier trainings were looked up.
    training.model_init_kwargs = {"dtype": model.dtype, "use_safetensors": True, "revision": model.model_revision}
    trainer = SFTTrainer(
        model=base,
        args=training,
        train_dataset=texts.train,
        eval_dataset=texts.validation,
        processing_class=AutoTokenizer.from_pretrained(base, revision=model.model_revision),
        peft_config=get_peft_config(model),
    )
    train_and_save(trainer, texts, arguments, model.model_name_or_path, report, push)


def make_parser() -> TrlParser:
    """Make the parser of the three kinds of arguments."""
    parser = TrlParser((FinetuningArguments, SFTConfig, ModelConfig))
    parser.set_defaults(**SETTINGS)
    return parser


if __name__ == "__main__":
    run_recipe(main, make_parser())
