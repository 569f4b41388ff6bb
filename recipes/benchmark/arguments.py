"""The arguments of the benchmark. Each is a key of the YAML files and an option of the command line."""

import json
from dataclasses import dataclass, field

from .data import check_private_set
from .given import FEWEST_TEXTS, given_sets
from .learners import LEARNERS
from .methods import METHODS
from .sizes import Sizes


@dataclass(kw_only=True)
class BenchmarkArguments(Sizes):
    """What to compare, and at what size."""

    data: list[str] = field(
        default_factory=list,
        metadata={"help": "Private sets: plays, mail, names in `private`. mail:100 has 100 of its clients."},
    )
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
    processes: int = field(
        default=1, metadata={"help": "Processes that share the work, on one GPU for example. Each loads the models."}
    )
    readme: str | None = field(
        default=None, metadata={"help": "A page, such as the README.md here, to put the results into."}
    )

    def __post_init__(self) -> None:
        known = {"methods": list(METHODS), "settings": list(LEARNERS), "on_device_settings": list(LEARNERS)}
        for name, names in known.items():
            if wrong := set(getattr(self, name)) - set(names):
                raise ValueError(f"`{name}` holds {sorted(wrong)}. Choose among {names}.")
        given = given_sets(self.private)
        for private_set in self.data:
            check_private_set(private_set, given)
        # A file that is given is meant to be compared.
        named = {private_set.partition(":")[0] for private_set in self.data}
        self.data = [*self.data, *(name for name in given if name not in named)]
        if not self.data:
            raise ValueError("`data` and `private` are empty. Name a private set, such as `--data plays`.")
        numbers = {
            "batch_size": [self.batch_size],
            "processes": [self.processes],
            "curve": self.curve,
            "curve_best_of": self.curve_best_of,
        }
        for name, values in numbers.items():
            if any(value < 1 for value in values):
                raise ValueError(f"`{name}`={getattr(self, name)!r} must be at least 1.")
        if not 0 <= self.public_fraction < 1:
            raise ValueError(f"`public_fraction`={self.public_fraction} must be at least 0 and below 1.")
        self._check_sizes()
        if not isinstance(json.loads(self.changes), dict):
            raise ValueError(f"`changes`={self.changes!r} must be a JSON object, such as '{{\"threshold\": 0.5}}'.")

    def _check_sizes(self) -> None:
        """Refuse sizes with which a measure at the end of a run would fail."""
        for name, value in (("num_samples", self.num_samples), ("num_held_out", self.num_held_out)):
            if value < FEWEST_TEXTS:
                raise ValueError(f"`{name}`={value} must be at least {FEWEST_TEXTS}, to measure how near texts are.")
        if self.curve and min(self.curve) < FEWEST_TEXTS:
            raise ValueError(f"`curve`={self.curve} must hold numbers of at least {FEWEST_TEXTS} texts.")
