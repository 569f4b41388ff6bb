"""Finetune LoRA adapters of a causal language model on synthetic texts, with TRL's `SFTTrainer` and PEFT.

```bash
accelerate launch recipes/finetune_llm.py --config recipes/configs/llm/modern.yaml \
    --dataset me/jobs-dp --output_dir jobs-adapter --push_to_hub --hub_model_id me/jobs-adapter
```

Checkpoints are chosen by a part of the synthetic texts. `recipes/evaluate.py` measures the chosen one on held-out
text.
"""

import sys
from pathlib import Path

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from transformers import AutoTokenizer
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config

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


def main(arguments: FinetuningArguments, training: SFTConfig, model: ModelConfig) -> None:
    """Finetune as the arguments say."""
    take_over_text_field(arguments, training)
    texts = load_training_texts(arguments, training.seed)
    report = report_of_model_to_be(
        texts, model.model_name_or_path, model.model_revision, base_is_public=arguments.base_is_public
    )
    push = take_over_push(training, report, arguments)
    base = str(locate(model.model_name_or_path))
    training.model_init_kwargs = {
        "dtype": model.dtype,
        "attn_implementation": model.attn_implementation,
        "use_safetensors": True,
        **(training.model_init_kwargs or {}),
        "revision": model.model_revision,  # The one whose earlier trainings were looked up.
    }
    model.use_peft = True
    trainer = SFTTrainer(
        model=base,
        args=training,
        train_dataset=texts.train,
        eval_dataset=texts.validation,
        processing_class=AutoTokenizer.from_pretrained(base, revision=model.model_revision),
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    train_and_save(trainer, texts, arguments, model.model_name_or_path, report, push)


if __name__ == "__main__":
    run_recipe(main, TrlParser((FinetuningArguments, SFTConfig, ModelConfig)))
