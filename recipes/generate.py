"""Generate a synthetic dataset from private clients, in one process or in many.

```bash
torchrun --nproc_per_node 2 recipes/generate.py --config recipes/configs/generate/plays.yaml
```

The same as `hf-pretext generate`. Processes divide the clients: each embeds the texts of its own and answers for them.
The sums are added, and the main process alone draws the noise, once per round. All of them share the variation,
embedding and expansion of public texts.
"""

import sys

from hf_pretext.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
