"""How well a language model predicts texts, token by token, and the interval of a difference between two models.

A measure on private text is an evaluation, not a release: the guarantee of a run does not cover it.
"""

import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..cleaning import valid_unicode
from ..models.loading import max_positions
from ..processes import map_over_processes, progress_bar, progress_label

TOP_K = (1, 3, 5, 10)

FEW_CLIENTS = 10
"""Clients below which a bootstrap interval is too narrow: what varies between others is not seen in so few."""

CELLS_AT_ONCE = 10_000_000
"""Resamples times clients that are in memory at a time."""


@dataclass(frozen=True)
class TokenScores:
    """How well a model predicts each of some texts.

    Args:
        num_tokens (`np.ndarray` of shape `(n,)`): Number of tokens that were predicted in each text.
        loss (`np.ndarray` of shape `(n,)`): Sum of their negative log-likelihoods, in nats.
        hits (`np.ndarray` of shape `(n, 4)`):
            Number of them among the 1, 3, 5, 10 most probable tokens. Equally probable ones share a place.
    """

    num_tokens: np.ndarray
    loss: np.ndarray
    hits: np.ndarray

    def totals(self) -> dict[str, float]:
        """Return `top_1_accuracy` and so on, `cross_entropy` (nats), `perplexity` and `num_tokens`.

        All of them are weighted by tokens: a long text counts more than a short one.
        """
        values = _measures(self.num_tokens.sum(), self.loss.sum(), self.hits.sum(axis=0))
        return {**{name: float(value) for name, value in values.items()}, "num_tokens": int(self.num_tokens.sum())}


def _measures(num_tokens: np.ndarray, loss: np.ndarray, hits: np.ndarray) -> dict[str, np.ndarray]:
    accuracies = {f"top_{k}_accuracy": hits[..., column] / num_tokens for column, k in enumerate(TOP_K)}
    return {**accuracies, "cross_entropy": loss / num_tokens, "perplexity": np.exp(loss / num_tokens)}


def score_next_tokens(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    progress: str = "Scoring",
) -> TokenScores:
    """Let a causal language model predict every token of every text from those before it.

    Each text is tokenized once, with the special tokens that the tokenizer adds by itself. Those are never predicted,
    and neither is padding. The first token of a text is predicted if a beginning-of-sequence token precedes it. A
    token is among the first k if fewer than k others have a larger logit. The batch size and the number of processes,
    which divide the texts, change the figures by rounding only.

    Args:
        model (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer. It needs no padding token.
        texts (`Sequence[str]`): The texts.
        batch_size (`int`, *optional*, defaults to `16`): Texts per forward pass.
        max_length (`int`, *optional*): Tokens of a text that are read, by default all that the model can read.
        progress (`str`, *optional*): Name of the progress bar.

    Returns:
        `TokenScores`: Of the texts in their order, the same in every process.

    Raises:
        ValueError: There are no texts, or no token to predict in any of them.
        TypeError: Some texts are not strings.
    """
    texts = checked_texts("texts", texts)
    context = max_positions(model)
    limit = min(length for length in (max_length, context, 2**31) if length is not None)
    tokens = [_tokenize(tokenizer, text) for text in texts]
    if num_cut := sum(len(ids) > limit for ids, _ in tokens):
        warnings.warn(f"{num_cut} of {len(texts)} texts are cut to their first {limit} tokens.", stacklevel=2)
    tokens = [(ids[:limit], is_target[:limit]) for ids, is_target in tokens]
    if not any(any(is_target[1:]) for _, is_target in tokens):
        raise ValueError("`texts` hold no token to predict: each has one token at most.")
    was_training = model.training
    model.eval()
    try:
        with progress_label(progress):
            rows = map_over_processes(lambda part: _score_part(model, part, batch_size), tokens)
    finally:
        model.train(was_training)
    table = np.array(rows, dtype=np.float64)
    return TokenScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2:])


def _tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    encoding = tokenizer(text, return_special_tokens_mask=True)
    return encoding["input_ids"], [not special for special in encoding["special_tokens_mask"]]


@torch.inference_mode()
def _score_part(
    model: Any, tokens: Sequence[tuple[list[int], list[bool]]], batch_size: int
) -> list[tuple[float, ...]]:
    # Texts of similar length share a batch. Padding is on the right, where no token attends to it.
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index][0]))
    rows: list[tuple[float, ...]] = [(0.0,) * (2 + len(TOP_K))] * len(tokens)
    with progress_bar(len(order), "text") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            width = max(1, *(len(tokens[index][0]) for index in chosen))
            input_ids = torch.zeros((len(chosen), width), dtype=torch.long, device=model.device)
            attention_mask = torch.zeros_like(input_ids)
            for row, index in enumerate(chosen):
                ids = tokens[index][0]
                input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
                attention_mask[row, : len(ids)] = 1
            logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
            for row, index in enumerate(chosen):
                is_target = torch.tensor(tokens[index][1][1:], dtype=torch.bool, device=logits.device)
                length = len(is_target)
                rows[index] = _score_tokens(
                    logits[row, :length][is_target], input_ids[row, 1 : length + 1].to(logits.device)[is_target]
                )
            bar.update(len(chosen))
    return rows


