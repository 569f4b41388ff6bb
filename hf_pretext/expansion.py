"""Expansion: a causal language model writes many texts like the seeds. Post-processing, so free of privacy cost."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from .choosing import Choose, Judge, chooser, fits_label, is_preferred
from .cleaning import has_lines, is_usable, whole_sentences
from .configuration import PrivateEvolutionConfig
from .evolution.parts import is_texts
from .evolution.token_answer import TokenAnswer
from .forms import form_of, mended
from .labels import domain_of
from .models.engine import ChecksContext, CountsTokens, KnownTexts, TakesBias, TextEngine, collect_texts
from .processes import progress_label
from .prompts import ListPrompt
from .prompts import list_prompt as list_prompt
from .prompts import parse_list as parse_list
from .seed_texts import SeedTexts as SeedTexts
from .tilting import Request, fit_bias, is_bias, num_written

logger = logging.getLogger(__name__)

CONTINUE_HINT = (
    "The seeds are there, and another model spends nothing again: make the generator with the same `run_dir` and "
    "another `expansion_model`, or save it, and give another to `from_pretrained` or to `hf-pretext expand --seeds`."
)
"""What to do after an expansion that failed."""


FITS_HINT = (
    "Texts that fit another label better than their own, by the means of the labels, were left out. `best_of=1` keeps "
    "them. "
)
"""What else may have left an expansion without texts, if there is a mean for each label."""


def check_num_samples(num_samples: int) -> None:
    """Raise a `ValueError` if `num_samples` is not a positive integer."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"`num_samples`={num_samples!r} must be a positive integer.")


class Keep(Protocol):
    """Keeps what is written."""

    def __call__(self, part: str, make: Callable[[], Any], is_valid: Callable[[Any], bool] = is_texts) -> Any:
        """Return what `make()` does, or what it returned for the part of this name before, if that is valid."""
        ...


def _write_again(part: str, make: Callable[[], Any], is_valid: Callable[[Any], bool] = is_texts) -> Any:
    return make()


class _Shown(NamedTuple):
    """What prompts show: how they are written, the texts, how often each is chosen, and how many stand in one.

    And the bias of the logits of the tokens that are written.
    """

    prompt: ListPrompt
    examples: list[str]
    chances: np.ndarray
    number: int
    bias: Mapping[int, float]


class _Draft(NamedTuple):
    """A prompt, what the new text begins with, and whether the texts of each continuation keep line breaks."""

    prompt: str
    beginning: str
    with_lines: list[bool]


class Continued(NamedTuple):
    """A prompt, with several texts that the language model wrote after it.

    Args:
        prompt (`str`): The prompt, up to the heading of the new text.
        texts (`list` of `str`): The texts as an expansion keeps them: usable, different, and none of them a seed.
        end (`str`): What follows a text in the list, which is the next heading.
    """

    prompt: str
    texts: list[str]
    end: str


