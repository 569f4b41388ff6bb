"""How a causal language model of transformers reads a batch of prompts: found out by a trial, not by its name.

Attention leaves out what an attention mask hides, and its cache can drop rows. State spaces, convolutions and
recurrences may do neither. So a reader is tried on two short public prompts before anything depends on it.
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from .growing_cache import with_room

logger = logging.getLogger(__name__)

CACHE_NAMES = ("past_key_values", "cache_params", "state")
"""What models call the argument and the output that hold what they have read."""

TOLERANCE = 0.01
TOLERANCE_OF_HALF = 0.2
"""Root mean square of the difference between equal logits at most, in standard deviations of the logits.

A token of padding that counts makes a difference of the order of one. Half precision rounds.
"""


class Reader:
    """Reads tokens with a causal model, and keeps what it has read in a cache whose rows can be selected.

    Args:
        model (`PreTrainedModel`): A causal language model of transformers.
        can_pad (`bool`, *optional*, defaults to `True`):
            Whether a batch may hold prompts of several lengths, padded on the left.
        can_cache (`bool`, *optional*, defaults to `True`):
            Whether the model's own cache is used. Without it the cache holds the tokens, which are read again.
    """

    def __init__(self, model: Any, can_pad: bool = True, can_cache: bool = True) -> None:
        self._model, self.can_pad, self._can_cache = model, can_pad, can_cache

    def next_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[Any, Any]:
        """Read tokens.

        Args:
            input_ids (`torch.Tensor` of shape `(rows, tokens)`): What was not read yet.
            attention_mask (`torch.Tensor` of shape `(rows, all tokens)`): Zero for padding.
            cache (`Any`): What was read before, as this method returned it. None at the beginning.

        Returns:
            `tuple`: Logits of the next token, shape `(rows, vocabulary)`, and the cache.
        """
        if not self._can_cache:
            read = input_ids if cache is None else torch.cat([cache, input_ids], dim=1)
            return self._forward(read, attention_mask, None, use_cache=False).logits[:, -1], read
        output = self._forward(input_ids, attention_mask, cache, use_cache=True)
        return output.logits[:, -1], with_room(output[self._cache_name])

    def _forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any, use_cache: bool) -> Any:
        inputs: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": use_cache}
        if use_cache:
            inputs[self._cache_name] = cache
        if "position_ids" in self._arguments:
            # Padding on the left takes no position.
            inputs["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        if "logits_to_keep" in self._arguments:
            inputs["logits_to_keep"] = 1
        # The model's own hook: some want no attention mask after the prompt, or other arguments.
        prepared = self._model.prepare_inputs_for_generation(input_ids, is_first_iteration=cache is None, **inputs)
        return self._model(**prepared)

    @staticmethod
    def select_rows(cache: Any, rows: torch.Tensor) -> Any:
        """Return the cache with these rows. A row may be left out, or be there several times."""
        from transformers import Cache

        if isinstance(cache, Cache):
            cache.reorder_cache(rows)
            return cache
        if isinstance(cache, torch.Tensor):
            return cache.index_select(0, rows.to(cache.device))
        return [Reader.select_rows(each, rows) for each in cache]

    @cached_property
    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._model.forward).parameters

    @cached_property
    def _cache_name(self) -> str:
        return next((name for name in CACHE_NAMES if name in self._arguments), CACHE_NAMES[0])


def find_reader(model: Any, tokens: Sequence[int]) -> Reader:
    """Find the fastest way to read with a model that gives what it says for one prompt at a time.

    Args:
        model (`PreTrainedModel`): A causal language model of transformers.
        tokens (`Sequence[int]`): Tokens of a public text, at least four.

    Raises:
        ValueError: The model cannot read them at all.
    """
    *prompt, first, second = tokens
    prompts = [prompt[: max(1, len(prompt) // 5)], prompt]
    expected = _read_alone(model, [[*each, first, second] for each in prompts])
    batches = {True: [[0, 1]], False: [[0], [1]]}
    for can_pad, can_cache in ((True, True), (False, True), (True, False), (False, False)):
        reader = Reader(model, can_pad, can_cache)
        parts = [[(prompts[row], expected[row]) for row in rows] for rows in batches[can_pad]]
        if all(_reads_alike(reader, part, first, second) for part in parts):
            break
    if not (can_pad and can_cache):
        # The last way has no row and no padding beside a prompt, so it needs no trial.
        logger.warning(
            "`expansion_model` of type %s is slower than others: it reads prompts %s and %s a cache.",
            type(model).__name__,
            "of several lengths together" if can_pad else "of one length together",
            "with" if can_cache else "without",
        )
    return reader


@torch.inference_mode()
def _read_alone(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Return the logits of the next token of each prompt, read without padding and cache."""
    try:
        inputs = [torch.tensor([ids], device=model.device) for ids in prompts]
        logits = [model(input_ids=input_ids, use_cache=False).logits[0, -1].float() for input_ids in inputs]
        if not all(torch.isfinite(each).all() for each in logits):
            raise ValueError("its logits are not finite")
    except Exception as error:  # Whatever a model raises.
        raise ValueError(
            f"`expansion_model`={model.config.name_or_path or type(model).__name__!r} cannot be run: "
            f"{type(error).__name__}: {str(error)[:300]}. Use another `dtype` or model, or serve this one and give "
            "its address."
        ) from error
    return logits


@torch.inference_mode()
def _reads_alike(reader: Reader, prompts: list[tuple[list[int], torch.Tensor]], first: int, second: int) -> bool:
    """Return whether a batch that gets and loses rows has the logits of its prompts read alone."""
    try:
        input_ids, attention_mask = left_padded([ids for ids, _ in prompts], 0, prompts[0][1].device)
        _, cache = reader.next_logits(input_ids, attention_mask, None)
        # Each row three times, from the last to the first, and then once.
        rows = torch.arange(3 * len(prompts), device=input_ids.device).flip(0) % len(prompts)
        kept = torch.arange(len(prompts), device=input_ids.device)
        for token, chosen in ((first, rows), (second, kept)):
            cache, attention_mask = reader.select_rows(cache, chosen), F.pad(attention_mask[chosen], (0, 1), value=1)
            logits, cache = reader.next_logits(torch.full_like(chosen, token)[:, None], attention_mask, cache)
    except Exception as error:  # Whatever a model raises about a mask or a cache that it does not know.
        logger.debug("%s", error)
        return False
    tolerance = TOLERANCE if logits.dtype in (torch.float32, torch.float64) else TOLERANCE_OF_HALF
    expected = torch.stack([prompts[row][1] for row in rows[kept].tolist()])
    differences = (logits.float() - expected).square().mean(1).sqrt()
    return bool((differences <= tolerance * expected.std(1)).all())


def left_padded(
    prompts: Sequence[Sequence[int]], padding: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write prompts into the rows of a tensor, at its right end, and return it with its attention mask."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), padding, device=device)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(prompts):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        attention_mask[row, width - len(ids) :] = 1
    return input_ids, attention_mask
