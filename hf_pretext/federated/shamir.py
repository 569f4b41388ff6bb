"""Shamir's secret sharing in the field of the integers modulo `2^521 - 1`.

A secret is the value at zero of a random polynomial of degree `t - 1`, and a share is its value at another point. Any
`t` shares say what the polynomial is. Fewer say nothing: for every secret there are equally many polynomials through
them (Shamir 1979, "How to share a secret").
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**521 - 1
"""The field. This Mersenne prime is larger than every secret of 64 bytes."""

SECRET_BYTES = 32
SHARE_BYTES = 66

NO_SHARE = b"\xff" * SHARE_BYTES
"""Written in the place of a share that its holder does not have. It is no number of the field."""


def split(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, bytes]:
    """Share a secret.

    Args:
        secret (`bytes` of length `SECRET_BYTES`): The secret.
        threshold (`int`): Number of shares that say what it is.
        points (`Sequence` of `int`): Where the polynomial is evaluated: one point per share, from 1.

    Returns:
        `dict` of `int` to `bytes` of length `SHARE_BYTES`: The share of each point.

    Raises:
        ValueError: The threshold does not suit the number of points, or points repeat or are not of the field.
    """
    if not 1 <= threshold <= len(points):
        raise ValueError(f"`threshold`={threshold} must be between 1 and the number of shares, {len(points)}.")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("`points` must be different numbers of the field, and not zero.")
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"`secret` has {len(secret)} bytes, not {SECRET_BYTES}.")
    coefficients = [*(secrets.randbelow(PRIME) for _ in range(threshold - 1)), int.from_bytes(secret, "big")]
    shares = {}
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def is_share(share: bytes) -> bool:
    """Return whether these bytes are a number of the field."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Find a secret from its shares, by Lagrange's formula at zero.

    Args:
        shares (`Mapping` of `int` to `bytes`): Shares by their points. `threshold` of them are used.
        threshold (`int`): The threshold of `split`.

    Raises:
        ValueError: There are too few shares, one is not of the field, or they are not the shares of one secret.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares do not say what the secret is. It takes {threshold}.")
    points = tuple(sorted(shares)[:threshold])
    if not all(is_share(shares[point]) for point in points):
        raise ValueError("A share is not a number of the field.")
    weights = _weights_at_zero(points)
    value = sum(w * int.from_bytes(shares[point], "big") for w, point in zip(weights, points, strict=True)) % PRIME
    if value >= 256**SECRET_BYTES:
        raise ValueError("These are not the shares of one secret.")
    return value.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=16)
def _weights_at_zero(points: tuple[int, ...]) -> list[int]:
    """Compute Lagrange's weights, with one inversion for each point."""
    product = 1
    for point in points:
        product = product * point % PRIME
    weights = []
    for own in points:
        divisor = own
        for other in points:
            if other != own:
                divisor = divisor * (other - own) % PRIME
        weights.append(product * pow(divisor, -1, PRIME) % PRIME)
    return weights
