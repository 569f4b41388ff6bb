"""Train a LoRA adapter that writes as the clients of a saved run prefer, with TRL's `DPOTrainer` and PEFT.

```bash
accelerate launch recipes/prefer.py --config recipes/configs/prefer/modern.yaml \
    --run me/jobs-dp --output_dir jobs-writer --push_to_hub --hub_model_id me/jobs-writer
hf-pretext expand --seeds me/jobs-dp --expansion-model me/jobs-writer --num-samples 10000 --output-dir more
```

It spends no budget, and the texts of the second command have the guarantee of the run.
"""

import sys
from pathlib import Path

# `import evaluate` must find the library, and not the script of that name beside this one.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from trl import DPOConfig, ModelConfig, TrlParser

from hf_pretext.finetuning import run_recipe
from hf_pretext.preferences import PreferenceArguments
from hf_pretext.preferences import finetune_writer as main

if __name__ == "__main__":
    run_recipe(main, TrlParser((PreferenceArguments, DPOConfig, ModelConfig)))
