"""A causal language model of transformers on this machine: batches of prompts in, continuations out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..configuration import PrivateEvolutionConfig
from ..processes import map_over_processes, num_processes, progress_bar
from .cutting import count_tokens, cut_to_tokens, token_ids
from .engine import TokenFractions
from .loading import max_positions
from .reading import find_reader, left_padded
from .sampling import sample_tokens
from .thinking import NO_THINKING, TAGS, begin_answer, without_thinking
from .threads import FittingThreads
from .token_reader import TokenizerReader

SLOT = "HF-PRETEXT-INSTRUCTION"
"""Placeholder for an instruction in the text of a chat template. The tokens of the instruction replace it."""

CHECK_EVERY = 4
"""Tokens between two checks for the stop string."""

TRIAL = "A short public text, with which it is tried how the language model reads several prompts at once."


class Tilt:
    """A bias of the logits of some tokens, before the temperature.

    Args:
        bias (`Mapping[int, float]`): What is added to the logits of tokens, by their ids.
    """

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._bias = bias
        self._added: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Add the bias to logits of shape `(rows, vocabulary)`."""
        if self._added is None:
            self._added = torch.zeros(logits.shape[-1], device=logits.device)
            self._added[list(self._bias)] = torch.tensor(list(self._bias.values()), device=logits.device)
        return logits.float() + self._added


