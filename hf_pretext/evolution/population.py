"""Where candidates come from: public texts, those that the evidence prefers, and variations of the survivors."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clients.questions import LabeledMeanEmbedding, MeanEmbedding, Question
from ..clients.questions.labeled_candidates import shares_of
from ..clients.samples import EMBEDDING_UNITS
from ..clients.tokens import TokenReader
from ..configuration import PrivateEvolutionConfig
from ..privacy.plan import LABELED_MEAN, LABELED_TOKEN_COUNTS, MEAN_EMBEDDING, TOKEN_COUNTS
from ..processes import broadcast
from .candidates import Candidates
from .evidence import Interprets, MeanReading, Reading, TiltReading, VotesReading, mean_of
from .first_question import FirstQuestion
from .kept_evidence import RunEvidence
from .label_scores import is_scores, tilt_direction
from .parts import Part, Reserve, is_texts, is_texts_of, is_weights, joined, parts_of
from .public_texts import public_texts_of_parts
from .seeds import Seeds
from .selection import SelectionRule, ThresholdRule
from .token_answer import TokenAnswer
from .token_list import TokenList, check_reads_alike

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from ..runs.run import Run


@dataclass(frozen=True)
class Tools:
    """What a population does to public texts.

    Args:
        vary (`Callable`): `vary(texts, seed)` returns one variation of each text.
        truncate (`Callable`): Cuts a text to the longest that is varied.
        embed (`Callable`): Embeds texts as unit rows.
        write (`Callable`):
            `write(label, run)` writes the first candidates of a label (0 without labels) if there are no public texts.
        reader (`TokenReader`, *optional*): The tokenizer of the language model, if it is known.
    """

    vary: Callable[[Sequence[str], int], list[str]]
    truncate: Callable[[str], str]
    embed: Callable[[Sequence[str]], np.ndarray]
    write: Callable[[int, int], list[str]]
    reader: TokenReader | None = None


class Population:
    """Makes the candidates of every round, and keeps the evidence that they are drawn by.

    The candidates of each label are a part of their own, with evidence of its own. Without labels there is one part.

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
        self._is_public = public is not None
        sizes = config.candidates_per_label
        texts = (
            [[] for _ in sizes]
            if public is None
            else public_texts_of_parts(public, tools.truncate, config, run.number)
        )
        self._parts = [Part(size, own) for size, own in zip(sizes, texts, strict=True)]
        self._totals: list[np.ndarray] = []
        self.token_answer: TokenAnswer | None = None
        self._tilts: list[TiltReading] = []  # What a mean by label says of texts with each label.

    def choose_tokens(self) -> None:
        """Choose the tokens that clients are asked about, while the tokenizer has read public texts only.

        Raises:
            ValueError: The tokenizer does not read a text alike every time, or is not that of the run in `run_dir`.
        """
        if self._tools.reader is not None:
            check_reads_alike(self._source, self._tools.reader)
        self._check_reader()

    @cached_property
    def first_questions(self) -> list[FirstQuestion]:
        """The questions that are asked before the first round, and what their answers are read as.

        Raises:
            ValueError: The public texts are not those that the run began with, or a question cannot be interpreted.
        """
        questions = []
        if self._config.mean_fraction > 0:
            kind = LABELED_MEAN if self._config.labels else MEAN_EMBEDDING
            questions.append(FirstQuestion(kind.name, lambda: self._mean_question, self._read_mean))
        if self._config.token_fraction:
            kind = LABELED_TOKEN_COUNTS if self._config.labels else TOKEN_COUNTS
            questions.append(FirstQuestion(kind.name, self._ask_about_tokens, partial(self._read_tokens, kind.name)))
        questions += [self._first(each) for each in self._questions]
        if questions and self._is_public:
            self._check_public("public", self._source)
        for each in self._questions:
            if isinstance(each, Interprets):
                self._score(each, np.zeros(each.num_bins), self._embed_as("Embedding", self._source[:2]))
        return questions

    @cached_property
    def initial(self) -> list[list[str]]:
        """The first candidates `S_1` of each label: drawn from public texts, or written by the language model."""
        if not self._is_public:
            return self._written
        drawn = self._keep_texts("candidates-1", self._draw_first)
        is_given = all(set(own) <= set(part.public) for own, part in zip(drawn, self._parts, strict=True))
        is_given = is_given and (any(part.evidence for part in self._parts) or drawn == self._draw_first())
        for own, part in zip(drawn, self._parts, strict=True):
            part.begin(own)
        self._check_public("reserve", joined([part.reserve.texts for part in self._parts]), is_given)
        return drawn

    def represent(self, texts: list[list[str]], number: int) -> Candidates:
        """Make the candidates of a round from the texts of each label."""
        size, label = self._config.lookahead * sum(map(len, texts)), self._run.label(number)
        rng = self._run.rng(number).lookahead

        def look_ahead() -> list[str]:
            # One call for all of them: batches of similar length then need the least padding.
            return self._run.keep(
                f"lookahead-{number}",
                lambda made: is_texts(made) and len(made) == size,
                lambda: self._vary(joined(texts) * self._config.lookahead, rng, f"{label}: looking ahead"),
            )

        def embed(shown: Sequence[str]) -> np.ndarray:
            return self._embed_as(f"{label}: embedding", shown)

        return Candidates(number, texts, self._config, embed, look_ahead if size else None)

    def weigh(self, candidates: Candidates, answer: np.ndarray) -> np.ndarray:
        """Select among the candidates, and learn what their votes say about the other public texts."""
        number, votes = candidates.round, candidates.votes(answer)
        self._totals.append(candidates.totals(answer))
        noise_std = self._run.noise_std(candidates.kind)
        readings = [
            VotesReading(votes[part], noise_std, lambda part=part: candidates.embeddings[part])  # type: ignore[misc]
            for part in candidates.parts
        ]

        def select() -> list[float]:
            selected = [_checked(self._rule.select(reading), len(reading.votes)) for reading in readings]
            return np.concatenate(selected).tolist()

        if not self._config.smooth_votes:
            if isinstance(self._rule, ThresholdRule):
                return np.array(select())  # The same again, in every process.
            is_kept = partial(is_weights, number=len(votes))
            return np.array(self._run.keep(f"weights-{number}", is_kept, lambda: broadcast(select())))
        for part, reading in zip(self._parts, readings, strict=True):
            part.evidence.add(reading)
        reserves = [part.reserve for part in self._parts]

        def weigh() -> list[float]:
            with self._run.stage("smoothing"):
                weights = select()
            for part in self._parts:
                if part.reserve.texts and number < self._config.num_rounds:
                    self._learn(part, self._run.label(number))
            # Processes on different machines would differ by rounding.
            return broadcast([*weights, *np.concatenate([reserve.ratios for reserve in reserves]).tolist()])

        size = len(votes) + sum(len(reserve.texts) for reserve in reserves)
        kept = np.array(self._run.keep(f"weights-{number}", lambda made: is_weights(made, size), weigh))
        for reserve, own in zip(reserves, parts_of([len(reserve.texts) for reserve in reserves]), strict=True):
            reserve.ratios = kept[len(votes) :][own]
        return kept[: len(votes)]

    def next(self, candidates: Candidates, parents: np.ndarray, rng: np.random.Generator) -> list[list[str]]:
        """Take new public texts, keep survivors if the settings say so, and vary parents for the rest."""

        def make() -> list[list[str]]:
            of_parts = [parents[(own.start <= parents) & (parents < own.stop)] for own in candidates.parts]
            drafts = [
                self._children(part, candidates, own, rng) for part, own in zip(self._parts, of_parts, strict=True)
            ]
            varied = joined([wanted for _, wanted in drafts])
            made = iter(self._vary(varied, rng, f"{self._run.label(candidates.round)}: varying") if varied else [])
            return [list(dict.fromkeys([*ready, *islice(made, len(wanted))])) for ready, wanted in drafts]

        texts = self._keep_texts(f"candidates-{candidates.round + 1}", make)
        for part, own in zip(self._parts, texts, strict=True):
            part.reserve.leave_out(own)
        return texts

    def finish(self, seeds: Seeds) -> list[dict[str, Any]]:
        """Complete the rows of the seeds by what the evidence says of them, and by the shares of their labels."""
        rows = seeds.rows
        if all(part.evidence for part in self._parts):
            for row, preference in zip(rows, self._preferences(seeds), strict=True):
                row["preference"] = preference
        shares = self.shares
        if shares is not None:
            for row, label in zip(rows, seeds.labels, strict=True):
                row["share"] = shares[label]
        if self._tilts:
            for row, scores in zip(rows, self._label_scores(seeds), strict=True):
                row["label_scores"] = scores
        return rows

    @property
    def shares(self) -> list[float] | None:
        """The share of each label: what the settings say, or what the clients answered. None without labels."""
        config = self._config
        if not config.labels:
            return None
        if config.label_shares is not None:
            return [float(config.label_shares[name]) for name in config.labels]
        return shares_of(np.array(self._totals)).tolist()

    @property
    def evidence(self) -> RunEvidence | None:
        """What all releases say together of any text. None if some label has none."""
        if not all(part.evidence for part in self._parts):
            return None
        return RunEvidence.of([part.evidence.readings for part in self._parts], self.shares or [1.0])

    def _preferences(self, seeds: Seeds) -> list[float]:
        """Compute how many times as many texts like each seed the evidence asks for."""

        def compute() -> list[float]:
            labels = np.array(seeds.labels)
            ratios = np.ones(len(labels))
            for number, part in enumerate(self._parts):
                if (labels == number).any():
                    embeddings = self._embed_as("Embedding the seeds", seeds.texts_of(number))
                    ratios[labels == number] = part.evidence.ratios(embeddings)
            return broadcast(ratios.tolist())

        return self._run.keep("preferences", lambda made: is_weights(made, len(seeds.labels)), compute)

    def _label_scores(self, seeds: Seeds) -> list[list[float]]:
        """Compute what the mean by label says of each seed under each label."""
        number = len(seeds.rows)

        def compute() -> list[list[float]]:
            embeddings = self._embed_as("Embedding the seeds", [row["text"] for row in seeds.rows])
            scores = [tilt.log_ratios(embeddings) for tilt in self._tilts]
            return broadcast(np.stack(scores, axis=1).tolist())

        return self._run.keep("label-scores", partial(is_scores, (number, len(self._parts))), compute)

    def _keep_texts(self, step: str, make: Callable[[], list[list[str]]]) -> list[list[str]]:
        """Keep the texts of each label. Without labels, the list of the one part is what is kept."""
        if self._config.labels:
            return self._run.keep(step, partial(is_texts_of, len(self._parts)), make)
        return [self._run.keep(step, is_texts, lambda: make()[0])]

    @cached_property
    def _written(self) -> list[list[str]]:
        """The population that the language model writes."""
        labels, run = range(len(self._parts)), self._run.number
        with self._run.stage("writing the initial population"):
            return self._keep_texts("candidates-1", lambda: [self._tools.write(label, run) for label in labels])

    @cached_property
    def _source(self) -> list[str]:
        """The texts that the first candidates are drawn from: public ones, or the written population itself."""
        texts = [part.public for part in self._parts] if self._is_public else self._written
        return list(dict.fromkeys(joined(texts)))

    @cached_property
    def _source_embeddings(self) -> np.ndarray:
        return self._embed_as("Embedding public texts", self._source)

    @cached_property
    def _mean_question(self) -> MeanEmbedding | LabeledMeanEmbedding:
        if self._config.labels:
            return LabeledMeanEmbedding.of(self._source_embeddings, len(self._parts))
        return MeanEmbedding.of(self._source_embeddings)

    def _embeddings_of(self, texts: Sequence[str]) -> np.ndarray:
        """Look up the embeddings of texts among those of all public ones."""
        index = {text: number for number, text in enumerate(self._source)}
        return self._source_embeddings[[index[text] for text in texts]]

    def _check_public(self, step: str, texts: Sequence[str], is_given: bool = True) -> None:
        digest = [blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()]
        if not is_given or self._run.keep(step, is_texts, lambda: digest) != digest:
            raise ValueError(
                "`initial_population` is not the one that the run in `run_dir` began with. A run continues with the "
                "texts that it began with: give those, or choose another folder, whose epsilon adds to this one's."
            )

    def _read_mean(self, answer: np.ndarray) -> None:
        config, center = self._config, self._mean_question.center[0] / EMBEDDING_UNITS
        noise_std = self._run.noise_std(LABELED_MEAN.name if config.labels else MEAN_EMBEDDING.name)
        # Of some of the clients, or for each label, the mean itself is not known.
        is_whole = not config.labels and config.client_sampling_rate == 1 and config.max_dropout is None
        mean = mean_of(answer, noise_std, self._run.num_clients or 0, center) if is_whole else None
        for part, direction in zip(self._parts, answer.reshape(len(self._parts), -1), strict=True):
            if config.labels:
                direction = broadcast(tilt_direction(direction, noise_std, self._source_embeddings))
            reading = MeanReading(direction, center, lambda: self._source_embeddings, mean)
            part.evidence.add(reading)
            self._tilts += [reading] if config.labels else []

    def _ask_about_tokens(self) -> Question:
        self._check_reader()
        return self._token_list.question(len(self._config.label_names))

    def _check_reader(self) -> None:
        reader = self._tools.reader
        if reader is None or reader.fingerprint != self._token_list.tokenizer:
            raise ValueError(
                "`expansion_model` has another tokenizer than the one with which the run in `run_dir` began. Give the "
                "same model, or choose another folder, whose epsilon adds to this one's."
            )

    def _read_tokens(self, kind: str, answer: np.ndarray) -> None:
        """Keep the answer for the language model. It says nothing about which texts to choose."""
        noise_std, num_clients = self._run.noise_std(kind), self._run.num_clients or 0
        self.token_answer = TokenAnswer.of(self._token_list, answer, noise_std, num_clients)

    @cached_property
    def _token_list(self) -> TokenList:
        """The tokens that clients are asked about, chosen by public texts alone."""

        def choose() -> dict[str, Any]:
            assert self._tools.reader is not None  # As `check_population` made sure.
            with self._run.stage("choosing tokens"):
                return broadcast(self._choose_tokens(self._tools.reader).to_dict())

        return TokenList.from_dict(self._run.keep("tokens", TokenList.is_valid, choose))

    def _choose_tokens(self, reader: TokenReader) -> TokenList:
        return TokenList.of(self._source, reader, self._config)

    def _add_to_all(self, reading: Reading) -> None:
        """Take in what a release says that is about the texts of all labels."""
        for part in self._parts:
            part.evidence.add(reading)

    def _first(self, question: Question) -> FirstQuestion:
        """Ask a question of the caller, whose answer is part of the evidence if the question can interpret it."""

        def read(answer: np.ndarray) -> None:
            if isinstance(question, Interprets):
                score = partial(self._score, question, answer)
                self._add_to_all(TiltReading(score, lambda: self._source_embeddings))

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

    def _draw_first(self) -> list[list[str]]:
        """Draw the first candidates: at random, or by the evidence of the first questions."""
        rng = np.random.default_rng([self._config.seed, self._run.number, 0])

        def draw(part: Part) -> list[str]:
            if not part.evidence:
                return part.public[: part.size]
            everything = Reserve(part.public)
            everything.ratios = np.array(broadcast(part.evidence.ratios(self._embeddings_of(part.public)).tolist()))
            return everything.draw(part.size, rng)

        return [draw(part) for part in self._parts]

    def _children(
        self, part: Part, candidates: Candidates, parents: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[str], list[str]]:
        """Make the next texts of a label, as far as they are there already, and list those that are to be varied."""
        config = self._config
        survivors = [candidates.texts[index] for index in np.unique(parents)] if config.keep_survivors else []
        num_public = min(round(config.new_public_share * part.size), part.size - len(survivors))
        children = [*part.reserve.draw(num_public, rng), *survivors]
        ready = candidates.variations if config.reuse_lookahead else []
        num_children: Counter[int] = Counter()
        varied = []
        for parent in rng.permutation(parents)[len(children) :]:
            if (child := num_children[parent]) < len(ready):
                children.append(ready[child][parent])
            else:
                varied.append(candidates.texts[parent])
            num_children[parent] += 1
        return children, varied

    def _learn(self, part: Part, label: str) -> None:
        """Ask the evidence about the public texts in reserve."""
        reserve = part.reserve
        # Then all public texts are embedded already, or the parts have them in common.
        are_embedded = self._config.mean_fraction > 0 or self._questions
        if reserve.embeddings is None and (are_embedded or len(self._parts) > 1):
            reserve.embeddings = self._embeddings_of(reserve.texts)
        elif reserve.embeddings is None:
            reserve.embeddings = self._embed_as(f"{label}: embedding public texts", reserve.texts)
        reserve.ratios = part.evidence.ratios(reserve.embeddings, among=reserve.embeddings)

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
