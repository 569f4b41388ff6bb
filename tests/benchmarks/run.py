"""`make bench`: every benchmark in a process of its own, `build/bench/results.json`, and a picture.

Exits with status 1 where a figure is worse than what is claimed. Some 20 to 35 minutes on two cores.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from timing import BUILD
from tqdm import tqdm

HERE = Path(__file__).parent
BENCHMARKS = ("startup", "variation", "votes", "embedding", "expansion", "streaming", "two_processes", "busy")
CLAIMS = {
    "variation_exact_ratio": (">=", 4),
    "variation_fast_ratio": (">=", 12),
    "fast_pseudo_perplexity_ratio": ("<=", 1.05),
    "votes_ratio": ("<=", 1.25),
    "votes_extra_mb": ("<=", 256),
    "embedding_ratio": (">=", 0.9),
    "embedding_busy_ratio": ("<=", 4),
    "embedding_clients_not_alone": ("<=", 0),
    "expansion_ratio": (">=", 0.9),
    "expansion_rss_growth_mb": ("<=", 64),
    "two_process_ratio": (">=", 1.7),
    "busy_ratio": ("<=", 4),
    "import_seconds": ("<=", 0.3),
    "help_seconds": ("<=", 0.5),
}


def holds(value, claim):
    sign, bound = claim
    return value >= bound if sign == ">=" else value <= bound


def plot(results, path):
    figure = Figure(figsize=(14, 4.2), dpi=110, layout="constrained")
    speed, votes, memory = figure.subplots(1, 3)
    names = (
        *("variation_exact_ratio", "variation_fast_ratio", "embedding_ratio", "expansion_ratio"),
        "two_process_ratio",
    )
    labels = [
        "mask filling, exact\n/ research loop",
        "mask filling, fast\n/ research loop",
        "clients\n/ one sorted batch",
        "expansion\n/ bare generate",
        "two processes\n/ one",
    ]
    bars = speed.barh(labels, [results[name] for name in names], color="#0072B2")
    speed.bar_label(bars, fmt="%.2f", padding=3)
    speed.plot([CLAIMS[name][1] for name in names], labels, "|", color="#E69F00", ms=22, mew=2, label="asked for")
    speed.invert_yaxis()
    speed.margins(x=0.25)
    speed.set(title="Times as fast", xscale="log")
    speed.legend(fontsize="small")
    sizes, seconds = results["votes"]["sizes"], results["votes"]["seconds_of_sizes"]
    for number in sorted({size[1] for size in sizes}):
        points = [(n / 1e6, each) for (n, m), each in zip(sizes, seconds, strict=True) if m == number]
        votes.plot(*zip(*points, strict=True), "o-", label=f"{number} candidates")
    votes.set(title="Votes", xlabel="million private embeddings", ylabel="seconds")
    votes.legend(fontsize="small")
    for name, notes in results["streaming"]["memory"].items():
        memory.plot([each[1] * 2.048 for each in notes], [each[2] for each in notes], ".-", label=name)
    memory.set(title="Memory of an expansion", xlabel="thousand texts on disk", ylabel="MB resident")
    memory.set_ylim(bottom=0)
    memory.legend(fontsize="small")
    figure.savefig(path)


def main():
    started = time.perf_counter()
    BUILD.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in tqdm(BENCHMARKS, "Benchmarks", unit="benchmark"):
        out = BUILD / f"{name}.json"
        began = time.perf_counter()
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), str(out)], check=True)
        results.update(json.loads(out.read_text()))
        tqdm.write(f"{name}: {time.perf_counter() - began:.0f} s")
    claims = {name: holds(results[name], claim) for name, claim in CLAIMS.items()}
    results |= {"claims": claims, "seconds": round(time.perf_counter() - started, 1)}
    plot(results, BUILD / "bench.png")
    (BUILD / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, (sign, bound) in CLAIMS.items():
        print(f"{name:32} {results[name]:9.3f}   asked for {sign} {bound}{'' if claims[name] else '   MISSED'}")
    print(
        f"{'exact, fast: share of GEMM peak':32} {results['exact_gemm_share']:.2f}, {results['fast_gemm_share']:.2f}"
    )
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
