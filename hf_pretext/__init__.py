"""Differentially private synthetic text from federated clients, for the Hugging Face ecosystem.

The names below load on first use, so that `import hf_pretext` stays fast and needs neither torch nor transformers.
"""

import logging
from typing import TYPE_CHECKING

from . import moved
from .lazy import lazy_names
from .version import __version__

if TYPE_CHECKING:
    from .clients.in_memory import InMemoryClientPool
    from .clients.pool import ClientPool
    from .configuration import PrivateEvolutionConfig
    from .generator import PrivateEvolutionGenerator
    from .privacy.accounting import calibrate_noise_multiplier, compute_epsilon
    from .privacy.report import PrivacyReport

__all__ = [
    "ClientPool",
    "InMemoryClientPool",
    "PrivacyReport",
    "PrivateEvolutionConfig",
    "PrivateEvolutionGenerator",
    "__version__",
    "calibrate_noise_multiplier",
    "compute_epsilon",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())

moved.install()

__getattr__, _ = lazy_names(
    __name__,
    {
        "ClientPool": "clients.pool",
        "InMemoryClientPool": "clients.in_memory",
        "PrivacyReport": "privacy.report",
        "PrivateEvolutionConfig": "configuration",
        "PrivateEvolutionGenerator": "generator",
        "calibrate_noise_multiplier": "privacy.accounting",
        "compute_epsilon": "privacy.accounting",
    },
)


def __dir__() -> list[str]:
    return __all__
