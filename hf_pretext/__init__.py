"""Differentially private synthetic text from federated clients, for the Hugging Face ecosystem.

The names below load on first use, so that `import hf_pretext` stays fast and needs neither torch nor transformers.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .clients import ClientPool, InMemoryClientPool
    from .configuration import PrivateEvolutionConfig
    from .generator import PrivateEvolutionGenerator
    from .privacy import PrivacyReport, calibrate_noise_multiplier, compute_epsilon

_HOME_OF = {
    "ClientPool": "clients",
    "InMemoryClientPool": "clients",
    "PrivacyReport": "privacy",
    "PrivateEvolutionConfig": "configuration",
    "PrivateEvolutionGenerator": "generator",
    "calibrate_noise_multiplier": "privacy",
    "compute_epsilon": "privacy",
}

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


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