class Expectation:
    """Adds up the probabilities of some tokens, and changes none.

    What a model expects to write is known more precisely than what it happened to write.

    Args:
        tokens (`torch.Tensor` of shape `(n,)`): Ids of the tokens.
        temperature (`float`): The logits are divided by it.
    """

    def __init__(self, tokens: torch.Tensor, temperature: float) -> None:
        self._tokens, self._temperature = tokens, temperature
        self.number, self.sums = 0, np.zeros((2, len(tokens)))

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Add up the probabilities that logits of shape `(rows, vocabulary)` stand for, and their squares."""
        probabilities = (logits.float() / self._temperature).softmax(-1)[:, self._tokens]
        sums = torch.stack([probabilities.sum(0), probabilities.square().sum(0)])
        self.sums = self.sums + sums.cpu().double().numpy()
        self.number += len(logits)
        return logits


Change = Callable[[torch.Tensor], torch.Tensor]
"""What is done to the logits of each token before it is drawn."""


class LocalEngine:
    """Continues prompts with a causal language model, in left-padded batches of similar length.

    Several processes divide the prompts of a call, and all get all continuations. What looks like a special token in a
    prompt or text, such as the end of a chat's turn, is read as the characters that it is written with.

    Args:
        model (`PreTrainedModel`): A causal language model of transformers.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        config (`PrivateEvolutionConfig`): Temperature and `top_p`.
        batch_size (`int`, *optional*, defaults to `64`): Continuations per batch.

    Raises:
        ValueError: The model cannot be run.
    """

    def __init__(self, model: Any, tokenizer: Any, config: PrivateEvolutionConfig, batch_size: int = 64) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._config = config
        self._batch_size = batch_size
        self._reader = find_reader(model, (self._encode(TRIAL) * 4)[:24])

    def truncate(self, text: str, max_tokens: int) -> str:
        """Cut a text to at most `max_tokens` tokens, at the end of a character. A short one is returned unchanged."""
        return cut_to_tokens(self._tokenizer, text, max_tokens, add_special_tokens=False)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, without special ones."""
        return count_tokens(self._tokenizer, text, add_special_tokens=False)

    def token_reader(self) -> TokenizerReader:
        """Return what reads texts as the model's tokens."""
        return self._token_reader

    @cached_property
    def _token_reader(self) -> TokenizerReader:
        # One for all who ask: its fingerprint is a hash over the whole vocabulary.
        return TokenizerReader(self._tokenizer)

    def complete(self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None = None) -> list[str]:
        """Sample one continuation of each prompt.

        Args:
            prompts (`Sequence[str]`): The prompts.
            max_new_tokens (`int`): Longest continuation, in tokens.
            seed (`int`): Seed of the sampling, which has a generator of its own.
            stop (`str`, *optional*): A continuation ends when it holds this string.

        Returns:
            `list` of `str`: The continuations in the order of the prompts, without special tokens and thinking.

        Raises:
            ValueError: A prompt and its continuation do not fit into the model's context.
        """
        return self._continue(self._read(prompts), max_new_tokens, seed, stop)

    def complete_tilted(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None, bias: Mapping[int, float]
    ) -> list[str]:
        """Sample continuations with a bias of the logits of some tokens, by their ids. See `TakesBias`."""
        return self._continue(self._read(prompts), max_new_tokens, seed, stop, Tilt(bias))

    def token_fractions(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None, tokens: Sequence[int]
    ) -> TokenFractions:
        """Compute how often the model writes each of some tokens. See `ForeseesTokens`."""
        ids = torch.tensor(tokens, device=self.model.device)
        expectation = Expectation(ids, self._config.temperature)
        self._continue(self._read(prompts), max_new_tokens, seed, stop, expectation)
        own = (expectation.number, expectation.sums)
        # The same sum, in the same order, in every process.
        numbers, sums = zip(*map_over_processes(lambda _: [own], range(num_processes())), strict=True)
        number = float(sum(numbers))
        means, squares = np.sum(sums, axis=0) / number
        variances = np.maximum(squares - means**2, 0) / number
        return TokenFractions(means, variances, number)

    def _read(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self._open_ended(self._encode(prompt)) for prompt in prompts]

    def _open_ended(self, tokens: list[int]) -> list[int]:
        """Leave out what a tokenizer adds at the end of a text, after which a model would begin another one."""
        end = len(tokens)
        while end > 1 and tokens[end - 1] in self._added:
            end -= 1
        # A prompt without any token, which a tokenizer may make of an empty one, gets one to start from.
        return tokens[:end] or [self._padding]

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._tokenizer.all_special_ids)

    def _encode(self, text: str, **arguments: Any) -> list[int]:
        return token_ids(self._tokenizer, text, **arguments)

    def _continue(
        self,
        tokens: Sequence[list[int]],
        max_new_tokens: int,
        seed: int,
        stop: str | None,
        change: Change | None = None,
    ) -> list[str]:
        self.check_context(max(map(len, tokens), default=0) + max_new_tokens)

        def continue_part(part: Sequence[list[int]], seed: int) -> list[str]:
            return self._continue_part(part, max_new_tokens, seed, stop, change)

        return map_over_processes(continue_part, tokens, seed)

    def _continue_part(
        self, tokens: Sequence[list[int]], max_new_tokens: int, seed: int, stop: str | None, change: Change | None
    ) -> list[str]:
        texts = [""] * len(tokens)
        rng = torch.Generator(self.model.device).manual_seed(seed)
        with progress_bar(len(tokens), "prompt") as bar, FittingThreads(self.model.device) as threads:
            for chosen in self._batches(tokens):
                prompts = [tokens[index] for index in chosen]
                continued = self._continue_batch(prompts, max_new_tokens, stop, rng, threads, change)
                for index, text in zip(chosen, continued, strict=True):
                    texts[index] = text
                bar.update(len(chosen))
        return without_thinking(texts)

    def _batches(self, tokens: Sequence[list[int]]) -> Iterator[list[int]]:
        """Divide prompts into batches of similar length, or of equal length if the model cannot read padded ones."""
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        alike = groupby(order, key=lambda index: 0 if self._reader.can_pad else len(tokens[index]))
        for part in (list(indices) for _, indices in alike):
            yield from (part[start : start + self._batch_size] for start in range(0, len(part), self._batch_size))

    def answer(self, instructions: Sequence[str], max_new_tokens: int, seed: int) -> list[str]:
        """Sample an answer to each instruction, in the model's chat format if it has one, else as in `complete`.

        A model that thinks first is asked not to.
        """
        if not self._tokenizer.chat_template:
            return self.complete([f"{text}\n\n" for text in instructions], max_new_tokens, seed)
        chat = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": SLOT}], tokenize=False, add_generation_prompt=True, **NO_THINKING
        )
        # The template's special tokens are tokens, and it writes the beginning-of-sequence token itself.
        before, _, after = chat.partition(SLOT)
        after = begin_answer(after, str(self._tokenizer.chat_template))
        opening, closing = (self._tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
        tokens = [[*opening, *self._encode(text, add_special_tokens=False), *closing] for text in instructions]
        return self._continue(tokens, max_new_tokens, seed, None)

    @torch.inference_mode()
    def _continue_batch(
        self,
        tokens: list[list[int]],
        max_new_tokens: int,
        stop: str | None,
        rng: torch.Generator,
        threads: FittingThreads,
        change: Change | None = None,
    ) -> list[str]:
        """Continue prompts token by token. A sequence that is done leaves the batch and costs no more.

        Equal prompts are read once.
        """
        different = {ids: row for row, ids in enumerate(dict.fromkeys(map(tuple, tokens)))}
        input_ids, attention_mask = left_padded(list(different), self._padding, self.model.device)
        written = torch.full((len(tokens), max_new_tokens), self._padding, device=input_ids.device)
        lengths = torch.full((len(tokens),), max_new_tokens, device=input_ids.device)
        rows, cache = torch.arange(len(tokens), device=input_ids.device), None
        for step in range(max_new_tokens):
            threads.adapt()
            logits, cache = self._reader.next_logits(input_ids, attention_mask, cache)
            if len(logits) < len(rows):
                shared = torch.tensor([different[tuple(ids)] for ids in tokens], device=input_ids.device)
                logits, attention_mask = logits[shared], attention_mask[shared]
                cache = self._reader.select_rows(cache, shared)
            if change is not None:
                logits = change(logits)
            new_tokens = sample_tokens(logits, self._config.temperature, self._config.top_p, rng)
            written[rows, step] = new_tokens
            is_done = self._is_done(written[rows, : step + 1], stop)
            lengths[rows[is_done]] = step + 1
            going_on = torch.nonzero(~is_done).squeeze(1)
            if not len(going_on):
                break
            if len(going_on) < len(rows):
                rows, new_tokens, attention_mask = rows[going_on], new_tokens[going_on], attention_mask[going_on]
                cache = self._reader.select_rows(cache, going_on)
            input_ids, attention_mask = new_tokens[:, None], F.pad(attention_mask, (0, 1), value=1)
        ids = [row[:length] for row, length in zip(written.tolist(), lengths.tolist(), strict=True)]
        ends = set(self._end_tokens.tolist())
        return self._decode_answers([row[:-1] if row[-1] in ends else row for row in ids])

    def _is_done(self, written: torch.Tensor, stop: str | None) -> torch.Tensor:
        done = torch.isin(written[:, -1], self._end_tokens)
        # Decoding takes time, so the stop string is looked for once every few tokens.
        if stop and written.shape[1] % CHECK_EVERY == 0:
            # What ended before the last look was found then. A token is a byte at least.
            last = written[:, -2 * (CHECK_EVERY + len(stop.encode())) :].tolist()
            done |= torch.tensor([stop in text for text in self._decode(last)], device=done.device)
        return done

    def _decode(self, tokens: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
        whole = [[*self._before, *ids] for ids in tokens]
        texts = self._tokenizer.batch_decode(whole, skip_special_tokens=skip_special_tokens)
        start = len(self._tokenizer.decode(self._before)) if self._before else 0
        return [text[start:] for text in texts]

    @cached_property
    def _before(self) -> list[int]:
        """Tokens to decode a continuation behind, if it would lose the blank that it begins with, as of Llama 2."""
        one, two = (self._encode(text, add_special_tokens=False) for text in ("a", "a a"))
        loses_blank = len(two) > len(one) > 0 and self._tokenizer.decode(two[len(one) :]) != " a"
        return one if loses_blank and self._tokenizer.decode(two) == f"{self._tokenizer.decode(one)} a" else []

    def _decode_answers(self, tokens: list[list[int]]) -> list[str]:
        """Decode texts, with the special tokens that begin and end a thinking, if the tokenizer has such."""
        special = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        marks = [token for token in special if any(token in tag for tags in TAGS for tag in tags)]
        if not marks:
            return self._decode(tokens)
        texts = self._decode(tokens, skip_special_tokens=False)
        for token in set(special) - set(marks):
            texts = [text.replace(token, "") for text in texts]
        return texts

    @cached_property
    def _end_tokens(self) -> torch.Tensor:
        """Tokens that end a text: those of the model and of its tokenizer."""
        of_model = self.model.generation_config.eos_token_id
        tokens = {self._tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])} - {None}
        return torch.tensor(sorted(tokens), dtype=torch.long, device=self.model.device)

    @property
    def _padding(self) -> int:
        """A padding token. Padded positions are masked and cut off, so any token will do if the tokenizer has none."""
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return token
        return 0

    def check_context(self, length: int) -> None:
        """Raise a `ValueError` if the model cannot read `length` tokens, prompt and continuation together."""
        context = max_positions(self.model) or float("inf")
        if length > context:
            raise ValueError(
                f"A prompt and its continuation need {length} tokens, more than the {context} that `expansion_model` "
                "reads. Lower `max_length`, `max_new_tokens` or `texts_per_prompt`, or use a model that reads more."
            )