class Expander:
    """Writes new texts from seeds with the paper's prompt (Algorithm 1, `Expand`).

    Args:
        engine (`TextEngine`): The causal language model.
        config (`PrivateEvolutionConfig`): Seeds per prompt, texts per prompt, longest text, fewest words, seed.
        embed (`Callable`): Embeds texts as unit rows, to judge what was written.

    Raises:
        ValueError: The longest prompt with one seed and its continuation do not fit into the model's context.
    """

    def __init__(
        self, engine: TextEngine, config: PrivateEvolutionConfig, embed: Callable[[Sequence[str]], np.ndarray]
    ) -> None:
        self._engine, self._config, self._embed = engine, config, embed
        self._list, self._form = ListPrompt.of(config), form_of(config)
        domains = [domain_of(config.domain, words) for words in (config.labels or {}).values()] or [config.domain]
        self._lists = [replace(self._list, domain=domain) for domain in domains]
        # Two models may count a text's tokens differently.
        self._longest_seed = 2 * config.max_length
        if not self._fits(1, self._longest_seed):
            self._longest_seed = config.max_length
            self._check_context(1, self._longest_seed)

    def rows(
        self,
        seeds: SeedTexts,
        num_samples: int,
        label_shares: Mapping[str, float] | None = None,
        keep: Keep = _write_again,
        answer: TokenAnswer | None = None,
        mean: np.ndarray | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Write the rows of a synthetic dataset: texts, and their labels if the settings have labels.

        The texts of all labels are different. The labels are in a random order.

        Args:
            seeds (`SeedTexts`): Texts to imitate. A prompt shows those of one label.
            num_samples (`int`): Number of rows wanted.
            label_shares (`Mapping[str, float]`, *optional*): Fraction of each label. By default that of the seeds.
            keep (`Callable`, *optional*): See `Keep`.
            answer (`TokenAnswer`, *optional*): What the clients said about tokens. See `expand`.
            mean (`np.ndarray` of shape `(d,)`, *optional*): The clients' mean embedding, without labels. See `expand`.

        Returns:
            `Iterator` of `dict`: The rows, as they are asked for. See `expand`.
        """
        column = self._config.label_column
        if column is None:
            return ({"text": text} for text in self.expand(seeds, num_samples, keep, answer=answer, mean=mean))
        numbers = seeds.numbers(num_samples, label_shares)
        known = KnownTexts(seeds.texts)

        def keep_of(label: int) -> Keep:
            return lambda part, make, is_valid=is_texts: keep(f"{label}-{part}", make, is_valid)

        written = {
            label: self.expand(seeds.with_label(label), number, keep_of(label), label, known, answer)
            for label, number in enumerate(numbers)
            if number
        }
        order = np.random.default_rng([self._config.seed, num_samples]).permutation(
            np.repeat(range(len(numbers)), numbers)
        )
        return ({"text": next(written[label]), column: label} for label in order.tolist())

    def expand(
        self,
        seeds: SeedTexts,
        num_samples: int,
        keep: Keep = _write_again,
        label: int = 0,
        known: KnownTexts | None = None,
        answer: TokenAnswer | None = None,
        mean: np.ndarray | None = None,
    ) -> Iterator[str]:
        """Write texts of one label, or without labels.

        Args:
            seeds (`SeedTexts`): Texts to imitate. Each prompt shows a random few of them.
            num_samples (`int`): Number of texts wanted.
            keep (`Callable`, *optional*): See `Keep`.
            label (`int`, *optional*, defaults to `0`): Number of the label, which the prompts speak of.
            known (`KnownTexts`, *optional*): Texts that do not count as new. By default the seeds.
            answer (`TokenAnswer`, *optional*):
                What the clients said about tokens. The language model is made to write them as often as the clients
                do, which takes up to 256 texts more (`evolution.token_tilt`). And of what it writes, texts are kept
                that together hold them as often (`evolution.matching`), unless means of labels choose them.
            mean (`np.ndarray` of shape `(d,)`, *optional*):
                The clients' mean embedding. Without an answer about tokens, texts are kept that together have it.

        Returns:
            `Iterator` of `str`: Exactly `num_samples` texts, all different and none of them a seed. They are written
            part by part as they are asked for.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        shown = self._shown(seeds, label)
        judge, entropy = self.judge(seeds, label), [self._config.seed, *self._number_of(label)]
        # How well a text fits its label is more than a tie to be broken.
        matched = (answer, label, mean) if seeds.scored is None else (None, label, None)
        choose = chooser(self._config.best_of, judge, self._engine, *matched, self._embed)
        if answer is not None:
            rng = np.random.default_rng([*entropy, len(answer.tokens), len(seeds.texts)])
            number = num_written(num_samples)
            tilted = keep("tilt", lambda: self._fit_bias(shown, answer, label, number, rng), is_bias)
            shown = shown._replace(bias=dict(zip(answer.tokens.tolist(), tilted, strict=True)))

        def propose(missing: int, attempt: int) -> list[str]:
            rng = np.random.default_rng([*entropy, attempt, len(seeds.texts)])
            return keep(str(attempt + 1), lambda: self._write_best(shown, missing, rng, choose))

        taken = seeds.texts if known is None else known
        fits = "" if seeds.scored is None or judge is None else FITS_HINT
        return collect_texts(num_samples, propose, "Expanding", known=taken, hint=fits + CONTINUE_HINT)

    def continue_prompts(
        self, seeds: SeedTexts, num_prompts: int, continuations: int, label: int = 0, round_number: int = 1
    ) -> list[Continued]:
        """Write several texts after each of some prompts like those of `expand`, to compare them with each other.

        The model writes as it does by itself, without a tilt of its tokens.

        Args:
            seeds (`SeedTexts`): Texts to imitate. Each prompt shows a random few of them.
            num_prompts (`int`): Number of prompts.
            continuations (`int`): Times that each is continued. Some of the texts may not be usable.
            label (`int`, *optional*, defaults to `0`): Number of the label.
            round_number (`int`, *optional*, defaults to `1`): Another number gives other prompts.
        """
        shown = self._shown(seeds, label)
        rng = np.random.default_rng(
            [self._config.seed, *self._number_of(label), round_number, num_prompts, shown.number]
        )
        drafts = [self._draft(shown, rng) for _ in range(num_prompts)]
        asked = [draft.prompt for draft in drafts for _ in range(continuations)]
        end, known = self._list.stop(shown.number + 2), set(seeds.texts)
        seed = int(rng.integers(2**32))
        with progress_label("Writing texts to compare"):
            written = self._engine.complete(asked, max_new_tokens=self._config.max_new_tokens, seed=seed, stop=end)
        found = []
        for index, draft in enumerate(drafts):
            own = written[index * continuations : (index + 1) * continuations]
            texts = [text for each in own for text in self._usable(draft.beginning + each, 1, draft.with_lines[0])]
            different = [text for text in dict.fromkeys(texts) if text not in known]
            found.append(Continued(draft.prompt.removesuffix(draft.beginning), different, end))
        return found

    def write_population(self, truncate: Callable[[str], str], label: int = 0, run: int = 1) -> list[str]:
        """Write the initial population of a label from `config.domain`, without any private access.

        Args:
            truncate (`Callable`): Cuts a text to the longest that is varied.
            label (`int`, *optional*, defaults to `0`): Number of the label, whose words stand in the prompt.
            run (`int`, *optional*, defaults to `1`): Number of the run, so that another one begins with other texts.

        Returns:
            `list` of `str`: Different texts, as many as the label has candidates.

        Raises:
            RuntimeError: The model does not write enough usable texts.
        """
        config, entropy = self._config, [self._config.seed, *self._number_of(label)]
        prompt, pieces = self._lists[label].write([], 6), self._form.pieces

        def propose(missing: int, attempt: int) -> Iterator[str]:
            seed = int(np.random.default_rng([*entropy, attempt, run - 1]).integers(2**32))
            length = -(-config.max_length // len(pieces))
            written = [""] * missing
            # A model that sees no example does not find the form by itself, so it fills one in.
            for number, (words, end) in enumerate(pieces):
                begun, stop = [text + words for text in written], end or self._list.stop(2)
                filled = self._engine.complete([prompt + text for text in begun], length, seed + number, stop=stop)
                written = [text + piece.split(stop)[0].rstrip() for text, piece in zip(begun, filled, strict=True)]
            for start, piece in zip(begun, filled, strict=True):
                text = truncate(self._list.read_filled(start, piece, end, self._form.has_lines))
                if is_usable(text, config):
                    yield text

        return list(collect_texts(config.candidates_per_label[label], propose, "Writing the initial population"))

    def _number_of(self, label: int) -> list[int]:
        """Return what tells the random streams of labels apart. Nothing if there are none."""
        return [label] if self._config.labels else []

    def judge(self, seeds: SeedTexts, label: int = 0) -> Judge | None:
        """Return what says how good new texts are, by what is known of the seeds. None if all texts are kept.

        With a mean for each label, a text is as good as it fits its own label better than the others. Otherwise the
        preferences of the seeds near it decide.
        """
        return None if self._config.best_of == 1 else self.evidence(seeds, label)

    def evidence(self, seeds: SeedTexts, label: int = 0) -> Judge | None:
        """Return what the votes and means say of any text (see `judge`). None if nothing is known of the seeds."""
        if seeds.scored is not None:
            return fits_label(seeds.scored, label, self._embed)
        return None if seeds.preference is None else is_preferred(seeds.texts, seeds.preference, self._embed)

    def _shown(self, seeds: SeedTexts, label: int) -> _Shown:
        """Prepare what the prompts of a label show."""
        weights = seeds.weights if self._config.weight_seeds else None
        chances = np.ones(len(seeds.texts)) if weights is None or not weights.any() else weights
        # Once and not in each prompt that shows it: a seed may be very long.
        examples = [self._engine.truncate(seed, self._longest_seed) for seed in seeds.texts]
        number = min(self._num_shown(examples), int(np.count_nonzero(chances)))
        return _Shown(self._lists[label], examples, chances / chances.sum(), number, {})

    def _num_shown(self, examples: Sequence[str]) -> int:
        """Compute how many seeds a prompt shows: as many as fit even if they are the longest ones."""
        most, longest = self._config.seeds_per_prompt, self._longest_seed
        if self._fits(most, longest):
            return most
        if isinstance(self._engine, CountsTokens):
            longest = min(longest, max(map(self._engine.count_tokens, examples)))
        shown = next((number for number in range(most, 1, -1) if self._fits(number, longest)), 1)
        if shown < most:
            logger.warning(
                "Prompts show %d seeds instead of `seeds_per_prompt`=%d: more of up to %d tokens do not fit into the "
                "context of `expansion_model`.",
                *(shown, most, longest),
            )
        return shown

    def _fits(self, num_seeds: int, longest: int) -> bool:
        try:
            self._check_context(num_seeds, longest)
        except ValueError:
            return False
        return True

    def _check_context(self, num_seeds: int, longest: int) -> None:
        """Raise a `ValueError` if a prompt of this many seeds of at most `longest` tokens may be too long."""
        config, engine = self._config, self._engine
        if not isinstance(engine, ChecksContext):
            return
        beginning = self._form.beginning
        frames = [each.write([""] * num_seeds, config.texts_per_prompt) + beginning for each in self._lists]
        # A token has at least one byte. What is put together may have a few more tokens than its parts.
        count = engine.count_tokens if isinstance(engine, CountsTokens) else lambda frame: len(frame.encode())
        frame_length = max(map(count, frames))
        prompt_length = 16 + frame_length + num_seeds * (longest + 4)
        engine.check_context(prompt_length + config.max_new_tokens * config.texts_per_prompt)

    def _write_best(self, shown: _Shown, missing: int, rng: np.random.Generator, choose: Choose | None) -> list[str]:
        best_of = 1 if choose is None else self._config.best_of
        texts = list(dict.fromkeys(self._propose(shown, best_of * missing, rng)))
        return texts if choose is None or not texts else [texts[index] for index in choose(texts)]

    def _fit_bias(
        self, shown: _Shown, answer: TokenAnswer, label: int, number: int, rng: np.random.Generator
    ) -> list[float]:
        """Compute what is to be added to the logit of each token of an answer, by what a number of texts hold."""
        several = self._config.continuations_per_prompt
        drafts = [self._draft(shown, rng) for _ in range(math.ceil(number / several))]
        asked = [draft for draft in drafts for _ in range(several)]

        def read(continuations: Sequence[str]) -> list[str]:
            pairs = zip(asked, continuations, strict=True)
            return [self._list.read(draft.beginning + text, 1, draft.with_lines[0])[0] for draft, text in pairs]

        request = self._request(shown, [draft.prompt for draft in asked], rng)
        with progress_label("Finding out how often the model writes each token"):
            return fit_bias(self._engine, answer, label, request, read, self._config)

    def _request(self, shown: _Shown, prompts: list[str], rng: np.random.Generator) -> Request:
        num_new = self._config.texts_per_prompt
        stop = self._list.stop(shown.number + num_new + 1)
        return Request(prompts, self._config.max_new_tokens * num_new, int(rng.integers(2**32)), stop)

    def _draft(self, shown: _Shown, rng: np.random.Generator) -> _Draft:
        """Write a prompt that shows random seeds."""
        chosen = rng.choice(len(shown.examples), shown.number, replace=False, p=shown.chances)
        seeds = [shown.examples[index] for index in chosen]
        beginning = self._beginning(seeds)
        text = shown.prompt.write(seeds, self._config.texts_per_prompt) + beginning
        return _Draft(text, beginning, self._with_lines(seeds, rng))

    def _propose(self, shown: _Shown, missing: int, rng: np.random.Generator) -> Iterator[str]:
        config = self._config
        prompts, beginnings, with_lines = [], [], []
        for _ in range(math.ceil(missing / (config.texts_per_prompt * config.continuations_per_prompt))):
            draft = self._draft(shown, rng)
            prompts += [draft.prompt] * config.continuations_per_prompt
            beginnings += [draft.beginning] * config.continuations_per_prompt
            with_lines += draft.with_lines
        _, length, seed, stop = request = self._request(shown, prompts, rng)
        if isinstance(self._engine, TakesBias) and shown.bias:
            continuations = self._engine.complete_tilted(*request, shown.bias)
        else:
            continuations = self._engine.complete(prompts, max_new_tokens=length, seed=seed, stop=stop)
        for beginning, continuation, may_have_lines in zip(beginnings, continuations, with_lines, strict=True):
            yield from self._usable(beginning + continuation, config.texts_per_prompt, may_have_lines)

    def _usable(self, written: str, num_new: int, with_lines: bool) -> Iterator[str]:
        """Read the texts in what the model wrote after a prompt, as far as they are usable."""
        for text in self._list.read(written, num_new, with_lines):
            short = self._engine.truncate(text, self._config.max_new_tokens)
            short = mended(self._form, text if short == text else whole_sentences(short) or short)
            if is_usable(short, self._config):
                yield short

    def _with_lines(self, seeds: Sequence[str], rng: np.random.Generator) -> list[bool]:
        """Decide of each continuation of a prompt whether its texts keep line breaks.

        A model that sees one text of several lines writes several itself. So as many keep them as seeds have them.
        """
        number, share = self._config.continuations_per_prompt, float(np.mean([has_lines(seed) for seed in seeds]))
        if self._form.has_lines or share in (0, 1):
            return [share > 0] * number
        return (rng.random(number) < share).tolist()

    def _beginning(self, seeds: Sequence[str]) -> str:
        """Return what the new text begins with, so that the model need not guess it. Empty if some seed differs."""
        beginning = self._form.beginning.rstrip()
        return beginning if all(seed.startswith(beginning) for seed in seeds) else ""
