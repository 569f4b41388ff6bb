"""The mechanism of one release: how much noise, at which sensitivity, and what its discreteness costs."""

import math
from dataclasses import dataclass, replace

UNITS = 2**20
"""Integer units per 1.0. Fine enough that the discrete Gaussian is accounted for as the continuous one."""

UNITS_OF_A_FEDERATION = 2**14
"""The same if sums of many clients must fit into the 32 bits of secure aggregation."""

MIN_SCALE = 16.0
"""Smallest noise parameter that is accounted for, in units: of a release, and of one client in a federation."""

FAILURE_EXPONENT = 750.0
"""The bound on the cost of discreteness fails with a probability below exp(-750), which is zero in any arithmetic."""


@dataclass(frozen=True)
class Mechanism:
    r"""The discrete Gaussian mechanism of one release.

    Each participating client contributes an integer vector with an L2 norm of at most `clip_norm * units` (see
    `clients.clipping.quantize`). The sum over the clients gets independent discrete Gaussian noise of parameter
    `noise_multiplier * sensitivity * units` in every bin.

    *The sensitivity.* Adding or removing a client changes the sum by one such vector, so by at most `clip_norm`.
    Exchanging a client changes it by a difference, and `|a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>`. If no entry can be
    negative, this is at most `2 clip_norm^2`, and the sensitivity is `sqrt(2) clip_norm`. If entries have signs, `b`
    can be `-a`, and the sensitivity is `2 clip_norm`.

    *The discrete noise costs what continuous noise costs.* Under `"rdp"` this is a theorem: the discrete Gaussian has
    the concentrated differential privacy of the continuous one (Canonne, Kamath and Steinke 2020, arXiv 2004.00010).
    Under any accountant of the continuous mechanism it is the following bound. Let `s` be the noise parameter in
    units, `f` the density of the continuous Gaussian, `q` that Gaussian rounded to the nearest integer, and `p` the
    discrete Gaussian. Releasing integers with noise `q` is post-processing of the continuous mechanism. The ratio
    `q(x) / f(x)` is the integral over `|u| <= 1/2` of `cosh(x u / s^2) exp(-u^2 / (2 s^2))`. It is at least `1 - 1 /
    (24 s^2)`, and at most `sinh(z) / z` for `z = x / (2 s^2)`, which is at most `exp(x^2 / (24 s^4))`. By Poisson
    summation `p` is `f` up to a factor of `1 + exp(-2 pi^2 s^2)`, which is 1 in any arithmetic. So for the noise
    vector `x` of `n` bins, `|log(p(x) / q(x))|` is at most the larger of `|x|^2 / (24 s^4)` and `n / (24 s^2)`, where
    the second one holds up to a relative `1 / (24 s^2)`. By Poisson summation again, the moment generating function of
    `|x|^2 / s^2` is that of a chi-squared variable with `n` degrees of freedom. So `|x|^2 / s^2 <= r^2 = n + 2 sqrt(n
    t) + 2 t` except with probability `exp(-t)` (Laurent and Massart 2000, lemma 1), and `r^2` exceeds `n` by more than
    that relative error. Between neighboring data sets `x` shifts by at most `s / noise_multiplier`. With `t =
    FAILURE_EXPONENT` and `k = (r + 1 / noise_multiplier)^2 / (24 s^2)`, the bound `|log(p / q)| <= k` therefore holds
    for a data set and its neighbor alike. If releases have bounds `k_i` with sum `k`, then all of them together are
    `(epsilon + 2 k, exp(k) delta)`-private. With a sample of the clients the outputs are mixtures of such
    distributions, which are as close to each other as their parts, and the same `k` is added. All of this needs an `s`
    of at least `MIN_SCALE`. Below it there is no claim.

    *A sum of shares costs what one draw costs.* In a federation (`max_dropout`) each client adds discrete Gaussian
    noise of parameter `s_1 = s / sqrt(m - 1)`, where `m` answers are needed for a release to count. A client that
    looks at the result knows its own noise, and the noise of the others is enough without it. Clients stay in the
    federation with their noise. What is added or removed is everything that one of them holds. Take discrete Gaussians
    of variance parameters `a` and `b`, and `r = a b / (a + b)`. Their sum takes the value `z` with a probability
    proportional to `exp(-z^2 / (2 (a + b)))` times the sum over all integers `x` of `exp(-(x - c)^2 / (2 r))`, with `c
    = z a / (a + b)`. By Poisson summation this second factor is the same for every `c`, up to a factor between `1 - h`
    and `1 + h` with `h < 2.1 exp(-2 pi^2 r)`. So the sum is the discrete Gaussian of parameter `a + b`, up to a factor
    that `r >= a / 2` puts within `exp(5 exp(-pi^2 a))` and its inverse. Kairouz, Liu and Steinke 2021 analyze it in
    this way (arXiv 2102.06387, section 4). `s_1` is at least `MIN_SCALE`, and then all factors together are 1 in any
    arithmetic. Answers beyond `m` add noise that costs nothing.

    Args:
        noise_multiplier (`float`): Standard deviation of the noise over the sensitivity.
        clip_norm (`float`): L2 norm to which a client's vector is clipped.
        is_signed (`bool`): Whether a client's vector can have negative entries.
        neighboring_relation (`str`): How neighboring data sets differ: `"add_or_remove_one"` or `"replace_one"`.
        max_dropout (`float`, *optional*): Fraction of a federation's clients that may fail to answer.
    """

    noise_multiplier: float
    clip_norm: float = 1.0
    is_signed: bool = False
    neighboring_relation: str = "add_or_remove_one"
    max_dropout: float | None = None

    @property
    def sensitivity(self) -> float:
        """Largest L2 change of the sum between neighboring data sets."""
        if self.neighboring_relation == "add_or_remove_one":
            return self.clip_norm
        return self.clip_norm * (2.0 if self.is_signed else math.sqrt(2))

    def for_exchange(self) -> "Mechanism":
        """Return this mechanism, with the same noise, as it protects the exchange of a client for another one."""
        exchanged = replace(self, neighboring_relation="replace_one")
        return replace(exchanged, noise_multiplier=self.noise_std / exchanged.sensitivity)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in one bin."""
        return self.noise_multiplier * self.sensitivity

    @property
    def units(self) -> int:
        """Integer units per 1.0."""
        return UNITS if self.max_dropout is None else UNITS_OF_A_FEDERATION

    @property
    def noise_scale(self) -> float:
        """Parameter of the discrete Gaussian, in units."""
        return self.noise_std * self.units

    def discreteness(self, num_bins: int) -> float:
        """Bound `|log(p / q)|` of a release: what it costs that its noise is discrete (`k` in the proof above)."""
        if self.noise_scale < MIN_SCALE:
            return math.inf
        radius = math.sqrt(num_bins + 2 * math.sqrt(num_bins * FAILURE_EXPONENT) + 2 * FAILURE_EXPONENT)
        return (radius + 1 / self.noise_multiplier) ** 2 / (24 * self.noise_scale**2)

    def num_answers_needed(self, num_clients: int) -> int:
        """Compute how many of a federation's clients must answer for a release to count: more than half."""
        if self.max_dropout is None:
            raise ValueError("`max_dropout`=None has no answers to count: this is not the mechanism of a federation.")
        # No half may round to a half, and a tenth of ten is one, not slightly more.
        return max(math.ceil((1 - self.max_dropout) * num_clients - 1e-9), num_clients // 2 + 1)

    def noise_std_of_sum(self, num_clients: int) -> float:
        """Compute the standard deviation of the noise in one bin if all clients answer.

        In a federation it is larger than `noise_std`, which is left if as many fail as may fail. The number of answers
        is not an argument: fewer answers mean less noise than this.
        """
        if self.max_dropout is None:
            return self.noise_std
        return self.noise_std * math.sqrt(num_clients / (self.num_answers_needed(num_clients) - 1))

    def share_scale(self, num_answers: int) -> float:
        """Compute the parameter of one client's noise, in units, if `num_answers` answers are needed.

        All of them but one are enough, whichever that one is: a client knows its own noise.

        Raises:
            ValueError: The noise is too small for sums to be accounted for as one draw, or there is only one answer.
        """
        if num_answers < 2:
            raise ValueError(f"`num_answers`={num_answers} hides no one from that client. At least 2 are needed.")
        scale = self.noise_scale / math.sqrt(num_answers - 1)
        if scale < MIN_SCALE:
            raise ValueError(
                f"`noise_multiplier`={self.noise_multiplier} over {num_answers} clients makes shares of {scale:.3g} "
                f"units, below {MIN_SCALE:g}: their sum is not accounted for. Use more noise, or fewer clients."
            )
        return scale
