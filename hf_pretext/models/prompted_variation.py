"""Variation by prompting a causal language model, if there is no masked one."""

from collections.abc import Sequence

import numpy as np

from ..cleaning import clean_text, is_usable, one_line, valid_unicode
from ..configuration import PrivateEvolutionConfig
from .engine import TextEngine


class PromptedVariation:
    """Rewrites texts with a causal language model.

    With `config.variation_prompt` the model follows an instruction such as "Rephrase this text: {text}", as in Aug-PE
    (Xie et al. 2024, arXiv 2403.01749). That needs a model that follows instructions well. Without it the model gets
    the beginning of a text, a random 30 to 70 % of its words, and writes another ending, which any model can do.

    Args:
        engine (`TextEngine`): The causal language model.
        config (`PrivateEvolutionConfig`): Instruction, rewritings per call, longest and shortest text.
    """

    def __init__(self, engine: TextEngine, config: PrivateEvolutionConfig) -> None:
        self._engine = engine
        self._config = config

    def truncate(self, text: str) -> str:
        """Cut a text to `max_length` tokens and join its lines."""
        return self._engine.truncate(one_line(text), self._config.max_length)

    def vary(self, texts: Sequence[str], seed: int) -> list[str]:
        """Vary each text.

        Args:
            texts (`Sequence[str]`): The texts. What is beyond `max_length` tokens is cut.
            seed (`int`): Seed of the sampling.

        Returns:
            `list` of `str`: One variation of each text, in their order. If the model's answer is not usable, the text
            itself.
        """
        rng = np.random.default_rng(seed)
        varied = [self.truncate(valid_unicode(text)) for text in texts]
        rewrite = self._follow_instruction if self._config.variation_prompt else self._write_another_ending
        for _ in range(self._config.variation_steps):
            answers = [self.truncate(clean_text(answer)) for answer in rewrite(varied, rng)]
            varied = [new if is_usable(new, self._config) else old for new, old in zip(answers, varied, strict=True)]
        return varied

    def _follow_instruction(self, texts: list[str], rng: np.random.Generator) -> list[str]:
        # Not `str.format`: a text with braces, or an instruction with others, must pass through as it is.
        instructions = [str(self._config.variation_prompt).replace("{text}", text) for text in texts]
        return self._engine.answer(instructions, self._config.max_length, int(rng.integers(2**32)))

    def _write_another_ending(self, texts: list[str], rng: np.random.Generator) -> list[str]:
        beginnings = []
        for words in map(str.split, texts):
            kept = max(1, round(len(words) * rng.uniform(0.3, 0.7)))
            beginnings.append(" ".join(words[:kept]))
        endings = self._engine.complete(beginnings, self._config.max_length, int(rng.integers(2**32)), stop="\n")
        return [start + ending.split("\n")[0] for start, ending in zip(beginnings, endings, strict=True)]
