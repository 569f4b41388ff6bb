"""Finetuning of LoRA adapters on synthetic texts, with TRL's `SFTTrainer` and PEFT."""

from typing import TYPE_CHECKING

from ..models.packaged import locate
from .bases import load_base
from .preparing import prepare_training
from .texts import FinetuningArguments, load_training_texts, take_over_text_field
from .training import train_and_save

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


def finetune_adapter(arguments: FinetuningArguments, training: "SFTConfig", model: "ModelConfig") -> None:
    """Finetune a LoRA adapter of a causal language model, save it with its card, and push it if that is asked for.

    Args:
        arguments (`FinetuningArguments`): The texts, and what to do with the adapter.
        training (`trl.SFTConfig`): Settings of the training.
        model (`trl.ModelConfig`): The base, its revision and quantization, and the adapter.

    Raises:
        ValueError: There are public texts, but none of them is to be mixed in.
    """
    from transformers import AutoTokenizer
    from trl import SFTTrainer, get_peft_config, get_quantization_config

    take_over_text_field(arguments, training)
    if arguments.public_dataset is not None and not arguments.public_fraction:
        raise ValueError(
            f"`public_dataset`={arguments.public_dataset!r} is for mixing, and `public_fraction`=0 mixes nothing in. "
            "Set the fraction, or leave the dataset out."
        )
    texts = load_training_texts(arguments, training.seed)
    name, revision = model.model_name_or_path, model.model_revision
    report, push = prepare_training(arguments, training, texts, name, revision)
    base = str(locate(name))
    model.use_peft = True
    trainer = SFTTrainer(
        model=load_base(
            base,
            training,
            revision,
            dtype=model.dtype,
            attn_implementation=model.attn_implementation,
            quantization_config=get_quantization_config(model),
            trust_remote_code=training.trust_remote_code,
        ),
        args=training,
        train_dataset=texts.train,
        eval_dataset=texts.validation,
        processing_class=AutoTokenizer.from_pretrained(
            base, revision=revision, trust_remote_code=training.trust_remote_code
        ),
        peft_config=get_peft_config(model),
    )
    train_and_save(trainer, texts, arguments, name, report, push, revision)
