"""The settings of a federation's run, which its server and all of its clients share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..configuration import PrivateEvolutionConfig
from ..settings import check_settings, setting, shortened

CANDIDATE_BITS = (8, 16)

IN_JSON = ("text_column", "chat_roles", "labels", "label_shares")
"""Fields of `PrivateEvolutionConfig` that are lists or mappings."""


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """The configuration of a Flower run, except for the fields of `PrivateEvolutionConfig`.

    In `pyproject.toml`, and in `flwr run --run-config`, hyphens may replace underscores. Flower's configurations hold
    no lists and no mappings. So `text_column`, `chat_roles`, `labels` and `label_shares` may be strings of JSON.

    Args:
        num_clients (`int`):
            Number of clients that the run begins with, and the most that it asks at a time. It counts as public.
        num_samples (`int`): Number of synthetic texts.
        output_dir (`str`): Folder of the results and of the run's own folder, at the server.
        embedding_model (`str`): Model that the clients embed their texts with: the only one that they load.
        tokenizer (`str`, *optional*):
            Tokenizer of the expansion model, which the clients load as well if `token_fraction` asks about tokens: a
            Hub id, or a local folder that all of them have. The expansion model itself stays at the server.
        variation_model (`str`, *optional*): As in the generator, at the server. Empty for None.
        expansion_model (`str`): As in the generator, at the server.
        initial_population (`str`, *optional*): File of public texts, at the server.
        candidate_bits (`int`, *optional*, defaults to `16`):
            Bits per coordinate of embeddings on their way to the clients. 16 keep the answers exactly as they are in
            one process. 8 halve the download.
        round_timeout (`float`, *optional*, defaults to `600.0`):
            Seconds after which a client counts as one that does not answer.
        max_colluding (`float`, *optional*, defaults to `0.05`):
            Fraction of `num_clients` that may conspire with the server, by what they know, and at least one client. It
            stays as it is if fewer are asked. It is a part of `max_dropout`: the others may fail to answer. With more
            than 200 clients, the number of others that each client is linked to follows from it.
        secure_aggregation (`bool`, *optional*, defaults to `True`):
            Sum answers under masks. Without it the server gets single answers with only their part of the noise.
            Clients do that in simulations only.
        simulated_private (`str`, *optional*):
            File that the clients of a simulation take their texts from. A real client names its own, in its node.

    Raises:
        ValueError: A value is out of its range.
    """

    num_clients: int = setting(
        help="Number of clients that the run begins with.", at_least=3, hint="A sum of fewer hides no one."
    )
    num_samples: int = setting(help="Number of synthetic texts.", at_least=1)
    output_dir: str = setting(help="Folder of the results, at the server.")
    embedding_model: str = setting(help="Model that the clients embed their texts with.")
    expansion_model: str = setting(help="Causal language model, at the server.")
    tokenizer: str | None = setting(None, help="Tokenizer of the expansion model, which the clients load.")
    variation_model: str | None = setting(None, help="Masked language model, at the server. Or none.")
    initial_population: str | None = setting(None, help="File of public texts, at the server.")
    candidate_bits: int = setting(16, help="8 or 16 bits per coordinate of a candidate.", choices=CANDIDATE_BITS)
    round_timeout: float = setting(
        600.0, help="Seconds that a client has for an answer.", above=0, hint="It is a number of seconds."
    )
    max_colluding: float = setting(
        0.05, help="Fraction of clients that may conspire with the server.", at_least=0, below=0.5
    )
    secure_aggregation: bool = setting(True, help="Sum answers under masks.")
    simulated_private: str | None = setting(None, help="File of a simulation's clients.")

    def __post_init__(self) -> None:
        for name in ("tokenizer", "variation_model", "initial_population", "simulated_private"):
            if not vars(self)[name]:  # Flower's configurations hold no None.
                object.__setattr__(self, name, None)
        check_settings(self)

    @classmethod
    def split(cls, run_config: Mapping[str, Any]) -> tuple["FederationSettings", PrivateEvolutionConfig]:
        """Split the configuration of a Flower run into these settings and those of the method.

        Raises:
            ValueError: A key is unknown or missing, a value is out of its range, or `max_dropout` is not given.
        """
        values = {key.replace("-", "_"): value for key, value in run_config.items()}
        if len(values) < len(run_config):
            twice = sorted(key for key in run_config if "-" in key and key.replace("-", "_") in run_config)
            raise ValueError(f"The run's configuration holds {shortened(twice)} twice, with hyphens and underscores.")
        own, method = ({each.name for each in fields(kind)} for kind in (cls, PrivateEvolutionConfig))
        if unknown := sorted(set(values) - own - method):
            raise ValueError(f"The run's configuration holds unknown keys: {shortened(unknown)}.")
        required = {"num_clients", "num_samples", "output_dir", "embedding_model", "expansion_model", "delta"}
        if missing := sorted({*required, "max_dropout"} - set(values)):
            raise ValueError(f"The run's configuration lacks the keys {missing}.")
        values |= {name: _of_json(name, values[name]) for name in IN_JSON if name in values}
        config = PrivateEvolutionConfig(**{name: value for name, value in values.items() if name in method})
        settings = cls(**{name: value for name, value in values.items() if name in own})
        if config.token_fraction and settings.tokenizer is None:
            raise ValueError(
                f"`token_fraction`={config.token_fraction} asks the clients about tokens, but `tokenizer` is missing. "
                "Name that of `expansion_model`, which the clients load."
            )
        return settings, config


def _of_json(name: str, value: Any) -> Any:
    """Read a list or a mapping. The name of one column is written as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"`{name}`={shortened(value)} is not valid JSON.") from None
