"""Variation of texts: mask filling with a masked language model, or rewriting by prompting a causal one."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .cleaning import clean_text, is_usable, one_line, valid_unicode
from .configuration import PrivateEvolutionConfig
from .generation import GeneratesText
from .processes import map_over_processes, progress_bar
from .sampling import sample_tokens


class Variation(Protocol):
    """Turns texts into texts like them."""

    def __call__(self, texts: Sequence[str], seed: int, progress: str = "Varying") -> list[str]:
        """Return one variation of each text, in their order; a text that cannot be varied comes back as it is."""
        ...

    def truncate(self, text: str) -> str:
        """Cut a text to the longest that is varied."""
        ...


class MaskedVariation:
    """Masks a share of a text's tokens and fills them with a masked language model.

    Each step chooses `mask_probability` of every text's own tokens (at least one), masks them all, and fills them in
    random order: a token is drawn at `temperature` and `top_p` given all that are there already. Special tokens are
    neither masked nor drawn. The language model's head is computed only where it is read, and a text whose masks are
    filled leaves the batch.

    With `masks_per_pass` above 1 a forward pass fills several of a text's masks, each drawn as if the others of its
    pass were not known (mask-predict, Ghazvininejad et al. 2019, arXiv 1904.09324, with a random schedule in place of
    one by confidence, which would favour frequent words). They lie as far apart in the text as they can.

    Args:
        model (`PreTrainedModel`): A masked language model of transformers.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with a mask token.
        config (`PrivateEvolutionConfig`): Mask probability, passes, temperature, `top_p`, longest text.
        batch_size (`int`, *optional*, defaults to `64`): Texts per forward pass.

    Raises:
        ValueError: `config.max_length` is more than the model reads.
    """

    def __init__(self, model: Any, tokenizer: Any, config: PrivateEvolutionConfig, batch_size: int = 64) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._config = config
        self._batch_size = batch_size
        longest = min(
            tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or config.max_length
        )
        if config.max_length > longest:
            raise ValueError(
                f"`max_length`={config.max_length} is more than the {longest} tokens `variation_model` reads."
            )
        special = set(tokenizer.all_special_ids) | set(range(len(tokenizer), model.config.vocab_size))
        self._special = torch.tensor(sorted(special), device=model.device)

    def truncate(self, text: str) -> str:
        """Cut a text to `max_length` tokens, special tokens included."""
        # Decoding may change a text (an uncased tokenizer lowers its case), so one that is short enough is left alone.
        fits = len(self._encode(text, self._config.max_length + 1)) <= self._config.max_length
        return text if fits else self._decode(self._encode(text, self._config.max_length))

    def __call__(self, texts: Sequence[str], seed: int, progress: str = "Varying") -> list[str]:
        """Vary each text; several processes share the texts, and all get all variations.

        Args:
            texts (`Sequence[str]`):
                The texts; what is beyond `max_length` tokens is cut, and what looks like a special token in them is
                read as the characters that it is written with.
            seed (`int`): Seed of the masks and fillings.
            progress (`str`, *optional*): Name of the progress bar.

        Returns:
            `list` of `str`: One variation of each text, in their order.
        """

        def vary_share(share: Sequence[str], seed: int) -> list[str]:
            return self._vary(share, seed, progress)

        return map_over_processes(vary_share, list(map(valid_unicode, texts)), seed)

    @torch.inference_mode()
    def _vary(self, texts: Sequence[str], seed: int, progress: str) -> list[str]:
        rng = torch.Generator(device=self._model.device).manual_seed(seed)
        tokens = [self._encode(text, self._config.max_length) for text in texts]
        # Longest first, so that texts of like length share a forward pass.
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        varied = list(texts)
        for index, ids in zip(order, self._vary_tokens([tokens[i] for i in order], rng, progress), strict=True):
            varied[index] = self._decode(ids).strip() or texts[index]
        return varied

    def _encode(self, text: str, max_length: int) -> list[int]:
        limit = {"truncation": True, "max_length": max_length}
        return self._tokenizer(valid_unicode(text), split_special_tokens=True, **limit)["input_ids"]

    def _decode(self, ids: Sequence[int]) -> str:
        # Word pieces come back with spaces before punctuation; byte-level tokens need no repair.
        word_pieces = "WordPiece" in type(self._tokenizer.backend_tokenizer.model).__name__
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=word_pieces)

    def _vary_tokens(self, tokens: list[list[int]], rng: torch.Generator, progress: str) -> list[list[int]]:
        """Vary texts that come longest first, as tokens."""
        device = self._model.device
        lengths = [len(ids) for ids in tokens]
        padding = self._tokenizer.pad_token_id or 0
        input_ids = torch.full((len(tokens), max(lengths, default=0)), padding, device=device)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(tokens):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        can_mask = attention_mask.bool() & ~torch.isin(input_ids, self._special)
        num_masks = self._config.variation_steps * int(self._num_masks(can_mask).sum())
        with progress_bar(num_masks, progress, "token") as bar:
            for _ in range(self._config.variation_steps):
                self._mask_and_fill(input_ids, attention_mask, can_mask, rng, bar)
        return [ids[:length].tolist() for ids, length in zip(input_ids, lengths, strict=True)]

    def _mask_and_fill(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        can_mask: torch.Tensor,
        rng: torch.Generator,
        bar: Any,
    ) -> None:
        """Mask and fill all texts once, in place.

        The forward passes of a turn are made of the texts that still have masks, so they stay full to the end.
        """
        turns = self._schedule(can_mask, rng)
        input_ids[turns >= 0] = self._tokenizer.mask_token_id
        for turn in range(int(turns.max()) + 1 if turns.numel() else 0):
            for rows in torch.nonzero((turns >= turn).any(1)).squeeze(1).split(self._batch_size):
                width = int(attention_mask[rows[0]].sum())
                places, columns = torch.nonzero(turns[rows] == turn, as_tuple=True)
                logits = self._logits_at(input_ids[rows, :width], attention_mask[rows, :width], places, columns)
                logits[:, self._special] = -torch.inf
                filled = sample_tokens(logits, self._config.temperature, self._config.top_p, rng)
                input_ids[rows[places], columns] = filled
                bar.update(len(places))

    def _num_masks(self, can_mask: torch.Tensor) -> torch.Tensor:
        """Compute the number of masks of each text, a column."""
        available = can_mask.sum(1, keepdim=True)
        return (available * self._config.mask_probability).round().long().clamp(min=1).minimum(available)

    def _schedule(self, can_mask: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Choose what is masked, and in which forward pass each mask is filled: -1 where none is."""

        def random_order(is_allowed: torch.Tensor) -> torch.Tensor:
            """Number what is allowed in each row, in random order, from zero; the rest comes after it."""
            drawn = torch.rand(is_allowed.shape, generator=rng, device=is_allowed.device)
            return drawn.masked_fill(~is_allowed, 2).argsort(1).argsort(1)

        num_masks = self._num_masks(can_mask)
        is_masked = random_order(can_mask) < num_masks
        num_passes = -(-num_masks // self._config.masks_per_pass)
        # Neighbours among the masks come into different passes, and the passes into random order.
        passes = (is_masked.cumsum(1) - 1).clamp(min=0) % num_passes.clamp(min=1)
        columns = torch.arange(can_mask.shape[1], device=can_mask.device)
        turns = random_order(columns < num_passes).gather(1, passes)
        return turns.masked_fill(~is_masked, -1)

    def _logits_at(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Compute the logits at some positions of a batch, shape `(positions, vocabulary)`.

        The hook hands the head these hidden states instead of all of them. It works for every masked language model of
        transformers whose head reads the `last_hidden_state` of its base model.
        """

        def keep_positions(module: Any, inputs: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[rows, columns][:, None]
            return output

        hook = self._model.base_model.register_forward_hook(keep_positions)
        try:
            return self._model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0]
        finally:
            hook.remove()


class PromptedVariation:
    """Rewrites texts with a causal language model, for those who have no masked one.

    With `config.variation_prompt` the model follows an instruction such as "Rephrase this text: {text}", as in Aug-PE
    (Xie et al. 2024, arXiv 2403.01749); that takes a model that follows instructions well. Without it the model gets
    the beginning of a text, a random 30 to 70 % of its words, and writes another ending, which any model can do.

    Args:
        generator (`GeneratesText`): The causal language model.
        config (`PrivateEvolutionConfig`): Instruction, rewritings per call, longest and shortest text.
    """

    def __init__(self, generator: GeneratesText, config: PrivateEvolutionConfig) -> None:
        self._generate = generator
        self._config = config

    def truncate(self, text: str) -> str:
        """Cut a text to `max_length` tokens and join its lines."""
        return self._generate.truncate(one_line(text), self._config.max_length)

    def __call__(self, texts: Sequence[str], seed: int, progress: str = "Varying") -> list[str]:
        """Vary each text.

        Args:
            texts (`Sequence[str]`): The texts; what is beyond `max_length` tokens is cut.
            seed (`int`): Seed of the sampling.
            progress (`str`, *optional*): Name of the progress bar.

        Returns:
            `list` of `str`: One variation of each text, in their order; the text itself where the model's answer is
            not usable.
        """
        rng = np.random.default_rng(seed)
        varied = [self.truncate(valid_unicode(text)) for text in texts]
        rewrite = self._follow_instruction if self._config.variation_prompt else self._write_another_ending
        for _ in range(self._config.variation_steps):
            answers = [self.truncate(clean_text(answer)) for answer in rewrite(varied, rng, progress)]
            varied = [new if is_usable(new, self._config) else old for new, old in zip(answers, varied, strict=True)]
        return varied

    def _follow_instruction(self, texts: list[str], rng: np.random.Generator, progress: str) -> list[str]:
        # Not `str.format`: a text with braces, or an instruction with others, must pass through as it is.
        instructions = [str(self._config.variation_prompt).replace("{text}", text) for text in texts]
        return self._generate.follow(
            instructions, self._config.max_length, int(rng.integers(2**32)), progress=progress
        )

    def _write_another_ending(self, texts: list[str], rng: np.random.Generator, progress: str) -> list[str]:
        beginnings = []
        for words in map(str.split, texts):
            kept = max(1, round(len(words) * rng.uniform(0.3, 0.7)))
            beginnings.append(" ".join(words[:kept]))
        endings = self._generate(
            beginnings, self._config.max_length, int(rng.integers(2**32)), stop="\n", progress=progress
        )
        return [start + ending.split("\n")[0] for start, ending in zip(beginnings, endings, strict=True)]
