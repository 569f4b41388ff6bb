"""How a language model is made to write each token as often as the clients do, while an expansion begins."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .clients.tokens import TokenReader
from .configuration import PrivateEvolutionConfig
from .evolution.matching import match_tokens
from .evolution.token_answer import TokenAnswer
from .evolution.token_list import WEIGHT_POWER, counts_of
from .evolution.token_tilt import MOST_BIAS, fit_tilt, with_public
from .models.engine import ForeseesTokens, ShowsTokenizer, TakesBias, TextEngine, TokenFractions
from .processes import broadcast

logger = logging.getLogger(__name__)

FEWEST_WRITTEN, MOST_WRITTEN = 16, 256
"""Texts that are written first, and not kept. They tell how often the model writes each token."""

LEAST_FRACTION = 1e-8
"""Added to all fractions, so that none is zero."""


class Request(NamedTuple):
    """What an engine is asked to continue. See `TextEngine.complete`."""

    prompts: Sequence[str]
    max_new_tokens: int
    seed: int
    stop: str | None


class _Counted(NamedTuple):
    """How often texts hold the tokens of an answer.

    Args:
        counts (`np.ndarray` of shape `(len(texts), m)`): How often each holds each token.
        lengths (`np.ndarray` of shape `(len(texts),)`): Number of tokens of each, also of others.
    """

    counts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, engine: TextEngine, answer: TokenAnswer, texts: Sequence[str]) -> "_Counted":
        """Count the tokens of texts by the tokenizer of a model, which has those of the answer."""
        reader = token_reader(engine)
        assert reader is not None  # As `usable_answer` or `reads_tokens` made sure.
        read = {text: reader(text) for text in texts}
        counts = counts_of(texts, answer.tokens.tolist(), read.__getitem__)
        return cls(counts, np.array([len(read[text]) for text in texts], dtype=np.int64))

    @property
    def fractions(self) -> TokenFractions:
        """Fraction of each token among all of these texts."""
        number = max(int(self.lengths.sum()), 1)
        means = self.counts.sum(axis=0) / number
        return TokenFractions(means, means / number, number)


def token_reader(engine: TextEngine | None) -> TokenReader | None:
    """Return the tokenizer of a language model. None if there is no model, or no tokenizer on this machine."""
    return engine.token_reader() if isinstance(engine, ShowsTokenizer) else None


def can_tilt(engine: TextEngine | None) -> bool:
    """Return whether a language model can be told which tokens to write more often, and which less often."""
    return token_reader(engine) is not None and isinstance(engine, TakesBias)


def check_token_question(config: PrivateEvolutionConfig, engine: TextEngine | None) -> None:
    """Raise a `ValueError` if the settings ask about tokens of a tokenizer that is not there."""
    if not config.token_fraction or can_tilt(engine):
        return
    if engine is None:
        what = "there is no `expansion_model`"
    elif token_reader(engine) is None:
        what = "`expansion_model` does not show its tokenizer"
    else:
        what = f"`expansion_model` of type {type(engine).__name__} takes no bias of tokens (`complete_tilted`)"
    raise ValueError(
        f"`token_fraction`={config.token_fraction} spends budget on the tokens that the language model will write, "
        f"but {what}. Give a causal language model that is loaded here, or set `token_fraction`=0."
    )


def reads_tokens(answer: TokenAnswer, engine: TextEngine | None) -> bool:
    """Return whether a model has the tokens that an answer is about."""
    reader = token_reader(engine)
    return reader is not None and reader.fingerprint == answer.tokenizer


def usable_answer(answer: TokenAnswer | None, engine: TextEngine | None) -> TokenAnswer | None:
    """Return an answer if an engine can use it. Another model than it was made for may have other tokens."""
    if answer is None:
        return None
    if not reads_tokens(answer, engine):
        why = "has another tokenizer than the model whose tokens the clients counted"
    elif not isinstance(engine, TakesBias):
        why = "takes no bias of tokens"
    else:
        return answer
    logger.warning("`expansion_model` %s, so it does not learn from their counts how often to write each.", why)
    return None


def num_written(num_texts: int) -> int:
    """Return how many texts the model writes first, if this many are wanted: half as many."""
    return min(max(num_texts // 2, FEWEST_WRITTEN), MOST_WRITTEN)


def fit_bias(
    engine: TextEngine,
    answer: TokenAnswer,
    label: int,
    request: Request,
    read: Callable[[Sequence[str]], list[str]],
    config: PrivateEvolutionConfig,
) -> list[float]:
    """Compute what is to be added to the logit of each token of an answer, the same in every process.

    Args:
        engine (`TextEngine`): An engine that takes a bias.
        answer (`TokenAnswer`): What the clients said about tokens.
        label (`int`): Number of the label whose texts are written.
        request (`Request`): Prompts like those of the expansion.
        read (`Callable`): Reads the texts in what the engine wrote.
        config (`PrivateEvolutionConfig`): `temperature`, by which the engine divides logits with their bias, and
            `top_p`.
    """
    # What it foresees is of all tokens, also of those that `top_p` never lets it write.
    if isinstance(engine, ForeseesTokens) and config.top_p >= 1:
        fractions = engine.token_fractions(*request, answer.tokens.tolist())
    else:
        fractions = _Counted.of(engine, answer, read(engine.complete(*request))).fractions
    bias = config.temperature * _tilt(answer, label, fractions)[0]
    return broadcast(np.clip(bias, -MOST_BIAS, MOST_BIAS).tolist())


def token_scores(engine: TextEngine, answer: TokenAnswer, label: int, texts: Sequence[str]) -> np.ndarray:
    """Say of texts that a model wrote how much more their tokens are those of the clients than those of the others.

    The tilt that these texts together are short of is added up over the tokens of each, as far as it is above its
    mean. The sum is divided by the square root of their number, so that length by itself is no advantage.

    Args:
        engine (`TextEngine`): The model, with the tokens of the answer (see `reads_tokens`).
        answer (`TokenAnswer`): What the clients said about tokens.
        label (`int`): Number of the label whose texts they are.
        texts (`Sequence[str]`): The texts.

    Returns:
        `np.ndarray` of shape `(len(texts),)`: The same in every process.
    """
    counted = _Counted.of(engine, answer, texts)
    tilt = np.array(broadcast(_tilt(answer, label, counted.fractions)[0].tolist()))
    return (counted.counts @ tilt - counted.fractions.means @ tilt * counted.lengths) / np.sqrt(
        np.maximum(counted.lengths, 1)
    )


def choose_alike(
    engine: TextEngine,
    answer: TokenAnswer,
    label: int,
    texts: Sequence[str],
    preference: np.ndarray,
    number: int,
) -> list[int]:
    """Choose texts that together hold the tokens of an answer as often as the clients do. See `match_tokens`.

    Args:
        engine (`TextEngine`): The model that wrote them, with the tokens of the answer (see `reads_tokens`).
        answer (`TokenAnswer`): What the clients said about tokens.
        label (`int`): Number of the label whose texts they are.
        texts (`Sequence[str]`): The texts.
        preference (`np.ndarray` of shape `(len(texts),)`): How good each is by itself.
        number (`int`): Number of texts to choose.

    Returns:
        `list` of `int`: Indices of the chosen texts, in ascending order, the same in every process.
    """
    counted = _Counted.of(engine, answer, texts)
    tilt, usual = _tilt(answer, label, counted.fractions)
    return broadcast(match_tokens(*counted, usual * np.exp(tilt), preference, number).tolist())


def _tilt(answer: TokenAnswer, label: int, fractions: TokenFractions) -> tuple[np.ndarray, np.ndarray]:
    """Fit the tilt of a model that writes the tokens of an answer with these frequencies.

    Returns:
        `tuple` of two `np.ndarray`: The tilt, and the frequencies that it is relative to.
    """
    public = answer.weights ** (1 / WEIGHT_POWER)
    usual, variances = with_public(*fractions, public)
    usual = usual + LEAST_FRACTION
    return fit_tilt(answer.counts[label], answer.noise_std, answer.weights, usual, variances), usual


def is_bias(value: Any) -> bool:
    """Return whether a value is a list of numbers that can be added to logits."""
    return isinstance(value, list) and all(
        isinstance(each, float) and math.isfinite(each) and abs(each) <= MOST_BIAS for each in value
    )
