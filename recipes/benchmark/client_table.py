"""Measure what each method asks of a client, and print it as a table: the paper's Table 6.

```bash
python -m recipes.benchmark.client_table --data plays --epsilons 1.29 --settings small
```

The client is a typical one of those with the most texts. The budget is the first epsilon, and the model that the
devices train is the first of `settings`.
"""

from trl import TrlParser

from .arguments import BenchmarkArguments
from .client_work import describe
from .comparison import load_experiments
from .learners import LEARNERS
from .methods import METHODS
from .trial import Trial

HEADER = ("method", "where the texts are", "what leaves a client", "up", "down", "CPU seconds", "unit")


def client_table(arguments: BenchmarkArguments) -> str:
    """Measure every method on the first private set, and write the table as Markdown.

    Args:
        arguments (`BenchmarkArguments`): The methods, the private set, the budget and the learner.
    """
    (experiment, *_) = load_experiments(arguments)
    learner = LEARNERS[arguments.settings[0]]
    rows = [HEADER, ("---",) * len(HEADER)]
    for name in arguments.methods:
        method = METHODS[name]
        epsilon = arguments.epsilons[0] if method.spends_budget else None
        trial = Trial(experiment, method, epsilon, arguments.seeds[0])
        rows.append((name, *describe(method.client, trial, learner)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    parser = TrlParser((BenchmarkArguments,), prog="python -m recipes.benchmark.client_table")
    print(client_table(*parser.parse_args_and_config()))
