# /// script
# requires-python = ">=3.11"
# dependencies = ["hf_pretext>=0.2"]
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "4h"
# name = "expand-seeds"
# secrets = ["HF_TOKEN"]
# ///
"""Write more texts from the seeds of a published run, with any language model. It spends no privacy.

```bash
hf jobs uv run recipes/uv/expand_seeds.py --seeds me/jobs-dp --expansion-model Qwen/Qwen3-8B-Base \
    --num-samples 50000 --output-dir more --push-to-hub me/jobs-dp-50k
```

The same as `hf-pretext expand`. The new repository has the guarantee of the seeds, and a card that says so. On your
own machine, run it with `uv run` instead of `hf jobs uv run`.
"""

import sys

from hf_pretext.cli import main

if __name__ == "__main__":
    sys.exit(main(["expand", *sys.argv[1:]]))
