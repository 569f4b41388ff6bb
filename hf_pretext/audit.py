"""Audits: how much an attacker does learn about clients, as a lower bound on epsilon.

An audit is made before a run: canary clients with made-up texts, and some real clients, take part or not by a coin
flip each (`enlist`). After the run an attack scores each of them by what was released (`vote_scores`), what was
generated (`similarity_scores`, `ngram_scores`), or a model that was finetuned on it (`loss_scores`), and guesses who
took part. Guesses that are right more often than an epsilon allows refute that epsilon; the largest that is refuted is
the bound (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846; for synthetic text and client-level splits see arXiv
2606.16952, for canaries and mu-GDP arXiv 2606.10481). A bound below the claim refutes nothing; it says how strong this
attack was.

Nothing here is covered by a guarantee: coin flips, scores and bounds are about private data and belong to its owner.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import RunFolder
from .configuration import PrivateEvolutionConfig
from .voting import count_votes, nearest_candidates, quantize_embeddings

if TYPE_CHECKING:
    from datasets import Dataset

    from .evaluation import TokenScores

SHARES_GUESSED = (0.125, 0.25, 0.5, 1.0)
"""Shares of the targets that an attack makes a guess about; each is tried, and the confidence pays for all of them."""

OWN_CANDIDATE = 0.9
"""Cosine similarity from which a candidate is a canary's own, or a descendant of it."""


@dataclass(frozen=True)
class Targets:
    """Clients that an audit is about.

    Args:
        texts (`tuple` of `tuple` of `str`): Samples of each, as many as a client may vote with.
        is_canary (`np.ndarray` of `bool`): Which of them are made up.
        is_member (`np.ndarray` of `bool`): How their coins fell: which of them take part.
    """

    texts: tuple[tuple[str, ...], ...]
    is_canary: np.ndarray
    is_member: np.ndarray


def make_canaries(num_canaries: int, num_words: int = 8, seed: int = 0) -> list[str]:
    """Make up texts of hexadecimal numbers, all different, so unlike any language that nobody else votes for them."""
    rng = np.random.default_rng([seed, 1])
    canaries: dict[str, None] = {}
    while len(canaries) < num_canaries:
        canaries.setdefault(" ".join(f"{number:04x}" for number in rng.integers(2**16, size=num_words)))
    return list(canaries)


def enlist(
    private: "Dataset", config: PrivateEvolutionConfig, num_canaries: int, client_share: float = 0.1, seed: int = 0
) -> tuple["Dataset", Targets]:
    """Choose the targets, flip their coins, and make the private dataset of the audited run.

    Args:
        private (`datasets.Dataset`): The private texts, as a generator takes them.
        config (`PrivateEvolutionConfig`): Names of the columns, most samples per client.
        num_canaries (`int`): Number of canaries; each fills up its samples with copies of one text.
        client_share (`float`, *optional*, defaults to `0.1`): Share of the real clients that are targets.
        seed (`int`, *optional*, defaults to `0`): Seed of all choices, so that a later step finds them again.

    Returns:
        The dataset without the targets whose coins fell on the other side, and the targets.

    Raises:
        ValueError: There are no targets, or `client_share` is no share.
    """
    if not 0 <= client_share <= 1:
        raise ValueError(f"`client_share`={client_share} must lie between 0 and 1.")
    from datasets import Dataset

    rng = np.random.default_rng([seed, 0])
    samples: dict[Any, list[str]] = {}
    for text, client in zip(private[config.text_column], private[config.client_column], strict=True):
        samples.setdefault(client, []).append(text)
    clients = list(samples)
    chosen = [clients[index] for index in rng.permutation(len(clients))[: round(client_share * len(clients))]]
    canaries = make_canaries(num_canaries, seed=seed)
    texts = tuple((canary,) * config.max_samples_per_client for canary in canaries)
    texts += tuple(tuple(samples[client][: config.max_samples_per_client]) for client in chosen)
    if not texts:
        raise ValueError(f"`num_canaries`={num_canaries} and `client_share`={client_share} leave nobody to audit.")
    targets = Targets(texts, np.arange(len(texts)) < num_canaries, rng.random(len(texts)) < 0.5)
    left_out = {
        client for client, is_member in zip(chosen, targets.is_member[num_canaries:], strict=True) if not is_member
    }
    rows = [(client, text) for client, own in samples.items() if client not in left_out for text in own]
    prefix = "canary"
    while any(str(client).startswith(prefix) for client in samples):
        prefix += "-"
    rows += [
        (f"{prefix}-{number}", text)
        for number, own in enumerate(texts[:num_canaries])
        if targets.is_member[number]
        for text in own
    ]
    return Dataset.from_dict(
        {config.client_column: [str(client) for client, _ in rows], config.text_column: [text for _, text in rows]}
    ), targets


