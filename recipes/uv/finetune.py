# /// script
# requires-python = ">=3.11"
# dependencies = ["peft>=0.21,<1", "transformers>=5.23", "trl>=1.16,<2"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "8h"
# name = "finetune-on-synthetic-text"
# secrets = ["HF_TOKEN"]
# ///
"""Finetune a LoRA adapter on a published synthetic dataset, and push it with the guarantee of its texts in the card.

```bash
uv run --with . recipes/uv/finetune.py --dataset me/jobs-dp --model_name_or_path Qwen/Qwen3-0.6B-Base \
    --base_is_public true --output_dir adapter --push_to_hub --hub_model_id me/jobs-adapter
```

On a GPU of the Hub, with a wheel of `hf_pretext` that you uploaded (see `expand_seeds.py`):

```bash
hf jobs uv run --with https://huggingface.co/datasets/me/wheels/resolve/main/hf_pretext-0.2.0-py3-none-any.whl \
    recipes/uv/finetune.py --dataset me/jobs-dp --model_name_or_path Qwen/Qwen3-0.6B-Base \
    --base_is_public true --output_dir adapter --push_to_hub --hub_model_id me/jobs-adapter
```

It takes the arguments of `recipes/finetune_llm.py`, which also runs on many GPUs. The settings below are those of
`recipes/configs/llm/modern.yaml` for one GPU, without packing and flash attention, and with a checkpoint per epoch.
What is on the command line comes first.
"""

from typing import Any

from trl import ModelConfig, SFTConfig, TrlParser

from hf_pretext.finetuning import FinetuningArguments, run_recipe
from hf_pretext.finetuning import finetune_adapter as main

SETTINGS: dict[str, Any] = {
    **{"lora_r": 32, "lora_alpha": 32, "use_rslora": True, "lora_target_modules": ["all-linear"], "use_peft": True},
    **{"learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "num_train_epochs": 2},
    **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_length": 1024},
    **{"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, "load_best_model_at_end": True},
    **{"dtype": "bfloat16", "lora_dropout": 0.0, "report_to": "none"},
}


def make_parser() -> TrlParser:
    """Make the parser of the three kinds of arguments."""
    parser = TrlParser((FinetuningArguments, SFTConfig, ModelConfig))
    parser.set_defaults(**SETTINGS)
    return parser


if __name__ == "__main__":
    run_recipe(main, make_parser())
