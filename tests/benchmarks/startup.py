"""Seconds to import the library and to show the command's help: `python tests/benchmarks/startup.py OUT.json`."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT = "import time; t = time.perf_counter(); import hf_pretext; print(time.perf_counter() - t)"


def main(out):
    imports, helps = [], []
    for _ in range(7):
        imports.append(float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True).stdout))
        started = time.perf_counter()
        subprocess.run([Path(sys.executable).parent / "hf-pretext", "--help"], capture_output=True, check=True)
        helps.append(time.perf_counter() - started)
    results = {"import_seconds": statistics.median(imports), "help_seconds": statistics.median(helps)}
    Path(out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
