"""Compare methods of learning from private text: one command runs them all, and writes tables and pictures.

```bash
python -m recipes.benchmark --config recipes/configs/benchmark/small.yaml
```

Every stage (models, seeds, synthetic texts, scores) is cached by its inputs in `output_dir/cache`. So a benchmark that
was stopped resumes, and another method, random seed or epsilon repeats nothing. Scores are measured on held-out
clients' texts, and lifts on clean private votes: **evaluation only, not differentially private**.
"""

import logging

from trl import TrlParser

from .arguments import BenchmarkArguments
from .comparison import compare
from .tables import as_markdown

if __name__ == "__main__":
    logging.getLogger("hf_pretext").setLevel(logging.ERROR)
    parser = TrlParser((BenchmarkArguments,), prog="python -m recipes.benchmark")
    print(as_markdown(compare(*parser.parse_args_and_config())))
