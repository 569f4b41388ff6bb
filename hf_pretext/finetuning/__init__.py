"""What every finetuning on synthetic texts shares: reading them, logging their guarantee, and saving with a card.

The recipes build a trainer around it, with `trl` and `peft`. A training script of your own needs `GuaranteeCallback`
at least:

```python
trainer = Trainer(model, args, train_dataset=tokenized(synthetic))
trainer.add_callback(GuaranteeCallback(trainer, synthetic))
```
"""

from ..artifacts import TRAINING_NAME as TRAINING_NAME
from .chain import report_of_model as report_of_model
from .chain import report_of_model_to_be as report_of_model_to_be
from .models import load_before_and_after as load_before_and_after
from .models import push_model as push_model
from .models import write_model_card as write_model_card
from .recipes import run_recipe as run_recipe
from .texts import FinetuningArguments as FinetuningArguments
from .texts import TrainingTexts as TrainingTexts
from .texts import load_training_texts as load_training_texts
from .texts import take_over_text_field as take_over_text_field
from .training import GuaranteeCallback as GuaranteeCallback
from .training import check_push as check_push
from .training import take_over_push as take_over_push
from .training import train_and_save as train_and_save
from .training import training_facts as training_facts
