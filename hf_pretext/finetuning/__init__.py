"""What every finetuning on synthetic texts shares: reading them, logging their guarantee, and saving with a card.

The recipes build a trainer around it, with `trl` and `peft`. A training script of your own needs `GuaranteeCallback`
at least:

```python
trainer = Trainer(model, args, train_dataset=tokenized(synthetic))
trainer.add_callback(GuaranteeCallback(trainer, synthetic))
```
"""

from ..artifacts import TRAINING_NAME as TRAINING_NAME
from ..lazy import lazy_names

# The chain of guarantees is asked where no trainer is needed.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "finetune_adapter": "adapters",
        "is_sharded": "bases",
        "load_base": "bases",
        "report_of_model": "chain",
        "report_of_model_to_be": "chain",
        "load_before_and_after": "models",
        "push_model": "models",
        "write_model_card": "models",
        "run_recipe": "recipes",
        "FinetuningArguments": "texts",
        "TrainingTexts": "texts",
        "load_public_texts": "texts",
        "load_training_texts": "texts",
        "take_over_text_field": "texts",
        "GuaranteeCallback": "training",
        "check_push_of_model": "preparing",
        "is_resumed": "preparing",
        "prepare_training": "preparing",
        "train_and_save": "training",
        "training_facts": "training",
    },
)
