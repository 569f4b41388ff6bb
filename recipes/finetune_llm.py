"""Finetune LoRA adapters of a causal language model on synthetic texts, with TRL's `SFTTrainer` and PEFT.

```bash
accelerate launch recipes/finetune_llm.py --config recipes/configs/llm/modern.yaml \
    --dataset me/jobs-dp --output_dir jobs-adapter --push_to_hub --hub_model_id me/jobs-adapter
```

Public texts can be mixed in (`--public_dataset public --public_fraction 0.5`). Checkpoints are chosen by a part of the
synthetic texts. `recipes/evaluate.py` measures the chosen one on held-out
text.
"""

import sys
from pathlib import Path

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from trl import ModelConfig, SFTConfig, TrlParser

from hf_pretext.finetuning import FinetuningArguments, run_recipe
from hf_pretext.finetuning import finetune_adapter as main

if __name__ == "__main__":
    run_recipe(main, TrlParser((FinetuningArguments, SFTConfig, ModelConfig)))