def vote_scores(
    run_dir: str | Path, targets: Targets, embed: Callable[[list[str]], np.ndarray], votes_per_sample: int = 1
) -> np.ndarray:
    """Score targets by the releases themselves: by how much their own votes seem to be in the histogram of each round.

    The strongest attack here: it sees everything that the server sees. Canaries should be among the initial
    population, so that each has a candidate of its own; a target that never has one scores zero.

    Args:
        run_dir (`str` or `Path`): The run folder.
        targets (`Targets`): Whom to score.
        embed (`Callable`): The embedding model of the run, such as `PrivateEvolutionGenerator.embed`.
        votes_per_sample (`int`, *optional*, defaults to `1`): As in the configuration of the run.

    Returns:
        `np.ndarray`: A score for each target; members should have higher ones.
    """
    scores = np.zeros(len(targets.texts))
    points, owners = _embed_targets(targets, embed)
    for candidates, votes in RunFolder(run_dir).rounds():
        places = quantize_embeddings(embed(candidates))
        nearest = nearest_candidates(points, places, votes_per_sample)
        similarities = np.einsum("nd,nd->n", points, places[nearest[:, 0]]) / np.einsum("nd,nd->n", points, points)
        near = similarities > OWN_CANDIDATE
        voters, bins, counts = count_votes(owners[near], nearest[near], len(candidates))
        norms = np.sqrt(np.bincount(voters, counts**2, len(scores)))
        added = np.zeros((len(candidates), len(scores)))
        added[bins, voters] = counts / norms[voters]
        scores += _memberships(added, votes)
    return scores


