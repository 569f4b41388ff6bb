"""Variation by mask filling with a masked language model, as in the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..cleaning import has_lines, valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..processes import map_over_processes, progress_bar
from .cutting import cut_to_tokens, token_ids
from .loading import max_positions
from .sampling import sample_tokens
from .threads import FittingThreads


@dataclass(frozen=True)
class _Text:
    """A text, its tokens, and the pieces of it that are written anew.

    Args:
        text (`str`): The text.
        ids (`list` of `int`): Its tokens.
        pieces (`list` of `_Piece`, *optional*): The pieces. Without them all of it is one.
    """

    text: str
    ids: list[int]
    pieces: "list[_Piece] | None" = None

    @classmethod
    def of(cls, text: str, ids: list[int], offsets: Sequence[tuple[int, int]], unknown: int | None) -> "_Text":
        """Divide a text at its line breaks and at what the model does not know. Both stay as they are."""
        pieces: list[_Piece] = []
        is_going_on = False
        for position, (id, (start, end)) in enumerate(zip(ids, offsets, strict=True)):
            shown = text[start:end]
            if id == unknown or not shown.strip():
                is_going_on = is_going_on and start == end and id != unknown
                continue
            if not is_going_on or "\n" in text[pieces[-1].end : end - len(shown.lstrip())]:
                pieces.append(_Piece(end - len(shown.lstrip()), end, []))
            pieces[-1].end, is_going_on = end, True
            pieces[-1].positions.append(position)
        return cls(text, ids, pieces)

    @property
    def fixed(self) -> list[int]:
        """Positions of the tokens in no piece."""
        if self.pieces is None:
            return []
        return sorted(set(range(len(self.ids))) - {each for piece in self.pieces for each in piece.positions})

    def write(self, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
        """Write the text with other tokens."""
        if self.pieces is None:
            return decode(ids).strip()
        written, end = "", 0
        for piece in self.pieces:
            new = decode([ids[position] for position in piece.positions]).strip()
            written += self.text[end : piece.start] + (new or self.text[piece.start : piece.end])
            end = piece.end
        return written + self.text[end:]


@dataclass
class _Piece:
    """A stretch of a text, and the positions of its tokens."""

    start: int
    end: int
    positions: list[int]


BROKEN = "\ufffd"
"""What stands for bytes that are no character."""


class MaskedVariation:
    """Masks a fraction of a text's tokens and fills them with a masked language model.

    Each step chooses `mask_probability` of every text's own tokens (at least one), masks them all, and fills them in
    random order: a token is drawn at `temperature` and `top_p` given all that are there already. Special tokens are
    neither masked nor drawn. The language model's head is computed only where it is read, and a text whose masks are
    filled leaves the batch.

    With `masks_per_pass` above 1 a forward pass fills several of a text's masks, each drawn as if the others of its
    pass were unknown (mask-predict, Ghazvininejad et al. 2019, arXiv 1904.09324, with a random schedule instead of one
    by confidence, which would favor frequent words). They are as far apart in the text as possible.

    A text of several lines keeps its lines and their indentation, and any text keeps the characters that the model
    does not know, such as emoji: they are neither masked nor drawn. This needs a tokenizer that says where each token
    is (a "fast" one). A token that is a part of a character only, such as bytes of an emoji, stays as well.

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
        longest = min(tokenizer.model_max_length, max_positions(model) or config.max_length)
        if config.max_length > longest:
            raise ValueError(
                f"`max_length`={config.max_length} is more than the {longest} tokens `variation_model` reads."
            )
        special = set(tokenizer.all_special_ids) | set(range(len(tokenizer), model.config.vocab_size))
        special |= _parts_of_characters(tokenizer)
        self._special = torch.tensor(sorted(special), device=model.device)

    def truncate(self, text: str) -> str:
        """Cut a text to `max_length` tokens, special tokens included. A shorter one is returned unchanged."""
        return cut_to_tokens(self._tokenizer, text, self._config.max_length)

    def vary(self, texts: Sequence[str], seed: int) -> list[str]:
        """Vary each text. Several processes divide the texts, and all get all variations.

        Args:
            texts (`Sequence[str]`):
                The texts. What is beyond `max_length` tokens is cut. What looks like a special token in them is read
                as the characters that it is written with.
            seed (`int`): Seed of the masks and fillings.

        Returns:
            `list` of `str`: One variation of each text, in their order.
        """
        return map_over_processes(self._vary, list(map(valid_unicode, texts)), seed)

    @torch.inference_mode()
    def _vary(self, texts: Sequence[str], seed: int) -> list[str]:
        rng = torch.Generator(device=self._model.device).manual_seed(seed)
        read = [self._read(text) for text in texts]
        # Longest first, so that texts of similar length share a forward pass.
        order = sorted(range(len(read)), key=lambda index: -len(read[index].ids))
        varied = list(texts)
        ordered = [read[index] for index in order]
        filled = self._vary_tokens([each.ids for each in ordered], rng, [each.fixed for each in ordered])
        for index, ids in zip(order, filled, strict=True):
            varied[index] = read[index].write(ids, self._decode) or texts[index]
        return varied

    def _read(self, text: str) -> _Text:
        tokenizer = self._tokenizer
        limit = {"truncation": True, "max_length": self._config.max_length}
        ids, unknown = token_ids(tokenizer, text, **limit), tokenizer.unk_token_id
        if not tokenizer.is_fast or not (has_lines(text) or unknown in ids):
            return _Text(text, ids)
        # What is beyond the limit is cut. Many tokenizers lose blanks and unknown characters, so places are needed.
        read = tokenizer(text, split_special_tokens=True, return_offsets_mapping=True, **limit)
        offsets = read["offset_mapping"]
        return _Text.of(text[: max((end for _, end in offsets), default=0)], ids, offsets, unknown)

    def _decode(self, ids: Sequence[int]) -> str:
        # Word pieces come back with spaces before punctuation. Byte-level tokens need no repair.
        repairs = self._has_word_pieces
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=repairs)

    @cached_property
    def _has_word_pieces(self) -> bool:
        if self._tokenizer.is_fast:
            return "WordPiece" in type(self._tokenizer.backend_tokenizer.model).__name__
        return any(token.startswith("##") for token in self._tokenizer.get_vocab())

    def _vary_tokens(
        self, tokens: list[list[int]], rng: torch.Generator, fixed: Sequence[Sequence[int]] = ()
    ) -> list[list[int]]:
        """Vary texts as tokens, the longest first. Those at the fixed positions stay."""
        device = self._model.device
        lengths = [len(ids) for ids in tokens]
        padding = self._tokenizer.pad_token_id or 0
        input_ids = torch.full((len(tokens), max(lengths, default=0)), padding)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(tokens):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
        can_mask = attention_mask.bool() & ~torch.isin(input_ids, self._special)
        for row, positions in enumerate(fixed):
            can_mask[row, list(positions)] = False
        num_masks = self._config.variation_steps * int(self._num_masks(can_mask).sum())
        with progress_bar(num_masks, "token") as bar, FittingThreads(device) as threads:
            for _ in range(self._config.variation_steps):
                self._mask_and_fill(input_ids, attention_mask, can_mask, rng, bar, threads)
        return [ids[:length] for ids, length in zip(input_ids.tolist(), lengths, strict=True)]

    def _mask_and_fill(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        can_mask: torch.Tensor,
        rng: torch.Generator,
        bar: Any,
        threads: FittingThreads,
    ) -> None:
        """Mask and fill all texts once, in place.

        The forward passes of a turn hold only texts that still have masks, so they stay full to the end.
        """
        turns = self._schedule(can_mask, rng)
        input_ids[turns >= 0] = self._tokenizer.mask_token_id
        for turn in range(int(turns.max()) + 1 if turns.numel() else 0):
            for rows in torch.nonzero((turns >= turn).any(1)).squeeze(1).split(self._batch_size):
                threads.adapt()
                width = int(attention_mask[rows[0]].sum())
                rows_of, columns = torch.nonzero(turns[rows] == turn, as_tuple=True)
                logits = self._logits_at(input_ids[rows, :width], attention_mask[rows, :width], rows_of, columns)
                logits[:, self._special] = -torch.inf
                filled = sample_tokens(logits, self._config.temperature, self._config.top_p, rng)
                input_ids[rows[rows_of], columns] = filled
                bar.update(len(rows_of))

    def _num_masks(self, can_mask: torch.Tensor) -> torch.Tensor:
        """Compute the number of masks of each text, as a column."""
        available = can_mask.sum(1, keepdim=True)
        return (available * self._config.mask_probability).round().long().clamp(min=1).minimum(available)

    def _schedule(self, can_mask: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Choose what is masked, and in which forward pass each mask is filled. -1 is not masked."""

        def random_order(is_allowed: torch.Tensor) -> torch.Tensor:
            """Number what is allowed in each row, in random order, from zero. The rest comes after it."""
            drawn = torch.rand(is_allowed.shape, generator=rng, device=is_allowed.device)
            return drawn.masked_fill(~is_allowed, 2).argsort(1).argsort(1)

        num_masks = self._num_masks(can_mask)
        is_masked = random_order(can_mask) < num_masks
        num_passes = -(-num_masks // self._config.masks_per_pass)
        # Neighbors among the masks come into different passes, and the passes into random order.
        passes = (is_masked.cumsum(1) - 1).clamp(min=0) % num_passes.clamp(min=1)
        columns = torch.arange(can_mask.shape[1], device=can_mask.device)
        turns = random_order(columns < num_passes).gather(1, passes)
        return turns.masked_fill(~is_masked, -1)

    def _logits_at(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Compute the logits at some positions of a batch, shape `(positions, vocabulary)`.

        The hook gives the head these hidden states instead of all of them. It works for every masked language model of
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


def _parts_of_characters(tokenizer: Any) -> set[int]:
    """Find the tokens of some bytes of a character. One that is filled alone would break it.

    Only vocabularies that hold single bytes have such tokens. A blank is "Ġ" there, or the byte 10 is "<0x0A>".
    """
    vocabulary = tokenizer.get_vocab()
    if not {"Ġ", "<0x0A>"} & vocabulary.keys():
        return set()
    return {token for token in vocabulary.values() if BROKEN in tokenizer.decode([token])}
