"""Where candidates come from: public texts, those that the evidence prefers, and variations of the survivors."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clients.questions import MeanEmbedding, Question
from ..clients.samples import EMBEDDING_UNITS
from ..configuration import PrivateEvolutionConfig
from ..data import draw_rows, list_rows
from ..forms import Plain, form_of
from ..privacy.plan import MEAN_EMBEDDING, VOTES
from ..processes import broadcast
from .candidates import Candidates
from .evidence import EFFECTIVE_FRACTION, Evidence, Interprets, TiltReading, VotesReading
from .selection import SelectionRule

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from ..runs.run import Run

logger = logging.getLogger(__name__)

RESERVE = 15
"""Public texts that later rounds may draw from, as a multiple of the population."""


@dataclass(frozen=True)
class Tools:
    """What a population does to public texts.

    Args:
        vary (`Callable`): `vary(texts, seed)` returns one variation of each text.
        truncate (`Callable`): Cuts a text to the longest that is varied.
        embed (`Callable`): Embeds texts as unit rows.
        write (`Callable`): Writes an initial population if there are no public texts.
    """

    vary: Callable[[Sequence[str], int], list[str]]
    truncate: Callable[[str], str]
    embed: Callable[[Sequence[str]], np.ndarray]
    write: Callable[[], list[str]]


@dataclass(frozen=True)
class FirstQuestion:
    """A question that is asked once, before the first round.

    Args:
        kind (`str`): Name of the question.
        ask (`Callable`): Makes the question, when it has not been answered yet.
        read (`Callable`): Takes in the noisy answer.
    """

    kind: str
    ask: Callable[[], Question]
    read: Callable[[np.ndarray], None]
    num_bins: int | None = None

    @property
    def step(self) -> str:
        """Name of the step of the run in which the clients are asked."""
        return f"release-{self.kind}"


class Population:
    """Makes the candidates of every round, and keeps the evidence that they are drawn by.

    Args:
        run (`Run`): Keeps what is made.
        public (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`, *optional*): Public texts.
        tools (`Tools`): What is done to texts.
        rule (`SelectionRule`): Weighs candidates by their votes.
        config (`PrivateEvolutionConfig`): The settings.
        questions (`Sequence[Question]`, *optional*): Questions of the caller, asked before the first round.
    """

    def __init__(
        self,
        run: "Run",
        public: "Dataset | IterableDataset | Sequence[str] | None",
        tools: Tools,
        rule: SelectionRule,
        config: PrivateEvolutionConfig,
        questions: Sequence[Question] = (),
    ) -> None:
        self._run, self._tools, self._rule, self._config, self._questions = run, tools, rule, config, questions
        self._public = None if public is None else sample_public_texts(public, tools.truncate, config)
        self._reserve = Reserve([])
        self.evidence = Evidence()

    @cached_property
    def first_questions(self) -> list[FirstQuestion]:
        """The questions that are asked before the first round, and what their answers are read as.

        Raises:
            ValueError: The public texts are not those that the run began with, or a question cannot be interpreted.
        """
        questions = [self._first(each) for each in self._questions]
        if self._config.mean_fraction > 0:
            mean = FirstQuestion(MEAN_EMBEDDING.name, lambda: self._mean_question, self._read_mean)
            questions.insert(0, mean)
        if questions and self._public is not None:
            self._check_public("public", self._public)
        for each in self._questions:
            if isinstance(each, Interprets):
                self._score(each, np.zeros(each.num_bins), self._embed_as("Embedding", self._source[:2]))
        return questions

    @cached_property
    def initial(self) -> list[str]:
        """The first candidates `S_1`: drawn from public texts, or written by the language model."""
        if self._public is None:
            return self._source
        drawn = self._run.keep("candidates-1", is_texts, self._draw_first)
        chosen = set(drawn)
        others = [text for text in self._public if text not in chosen]
        is_given = chosen <= set(self._public) and (bool(self.evidence) or drawn == self._draw_first())
        self._check_public("reserve", others, is_given)
        self._reserve = Reserve(others)
        return drawn

    def represent(self, texts: list[str], number: int) -> Candidates:
        """Make the candidates of a round from their texts."""
        size, label = self._config.lookahead * len(texts), self._run.label(number)
        rng = self._run.rng(number).lookahead

        def look_ahead() -> list[str]:
            # One call for all of them: batches of similar length then need the least padding.
            return self._run.keep(
                f"lookahead-{number}",
                lambda made: is_texts(made) and len(made) == size,
                lambda: self._vary(texts * self._config.lookahead, rng, f"{label}: looking ahead"),
            )

        def embed(shown: Sequence[str]) -> np.ndarray:
            return self._embed_as(f"{label}: embedding", shown)

        return Candidates(number, texts, self._config, embed, look_ahead if size else None)

    def weigh(self, candidates: Candidates, votes: np.ndarray) -> np.ndarray:
        """Select among the candidates, and learn what their votes say about the other public texts."""
        number, reserve = candidates.round, self._reserve
        reading = VotesReading(votes, self._run.noise_std(VOTES.name), lambda: candidates.embeddings)
        if not self._config.smooth_votes:
            return _checked(self._rule.select(reading), len(votes))
        self.evidence.add(reading)

        def weigh() -> list[float]:
            with self._run.stage("smoothing"):
                weights = _checked(self._rule.select(reading), len(votes))
            if reserve.texts and number < self._config.num_rounds:
                self._learn(self._run.label(number))
            # Processes on different machines would differ by rounding.
            return broadcast([*weights.tolist(), *reserve.ratios.tolist()])

        size = len(votes) + len(reserve.texts)
        kept = np.array(self._run.keep(f"weights-{number}", lambda made: is_weights(made, size), weigh))
        reserve.ratios = kept[len(votes) :]
        return kept[: len(votes)]

    def next(self, candidates: Candidates, parents: np.ndarray, rng: np.random.Generator) -> list[str]:
        """Take new public texts, keep survivors if the settings say so, and vary parents for the rest."""
        config, size = self._config, self._config.population_size

        def make() -> list[str]:
            survivors = [candidates.texts[index] for index in np.unique(parents)] if config.keep_survivors else []
            num_public = min(round(config.new_public_share * size), size - len(survivors))
            children = [*self._reserve.draw(num_public, rng), *survivors]
            ready = candidates.variations if config.reuse_lookahead else []
            num_children: Counter[int] = Counter()
            varied = []
            for parent in rng.permutation(parents)[len(children) :]:
                if (child := num_children[parent]) < len(ready):
                    children.append(ready[child][parent])
                else:
                    varied.append(candidates.texts[parent])
                num_children[parent] += 1
            if varied:
                children += self._vary(varied, rng, f"{self._run.label(candidates.round)}: varying")
            return list(dict.fromkeys(children))

        texts = self._run.keep(f"candidates-{candidates.round + 1}", is_texts, make)
        self._reserve.leave_out(texts)
        return texts

    def preferences(self, texts: list[str]) -> list[float]:
        """Compute how many times as many texts like these the evidence asks for."""

        def compute() -> list[float]:
            return broadcast(self.evidence.ratios(self._embed_as("Embedding the seeds", texts)).tolist())

        return self._run.keep("preferences", lambda made: is_weights(made, len(texts)), compute)

    @cached_property
    def _source(self) -> list[str]:
        """The texts that the first candidates are drawn from: public ones, or the written population itself."""
        if self._public is not None:
            return self._public
        with self._run.stage("writing the initial population"):
            return self._run.keep("candidates-1", is_texts, self._tools.write)

    @cached_property
    def _source_embeddings(self) -> np.ndarray:
        return self._embed_as("Embedding public texts", self._source)

    @cached_property
    def _mean_question(self) -> MeanEmbedding:
        return MeanEmbedding.of(self._source_embeddings)

    def _check_public(self, step: str, texts: Sequence[str], is_given: bool = True) -> None:
        digest = [blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()]
        if not is_given or self._run.keep(step, is_texts, lambda: digest) != digest:
            raise ValueError(
                "`initial_population` is not the one that the run in `run_dir` began with. A run continues with the "
                "texts that it began with: give those, or choose another folder, whose epsilon adds to this one's."
            )

    def _read_mean(self, answer: np.ndarray) -> None:
        """Prefer texts exponentially along the mean, the smallest change of public text that has such a mean."""

        def score(points: np.ndarray) -> np.ndarray:
            return (points - self._mean_question.center[0] / EMBEDDING_UNITS) @ answer

        self.evidence.add(TiltReading(score, lambda: self._source_embeddings, EFFECTIVE_FRACTION))

    def _first(self, question: Question) -> FirstQuestion:
        """Ask a question of the caller, whose answer is part of the evidence if the question can interpret it."""

        def read(answer: np.ndarray) -> None:
            if isinstance(question, Interprets):
                score = partial(self._score, question, answer)
                self.evidence.add(TiltReading(score, lambda: self._source_embeddings))

        return FirstQuestion(question.name, lambda: question, read, question.num_bins)

    def _score(self, question: Any, answer: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Let a question of the caller interpret its answer."""
        scores = np.asarray(question.interpret(answer, self._run.noise_std(question.name), embeddings))
        if scores.shape != (len(embeddings),) or not np.isfinite(scores).all():
            raise ValueError(
                f"`interpret` of the question {question.name!r} returned scores of shape {scores.shape} for "
                f"{len(embeddings)} texts. They have to be one finite number per text. An answer that was released is "
                "kept: mend `interpret`, and repeat the call with the same `run_dir`."
            )
        return scores

    def _draw_first(self) -> list[str]:
        """Draw the first candidates: at random, or by the evidence of the first questions."""
        size = self._config.population_size
        if not self.evidence:
            return self._source[:size]
        rng = np.random.default_rng([self._config.seed, self._run.number, 0])
        everything = Reserve(self._source)
        everything.ratios = np.array(broadcast(self.evidence.ratios(self._source_embeddings).tolist()))
        return everything.draw(size, rng)

    def _learn(self, label: str) -> None:
        """Ask the evidence about the public texts in reserve."""
        reserve = self._reserve
        if reserve.embeddings is None and self.first_questions:  # All public texts are embedded already.
            known = set(reserve.texts)
            reserve.embeddings = self._source_embeddings[[text in known for text in self._source]]
        elif reserve.embeddings is None:
            reserve.embeddings = self._embed_as(f"{label}: embedding public texts", reserve.texts)
        reserve.ratios = self.evidence.ratios(reserve.embeddings, among=reserve.embeddings)

    def _embed_as(self, label: str, texts: Sequence[str]) -> np.ndarray:
        with self._run.stage("embedding", label):
            return self._tools.embed(texts)

    def _vary(self, texts: list[str], rng: np.random.Generator, label: str) -> list[str]:
        with self._run.stage("varying", label):
            varied = self._tools.vary(texts, int(rng.integers(2**32)))
        if len(varied) != len(texts):
            # More of them could be more candidates than the plan accounts for, which no later round could ask about.
            raise ValueError(
                f"`variation_model` made {len(varied)} variations of {len(texts)} texts. It has to return one of "
                "each, in their order. Nothing was spent for this step: mend it, and repeat the call with the same "
                "`run_dir`."
            )
        return varied


class Reserve:
    """Public texts that were no candidates yet, and how many times as many of each there should be.

    Args:
        texts (`Sequence[str]`): The texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.embeddings: np.ndarray | None = None
        self.ratios = np.ones(len(self.texts))
        self._is_new = np.ones(len(self.texts), dtype=bool)

    def draw(self, number: int, rng: np.random.Generator) -> list[str]:
        """Draw this many texts without replacement, or all that are left, in proportion to their ratios."""
        weights = np.where(self._is_new, self.ratios, 0)
        number = min(number, int(np.count_nonzero(weights)))
        if number < 1:
            return []
        chosen = rng.choice(len(self.texts), number, replace=False, p=weights / weights.sum())
        return [self.texts[index] for index in np.sort(chosen)]

    def leave_out(self, candidates: Sequence[str]) -> None:
        """Never draw these texts again."""
        known = set(candidates)
        self._is_new &= np.array([text not in known for text in self.texts], dtype=bool)


def sample_public_texts(
    public: "Dataset | IterableDataset | Sequence[str]", truncate: Callable[[str], str], config: PrivateEvolutionConfig
) -> list[str]:
    """Draw the public texts of a run without replacement: the initial population `S_1`, and more for later rounds.

    (The paper draws with replacement. A candidate that is there twice only splits its votes.)

    Args:
        public (`datasets.Dataset`, `datasets.IterableDataset` or `Sequence[str]`):
            Public texts, in column `config.text_column` (`str`) of a dataset, or rows of another form (`forms`). Blank
            ones and repetitions are left out. A stream is read once, to its end, and only what is drawn of it is kept
            in memory.
        truncate (`Callable`): Cuts a text to the longest that is varied. It is empty if that breaks its form.
        config (`PrivateEvolutionConfig`): Population size and seed.

    Returns:
        `list` of `str`: `config.population_size` different texts, or all there are, with a warning. If
        `config.new_public_share` or `config.mean_fraction` can use them, up to `RESERVE` times as many others.

    Raises:
        ValueError: A column is missing, rows are not whole, or there are fewer than two texts.
        TypeError: Some texts are not strings.
    """
    from datasets import IterableDataset

    form = form_of(config)
    size = config.population_size * (1 + RESERVE if config.new_public_share or config.mean_fraction else 1)
    if isinstance(public, IterableDataset):
        texts = draw_rows(public, form, "initial_population", size, config.seed)
    else:
        texts = list_rows(public, form, "initial_population")
    clean = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(clean)
    if len(clean) < config.population_size:
        warnings.warn(
            f"`initial_population` holds {len(clean)} different texts, fewer than `population_size`="
            f"{config.population_size}: the first round has that many candidates, later ones have all.",
            stacklevel=5,
        )
    rng = np.random.default_rng([config.seed, 0])
    chosen = [clean[index] for index in rng.permutation(len(clean))[:size]]
    texts = [truncate(text) for text in chosen]
    num_cut = sum(text != short for text, short in zip(chosen, texts, strict=True))
    if num_cut:
        logger.warning(
            "%d texts of `initial_population` were cut to `max_length`=%d tokens.", num_cut, config.max_length
        )
    num_broken = texts.count("") if not isinstance(form, Plain) else 0
    if num_broken:
        logger.warning(
            "%d of %d rows of `initial_population` are left out, because a whole %s of theirs does not fit into "
            "`max_length`=%d tokens. Raise it.",
            *(num_broken, len(texts), form.name, config.max_length),
        )
    # What a model does not know may be all that a text begins with.
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    _check_size(texts)
    return texts


def is_texts(value: object) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_weights(value: object, number: int) -> bool:
    """Return whether a value is a list of this many numbers that are finite and not negative."""
    return (
        isinstance(value, list)
        and len(value) == number
        and all(isinstance(each, (int, float)) and 0 <= each < float("inf") for each in value)
    )


def _checked(weights: np.ndarray, num_candidates: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    is_sound = weights.shape == (num_candidates,) and np.isfinite(weights).all() and (weights >= 0).all()
    if not is_sound or not weights.any():
        raise ValueError(
            f"`selection` made weights of shape {weights.shape} for {num_candidates} candidates. They have to be one "
            "number per candidate, finite and not negative, and not all zero. The votes are kept: mend the rule, and "
            "repeat the call with the same `run_dir`."
        )
    return weights


def _check_size(texts: Sequence[str]) -> None:
    if len(texts) < 2:
        raise ValueError(
            f"`initial_population` holds {len(texts)} different texts that are not blank. It needs at least 2."
        )
