"""How well a language model predicts held-out text, and how near synthetic texts come to it, as `evaluate` metrics.

The metrics are classes, not files of the Hub, so they load without a network. Their inputs are kept in memory: the
library's default would write them, private text as they may be, into a cache on disk. A measure on private text is an
evaluation, not a release: the guarantee of a run does not cover it.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from . import measures
from .measures import gap_closed as gap_closed
from .processes import map_over_processes, progress_bar

TOP_K = (1, 3, 5, 10)

NOT_COVERED = "An evaluation on private text is not covered by the guarantee of a run."


@dataclass(frozen=True)
class TokenScores:
    """How well a model predicts each of some texts.

    Args:
        num_tokens (`np.ndarray` of shape `(n,)`): Number of tokens that were predicted in each text.
        loss (`np.ndarray` of shape `(n,)`): Sum of their negative log-likelihoods, in nats.
        hits (`np.ndarray` of shape `(n, 4)`): Number of them among the 1, 3, 5, 10 most probable tokens.
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

    Each text is tokenised once, with the special tokens that the tokenizer adds by itself. Those are never predicted,
    and neither is padding; the first token of a text is predicted if a beginning-of-sequence token stands before it.
    A token is among the first k if fewer than k others have a larger logit. The batch size and the number of
    processes, which share the texts, change the figures by rounding only.

    Args:
        model (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer; it needs no padding token.
        texts (`Sequence[str]`): The texts.
        batch_size (`int`, *optional*, defaults to `16`): Texts per forward pass.
        max_length (`int`, *optional*): Tokens of a text that are read; by default all that the model can read.
        progress (`str`, *optional*): Name of the progress bar.

    Returns:
        `TokenScores`: Of the texts in their order, the same in every process.

    Raises:
        ValueError: There are no texts, or no token to predict in any of them.
        TypeError: Some texts are not strings.
    """
    _check_texts("texts", texts)
    context = getattr(model.config, "max_position_embeddings", None)
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
        rows = map_over_processes(lambda share: _score_share(model, share, batch_size, progress), tokens)
    finally:
        model.train(was_training)
    table = np.array(rows, dtype=np.float64)
    return TokenScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2:].astype(np.int64))


def _tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    encoding = tokenizer(text, return_special_tokens_mask=True)
    return encoding["input_ids"], [not special for special in encoding["special_tokens_mask"]]


@torch.inference_mode()
def _score_share(
    model: Any, tokens: Sequence[tuple[list[int], list[bool]]], batch_size: int, progress: str
) -> list[tuple[float, ...]]:
    # Texts of like length share a batch. Padding stands on the right, where no token looks at it.
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index][0]))
    rows: list[tuple[float, ...]] = [(0.0,) * (2 + len(TOP_K))] * len(tokens)
    with progress_bar(len(order), progress, "text") as bar:
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
    rank = (logits > chosen).sum(-1)
    return (float(len(targets)), loss, *((rank < k).sum().item() for k in TOP_K))


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

    Texts of one client are alike, so whole clients are drawn with replacement (the cluster bootstrap): an interval
    over single texts would be too narrow.

    Args:
        before (`TokenScores`): Scores of the first model.
        after (`TokenScores`): Scores of the second model, on the same texts with the same tokenizer.
        groups (`Sequence[Hashable]`, *optional*): Client of each text; by default each text is one's own.
        num_resamples (`int`, *optional*, defaults to `2000`): Number of resamples.
        confidence (`float`, *optional*, defaults to `0.95`): Share of the resamples within the interval.
        seed (`int`, *optional*, defaults to `0`): Seed of the resampling.

    Returns:
        `dict`: For each measure of `TokenScores.totals` its `difference` (after - before), `low` and `high`.

    Raises:
        ValueError: The scores are not about the same texts, or there are not as many groups.
    """
    if not np.array_equal(before.num_tokens, after.num_tokens):
        raise ValueError("`before` and `after` must be scores of the same texts with the same tokenizer.")
    if groups is not None and len(groups) != len(before.num_tokens):
        raise ValueError(f"`groups` of length {len(groups)} must hold the client of each of {len(before.num_tokens)}.")
    clients = list(range(len(before.num_tokens))) if groups is None else list(groups)
    position = {client: index for index, client in enumerate(dict.fromkeys(clients))}
    of_text = np.array([position[client] for client in clients])
    rng = np.random.default_rng(seed)
    # How often each client is drawn, in each resample; the first row draws each of them once.
    draws = rng.multinomial(len(position), np.full(len(position), 1 / len(position)), size=num_resamples)
    draws = np.concatenate([np.ones((1, len(position)), dtype=draws.dtype), draws])
    of_before, of_after = (_resampled(scores, draws, of_text) for scores in (before, after))
    intervals = {}
    for name in of_before:
        differences = of_after[name] - of_before[name]
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(differences[1:], [tail, 1 - tail])
        intervals[name] = {"difference": float(differences[0]), "low": float(low), "high": float(high)}
    return intervals


def _resampled(scores: TokenScores, draws: np.ndarray, of_text: np.ndarray) -> dict[str, np.ndarray]:
    table = np.column_stack([scores.num_tokens, scores.loss, scores.hits]).astype(np.float64)
    per_client = np.zeros((draws.shape[1], table.shape[1]))
    np.add.at(per_client, of_text, table)
    sums = draws @ per_client
    return _measures(sums[:, 0], sums[:, 1], sums[:, 2:])


class NextTokenAccuracy(evaluate.Metric):
    """Next-token accuracy, cross-entropy and perplexity of a causal language model on texts.

    `compute(predictions=texts, model=model, tokenizer=tokenizer)` returns `TokenScores.totals` of
    `score_next_tokens`, whose other arguments it takes as well.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"How well a causal language model predicts the tokens of texts. {NOT_COVERED}",
            citation="https://huggingface.co/papers/2406.02958",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str], model: Any, tokenizer: Any, **options: Any) -> dict[str, float]:
        return score_next_tokens(model, tokenizer, predictions, **options).totals()


class TextDistribution(evaluate.Metric):
    """How near synthetic texts are to reference texts, as distributions.

    `compute(predictions=synthetic, references=held_out, embed=embed)` returns `frechet_distance`, `precision` and
    `recall`, `mauve`, `distinct_1` to `distinct_3`, and `length_histogram` of both sides (see `measures`). `embed`
    turns a list of texts into an array of shape `(n, d)`, such as `PrivateEvolutionGenerator.embed`. The sides may
    differ in size.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "keep_in_memory": True})

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.List(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=f"Distances between the distributions of synthetic and reference texts. {NOT_COVERED}",
            citation="https://huggingface.co/papers/2406.02958",
            features=datasets.Features({"predictions": texts, "references": texts}),
        )

    def compute(
        self, *, predictions: Sequence[str], references: Sequence[str], embed: Callable[[list[str]], np.ndarray]
    ) -> dict[str, Any]:
        """Compute all measures; see the class."""
        _check_texts("predictions", predictions)
        _check_texts("references", references)
        # One example holds all texts of a side: rows would have to be as many on both.
        return super().compute(predictions=[list(predictions)], references=[list(references)], embed=embed)

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], embed: Callable[[list[str]], np.ndarray]
    ) -> dict[str, Any]:
        synthetic, reference = predictions[0], references[0]
        of_synthetic, of_reference = embed(synthetic), embed(reference)
        precision, recall = measures.precision_recall(of_reference, of_synthetic)
        return {
            "frechet_distance": measures.frechet_distance(of_reference, of_synthetic),
            "precision": precision,
            "recall": recall,
            "mauve": measures.mauve(of_reference, of_synthetic),
            **{f"distinct_{n}": measures.distinct_n(synthetic, n) for n in (1, 2, 3)},
            "length_histogram": measures.length_histogram(predictions=synthetic, references=reference),
        }


def _check_texts(argument: str, texts: Sequence[str]) -> None:
    if not len(texts):
        raise ValueError(f"`{argument}` holds no texts.")
    wrong = sorted({type(text).__name__ for text in texts if not isinstance(text, str)})
    if wrong:
        raise TypeError(f"`{argument}` must hold strings only, but some are of type {', '.join(wrong)}.")
