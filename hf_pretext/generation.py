"""Sampling from a causal language model: batches of prompts in, continuations out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from huggingface_hub.utils import tqdm

from .configuration import PrivateEvolutionConfig


class TextGenerator:
    """Continues prompts with a causal language model, in left-padded batches of like length.

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
        """Cut a text after `max_tokens` tokens; a shorter one is returned as it is."""
        # A token has at least one character, so most texts need no tokenizer to be known as short.
        if len(text) <= max_tokens:
            return text
        tokens = self._tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"]
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def __call__(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        seed: int,
        stop: str | None = None,
        add_special_tokens: bool = True,
        progress: tqdm | None = None,
    ) -> list[str]:
        """Sample one continuation of each prompt.

        Args:
            prompts (`Sequence[str]`): The prompts.
            max_new_tokens (`int`): Longest continuation, in tokens.
            seed (`int`): Seed of the sampling; the global random state of torch is left as it was.
            stop (`str`, *optional*): A continuation ends when it holds this string.
            add_special_tokens (`bool`, *optional*, defaults to `True`):
                Whether the tokenizer adds a beginning-of-sequence token.
            progress (`tqdm`, *optional*): A progress bar that is moved on by one for each prompt.

        Returns:
            `list` of `str`: The continuations in the order of the prompts, without special tokens.

        Raises:
            ValueError: A prompt and its continuation do not fit into the model's context.
        """
        tokens = [self._tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"] for prompt in prompts]
        self._check_context(max(map(len, tokens), default=0) + max_new_tokens)
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        texts = [""] * len(tokens)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(order), self._batch_size):
                chosen = order[start : start + self._batch_size]
                continued = self._continue_batch([tokens[index] for index in chosen], max_new_tokens, stop)
                for index, text in zip(chosen, continued, strict=True):
                    texts[index] = text
                if progress is not None:
                    progress.update(len(chosen))
        return texts

    def follow(
        self, instructions: Sequence[str], max_new_tokens: int, seed: int, progress: tqdm | None = None
    ) -> list[str]:
        """Sample an answer to each instruction, in the model's chat format where it has one; else as in `__call__`."""
        if not getattr(self._tokenizer, "chat_template", None):
            return self([f"{text}\n\n" for text in instructions], max_new_tokens, seed, progress=progress)
        chats = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in instructions
        ]
        # A chat template writes the beginning-of-sequence token itself.
        return self(chats, max_new_tokens, seed, add_special_tokens=False, progress=progress)

    @torch.inference_mode()
    def _continue_batch(self, tokens: list[list[int]], max_new_tokens: int, stop: str | None) -> list[str]:
        width = max(map(len, tokens))
        input_ids = torch.full((len(tokens), width), self._padding, device=self._model.device)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(tokens):
            input_ids[row, width - len(ids) :] = torch.tensor(ids)
            attention_mask[row, width - len(ids) :] = 1
        output = self._model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            do_sample=True,
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=self._padding,
            stopping_criteria=[_StopString(self._tokenizer, width, stop)] if stop else None,
        )
        return self._tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)

    @property
    def _padding(self) -> int:
        """A padding token; padded positions are masked, so any token will do where the tokenizer has none."""
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return token
        return 0

    def _check_context(self, length: int) -> None:
        context = getattr(self._model.config, "max_position_embeddings", None) or float("inf")
        if length > context:
            raise ValueError(
                f"A prompt and its continuation need {length} tokens, more than the {context} that `expansion_model` "
                "reads. Lower `seeds_per_prompt`, `texts_per_prompt`, `max_new_tokens` or `max_length`."
            )


class _StopString:
    """Stopping criterion: a sequence is done when its newest tokens hold a string."""

    def __init__(self, tokenizer: Any, prompt_length: int, stop: str) -> None:
        self._tokenizer = tokenizer
        self._start = prompt_length
        self._stop = stop
        # The string may be spread over up to as many tokens as it has bytes, and begin inside one.
        self._tail = len(stop.encode()) + 1
        self._done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        tails = self._tokenizer.batch_decode(input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :])
        found = torch.tensor([self._stop in tail for tail in tails], device=input_ids.device)
        self._done = found if self._done is None else self._done | found
        return self._done


def collect_texts(
    num_texts: int,
    propose: Callable[[int, int, tqdm], Iterable[str]],
    description: str,
    known: Iterable[str] = (),
    max_attempts: int = 20,
) -> list[str]:
    """Ask for texts until there are enough different ones.

    Args:
        num_texts (`int`): Number of texts wanted.
        propose (`Callable`):
            `propose(missing, attempt, progress)` returns about `missing` clean texts; fewer are asked for again.
        description (`str`): Name of the progress bar.
        known (`Iterable[str]`, *optional*): Texts that do not count as new.
        max_attempts (`int`, *optional*, defaults to `20`): Times that `propose` is called before giving up.

    Returns:
        `list` of `str`: Exactly `num_texts` texts, all different.

    Raises:
        RuntimeError: There are not enough texts after `max_attempts` calls.
    """
    known = set(known)
    texts: dict[str, None] = {}
    with tqdm(total=num_texts, desc=description, unit="text", name="hf_pretext") as progress:
        for attempt in range(max_attempts):
            for text in propose(num_texts - len(texts), attempt, progress):
                if text not in known:
                    texts.setdefault(text)
            progress.n = min(len(texts), num_texts)
            progress.refresh()
            if len(texts) >= num_texts:
                return list(texts)[:num_texts]
    raise RuntimeError(
        f"{description}: the language model gave only {len(texts)} usable, different texts of {num_texts} in "
        f"{max_attempts} attempts. Use a stronger `expansion_model`, raise `temperature`, lower `min_words`, or ask "
        "for fewer texts."
    )
