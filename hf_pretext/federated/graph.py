r"""Who is linked to whom in secure aggregation: the degree and the threshold that are safe, computed exactly.

Every client chooses `k` others as the holders of its secrets, uniformly and with randomness of its own, after the list
of all keys is fixed. It shares its secrets among them and itself, with the threshold `t`. Two clients have a common
mask if one of them holds the secrets of the other. The server chooses no neighbor, so there is nothing that it could
grind. A ring that follows from a hash over all keys would not do: the server can let its own clients choose their keys
last, or drop any subset of clients, until the hash suits it.

Up to `COMPLETE_UP_TO` clients all hold the secrets of all. Then everything below is certain. With more clients the
degree is the smallest one for which releases are rarely lost and too few are rarely opened (Bell et al. 2020, eprint
2020/704, section 3).

*Privacy*: each of four failures has a probability of at most `2^-PRIVACY_BITS`, for all clients and one release
together. A server sees the graph before it asks for the answers, and may begin again if it does not like it. So what
depends on the graph has a probability of at most `2^-GRAPH_BITS` each time. Let `c` clients conspire with the server.
Let the server choose which honest clients count as dropped, after it has seen the graph. There are `h = n - c` honest
clients.

- *Two sets are opened.* An honest client signs one set of clients as those that have answered. So at most one set
  has genuine signatures of more than `g = floor((n + c) / 2)` clients. A client that opens masks gets signatures of
  at least `m` clients. Then it draws `num_checked` of them at random, and checks these. If no more than `g` are
  genuine, all `r` that it checks are genuine with a probability of at most `binomial(g, r) / binomial(m, r)`.
  `num_checked` is the smallest `r` for which `n` times that is improbable. A client that finds a forged one refuses
  this stage from then on.
- *Those that conspire hold enough shares.* A holder has shares of both secrets of a client: of its own mask, and of
  the key of its common ones. If `t` of the holders of a client conspire, they know both, whoever else answers, and
  read its answer alone. For all clients this has the probability `h P[Hyp(n - 1, c, k) >= t]` at most. Otherwise they
  need the others, who open one of the two secrets only.
- *A small set is opened.* All clients that open masks agree on one set `U` of at least `m` clients, and only members
  of `U` open masks (see `masked_client`). A set `S` of honest clients of `U` is opened alone only if no member of
  `S` has chosen one of the rest of `U`. The choices of honest clients are independent, so the bounds are products
  over members. They are summed over all sets. The mask of a member of `S` comes off only with `t - 1` shares besides
  its own, all of them from `S` or from clients that conspire. For `s` members this has the probability `P[Hyp(n - 1,
  c + s - 1, k) >= t - 1]^s`. For `s = 1` this is the condition of Bell et al. Besides, none of `S` has chosen one of
  the at least `q = m - c - s` others, which has the probability `(binomial(n - 1 - q, k) / binomial(n - 1, k))^s`.
  The smaller bound counts.
- *Many are left out.* The rest of `U` may be a set `Q` that no member of `S` has chosen, and that the server leaves
  out. The noise of `Q` would be missing. For `q` members this has the probability `(binomial(n - 1 - q, k) /
  binomial(n - 1, k))^s` with `s = m - c - q`. `num_spare` is the `q` above which it is improbable. That many more
  answers are needed.

*Failure*, `2^-FAILURE_BITS` for all clients and one release together: some client has fewer than `t` holders among the
others that answer, if these are as few as may be, and chosen at random. Then the release is lost, and counted. Nothing
is opened.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

COMPLETE_UP_TO = 200
"""Most clients that are all linked to each other. Their keys and shares still take less than 60 kB of upload."""

PRIVACY_BITS = 40
FAILURE_BITS = 20
GRAPH_BITS = 60
"""For what a server sees of a graph before a release is counted. It may let clients begin again, a million times."""

SLACK = 1e-6
"""By how many bits the arithmetic of another machine may differ."""


@dataclass(frozen=True)
class Graph:
    """How the clients of one release are linked.

    Args:
        size (`int`): Number of clients.
        num_colluding (`int`): Number of clients that may conspire with the server.
        num_needed (`int`): Number of clients whose answers have to be in a sum.
        degree (`int`): Number of others that hold the secrets of a client.
        threshold (`int`): Number of shares that say what a secret is. The client itself holds one of them.
    """

    size: int
    num_colluding: int
    num_needed: int
    degree: int
    threshold: int

    @property
    def is_complete(self) -> bool:
        """Whether everyone is linked to everyone."""
        return self.degree == self.size - 1

    @property
    def num_to_open(self) -> int:
        """Number of clients that must have answered before anyone opens a mask."""
        if self.is_complete:
            return self.num_needed
        return self.num_needed + num_spare(self.size, self.num_colluding, self.num_needed, self.degree)

    @property
    def num_checked(self) -> int:
        """Number of signatures of a set that a client draws and checks, of `num_needed` or more. See above."""
        if self.is_complete:
            return self.num_needed
        return _num_checked(self.size, (self.size + self.num_colluding) // 2, self.num_needed)

    @property
    def privacy_failure(self) -> float:
        """Log2 of a bound on the probability that one answer, or those of few, are opened. `-inf` if it is zero."""
        if self.is_complete:
            return -math.inf if self.num_colluding < self.threshold else 0.0
        return _privacy_failure(self.size, self.num_colluding, self.num_needed, self.degree, self.threshold)

    def check(self) -> None:
        """Refuse a graph that is not safe, at a client.

        Raises:
            ValueError: The degree or the threshold is too small, or not possible.
        """
        words = f"A graph of degree {self.degree} and threshold {self.threshold} among {self.size} clients"
        if not 1 <= self.degree < self.size or not 2 <= self.threshold <= self.degree + 1:
            raise ValueError(f"{words} is not possible.")
        if self.is_complete and self.threshold != self.num_needed:
            raise ValueError(f"{words} is not safe: its threshold has to be {self.num_needed}.")
        if not self.is_complete and self.size <= COMPLETE_UP_TO:
            raise ValueError(f"{words} is not safe: up to {COMPLETE_UP_TO} clients are all linked to each other.")
        if self.privacy_failure > SLACK - GRAPH_BITS:
            raise ValueError(
                f"{words} is not safe: with {self.num_colluding} that conspire, the server may learn more than the "
                f"sum with a probability of 2^{self.privacy_failure:.0f}, above 2^-{GRAPH_BITS}."
            )


@lru_cache(maxsize=64)
def find_graph(size: int, num_colluding: int, num_needed: int) -> Graph:
    """Find the smallest degree that is safe, and its threshold.

    Args:
        size (`int`): Number of clients that have sent keys.
        num_colluding (`int`): Number of them that may conspire with the server.
        num_needed (`int`): Number of them whose answers have to be in the sum.
    """
    complete = Graph(size, num_colluding, num_needed, size - 1, num_needed)
    if size <= COMPLETE_UP_TO:
        return complete

    def attempt(degree: int) -> Graph | None:
        answers = num_needed + num_spare(size, num_colluding, num_needed, degree)
        graph = Graph(size, num_colluding, num_needed, degree, find_threshold(size, answers, degree))
        is_possible = answers <= size and graph.threshold >= 2
        return graph if is_possible and graph.privacy_failure <= -GRAPH_BITS else None

    low, high = 1, size - 1  # A larger degree is safe if a smaller one is, up to rounding of the threshold.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if attempt(middle) is None else (low, middle)
    return attempt(high) or complete


@lru_cache(maxsize=1024)
def find_threshold(size: int, num_answers: int, degree: int) -> int:
    """Find the largest threshold with which a release is rarely lost. 0 if there is none."""
    low, high = 0, degree + 1
    while high - low > 1:
        middle = (low + high) // 2
        # Fewer than the threshold answer if more than the rest do not.
        lost = math.log2(size) + log2_tail(size - 1, size - num_answers, degree, degree - middle + 1)
        low, high = (middle, high) if lost <= -FAILURE_BITS else (low, middle)
    return low


@lru_cache(maxsize=1024)
def num_spare(size: int, num_colluding: int, num_needed: int, degree: int) -> int:
    """Bound the number of honest clients that a server can leave out of a sum, after it has chosen who drops out.

    It is more than there are if nothing bounds it.
    """
    honest, total = size - num_colluding, -math.inf
    most = max(0, (num_needed - num_colluding) // 2)
    for left_out in range(most, 0, -1):
        rest = num_needed - num_colluding - left_out
        sets = log2_binomial(honest, left_out) + log2_binomial(honest - left_out, rest)
        total = _log2_sum(np.array([total, sets + rest * _log2_none(size - 1, left_out, degree)]))
        if total > -GRAPH_BITS:
            return left_out if left_out < most else size
    return 0


@lru_cache(maxsize=64)
def _num_checked(size: int, too_few: int, given: int) -> int:
    """Compute how many of `given` signatures to draw, so that of `size` clients rarely one finds all genuine.

    Args:
        size (`int`): Number of clients that draw.
        too_few (`int`): Most signatures that are genuine.
        given (`int`): Number of signatures.
    """
    for checked in range(1, given):
        if math.log2(size) + log2_binomial(too_few, checked) - log2_binomial(given, checked) <= -PRIVACY_BITS:
            return checked
    return given


@lru_cache(maxsize=1024)
def _privacy_failure(size: int, num_colluding: int, num_needed: int, degree: int, threshold: int) -> float:
    honest = size - num_colluding
    # Whatever else they are linked to, so before what makes a set of clients stand apart.
    bounds = [math.log2(honest) + log2_tail(size - 1, num_colluding, degree, threshold)]
    for small in range(1, honest // 2 + 1):
        sets = log2_binomial(honest, small)
        held = log2_tail(size - 1, num_colluding + small - 1, degree, threshold - 1)
        rest = max(small, num_needed - num_colluding - small)
        apart = log2_binomial(honest - small, rest) + small * _log2_none(size - 1, rest, degree)
        bounds.append(min(sets + small * held, sets + apart, 0.0))
    return min(0.0, _log2_sum(np.array(bounds)))


def log2_binomial(total: int, chosen: int) -> float:
    """Compute the log2 of a binomial coefficient. `-inf` if it is zero."""
    if not 0 <= chosen <= total:
        return -math.inf
    return (math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)) / math.log(2)


def log2_tail(total: int, marked: int, drawn: int, at_least: int) -> float:
    """Compute the log2 of the probability that a random subset holds at least some number of marked elements.

    Args:
        total (`int`): Number of elements.
        marked (`int`): Number of marked ones.
        drawn (`int`): Size of the subset.
        at_least (`int`): The number.
    """
    least, most = max(at_least, 0, drawn - (total - marked)), min(drawn, marked)
    if at_least <= max(0, drawn - (total - marked)):
        return 0.0
    if least > most:
        return -math.inf
    hits = np.arange(least, most + 1)
    logs = _log2_factorials(total)
    ways = logs[marked] - logs[hits] - logs[marked - hits]
    ways += logs[total - marked] - logs[drawn - hits] - logs[total - marked - drawn + hits]
    return min(0.0, _log2_sum(ways) - log2_binomial(total, drawn))


def _log2_none(total: int, marked: int, drawn: int) -> float:
    """Compute the log2 of the probability that a random subset holds no marked element."""
    return log2_binomial(total - marked, drawn) - log2_binomial(total, drawn)


def _log2_sum(logs: np.ndarray) -> float:
    largest = float(logs.max(initial=-math.inf))
    return largest if math.isinf(largest) else largest + math.log2(float(np.exp2(logs - largest).sum()))


@lru_cache(maxsize=8)
def _log2_factorials(largest: int) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, largest + 1)))])