def _memberships(added: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Tell which targets' votes are in a histogram, by Bayesian linear regression (Bishop 2006, section 3.3).

    The histogram is what the members add, each a member by the fall of a coin, plus the same for every bin, plus
    noise, whose variance is not taken on trust: it has the largest marginal likelihood. So targets that share bins are
    told apart.

    Args:
        added (`np.ndarray` of shape `(m, n)`): What a target adds to a bin if it is a member, up to a common factor.
        votes (`np.ndarray` of shape `(m,)`): The histogram.

    Returns:
        `np.ndarray` of shape `(n,)`: Zero for targets that add nothing; the higher, the likelier a member.
    """
    added = added - added.mean(axis=0)
    rest = votes - votes.mean() - added.sum(axis=1) / 2
    basis, values, directions = np.linalg.svd(added, full_matrices=False)
    coordinates = basis.T @ rest
    outside = max(float(rest @ rest - coordinates @ coordinates), 0.0)
    prior = values**2 / 4  # the variance of a fair coin
    noises = max(float(rest.var()), 1e-12) * np.geomspace(1e-4, 1, 40)
    likelihoods = [
        -(coordinates**2 / (prior + noise) + np.log(prior + noise)).sum()
        - outside / noise
        - (len(votes) - len(values)) * np.log(noise)
        for noise in noises
    ]
    noise = noises[int(np.argmax(likelihoods))]
    return (coordinates * values / 4 / (prior + noise)) @ directions


def similarity_scores(
    outputs: Sequence[str], targets: Targets, embed: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Score targets by how near their texts are to the nearest text of what was generated (mean cosine similarity)."""
    points, owners = _embed_targets(targets, embed)
    places = quantize_embeddings(embed(list(outputs)))
    nearest = places[nearest_candidates(points, places)[:, 0]]
    lengths = np.linalg.norm(points, axis=1) * np.linalg.norm(nearest, axis=1)
    return _mean_per_target(np.einsum("nd,nd->n", points, nearest) / lengths, owners, len(targets.texts))


def ngram_scores(outputs: Sequence[str], reference: Sequence[str], targets: Targets) -> np.ndarray:
    """Score targets by bigrams: how much likelier what was generated makes their texts than public text does.

    The score of a text is the mean over its words of the difference of two log-probabilities, of bigram models of the
    outputs and of the reference, smoothed with unigrams (after Meeus et al. 2025, arXiv 2502.14921).

    Args:
        outputs (`Sequence[str]`): What was generated.
        reference (`Sequence[str]`): Public texts, such as the initial population.
        targets (`Targets`): Whom to score.
    """
    of_outputs, of_reference = _BigramModel(outputs), _BigramModel(reference)
    texts, owners = _unique_texts(targets)
    scores = np.array([of_outputs.log_probability(text) - of_reference.log_probability(text) for text in texts])
    return _mean_per_target(scores, owners, len(targets.texts))


def loss_scores(before: "TokenScores", after: "TokenScores", targets: Targets) -> np.ndarray:
    """Score targets by how much finetuning lowered the loss on their texts, in nats per token.

    Args:
        before (`TokenScores`): Scores of the model before finetuning, on `target_texts(targets)`.
        after (`TokenScores`): Scores of the finetuned model on the same texts.
        targets (`Targets`): Whom to score.
    """
    _, owners = _unique_texts(targets)
    tokens = np.maximum(before.num_tokens, 1)
    return _mean_per_target((before.loss - after.loss) / tokens, owners, len(targets.texts))


def target_texts(targets: Targets) -> list[str]:
    """List the texts of all targets, each once per target, in the order that `loss_scores` expects."""
    return _unique_texts(targets)[0]


@dataclass(frozen=True)
class AuditReading:
    """What one attack achieved.

    Args:
        attack (`str`): Its name.
        epsilon_lower_bound (`float`): With this confidence, the mechanism's epsilon is not below it.
        confidence (`float`): The confidence, all numbers of guesses that were tried counted in.
        num_targets (`int`): Number of targets.
        num_guesses (`int`): Number of guesses that gave the bound.
        num_correct (`int`): How many of these were right.
        auc (`float`): Probability that a member scores higher than another target; 0.5 is chance.
        auc_low (`float`): Lower end of its 95 % interval.
        auc_high (`float`): Upper end.
    """

    attack: str
    epsilon_lower_bound: float
    confidence: float
    num_targets: int
    num_guesses: int
    num_correct: int
    auc: float
    auc_low: float
    auc_high: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary that JSON can hold."""
        return asdict(self)


def read_scores(
    attack: str, scores: np.ndarray, is_member: np.ndarray, delta: float, confidence: float = 0.95
) -> AuditReading:
    """Turn the scores of an attack into a lower bound on epsilon.

    The scores are split into a higher and a lower group; the higher one is guessed to be members, and no guess is
    made about those nearest to the border. Who is a member has no part in this. Of several numbers of guesses the best
    bound counts, at a confidence that pays for all of them (Bonferroni).

    Args:
        attack (`str`): Its name.
        scores (`np.ndarray` of shape `(n,)`): Higher for those that seem to be members.
        is_member (`np.ndarray` of shape `(n,)`): How the coins fell: fair and independent ones.
        delta (`float`): The delta of the claim.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Raises:
        ValueError: Nobody, or everybody, is a member, so there is nothing to tell apart.
    """
    if is_member.all() or not is_member.any():
        raise ValueError("`is_member` is the same for all targets: use more of them, so that coins fall both ways.")
    each = 1 - (1 - confidence) / len(SHARES_GUESSED)
    border = _border(scores)
    is_right = (scores > border) == is_member
    # Ties are broken without looking at who is a member.
    order = np.lexsort((np.random.default_rng(0).random(len(scores)), -np.abs(scores - border)))
    results = []
    for num_guesses in sorted({max(1, int(share * len(scores))) for share in SHARES_GUESSED}):
        correct = int(is_right[order[:num_guesses]].sum())
        results.append((epsilon_lower_bound(correct, num_guesses, len(scores), delta, each), num_guesses, correct))
    bound, num_guesses, num_correct = max(results)
    auc, low, high = _auc(scores[is_member], scores[~is_member])
    return AuditReading(attack, bound, confidence, len(scores), num_guesses, num_correct, auc, low, high)


def epsilon_lower_bound(
    num_correct: int, num_guesses: int, num_targets: int, delta: float, confidence: float = 0.95
) -> float:
    """Compute the largest epsilon that so many right guesses refute (Steinke et al. 2023, theorem 5.2).

    Under `(epsilon, delta)`-DP the number of right guesses is at most binomial with success probability
    `e^epsilon / (1 + e^epsilon)`, but for `delta`: the probability of `v` or more is at most
    `f(v) + 2 m delta max_i (f(v - i) - f(v)) / i`, with `f` the binomial's upper tail and `m` the number of targets.

    Args:
        num_correct (`int`): Right guesses `v`.
        num_guesses (`int`): Guesses `r`.
        num_targets (`int`): Targets `m`, each with a fair coin of its own.
        delta (`float`): The delta of the claim.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Returns:
        `float`: The bound; 0 where nothing is refuted.
    """
    if not 0 <= num_correct <= num_guesses <= num_targets:
        raise ValueError(
            f"`num_correct`={num_correct}, `num_guesses`={num_guesses} and `num_targets`={num_targets} must not "
            "exceed one another, in this order."
        )
    from scipy.stats import binom

    def p_value(epsilon: float) -> float:
        success = 1 / (1 + math.exp(-epsilon))
        tail = binom.sf(num_correct - 1, num_guesses, success)
        steps = np.arange(1, num_correct + 1)
        gains = (binom.sf(num_correct - 1 - steps, num_guesses, success) - tail) / steps
        return float(tail + 2 * num_targets * delta * gains.max(initial=0.0))

    low, high = 0.0, 30.0
    if p_value(low) > 1 - confidence:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= 1 - confidence else (low, middle)
    return low


def mu_lower_bound(scores_with: np.ndarray, scores_without: np.ndarray, confidence: float = 0.95) -> float:
    """Bound the mu of Gaussian differential privacy from below by many runs with one client, and many without.

    A test with false-positive rate `a` and true-positive rate `b` refutes every `mu < z(b) - z(a)`, with `z` the
    normal quantile (Dong, Roth and Su 2022, arXiv 1905.02383). The threshold is chosen
    on one half of the runs, where it separates best, and the rates are bounded on the other half (Clopper-Pearson).

    Args:
        scores_with (`np.ndarray` of shape `(n,)`): An attack's score of each run with the client.
        scores_without (`np.ndarray` of shape `(m,)`): Its score of each run without.
        confidence (`float`, *optional*, defaults to `0.95`): Probability with which the bound holds.

    Returns:
        `float`: The bound; 0 where nothing is refuted.
    """
    from scipy.stats import beta, norm

    def bound(with_client: np.ndarray, without: np.ndarray, threshold: float, miss: float) -> float:
        hits, alarms = int((with_client > threshold).sum()), int((without > threshold).sum())
        power = beta.ppf(miss, hits, len(with_client) - hits + 1) if hits else 0.0
        alarm = beta.ppf(1 - miss, alarms + 1, len(without) - alarms) if alarms < len(without) else 1.0
        return float(norm.ppf(power) - norm.ppf(alarm))

    miss = (1 - confidence) / 2
    choosing, bounding = ((scores_with[half::2], scores_without[half::2]) for half in (0, 1))
    thresholds = np.linspace(np.median(choosing[1]), np.median(choosing[0]), 9)
    best = max(thresholds, key=lambda threshold: bound(*choosing, threshold, miss))
    return max(0.0, bound(*bounding, best, miss))


class _BigramModel:
    """Probabilities of words after words: bigrams, unigrams and a uniform rest, each with a fixed weight."""

    WEIGHTS = (0.6, 0.3, 0.1)
    VOCABULARY = 50_000

    def __init__(self, texts: Sequence[str]) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._words: Counter[str] = Counter()
        for text in texts:
            words = text.lower().split()
            self._words.update(words)
            self._pairs.update(zip(words, words[1:], strict=False))

    def log_probability(self, text: str) -> float:
        """Compute the mean log-probability of a text's words, each after the one before it."""
        words = text.lower().split()
        total, (of_pair, of_word, of_rest) = max(self._words.total(), 1), self.WEIGHTS
        logs = [
            math.log(
                of_pair * self._pairs[before, word] / max(self._words[before], 1)
                + of_word * self._words[word] / total
                + of_rest / self.VOCABULARY
            )
            for before, word in zip(words, words[1:], strict=False)
        ]
        return float(np.mean(logs)) if logs else 0.0


def _unique_texts(targets: Targets) -> tuple[list[str], np.ndarray]:
    pairs = [(text, owner) for owner, own in enumerate(targets.texts) for text in dict.fromkeys(own)]
    return [text for text, _ in pairs], np.array([owner for _, owner in pairs])


def _embed_targets(targets: Targets, embed: Callable[[list[str]], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    texts, owners = _unique_texts(targets)
    return quantize_embeddings(embed(texts)), owners


def _mean_per_target(scores: np.ndarray, owners: np.ndarray, num_targets: int) -> np.ndarray:
    counts = np.bincount(owners, minlength=num_targets)
    return np.bincount(owners, weights=scores, minlength=num_targets) / np.maximum(counts, 1)


def _border(scores: np.ndarray) -> float:
    """Find the border between two groups of scores: the split with the least variance within the groups."""
    ordered = np.sort(scores)
    sizes, sums = np.arange(1, len(ordered)), ordered.cumsum()[:-1]
    low, high = sums / sizes, (ordered.sum() - sums) / (len(ordered) - sizes)
    best = int(np.argmax(sizes * (len(ordered) - sizes) * (high - low) ** 2))
    return float((ordered[best] + ordered[best + 1]) / 2)


def _auc(members: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Compute the area under the ROC curve and its 95 % interval (DeLong et al. 1988)."""
    wins = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    of_members, of_others = wins.mean(axis=1), wins.mean(axis=0)
    variance = sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (of_members, of_others))
    area, reach = float(wins.mean()), 1.96 * math.sqrt(variance)
    return area, max(0.0, area - reach), min(1.0, area + reach)
