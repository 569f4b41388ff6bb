"""The arguments of the benchmark. Each is a key of the YAML files and an option of the command line."""

import json
from dataclasses import dataclass, field

from .data import check_private_set
from .learners import LEARNERS
from .methods import METHODS
from .sizes import Sizes


@dataclass(kw_only=True)
class BenchmarkArguments(Sizes):
    """What to compare, and at what size."""

    data: list[str] = field(metadata={"help": "Private sets: plays, mail. mail:100 has 100 of its clients."})
    methods: list[str] = field(
        default_factory=lambda: list(METHODS),
        metadata={"help": "Methods: " + ", ".join(f"{each.name} ({each.words})" for each in METHODS.values()) + "."},
    )
    settings: list[str] = field(
        default_factory=lambda: list(LEARNERS),
        metadata={"help": "Models: " + ", ".join(f"{each.name} ({each.words})" for each in LEARNERS.values()) + "."},
    )
    on_device_settings: list[str] = field(
        default_factory=lambda: ["small"], metadata={"help": "Models that the devices train. The LLM takes hours."}
    )
    epsilons: list[float] = field(default_factory=lambda: [1.29, 7.58], metadata={"help": "Budgets of a client."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Random seeds, one run each."})
    readme: str | None = field(default=None, metadata={"help": "README.md, to put the results into."})

    def __post_init__(self) -> None:
        known = {"methods": list(METHODS), "settings": list(LEARNERS), "on_device_settings": list(LEARNERS)}
        for name, names in known.items():
            if wrong := set(getattr(self, name)) - set(names):
                raise ValueError(f"`{name}` holds {sorted(wrong)}. Choose among {names}.")
        for private_set in self.data:
            check_private_set(private_set)
        if not isinstance(json.loads(self.changes), dict):
            raise ValueError(f"`changes`={self.changes!r} must be a JSON object, such as '{{\"threshold\": 0.5}}'.")
