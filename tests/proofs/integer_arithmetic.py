"""A language model in 8-bit integer arithmetic, which a CPU computes several times faster."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_pretext import PrivateEvolutionConfig
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.packaged import packaged_llm


class IntegerLinear(torch.nn.Module):
    """A linear layer whose weights have a scale for each row, and whose inputs one for each token.

    Args:
        linear (`torch.nn.Linear`): The layer, in float32.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weights, self.scales = _rounded(linear.weight.detach())
        self.weights, self.bias = weights.t(), linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply integers, exactly, and then by both scales."""
        tokens, scales = _rounded(inputs.flatten(end_dim=-2))
        outputs = torch._int_mm(tokens, self.weights).float().mul_(scales).mul_(self.scales.t())
        outputs = outputs.reshape(*inputs.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


def integer_writer(config: PrivateEvolutionConfig, batch_size: int = 96) -> LocalEngine:
    """Load SmolLM2-135M for a CPU. How it reads batches is tried in float32, where rounding cannot hide anything."""
    folder = packaged_llm()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = LocalEngine(model, AutoTokenizer.from_pretrained(folder), config, batch_size)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, IntegerLinear(child))
    return engine


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to integers of 8 bits and a scale for each."""
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
    return (rows / scales).round().to(torch.int8), scales
