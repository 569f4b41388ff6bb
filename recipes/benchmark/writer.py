"""A writer that learns from what the clients answered, before it expands the seeds (`hf_pretext.preferences`)."""

import copy
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.evolution.token_answer import TokenAnswer
from hf_pretext.preferences import PairWriter, last_trainer

from .learners import Models, on_one_device


@dataclass(frozen=True)
class Preferences:
    """How a writer learns from pairs of its texts, of which the clients' answers prefer one.

    Args:
        num_prompts (`int`, *optional*, defaults to `192`): Prompts of a round. Each makes one pair at most.
        continuations (`int`, *optional*, defaults to `4`): Texts that are written after a prompt and ranked.
        num_rounds (`int`, *optional*, defaults to `1`): Rounds of writing, ranking and training.
        rate (`float`, *optional*, defaults to `1e-4`): Learning rate of the adapters, which falls linearly to zero.
        beta (`float`, *optional*, defaults to `0.1`): How strongly the writer is held to the base model.
        rank (`int`, *optional*, defaults to `16`): Rank of the adapters.
        batch_size (`int`, *optional*, defaults to `8`): Pairs per step.
    """

    num_prompts: int = 192
    continuations: int = 4
    num_rounds: int = 1
    rate: float = 1e-4
    beta: float = 0.1
    rank: int = 16
    batch_size: int = 8

    @property
    def inputs(self) -> dict[str, Any]:
        """What the texts of such a writer depend on, as JSON."""
        return {"writer": asdict(self)}

    def train(
        self,
        models: Models,
        seeds: dict[str, list[Any]],
        answer: TokenAnswer | None,
        config: PrivateEvolutionConfig,
    ) -> tuple[Any, Any]:
        """Train a copy of the expansion model, and return it with its tokenizer.

        Args:
            models (`Models`): The expansion model and the embedding model.
            seeds (`dict` of `str` to `list`): Columns `text`, `votes` and `preference` of a run's seeds.
            answer (`TokenAnswer`, *optional*): What the clients of that run said about tokens.
            config (`PrivateEvolutionConfig`): Settings of the expansion.
        """
        from peft import LoraConfig
        from trl import DPOConfig

        model, tokenizer = copy.deepcopy(models.llm)
        sizes = (self.num_prompts, self.continuations)
        writer = PairWriter(Dataset.from_dict(seeds), config, models.embed, answer, *sizes)
        lora = LoraConfig(
            r=self.rank, lora_alpha=self.rank, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
        )
        # The trainer makes its output folder even if it saves nothing.
        with tempfile.TemporaryDirectory() as scratch:
            training = DPOConfig(
                output_dir=scratch,
                seed=config.seed,
                loss_type=["sigmoid", "sft"],
                beta=self.beta,
                learning_rate=self.rate,
                lr_scheduler_type="linear",
                num_train_epochs=1,
                per_device_train_batch_size=self.batch_size,
                max_length=1024,
                gradient_checkpointing=False,
                bf16=False,
                save_strategy="no",
                logging_steps=5,
                report_to=[],
                use_cpu=models.device.type == "cpu",
            )
            size = models.arguments.batch_size
            one = on_one_device(training)
            trainer = last_trainer(writer, model, tokenizer, lora, one, self.num_rounds, batch_size=size)
            trainer.train()
        return trainer.model.get_base_model().eval(), tokenizer
