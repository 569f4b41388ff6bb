"""A causal language model of transformers on this machine: batches of prompts in, continuations out."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from ..configuration import PrivateEvolutionConfig
from ..processes import map_over_processes, progress_bar
from .cutting import count_tokens, cut_to_tokens, token_ids
from .loading import max_positions
from .sampling import sample_tokens

SLOT = "HF-PRETEXT-INSTRUCTION"
"""Placeholder for an instruction in the text of a chat template. The tokens of the instruction replace it."""

CHECK_EVERY = 4
"""Tokens between two checks for the stop string."""


class LocalEngine:
    """Continues prompts with a causal language model, in left-padded batches of similar length.

    Several processes divide the prompts of a call, and all get all continuations. What looks like a special token in a
    prompt or text, such as the end of a chat's turn, is read as the characters that it is written with.

    Args:
        model (`PreTrainedModel`): A causal language model of transformers.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        config (`PrivateEvolutionConfig`): Temperature and `top_p`.
        batch_size (`int`, *optional*, defaults to `64`): Continuations per batch.
    """

    def __init__(self, model: Any, tokenizer: Any, config: PrivateEvolutionConfig, batch_size: int = 64) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._config = config
        self._batch_size = batch_size

    def truncate(self, text: str, max_tokens: int) -> str:
        """Cut a text to at most `max_tokens` tokens, at the end of a character. A short one is returned unchanged."""
        return cut_to_tokens(self._tokenizer, text, max_tokens, add_special_tokens=False)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, without special ones."""
        return count_tokens(self._tokenizer, text, add_special_tokens=False)

    def complete(self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None = None) -> list[str]:
        """Sample one continuation of each prompt.

        Args:
            prompts (`Sequence[str]`): The prompts.
            max_new_tokens (`int`): Longest continuation, in tokens.
            seed (`int`): Seed of the sampling, which has a generator of its own.
            stop (`str`, *optional*): A continuation ends when it holds this string.

        Returns:
            `list` of `str`: The continuations in the order of the prompts, without special tokens.

        Raises:
            ValueError: A prompt and its continuation do not fit into the model's context.
        """
        # A prompt without any token, which a tokenizer may make of an empty one, gets one to start from.
        tokens = [self._encode(prompt) or [self._padding] for prompt in prompts]
        return self._continue(tokens, max_new_tokens, seed, stop)

    def _encode(self, text: str, **arguments: Any) -> list[int]:
        return token_ids(self._tokenizer, text, **arguments)

    def _continue(self, tokens: Sequence[list[int]], max_new_tokens: int, seed: int, stop: str | None) -> list[str]:
        self.check_context(max(map(len, tokens), default=0) + max_new_tokens)

        def continue_part(part: Sequence[list[int]], seed: int) -> list[str]:
            return self._continue_part(part, max_new_tokens, seed, stop)

        return map_over_processes(continue_part, tokens, seed)

    def _continue_part(
        self, tokens: Sequence[list[int]], max_new_tokens: int, seed: int, stop: str | None
    ) -> list[str]:
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        texts = [""] * len(tokens)
        rng = torch.Generator(self._model.device).manual_seed(seed)
        with progress_bar(len(tokens), "prompt") as bar:
            for start in range(0, len(order), self._batch_size):
                chosen = order[start : start + self._batch_size]
                continued = self._continue_batch([tokens[index] for index in chosen], max_new_tokens, stop, rng)
                for index, text in zip(chosen, continued, strict=True):
                    texts[index] = text
                bar.update(len(chosen))
        return texts

    def answer(self, instructions: Sequence[str], max_new_tokens: int, seed: int) -> list[str]:
        """Sample an answer to each instruction, in the model's chat format if it has one, else as in `complete`."""
        if not self._tokenizer.chat_template:
            return self.complete([f"{text}\n\n" for text in instructions], max_new_tokens, seed)
        chat = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": SLOT}], tokenize=False, add_generation_prompt=True
        )
        # The template's special tokens are tokens, and it writes the beginning-of-sequence token itself.
        before, _, after = chat.partition(SLOT)
        opening, closing = (self._tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
        tokens = [[*opening, *self._encode(text, add_special_tokens=False), *closing] for text in instructions]
        return self._continue(tokens, max_new_tokens, seed, None)

    @torch.inference_mode()
    def _continue_batch(
        self, tokens: list[list[int]], max_new_tokens: int, stop: str | None, rng: torch.Generator
    ) -> list[str]:
        """Continue prompts token by token. A sequence that is done leaves the batch and costs no more.

        Equal prompts are read once.
        """
        width = max(map(len, tokens))
        different = {ids: row for row, ids in enumerate(dict.fromkeys(map(tuple, tokens)))}
        input_ids = torch.full((len(different), width), self._padding, device=self._model.device)
        attention_mask = torch.zeros_like(input_ids)
        for ids, row in different.items():
            input_ids[row, width - len(ids) :] = torch.tensor(ids)
            attention_mask[row, width - len(ids) :] = 1
        written = torch.full((len(tokens), max_new_tokens), self._padding, device=input_ids.device)
        rows, cache = torch.arange(len(tokens), device=input_ids.device), None
        for step in range(max_new_tokens):
            logits, cache = self._next_logits(input_ids, attention_mask, cache)
            if len(logits) < len(rows):
                shared = torch.tensor([different[tuple(ids)] for ids in tokens], device=input_ids.device)
                logits, attention_mask = logits[shared], attention_mask[shared]
                cache.batch_select_indices(shared)
            new_tokens = sample_tokens(logits, self._config.temperature, self._config.top_p, rng)
            written[rows, step] = new_tokens
            going_on = torch.nonzero(~self._is_done(written[rows, : step + 1], stop)).squeeze(1)
            if not len(going_on):
                break
            if len(going_on) < len(rows):
                rows, new_tokens, attention_mask = rows[going_on], new_tokens[going_on], attention_mask[going_on]
                cache.batch_select_indices(going_on)
            input_ids, attention_mask = new_tokens[:, None], F.pad(attention_mask, (0, 1), value=1)
        return self._decode(written)

    def _next_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any) -> tuple[Any, Any]:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}
        if "position_ids" in self._forward_arguments:
            # Padding on the left takes no position.
            inputs["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        if "logits_to_keep" in self._forward_arguments:
            inputs["logits_to_keep"] = 1
        output = self._model(**inputs, use_cache=True)
        return output.logits[:, -1], output.past_key_values

    def _is_done(self, written: torch.Tensor, stop: str | None) -> torch.Tensor:
        done = torch.isin(written[:, -1], self._end_tokens)
        # Decoding takes time, so the stop string is looked for once every few tokens.
        if stop and written.shape[1] % CHECK_EVERY == 0:
            done |= torch.tensor([stop in text for text in self._decode(written)], device=done.device)
        return done

    def _decode(self, tokens: torch.Tensor) -> list[str]:
        return self._tokenizer.batch_decode(tokens, skip_special_tokens=True)

    @cached_property
    def _forward_arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._model.forward).parameters

    @cached_property
    def _end_tokens(self) -> torch.Tensor:
        """Tokens that end a text: those of the model and of its tokenizer."""
        of_model = self._model.generation_config.eos_token_id
        tokens = {self._tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])} - {None}
        return torch.tensor(sorted(tokens), dtype=torch.long, device=self._model.device)

    @property
    def _padding(self) -> int:
        """A padding token. Padded positions are masked, so any token will do if the tokenizer has none."""
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return token
        return 0

    def check_context(self, length: int) -> None:
        """Raise a `ValueError` if the model cannot read `length` tokens, prompt and continuation together."""
        context = max_positions(self._model) or float("inf")
        if length > context:
            raise ValueError(
                f"A prompt and its continuation need {length} tokens, more than the {context} that `expansion_model` "
                "reads. Lower `max_length`, `max_new_tokens` or `texts_per_prompt`, or use a model that reads more."
            )
