# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.hf-jobs]
# flavor = "a10g-large"
# timeout = "4h"
# name = "expand-seeds"
# secrets = ["HF_TOKEN"]
# ///
"""Write more texts from the seeds of a published run, with any language model. It spends no privacy.

```bash
uv run --with . recipes/uv/expand_seeds.py --seeds me/jobs-dp --expansion-model Qwen/Qwen3-8B-Base \
    --num-samples 50000 --output-dir more --push-to-hub me/jobs-dp-50k
```

`--with` names where `hf_pretext` is: here its repository. On a GPU of the Hub it is a wheel that you uploaded:

```bash
pip wheel --no-deps --wheel-dir dist . && hf upload me/wheels dist --repo-type dataset
hf jobs uv run --with https://huggingface.co/datasets/me/wheels/resolve/main/hf_pretext-0.2.0-py3-none-any.whl \
    recipes/uv/expand_seeds.py --seeds me/jobs-dp --expansion-model Qwen/Qwen3-8B-Base \
    --num-samples 50000 --output-dir more --push-to-hub me/jobs-dp-50k
```

The same as `hf-pretext expand`. The new repository has the guarantee of the seeds, and a card that says so. The header
does not name `hf_pretext`: no index has it under that name, so a stranger could put code there that reads your token.
"""

import sys

from hf_pretext.cli import main

if __name__ == "__main__":
    sys.exit(main(["expand", *sys.argv[1:]]))
