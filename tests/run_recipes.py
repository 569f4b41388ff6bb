"""The CPU-sized chain of the recipes, with real models and texts, as `make recipes` runs it: some 20 minutes.

Generates, finetunes both ways, evaluates, runs two processes, and goes through a Hub on loopback and back. Every step
is the command that a user would type. Writes `build/recipes/results.json`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BUILD = Path("build/recipes")
SYNTHETIC, ADAPTER, SMALL = BUILD / "synthetic", BUILD / "adapter", BUILD / "small-model"
TESTS = Path(__file__).parent
REPOS = {"dataset": "me/plays-dp", "adapter": "me/plays-adapter", "small_model": "me/plays-small"}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def command(*parts, env=None):
    """Run a command, show it, and return the seconds that it took."""
    print("\n$", *parts, flush=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, *map(str, parts)], check=True, env=env)
    return round(time.perf_counter() - started, 1)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def generate():
    seconds = command("recipes/generate.py", "--config", "recipes/configs/generate/plays.yaml")
    report = read(SYNTHETIC / "privacy_report.json")
    return {"seconds": seconds, "epsilon": report["epsilon"], "delta": report["delta"], "rounds": report["num_rounds"]}


def finetune_and_evaluate(script, config, folder):
    finetune = command(
        *("-m", "accelerate.commands.launch", f"recipes/{script}.py", "--config", f"recipes/configs/{config}.yaml"),
        *("--dataset", SYNTHETIC, "--output_dir", folder),
    )
    evaluate = command(
        *("recipes/evaluate.py", "--config", "recipes/configs/evaluate/quickstart.yaml", "--model", folder)
    )
    figures = read(folder / "evaluation.json")
    measures = ("top_1_accuracy", "cross_entropy")
    return {
        "seconds_finetuning": finetune,
        "seconds_evaluation": evaluate,
        "num_texts": figures["num_texts"],
        "num_clients": figures["num_clients"],
        "before": {name: figures["before"][name] for name in measures},
        "after": {name: figures["after"][name] for name in measures},
        "difference_with_95_percent_interval": {name: figures["difference"][name] for name in measures},
    }


def two_processes():
    """Run the real scripts under torchrun; `watched.py` writes down what each process saw."""
    folder = BUILD / "two-processes"
    shutil.rmtree(folder, ignore_errors=True)
    watch = [*TORCHRUN, TESTS / "support/watched.py"]
    seconds = command("-m", *watch, folder, "generate", "--config", "recipes/configs/generate/two_processes.yaml")
    ranks = [read(f"{folder}-generate-rank-{rank}.json") for rank in (0, 1)]
    report = read(folder / "privacy_report.json")
    finetuned = BUILD / "two-process-adapter"
    few_steps = [
        "--max_steps",
        4,
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--load_best_model_at_end",
        "false",
    ]
    seconds_finetuning = command(
        *("-m", *watch, folder, "finetune_llm", "--config", "recipes/configs/llm/quickstart.yaml"),
        *("--dataset", SYNTHETIC, "--output_dir", finetuned, "--per_device_train_batch_size", 8, *few_steps),
    )
    trained = [read(f"{folder}-finetune_llm-rank-{rank}.json") for rank in (0, 1)]
    from hf_pretext.privacy import PrivacyReport

    same = ("initial_population", "seeds", "synthetic")
    return {
        "generate": {
            "seconds": seconds,
            "world_size": [rank["world_size"] for rank in ranks],
            "same_population_seeds_and_texts": all(ranks[0][name] == ranks[1][name] for name in same),
            "noise_draws": [rank["noise_draws"] for rank in ranks],
            "rounds_in_report": report["num_rounds"],
            "every_rank_s_report_is_the_one_on_disk": all(
                PrivacyReport.from_dict(rank["report"]) == PrivacyReport.from_dict(report).without_names()
                for rank in ranks
            ),
        },
        "finetune_llm": {
            "seconds": seconds_finetuning,
            "world_size": [rank["world_size"] for rank in trained],
            "world_size_in_card": read(finetuned / "training.json")["num_processes"],
        },
    }


def hub_round_trip():
    """Push and pull in processes of their own, each with a fresh cache."""
    from support.hub_server import HubServer

    with HubServer(BUILD / "hub") as server:
        for action in ("push", "pull"):
            home = BUILD / f"hub-home-{action}"
            shutil.rmtree(home, ignore_errors=True)
            command(__file__, action, env={**os.environ, **server.environment(home.resolve())})
    return read(BUILD / "hub.json")


def push():
    from hf_pretext import PrivateEvolutionGenerator
    from hf_pretext.finetuning import push_model

    PrivateEvolutionGenerator.from_pretrained(SYNTHETIC).push_to_hub(REPOS["dataset"], license="mit", language="en")
    push_model(ADAPTER, REPOS["adapter"])
    push_model(SMALL, REPOS["small_model"])


def pull():
    """Compare what comes from the Hub with what lies here."""
    from datasets import load_dataset, load_from_disk
    from huggingface_hub import DatasetCard, ModelCard, snapshot_download
    from safetensors.torch import load_file

    from hf_pretext.data import read_dataset
    from hf_pretext.hub import find_privacy_report

    def tensors_equal(folder, repo):
        pulled = Path(snapshot_download(repo))
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        pairs = [(load_file(folder / name), load_file(pulled / name)) for name in files]
        return bool(files) and all(
            here.keys() == there.keys() and all(here[name].equal(there[name]) for name in here)
            for here, there in pairs
        )

    def metadata_equal(folder, repo):
        return ModelCard.load(folder / "README.md").data.to_dict() == ModelCard.load(repo).data.to_dict()

    dataset, local = load_dataset(REPOS["dataset"], split="train"), load_from_disk(str(SYNTHETIC))
    seeds = load_dataset(REPOS["dataset"], "seeds", split="train")
    there = DatasetCard.load(REPOS["dataset"]).data.to_dict()
    here = DatasetCard.load(SYNTHETIC / "README.md").data.to_dict() | {"license": "mit", "language": "en"}
    outcome = {
        "dataset_rows_equal": list(dataset["text"]) == list(local["text"]),
        "seeds_equal": list(seeds["text"]) == list(read_dataset(SYNTHETIC / "seeds.jsonl", "text")["text"]),
        "dataset_card_equal": there == here,
        "report_equal": find_privacy_report(REPOS["dataset"]) == find_privacy_report(SYNTHETIC),
    }
    for name, folder in (("adapter", ADAPTER), ("small_model", SMALL)):
        outcome[f"{name}_tensors_equal"] = tensors_equal(folder, REPOS[name])
        outcome[f"{name}_card_equal"] = metadata_equal(folder, REPOS[name])
    (BUILD / "hub.json").write_text(json.dumps(outcome))


def cards():
    """Take what the latest run rendered, and what it rendered from, into `model_cards/`."""
    kept = ("README.md", "training.json", "evaluation.json", "evaluation.png", "privacy_report.json", "run.png")
    for folder, name in ((SYNTHETIC, "quickstart"), (ADAPTER, "adapter"), (SMALL, "small-model")):
        target = Path("model_cards") / name
        target.mkdir(exist_ok=True)
        for file in (*kept, "private_evolution_config.json", "models.json", "seeds.jsonl"):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, target / file)
    texts = [{"text": text} for text in load_texts(SYNTHETIC)]
    target = Path("model_cards") / "quickstart"
    (target / "texts.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False))
    (target / "quality.json").write_text(json.dumps(read(SYNTHETIC / "page.json")["quality"], indent=1))


def load_texts(folder):
    from datasets import load_from_disk

    return list(load_from_disk(str(folder))["text"])


def main():
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    results = {}

    def keep(name, outcome):
        results[name] = outcome
        (BUILD / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    started = time.perf_counter()
    command("-m", "hf_pretext.cli", "plays", "--output-dir", "plays")
    keep("generate", generate())
    keep("adapter", finetune_and_evaluate("finetune_llm", "llm/quickstart", ADAPTER))
    keep("small_model", finetune_and_evaluate("finetune_small", "small/quickstart", SMALL))
    keep("two_processes", two_processes())
    keep("hub", hub_round_trip())
    keep("seconds", round(time.perf_counter() - started, 1))
    print("\n" + json.dumps(results, indent=2))
    for name in ("adapter", "small_model"):
        assert results[name]["difference_with_95_percent_interval"]["top_1_accuracy"]["low"] > 0, name
    together = results["two_processes"]["generate"]
    assert together["world_size"] == results["two_processes"]["finetune_llm"]["world_size"] == [2, 2]
    assert together["same_population_seeds_and_texts"] and together["every_rank_s_report_is_the_one_on_disk"]
    assert together["noise_draws"] == [together["rounds_in_report"], 0]
    assert all(results["hub"].values())


if __name__ == "__main__":
    {"push": push, "pull": pull, "cards": cards, "main": main}[sys.argv[1] if len(sys.argv) > 1 else "main"]()
