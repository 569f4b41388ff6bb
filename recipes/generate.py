"""Generate a synthetic dataset from private clients, in one process or in many.

```bash
torchrun --nproc_per_node 2 recipes/generate.py --config recipes/configs/generate/plays.yaml
```

The same as `hf-pretext generate`. The main process alone reads the private file, votes, and draws the noise, once a
round. All of them share the variation, embedding and expansion of texts.
"""

import sys

from hf_pretext.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
