"""The settings of a federation's run, which its server and all of its clients share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..configuration import PrivateEvolutionConfig, shortened

CANDIDATE_BITS = (8, 16)


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """What a Flower run is configured with, besides the fields of `PrivateEvolutionConfig`.

    In `pyproject.toml`, and in `flwr run --run-config`, hyphens may take the place of underscores.

    Args:
        num_clients (`int`): Number of clients that the run begins with; it counts as public.
        num_samples (`int`): Number of synthetic texts.
        output_dir (`str`): Folder, at the server, of the results and of the run's own folder.
        embedding_model (`str`): Model that the clients embed their texts with: the only one that they load.
        variation_model (`str`, *optional*, defaults to `""`): As in the generator, at the server; empty for None.
        expansion_model (`str`): As in the generator, at the server.
        initial_population (`str`, *optional*, defaults to `""`): File of public texts, at the server.
        candidate_bits (`int`, *optional*, defaults to `16`):
            Bits per coordinate of the candidates on their way to the clients. 16 keep the votes exactly as they are
            in one process; 8 halve the download.
        round_timeout (`float`, *optional*, defaults to `600.0`):
            Seconds after which a client counts as one that does not answer.
        secure_aggregation (`bool`, *optional*, defaults to `True`):
            Sum votes under masks. Without it the server gets single votes with a share of the noise only; clients do
            that in simulations alone.
        simulated_private (`str`, *optional*, defaults to `""`):
            File that the clients of a simulation take their texts from; a real client names its own, in its node.

    Raises:
        ValueError: A value is out of its range.
    """

    num_clients: int = field(metadata={"help": "Number of clients that the run begins with."})
    num_samples: int = field(metadata={"help": "Number of synthetic texts."})
    output_dir: str = field(metadata={"help": "Folder of the results, at the server."})
    embedding_model: str = field(metadata={"help": "Model that the clients embed their texts with."})
    expansion_model: str = field(metadata={"help": "Causal language model, at the server."})
    variation_model: str = field(default="", metadata={"help": "Masked language model, at the server; or none."})
    initial_population: str = field(default="", metadata={"help": "File of public texts, at the server."})
    candidate_bits: int = field(default=16, metadata={"help": "8 or 16 bits per coordinate of a candidate."})
    round_timeout: float = field(default=600.0, metadata={"help": "Seconds that a client has for an answer."})
    secure_aggregation: bool = field(default=True, metadata={"help": "Sum votes under masks."})
    simulated_private: str = field(default="", metadata={"help": "File of a simulation's clients."})

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            kind: Any = each.type
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"`{each.name}`={shortened(value)} must be of type {kind.__name__}.")
        if self.num_clients < 3:
            raise ValueError(f"`num_clients`={self.num_clients} must be at least 3: a sum of fewer hides nobody.")
        if self.num_samples < 1:
            raise ValueError(f"`num_samples`={self.num_samples} must be at least 1.")
        if self.candidate_bits not in CANDIDATE_BITS:
            raise ValueError(f"`candidate_bits`={self.candidate_bits} must be one of {list(CANDIDATE_BITS)}.")
        if not 0 < self.round_timeout < math.inf:
            raise ValueError(f"`round_timeout`={self.round_timeout} must be a positive number of seconds.")
        for name in ("output_dir", "embedding_model", "expansion_model"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty; the run needs it.")

    @classmethod
    def split(cls, run_config: Mapping[str, Any]) -> tuple["FederationSettings", PrivateEvolutionConfig]:
        """Split the configuration of a Flower run into these settings and those of the method.

        Raises:
            ValueError: A key is unknown or missing, a value is out of its range, or `max_dropout` is not given.
        """
        values = {key.replace("-", "_"): value for key, value in run_config.items()}
        own, method = ({each.name for each in fields(kind)} for kind in (cls, PrivateEvolutionConfig))
        if unknown := sorted(set(values) - own - method):
            raise ValueError(f"The run's configuration holds unknown keys: {shortened(unknown)}.")
        required = {"num_clients", "num_samples", "output_dir", "embedding_model", "expansion_model", "delta"}
        if missing := sorted({*required, "max_dropout"} - set(values)):
            raise ValueError(f"The run's configuration lacks the keys {missing}.")
        config = PrivateEvolutionConfig(**{name: value for name, value in values.items() if name in method})
        return cls(**{name: value for name, value in values.items() if name in own}), config