def _score_tokens(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, ...]:
    logits = logits.float()
    chosen = logits.gather(-1, targets[:, None])
    loss = (logits.logsumexp(-1) - chosen.squeeze(-1)).double().sum().item()
    if not math.isfinite(loss):  # In an order of numbers that are none, every token would be the likeliest.
        raise ValueError(
            "The model gives probabilities that are not numbers, as after a training that diverged. Train it again "
            "with a lower learning rate, or in float32."
        )
    # Half precision rounds logits to equal ones. Among these, each place is as likely: a hit counts in part.
    above, equal = (logits > chosen).sum(-1), (logits == chosen).sum(-1)
    return (float(len(targets)), loss, *(((k - above) / equal).clamp(0, 1).sum().item() for k in TOP_K))


def paired_bootstrap(
    before: TokenScores,
    after: TokenScores,
    groups: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Bound the difference between two models on the same texts by a percentile bootstrap over clients.

    Texts of one client are similar, so whole clients are drawn with replacement (the cluster bootstrap): an interval
    over single texts would be too narrow.

    Args:
        before (`TokenScores`): Scores of the first model.
        after (`TokenScores`): Scores of the second model, on the same texts with the same tokenizer.
        groups (`Sequence[Hashable]`, *optional*): Client of each text. By default each text is another client's.
        num_resamples (`int`, *optional*, defaults to `2000`): Number of resamples.
        confidence (`float`, *optional*, defaults to `0.95`): Fraction of the resamples within the interval.
        seed (`int`, *optional*, defaults to `0`): Seed of the resampling.

    Returns:
        `dict`: For each measure of `TokenScores.totals` its `difference` (after - before), `low` and `high`.

    Raises:
        ValueError: The scores are not about the same texts, there are not as many groups, or they are of one client.
    """
    if not np.array_equal(before.num_tokens, after.num_tokens):
        raise ValueError("`before` and `after` must be scores of the same texts with the same tokenizer.")
    if groups is not None and len(groups) != len(before.num_tokens):
        raise ValueError(
            f"`groups` of length {len(groups)} must hold the client of each of {len(before.num_tokens)} texts."
        )
    clients = list(range(len(before.num_tokens))) if groups is None else list(groups)
    position = {client: index for index, client in enumerate(dict.fromkeys(clients))}
    check_num_clients(len(position))
    if len(position) < FEW_CLIENTS:
        warnings.warn(
            f"The texts are of {len(position)} clients. An interval over fewer than {FEW_CLIENTS} is too narrow: "
            "read it as a lower bound of the uncertainty, or give the texts of more clients.",
            stacklevel=2,
        )
    of_text = np.array([position[client] for client in clients])
    tables = [_per_client(scores, of_text, len(position)) for scores in (before, after)]
    blocks = _draws(len(position), num_resamples, seed)
    drawn = [[draws @ each for each in tables] for draws in blocks]
    sums = [np.concatenate(parts) for parts in zip(*drawn, strict=True)]
    of_before, of_after = (_measures(each[:, 0], each[:, 1], each[:, 2:]) for each in sums)
    intervals = {}
    for name in of_before:
        differences = of_after[name] - of_before[name]
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(differences[1:], [tail, 1 - tail])
        intervals[name] = {"difference": float(differences[0]), "low": float(low), "high": float(high)}
    return intervals


def check_num_clients(num_clients: int) -> None:
    """Raise a `ValueError` if there are fewer than two clients, over which an interval has no width."""
    if num_clients < 2:
        raise ValueError(
            f"An interval over clients needs two of them at least, and there are {num_clients}. Give texts of more "
            "clients. If each text is another person's, give no `groups` (`client_column` of a recipe: null)."
        )


def _per_client(scores: TokenScores, of_text: np.ndarray, num_clients: int) -> np.ndarray:
    """Add up the scores of the texts of each client."""
    table = np.column_stack([scores.num_tokens, scores.loss, scores.hits]).astype(np.float64)
    per_client = np.zeros((num_clients, table.shape[1]))
    np.add.at(per_client, of_text, table)
    return per_client


def _draws(num_clients: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each client is drawn in each resample, some resamples at a time.

    The first row of all draws each client once. The draws do not depend on how many are made at a time.
    """
    rng = np.random.default_rng(seed)
    chances, at_once = np.full(num_clients, 1 / num_clients), max(1, CELLS_AT_ONCE // num_clients)
    for start in range(0, num_resamples, at_once):
        draws = rng.multinomial(num_clients, chances, size=min(at_once, num_resamples - start)).astype(np.float64)
        yield draws if start else np.concatenate([np.ones((1, num_clients)), draws])


def checked_texts(argument: str, texts: Sequence[str]) -> list[str]:
    """Return texts whose lone surrogates are question marks. Errors name the first row that is none.

    Raises:
        ValueError: There are no texts.
        TypeError: Some texts are not strings, or `texts` is one string.
    """
    if isinstance(texts, str):
        raise TypeError(f"`{argument}` is one string. Give a list of texts.")
    listed: list[Any] = list(texts)
    if not listed:
        raise ValueError(f"`{argument}` holds no texts.")
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(
                f"`{argument}` must hold strings only, but row {row} is of type {type(text).__name__}. Drop such rows."
            )
    return list(map(valid_unicode, listed))
