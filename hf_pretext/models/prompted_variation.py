"""Variation by prompting a causal language model, if there is no masked one."""

from collections.abc import Sequence

import numpy as np

from ..cleaning import clean_text, has_lines, is_usable, keep_lines, valid_unicode, whole_sentences
from ..configuration import PrivateEvolutionConfig
from ..segmentation import word_spans
from .engine import ChecksContext, CountsTokens, TextEngine

TOKENS_OF_A_CHAT = 128
"""Room for what a chat template writes around an instruction."""


class PromptedVariation:
    """Rewrites texts with a causal language model.

    With `config.variation_prompt` the model follows an instruction such as "Rephrase this text: {text}", as in Aug-PE
    (Xie et al. 2024, arXiv 2403.01749). That needs a model that follows instructions well. Without it the model gets
    the beginning of a text, a random 30 to 70 % of its words, and writes another ending, which any model can do. A
    text of one line ends with the line. One of several lines keeps its lines, and becomes about as long as it was.

    Args:
        engine (`TextEngine`): The causal language model.
        config (`PrivateEvolutionConfig`): Instruction, rewritings per call, longest and shortest text.

    Raises:
        ValueError: The longest text and its variation do not fit into the model's context.
    """

    def __init__(self, engine: TextEngine, config: PrivateEvolutionConfig) -> None:
        self._engine = engine
        self._config = config
        if isinstance(engine, ChecksContext):
            frame = config.variation_prompt or ""
            length = engine.count_tokens(frame) if isinstance(engine, CountsTokens) else len(frame.encode())
            engine.check_context(2 * config.max_length + length + (TOKENS_OF_A_CHAT if frame else 8))

    def truncate(self, text: str) -> str:
        """Cut a text to `max_length` tokens, with its lines if it has several."""
        return self._engine.truncate(keep_lines(text), self._config.max_length)

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
            answers = [
                self.truncate(clean_text(answer, has_lines(old)))
                for answer, old in zip(rewrite(varied, rng), varied, strict=True)
            ]
            varied = [new if is_usable(new, self._config) else old for new, old in zip(answers, varied, strict=True)]
        return varied

    def _follow_instruction(self, texts: list[str], rng: np.random.Generator) -> list[str]:
        # Not `str.format`: a text with braces, or an instruction with others, must pass through as it is.
        prompt = str(self._config.variation_prompt)
        instructions = [prompt.replace("{text}", text) for text in texts]
        answers = self._engine.answer(instructions, self._config.max_length, int(rng.integers(2**32)))
        return [_without_quotes_of(prompt, answer) for answer in answers]

    def _write_another_ending(self, texts: list[str], rng: np.random.Generator) -> list[str]:
        """Write endings to the beginnings of texts. Those of one line are continued to the line's end."""
        lengths = [list(word_spans(text)) for text in texts]
        kept = [max(1, round(len(spans) * rng.uniform(0.3, 0.7))) for spans in lengths]
        beginnings = [
            text[: spans[number - 1][1]] if spans else text
            for text, spans, number in zip(texts, lengths, kept, strict=True)
        ]
        with_lines = [has_lines(text) for text in texts]
        endings = dict[int, str]()
        for are_lines, stop in ((False, "\n"), (True, None)):
            chosen = [index for index, has in enumerate(with_lines) if has is are_lines]
            if chosen:
                prompts = [beginnings[index] for index in chosen]
                written = self._engine.complete(prompts, self._config.max_length, int(rng.integers(2**32)), stop=stop)
                endings.update(zip(chosen, written, strict=True))
        return [
            start + (_about_as_long(endings[index], len(spans) - number) if has else endings[index].split("\n")[0])
            for index, (start, spans, number, has) in enumerate(
                zip(beginnings, lengths, kept, with_lines, strict=True)
            )
        ]


def _about_as_long(ending: str, num_words: int) -> str:
    """Cut an ending of several lines, which no mark ends, after twice as many words and then after a sentence."""
    spans = list(word_spans(ending))[: max(2 * num_words, 1)]
    short = ending[: spans[-1][1]] if spans else ""
    return short if len(short) == len(ending.rstrip()) else whole_sentences(short) or short


_QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("«", "»"), ("„", "“"), ("「", "」"))


def _without_quotes_of(prompt: str, answer: str) -> str:
    """Take quotation marks off an answer if the instruction put them around the text that it is about."""
    answer = answer.strip()
    for opening, closing in _QUOTES:
        inner = answer[1:-1]
        is_quoted = len(answer) > 1 and answer[0] == opening and answer[-1] == closing
        if f"{opening}{{text}}{closing}" in prompt and is_quoted and not {opening, closing} & set(inner):
            return inner
    return answer
