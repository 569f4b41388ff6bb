"""Loading of the model that a recipe finetunes, in one way for all of them."""

import os
from typing import Any


def load_base(name: str, training: Any, revision: str | None = None, **options: Any) -> Any:
    """Load the causal language model that is finetuned, as it is loaded when it is evaluated or writes.

    A trainer of TRL that is given a name takes the class that the checkpoint names. A class that also reads pictures
    names its layers differently, so an adapter of it would fit nothing that the rest of the library loads.

    Args:
        name (`str`): Folder or repository of the model.
        training (`trl.SFTConfig` or `trl.DPOConfig`):
            Its `model_init_kwargs` come before `options`, and are taken over. They decide neither whether remote code
            runs nor whether weights are unpickled. It has to exist before the model is loaded, because DeepSpeed and
            FSDP are set up with it.
        revision (`str`, *optional*): The revision whose earlier trainings were looked up.
        **options:
            Arguments of `from_pretrained`. Without `device_map`, a single process puts the model on its accelerators.
            Each of several processes leaves that to the trainer, also with a `device_map`.

    Returns:
        `PreTrainedModel`: The model.

    Raises:
        ValueError: There are two quantizations.
    """
    from accelerate import DistributedType
    from transformers import AutoModelForCausalLM, set_seed

    given, training.model_init_kwargs = training.model_init_kwargs or {}, None
    if options.get("quantization_config") is not None and "quantization_config" in given:
        raise ValueError(
            f"`model_init_kwargs` has `quantization_config`={given['quantization_config']!r}, and the settings of the "
            "model ask for another quantization. Leave one of them out."
        )
    safe = {"use_safetensors": True, "trust_remote_code": options.get("trust_remote_code", False)}
    options = {**options, **given, "revision": revision, **safe}
    state = training.distributed_state
    if state.distributed_type != DistributedType.NO:
        options["device_map"] = None
    elif "device_map" not in options:
        options["device_map"] = None if state.device.type in ("cpu", "mps") else "auto"
    # Weights that a checkpoint lacks are drawn.
    set_seed(training.seed)
    return AutoModelForCausalLM.from_pretrained(name, **options)


def is_sharded(training: Any) -> bool:
    """Return whether FSDP or DeepSpeed divides the model among the processes.

    Args:
        training (`transformers.TrainingArguments`): Settings of the training.
    """
    launched = any(os.environ.get(f"ACCELERATE_USE_{kind}") == "true" for kind in ("FSDP", "DEEPSPEED"))
    return bool(training.fsdp or training.deepspeed or launched)
