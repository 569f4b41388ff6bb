"""100,000 texts from a tiny model in flat memory, killed half-way and resumed without loss or repetition.

`python tests/benchmarks/streaming.py OUT.json`
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import BUILD

NUM_TEXTS = 100_000

WORK = f"""
import json, sys
from support.tiny import make_llama, make_sentence_transformer, random_texts
from datasets import Dataset
from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator
config = PrivateEvolutionConfig(epsilon=4, delta=1e-3, num_rounds=1, population_size=16, lookahead=0, max_length=32,
                                max_new_tokens=8, min_words=1, token_fraction=0.0)
folder = sys.argv[1]
generator = PrivateEvolutionGenerator(None, make_sentence_transformer(folder + "/model"), make_llama(), config=config,
                                      batch_size=512, run_dir=folder + "/run")
private = Dataset.from_dict({{"text": random_texts(20), "client_id": list(range(20))}})
seeds = generator.evolve(private, initial_population=random_texts(40, seed=2))
texts = generator.expand(seeds, {NUM_TEXTS})
digests = set()
for rows in texts.iter(1000):
    digests.update(map(hash, rows["text"]))
print(json.dumps([len(texts), len(digests)]))
"""


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return None


def watch(folder, kill_at=None):
    """Run, with its memory noted twice a second against the texts in its folder; kill it at a number of parts."""
    environment = {**os.environ, "PYTHONPATH": "tests", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, folder], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    noted = []
    started = time.monotonic()
    while process.poll() is None:
        parts = len(list(Path(folder, "run").glob("run-1-texts-*.json")))
        if (resident := resident_mb(process.pid)) is not None:
            noted.append((time.monotonic() - started, parts, resident))
        if kill_at is not None and parts >= kill_at:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)
    return process.returncode, process.communicate()[0], noted


def main(out):
    folder = tempfile.mkdtemp(dir=BUILD)
    first_code, _, before = watch(folder, kill_at=25)
    parts = sorted(Path(folder, "run").glob("run-1-texts-*.json"))
    kept = {path.name: path.read_bytes() for path in parts}
    code, told, after = watch(folder)
    assert first_code == -signal.SIGKILL and code == 0, (first_code, code)
    num_texts, num_different = json.loads(told)
    untouched = all(Path(folder, "run", name).read_bytes() == content for name, content in kept.items())
    shutil.rmtree(folder)
    # From when the first new part is there: before, libraries are loaded.
    steady = [resident for _, number, resident in after if number > len(kept)]
    quarter = max(1, len(steady) // 4)
    results = {
        # A batch's own memory comes and goes, so quarters are compared.
        "expansion_rss_growth_mb": sum(steady[-quarter:]) / quarter - sum(steady[:quarter]) / quarter,
        "streaming": {
            "texts": num_texts,
            "different_texts": num_different,
            "parts_kept_by_the_killed_run": len(kept),
            "kept_parts_untouched": untouched,
            "seconds": after[-1][0],
            "memory": {"killed": before, "resumed": after},
        },
    }
    Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
