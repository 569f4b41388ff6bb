"""All checks of the guarantee, and all mutations that they have to catch: `tests/test_guarantee.py`, `make prove`."""

from support import guarantee, guarantee_audit, guarantee_clients, guarantee_node, guarantee_rows, guarantee_tokens

PARTS = (guarantee, guarantee_clients, guarantee_node, guarantee_audit, guarantee_rows, guarantee_tokens)
CHECKS = tuple(check for part in PARTS for check in part.CHECKS)
MUTATIONS = {name: mutation for part in PARTS for name, mutation in part.MUTATIONS.items()}


def is_caught(name, num_runs):
    """Return whether the check of a mutation fails under it."""
    mutate, check = MUTATIONS[name]
    with mutate():
        try:
            check(num_runs)
        except AssertionError:
            return True
    return False
