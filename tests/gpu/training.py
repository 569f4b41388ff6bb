"""Memory and tokens a second of the recipes' ways of training, on models with random weights.

The settings are read from `recipes/configs`. The loop is a plain one, so that neither `trl` nor a saved model of 16 GB
is needed: forward, backward and step of full sequences of random tokens.
"""

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from card import limits
from models import (
    DEVICE,
    IS_GPU,
    LLAMA_1B,
    QWEN3_8B,
    TINY,
    byte_tokenizer,
    num_weights,
    random_causal_lm,
    some_texts,
    synchronize,
)

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = RECIPES / "configs"
SMALL = {"per_device_train_batch_size": 2, "max_length": 16}


def lora_8b(seconds):
    """Train LoRA adapters of an 8B model in bfloat16, as `llm/modern.yaml` and `llm/paper.yaml` say."""
    model = random_causal_lm(QWEN3_8B, torch.bfloat16 if IS_GPU else torch.float32)
    found = {"weights": num_weights(model)}
    for index, name in enumerate(("modern", "paper")):
        settings = _settings(f"llm/{name}.yaml")
        adapted = _with_lora(model, settings)
        found[name] = _train(adapted, settings, seconds * (0.45 if index else 0.5))
        model = adapted.unload()
    return found


def qlora_8b(seconds):
    """Train LoRA adapters of an 8B model in four bits, as `llm/qlora.yaml` says."""
    if find_spec("bitsandbytes") is None or not IS_GPU:
        return {"skipped": "`bitsandbytes` is not installed." if IS_GPU else "Four bits need a GPU."}
    settings = _settings("llm/qlora.yaml")
    model = _in_four_bits(random_causal_lm(QWEN3_8B, torch.bfloat16), settings)
    torch.cuda.reset_peak_memory_stats()
    return {"qlora": _train(_with_lora(model, settings), settings, seconds)}


def full_1b(seconds):
    """Train all weights of a 1B model, in float32 with bfloat16 products, as `small/paper.yaml` says."""
    settings = _settings("small/paper.yaml")
    # The recipe is for a model of 82M. A batch of 64 is what a 1B model is trained with.
    settings["per_device_train_batch_size"] = min(64, settings["per_device_train_batch_size"])
    model = random_causal_lm(LLAMA_1B, torch.float32)
    return {"weights": num_weights(model), "full": _train(model, settings, seconds)}


def recipe(seconds):
    """Run `recipes/finetune_llm.py` itself for three steps, on a small model with random weights."""
    if find_spec("trl") is None:
        return {"skipped": "`trl` is not installed."}
    sizes = LLAMA_1B | {"num_hidden_layers": 4, "vocab_size": 32000}
    with tempfile.TemporaryDirectory() as folder:
        model = random_causal_lm(sizes, torch.bfloat16 if IS_GPU else torch.float32)
        model.save_pretrained(f"{folder}/model")
        byte_tokenizer(4096).save_pretrained(f"{folder}/model")
        del model
        texts = "".join(json.dumps({"text": text}) + "\n" for text in some_texts(400 if IS_GPU else 40))
        Path(folder, "texts.jsonl").write_text(texts)
        changes = {
            **{"dataset": f"{folder}/texts.jsonl", "model_name_or_path": f"{folder}/model"},
            **{"output_dir": f"{folder}/adapter", "attn_implementation": "sdpa", "max_steps": 3},
            **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": "false"},
        }
        if not IS_GPU:
            changes |= {"use_cpu": "true", "bf16": "false", "dtype": "float32", "max_length": 64}
            changes |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
        options = [str(part) for name, value in changes.items() for part in (f"--{name}", value)]
        command = [sys.executable, str(RECIPES / "finetune_llm.py"), "--config", str(CONFIGS / "llm/modern.yaml")]
        started = time.perf_counter()
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=3 * seconds + 60)
        found = {"seconds_with_its_start": round(time.perf_counter() - started, 1)}
        if done.returncode:
            return {**found, "failed": (done.stdout + done.stderr)[-4000:]}
        return {**found, "files": sorted(path.name for path in Path(folder, "adapter").iterdir())}


def _settings(name):
    settings = yaml.safe_load((CONFIGS / name).read_text())
    return settings if IS_GPU else settings | SMALL


def _with_lora(model, settings):
    from peft import LoraConfig, get_peft_model

    chosen = {
        "r": settings["lora_r"],
        "lora_alpha": settings["lora_alpha"],
        "lora_dropout": settings["lora_dropout"],
        "use_rslora": settings.get("use_rslora", False),
        "target_modules": settings["lora_target_modules"],
    }
    return get_peft_model(model, LoraConfig(**chosen, task_type="CAUSAL_LM"))


def _in_four_bits(model, settings):
    import bitsandbytes as bnb

    options = {
        "quant_type": settings["bnb_4bit_quant_type"],
        "compress_statistics": settings["use_bnb_nested_quant"],
        "compute_dtype": torch.bfloat16,
    }
    for layer in model.model.layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is torch.nn.Linear:
                    small = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, **options)
                    small.weight = bnb.nn.Params4bit(
                        child.weight.data.cpu(),
                        requires_grad=False,
                        quant_type=options["quant_type"],
                        compress_statistics=options["compress_statistics"],
                    )
                    setattr(parent, name, small.to(DEVICE))
    return model


def _optimizer(settings, weights):
    if settings.get("optim") == "paged_adamw_8bit":
        import bitsandbytes as bnb

        return bnb.optim.PagedAdamW8bit(weights, lr=settings["learning_rate"])
    return torch.optim.AdamW(weights, lr=settings["learning_rate"], fused=IS_GPU)


def _train(model, settings, seconds):
    """Take steps until the time is up, at least two, and return what one takes."""
    rows, length = settings["per_device_train_batch_size"], settings["max_length"]
    saves_memory = settings.get("gradient_checkpointing", False)
    if saves_memory:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = _optimizer(settings, weights)
    model.train()
    ids = torch.randint(3, TINY["vocab_size"], (rows, length), device=DEVICE)
    times, ended = [], time.monotonic() + seconds
    if IS_GPU:
        torch.cuda.reset_peak_memory_stats()
    while len(times) < 2 or (time.monotonic() < ended and len(times) < 12):
        synchronize()
        started = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=IS_GPU):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize()
        times.append(time.perf_counter() - started)
    step = min(times[1:])
    trains_all = len(weights) == len(list(model.parameters()))
    # Forward 2 operations a weight and token, backward 2 for the inputs and 2 for the weights that are trained.
    per_token = (2 * (2 if saves_memory else 1) + 2 + 2 * trains_all) * num_weights(model)
    found = {
        "batch": f"{rows} x {length}",
        "gradient_checkpointing": saves_memory,
        "trained_weights": sum(each.numel() for each in weights),
        "loss_is_finite": bool(torch.isfinite(loss)),
        "steps": len(times),
        "seconds_of_a_batch": round(step, 3),
        "tokens_per_second": round(rows * length / step),
        "fraction_of_the_card": round(per_token * rows * length / step / limits()["flops_bf16"], 3),
    }
    if IS_GPU:
        found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    del optimizer, weights, loss
    if saves_memory:
        model.gradient_checkpointing_disable()
    return found
