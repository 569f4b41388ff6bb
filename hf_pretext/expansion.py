"""Expansion: a causal language model writes many texts like the seeds. Post-processing, so free of privacy cost."""

import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .cleaning import HEADING, clean_text, is_usable, one_line, valid_unicode, whole_sentences
from .configuration import PrivateEvolutionConfig
from .generation import GeneratesText, collect_texts

_HEADING_LINE = re.compile(rf"^[ \t]*{HEADING}[ \t]*\d+(?:[ \t]*:)?[ \t]*$", re.MULTILINE)


def list_prompt(seeds: Sequence[str], num_new: int, domain: str | None = None) -> str:
    """Write the paper's prompt: a list of samples that a language model will go on with.

    Args:
        seeds (`Sequence[str]`):
            Texts to show, one line each; the words of the heading are in lower case there, so that no text is one.
        num_new (`int`): Number of texts that are to follow.
        domain (`str`, *optional*): What the texts are, in a few public words; the paper's prompt does not say it.

    Returns:
        `str`: The prompt, up to the heading of the first text that is to be written.
    """
    # With the paper's three seeds the list has six samples; a longer continuation needs a longer list.
    size = max(2 * len(seeds), len(seeds) + num_new)
    lines = [one_line(seed).replace(HEADING, HEADING.lower()) for seed in seeds]
    samples = [f"{HEADING} {number}\n{line}\n" for number, line in enumerate(lines, start=1)]
    about = f" ({one_line(domain)})" if domain else ""
    return f"List of {size} diverse original text samples{about}:\n{''.join(samples)}{HEADING} {len(seeds) + 1}\n"


def parse_list(continuation: str, num_new: int) -> list[str]:
    """Read the texts that a model wrote after a list prompt.

    Only a line that is a heading of the list and nothing else ends a text, so a text may hold any of its words. A text
    that no heading ends, because the token limit came first, is cut back to its last whole sentence; the first text
    counts even without one, as in the paper.

    Args:
        continuation (`str`): What the model wrote.
        num_new (`int`): Number of texts to read at most.

    Returns:
        `list` of `str`: The texts, one line each; some may be empty.
    """
    *ended, last = (clean_text(text) for text in _HEADING_LINE.split(continuation))
    last = whole_sentences(last) or ("" if ended else last)
    return [*ended, last][:num_new]


class Expansion:
    """Writes new texts from seeds with the paper's prompt (Algorithm 1, `Expand`).

    Args:
        generator (`GeneratesText`): The causal language model.
        config (`PrivateEvolutionConfig`): Seeds per prompt, texts per prompt, longest text, fewest words, seed.

    Raises:
        ValueError: The longest prompt and its continuation do not fit into the model's context.
    """

    def __init__(self, generator: GeneratesText, config: PrivateEvolutionConfig) -> None:
        self._generate = generator
        self._config = config
        # Two models may count a text's tokens differently, and headings take some.
        self._longest_seed = 2 * config.max_length
        prompt_length = 64 + config.seeds_per_prompt * (self._longest_seed + 16)
        # A token has at least one byte.
        prompt_length += len(valid_unicode(config.domain or "").encode())
        generator.check_context(prompt_length + config.max_new_tokens * config.texts_per_prompt)

    def __call__(
        self,
        seeds: Sequence[str],
        num_samples: int,
        weights: Sequence[float] | None = None,
        keep: Callable[[int, Callable[[], list[str]]], list[str]] = lambda part, write: write(),
        judge: Callable[[list[str]], np.ndarray] | None = None,
    ) -> Iterator[str]:
        """Write texts.

        Args:
            seeds (`Sequence[str]`): Texts to imitate; each prompt shows a random few of them.
            weights (`Sequence[float]`, *optional*): How often to show each seed; all alike without it.
            num_samples (`int`): Number of texts wanted.
            keep (`Callable`, *optional*):
                `keep(part, write)` returns what `write()` does, or what it returned for this part before.
            judge (`Callable`, *optional*):
                Tells how good texts are, as an array. With it, the best of `config.best_of` times as many are kept.

        Returns:
            `Iterator` of `str`: Exactly `num_samples` texts, all different and none of them a seed. They are written
            part by part as they are asked for.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        shares = np.asarray(weights if weights is not None and any(weights) else [1.0] * len(seeds))
        shares = shares / shares.sum()
        # Once and not in each prompt that shows it: a seed may be very long.
        examples = [self._generate.truncate(seed, self._longest_seed) for seed in seeds]

        def propose(missing: int, attempt: int, progress: str) -> list[str]:
            rng = np.random.default_rng([self._config.seed, attempt, len(seeds)])
            return keep(attempt + 1, lambda: self._write_best(examples, shares, missing, rng, progress, judge))

        return collect_texts(num_samples, propose, "Expanding", known=seeds)

    def _write_best(
        self,
        examples: Sequence[str],
        shares: np.ndarray,
        missing: int,
        rng: np.random.Generator,
        progress: str,
        judge: Callable[[list[str]], np.ndarray] | None,
    ) -> list[str]:
        best_of = 1 if judge is None else self._config.best_of
        texts = list(dict.fromkeys(self._propose(examples, shares, best_of * missing, rng, progress)))
        if judge is None or not texts:
            return texts
        best = np.argsort(-judge(texts), kind="stable")[: math.ceil(len(texts) / best_of)]
        return [texts[index] for index in np.sort(best)]

    def _propose(
        self, examples: Sequence[str], shares: np.ndarray, missing: int, rng: np.random.Generator, progress: str
    ) -> Iterator[str]:
        config = self._config
        shown = min(config.seeds_per_prompt, int(np.count_nonzero(shares)))
        prompts = []
        for _ in range(math.ceil(missing / (config.texts_per_prompt * config.continuations_per_prompt))):
            chosen = rng.choice(len(examples), shown, replace=False, p=shares)
            prompt = list_prompt([examples[index] for index in chosen], config.texts_per_prompt, config.domain)
            prompts += [prompt] * config.continuations_per_prompt
        continuations = self._generate(
            prompts,
            max_new_tokens=config.max_new_tokens * config.texts_per_prompt,
            seed=int(rng.integers(2**32)),
            stop=f"{HEADING} {shown + config.texts_per_prompt + 1}",
            progress=progress,
        )
        for continuation in continuations:
            for text in parse_list(continuation, config.texts_per_prompt):
                short = self._generate.truncate(text, config.max_new_tokens)
                short = text if short == text else whole_sentences(short) or short
                if is_usable(short, config):
                    yield short
