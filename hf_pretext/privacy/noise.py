"""The randomness that privacy rests on: discrete Gaussian noise, and the draw of the clients that participate.

Nothing here is released by itself. The noise (unit: the client, scale: that of the mechanism) is added to a sum before
anyone sees it, and who participates in a release is never shown. The sampler of the noise is OpenDP's: exact integer
arithmetic on random bytes of the operating system. So neither the seed of a run nor the rounding of floating-point
numbers can reveal the noise (Canonne, Kamath and Steinke 2020, arXiv 2004.00010). Nothing here takes a seed, on
purpose.
"""

import os
from functools import lru_cache
from typing import Any, Protocol

import numpy as np


class NoiseSource(Protocol):
    """Draws integer noise. The library has one source, `DiscreteGaussian`. Tests inject others."""

    def __call__(self, scale: float, size: int) -> np.ndarray:
        """Draw `size` independent integers with parameter `scale`, in integer units, as an int64 array."""
        ...


class DiscreteGaussian:
    """Draws from the discrete Gaussian: an integer x has probability proportional to exp(-x^2 / (2 scale^2))."""

    def __call__(self, scale: float, size: int) -> np.ndarray:
        """Draw independent noise.

        Args:
            scale (`float`):
                Parameter of the distribution, in integer units. From 2 on it equals the standard deviation in double
                precision.
            size (`int`): Number of draws.

        Returns:
            `np.ndarray`: Integers of shape `(size,)` and dtype int64.

        Raises:
            ValueError: `scale` is not positive and finite. Noise of scale zero would be no noise.
        """
        if not 0 < scale < float("inf"):
            raise ValueError(f"`scale`={scale} must be positive and finite.")
        if size == 0:
            return np.zeros(0, dtype=np.int64)
        return np.asarray(_measurement(float(scale), int(size))([0] * size), dtype=np.int64)


def sample_clients(num_clients: int, rate: float) -> np.ndarray:
    """Draw which clients participate, each independently (Poisson sampling), from the system's randomness.

    Args:
        num_clients (`int`): Number of clients.
        rate (`float`): Probability of each. It is rounded down to a multiple of 2^-64, which is the private choice.

    Returns:
        `np.ndarray` of shape `(num_clients,)`: True for those that participate.
    """
    if rate >= 1:
        return np.ones(num_clients, dtype=bool)
    drawn = np.frombuffer(os.urandom(8 * num_clients), dtype=np.uint64)
    return drawn < np.uint64(int(rate * 2.0**64))


@lru_cache(maxsize=4)
def _measurement(scale: float, size: int) -> Any:
    import opendp.prelude as dp

    # OpenDP wants code without a formal proof enabled by name. Its discrete Gaussian sampler is the part that is used.
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64"), size=size), dp.l2_distance(T="f64")
    return space >> dp.m.then_gaussian(scale=scale)
