"""The measures as `evaluate` metrics.

The metrics are classes, not files of the Hub, so they load without a network. Their inputs are kept in memory: the
library's default would write them, and they may be private text, into a cache on disk.
"""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from . import measures
from .scoring import checked_texts, score_next_tokens

NOT_COVERED = "An evaluation on private text is not covered by the guarantee of a run."

DISTANCES: dict[tuple[str, ...], Callable[[np.ndarray, np.ndarray], tuple[Any, ...]]] = {
    ("frechet_distance",): lambda *sides: (measures.frechet_distance(*sides),),
    ("precision", "recall"): measures.precision_recall,
    ("mauve",): lambda *sides: (measures.mauve(*sides),),
}
"""Measures of the embeddings of the references and of the predictions, by the names of their figures."""


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

    def add_batch(self, *, predictions: Sequence[str], references: Any = None, **kwargs: Any) -> None:
        """Add texts. What `evaluate` says of a row that is no text would quote others."""
        super().add_batch(predictions=checked_texts("predictions", predictions), references=references, **kwargs)

    def add(self, *, prediction: str, reference: Any = None, **kwargs: Any) -> None:
        """Add a text."""
        super().add(prediction=checked_texts("prediction", [prediction])[0], reference=reference, **kwargs)

    def _compute(self, predictions: list[str], model: Any, tokenizer: Any, **options: Any) -> dict[str, float]:
        return score_next_tokens(model, tokenizer, predictions, **options).totals()


class TextDistribution(evaluate.Metric):
    """How near synthetic texts are to reference texts, as distributions.

    `compute(predictions=synthetic, references=held_out, embed=embed)` returns `frechet_distance`, `precision` and
    `recall`, `mauve`, `distinct_1` to `distinct_3`, and `length_histogram` of both sides (see `measures`). `embed`
    turns a list of texts into an array of shape `(n, d)`, such as `PrivateEvolutionGenerator.embed`. The sides may
    differ in size. A measure that needs more texts (MAUVE 100 on each side), or a package that is not installed, is
    None, and `not_computed` says why.
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
        """Compute all measures. See the class."""
        sides = checked_texts("predictions", predictions), checked_texts("references", references)
        # One example holds all texts of a side: rows would have to be as many on both.
        return super().compute(predictions=[sides[0]], references=[sides[1]], embed=embed)

    def _compute(
        self, predictions: list[list[str]], references: list[list[str]], embed: Callable[[list[str]], np.ndarray]
    ) -> dict[str, Any]:
        synthetic, reference = predictions[0], references[0]
        of_reference, of_synthetic = embed(reference), embed(synthetic)
        found: dict[str, Any] = {}
        reasons = {}
        for names, compute in DISTANCES.items():
            try:
                values = compute(of_reference, of_synthetic)
            except (ValueError, ImportError) as error:
                reasons.update(dict.fromkeys(names, str(error)))
                values = (None,) * len(names)
            found.update(zip(names, values, strict=True))
        return {
            **found,
            **{f"distinct_{n}": measures.distinct_n(synthetic, n) for n in (1, 2, 3)},
            "length_histogram": measures.length_histogram(predictions=synthetic, references=reference),
            **({"not_computed": reasons} if reasons else {}),
        }
