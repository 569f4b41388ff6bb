"""Sampling of tokens from a language model's logits."""

import torch

NUM_TOP_TOKENS = (512, 4096)
"""Tokens among which the most probable ones are looked for first. Sorting a whole vocabulary takes far longer."""

BLOCK = 256
"""Columns that are summed up before one of them is drawn."""


def sample_tokens(
    logits: torch.Tensor, temperature: float, top_p: float, rng: torch.Generator | None = None
) -> torch.Tensor:
    """Draw one token per row, from the smallest set of most probable tokens that makes up `top_p` of the mass.

    Args:
        logits (`torch.Tensor` of shape `(rows, vocabulary)`): Logits. Minus infinity excludes a token.
        temperature (`float`): The logits are divided by it.
        top_p (`float`): Fraction of the mass that is drawn from (Holtzman et al. 2020, arXiv 1904.09751). 1 is all.
        rng (`torch.Generator`, *optional*): Source of randomness, on the device of the logits.

    Returns:
        `torch.Tensor` of shape `(rows,)`: The tokens.

    Raises:
        ValueError: Some logits are NaN, as those of a model that overflows in half precision.
    """
    logits = logits.float()
    probabilities = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if top_p >= 1:
        return _draw(probabilities, rng)
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    for number in (*NUM_TOP_TOKENS, size := probabilities.shape[-1]):
        top, tokens = probabilities.topk(min(number, size))
        is_enough = (top.sum(-1) >= top_p) | (number >= size)
        drawn[rows[is_enough]] = _draw_top(top[is_enough], tokens[is_enough], top_p, rng)
        rows, probabilities = rows[~is_enough], probabilities[~is_enough]
        if not len(rows):
            break
    return drawn


def _draw_top(top: torch.Tensor, tokens: torch.Tensor, top_p: float, rng: torch.Generator | None) -> torch.Tensor:
    """Draw one of the tokens per row, whose probabilities fall. A token stays if those before it are below `top_p`."""
    top = top.masked_fill(top.cumsum(-1) - top >= top_p, 0)
    return tokens.gather(-1, _draw(top, rng)[:, None]).squeeze(-1)


def _draw(weights: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
    """Draw one column per row: first a block of columns by its sum, then one of its columns.

    That is many times faster than `torch.multinomial` on a CPU, and faster than one cumulative sum over all columns.
    """
    width = weights.shape[-1]
    num_whole = width // BLOCK
    whole = weights[:, : num_whole * BLOCK].unflatten(-1, (num_whole, BLOCK))
    rest = weights[:, num_whole * BLOCK :]
    precise = torch.float32 if weights.device.type == "mps" else torch.float64
    sums = torch.cat([whole.sum(-1, dtype=precise), rest.sum(-1, keepdim=True, dtype=precise)], dim=-1)
    columns = _invert(sums, rng)[:, None] * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, columns.clamp(max=width - 1)).to(precise).masked_fill(columns >= width, 0)
    return columns.gather(-1, _invert(inside, rng)[:, None]).squeeze(-1).clamp(max=width - 1)


def _invert(weights: torch.Tensor, rng: torch.Generator | None) -> torch.Tensor:
    """Draw one column per row by inverting the cumulative distribution."""
    cumulative = weights.cumsum(-1)
    uniform = torch.rand((len(weights), 1), generator=rng, device=weights.device, dtype=weights.dtype)
    # The first entry above the drawn height. An entry of weight zero is never above the end of the one before it.
    total = cumulative[:, -1:]
    if not torch.isfinite(total).all():  # NaN would be drawn as the last column.
        raise ValueError(
            "The language model returned numbers that are not finite, as some do in half precision. Load it with "
            "`dtype`='float32', or 'bfloat16' if it was trained in that."
        )
    drawn = torch.searchsorted(cumulative, uniform * total, right=True).squeeze(-1)
    return drawn.clamp(max=weights.shape[-1] - 1)
