"""Two processes of one thread each against one of one thread, on variation and expansion.

`python tests/benchmarks/two_processes.py OUT.json`, which starts itself with `torchrun`.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from timing import BUILD, SMOLLM2, speeches

NUM_TEXTS, NUM_PROMPTS, NEW_TOKENS = 256, 64, 16
"""So many that each process still has full batches of texts of like length."""


def work(out):
    """Time variation and expansion in this process, or in those of `torchrun` together."""
    import torch
    from accelerate.utils import wait_for_everyone
    from variation import masked_lm

    from hf_pretext import PrivateEvolutionConfig
    from hf_pretext.expansion import list_prompt
    from hf_pretext.models import load_causal_lm
    from hf_pretext.models.local_engine import LocalEngine
    from hf_pretext.models.masked_variation import MaskedVariation
    from hf_pretext.processes import is_main_process

    torch.set_num_threads(1)
    config = PrivateEvolutionConfig(epsilon=1, delta=1e-5, variation_steps=1)
    masked, tokenizer = masked_lm()
    texts = speeches(tokenizer, NUM_TEXTS, 10, 60)
    vary = MaskedVariation(masked, tokenizer, config, batch_size=16).vary
    complete = LocalEngine(*load_causal_lm(*SMOLLM2), config, batch_size=16).complete
    prompts = [list_prompt(texts[index : index + 3], 1) for index in range(NUM_PROMPTS)]
    is_main = is_main_process()  # Joins the group, if there are others.
    seconds = {}
    for name, run in (("variation", lambda: vary(texts, 0)), ("expansion", lambda: complete(prompts, NEW_TOKENS, 0))):
        wait_for_everyone()  # A process that loads its models for longer is not to be waited for in the time.
        started = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - started
    if is_main:
        Path(out).write_text(json.dumps(seconds))


def main(out):
    seconds = {1: [], 2: []}
    told = BUILD / "seconds.json"
    for number in (1, 2, 1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, __file__, str(told), "work"], env=environment, check=True)
        seconds[number].append(json.loads(told.read_text()))
    medians = {
        name: {number: statistics.median(each[name] for each in seconds[number]) for number in seconds}
        for name in ("variation", "expansion")
    }
    ratios = {name: both[1] / both[2] for name, both in medians.items()}
    results = {"two_process_ratio": min(ratios.values()), "two_processes": {"seconds": medians, "ratios": ratios}}
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    work(sys.argv[1]) if sys.argv[2:] == ["work"] else main(sys.argv[1])
