"""Drawing of tokens from a language model's logits."""

import torch

NUM_CANDIDATES = 4096
"""Tokens among which the most probable ones are looked for first; sorting a whole vocabulary takes far longer."""


def sample_tokens(
    logits: torch.Tensor, temperature: float, top_p: float, rng: torch.Generator | None = None
) -> torch.Tensor:
    """Draw one token a row, from the smallest set of most probable tokens that makes up `top_p` of the mass.

    Args:
        logits (`torch.Tensor` of shape `(rows, vocabulary)`): Logits; minus infinity excludes a token.
        temperature (`float`): The logits are divided by it.
        top_p (`float`): Share of the mass that is drawn from (Holtzman et al. 2020, arXiv 1904.09751); 1 is all.
        rng (`torch.Generator`, *optional*): Source of randomness, on the device of the logits.

    Returns:
        `torch.Tensor` of shape `(rows,)`: The tokens.
    """
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_p >= 1:
        return _draw(probabilities, rng)
    top, tokens = probabilities.topk(min(NUM_CANDIDATES, probabilities.shape[-1]))
    if (top.sum(-1) < top_p).any():
        top, tokens = probabilities.sort(descending=True)
    # A token stays as long as those before it do not make up `top_p`.
    top = top.masked_fill(top.cumsum(-1) - top >= top_p, 0)
    return tokens.gather(-1, _draw(top, rng)[:, None]).squeeze(-1)


def _draw(weights: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
    """Draw by inverting the cumulative distribution, which is many times faster than `torch.multinomial` on a CPU."""
    precise = torch.float32 if weights.device.type == "mps" else torch.float64
    cumulative = weights.cumsum(-1, dtype=precise)
    uniform = torch.rand((len(weights), 1), generator=rng, device=weights.device, dtype=precise)
    # The first entry above the drawn height; one of weight zero is never above where the one before it ends.
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(-1)
    return drawn.clamp(max=weights.shape[-1] - 1)
