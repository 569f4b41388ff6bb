"""All checks of the guarantee, and all mutations that they have to catch: `tests/test_guarantee.py`, `make prove`."""

import contextlib

import numpy as np

from support import guarantee, guarantee_audit, guarantee_clients, guarantee_node, guarantee_rows, guarantee_tokens

PARTS = (guarantee, guarantee_clients, guarantee_node, guarantee_audit, guarantee_rows, guarantee_tokens)
CHECKS = tuple(check for part in PARTS for check in part.CHECKS)
MUTATIONS = {name: mutation for part in PARTS for name, mutation in part.MUTATIONS.items()}


@contextlib.contextmanager
def fast_noise(seed=None):
    """Draw noise by NumPy, rounded: of the same distribution at the scales of the checks, and thirty times as fast.

    For the question whether a mutation is caught, and with a seed for tests of what comes after the noise. The default
    suite also has it in checks of a kind whose first one has the noise that is really drawn.
    """
    rng = np.random.default_rng(seed)
    draws = lambda scale, size: lambda zeros: np.rint(rng.normal(0, scale, size)).astype(np.int64)  # noqa: E731
    with guarantee.patched("hf_pretext.privacy.noise._measurement", draws):
        yield


def is_caught(name, num_runs, noise=contextlib.nullcontext):
    """Return whether the check of a mutation fails under it."""
    mutate, check = MUTATIONS[name]
    with noise(), mutate():
        try:
            check(num_runs)
        except AssertionError:
            return True
    return False
