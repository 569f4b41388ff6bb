"""What the client processes of `tests/test_hub.py` run; each has a cache of its own."""

import io
import json
import os
import sys
import urllib.request
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard, hf_hub_download
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, SFTConfig

from hf_pretext import PrivateEvolutionConfig, PrivateEvolutionGenerator, hub
from hf_pretext.cli import main
from hf_pretext.finetuning import FinetuningArguments, load_before_and_after, load_training_texts
from hf_pretext.finetuning.chain import reports_of_writer
from hf_pretext.hub import find_privacy_report
from hf_pretext.models import ModelSource, load_causal_lm
from hf_pretext.models.checkpoints import read_causal_lm
from hf_pretext.pages import push_page
from support.scripts import load_script
from support.tiny import random_texts

MODELS = {name: Path(sys.argv[3]) / name for name in ("variation_model", "embedding_model", "expansion_model")}
DATA, ADAPTER, SMALL = "me/jobs-dp", "me/jobs-adapter", "me/jobs-small"
PAGE = "me/jobs-page"
BASE, PINNED, MOVED = "me/base", "me/pinned", "me/moved"
LABELED, MORE = "me/labeled-dp", "me/more-labeled-dp"
LABELS = {"ham": "messages that people want", "spam": "unwanted advertising"}


def make_generator(labels=None, **changes):
    settings = {"epsilon": 4.0, "delta": 1e-3, "num_rounds": 2, "population_size": 16, "lookahead": 0, "min_words": 1}
    settings["token_fraction"] = 0.0
    settings |= {"labels": labels, "label_column": labels and "kind"}
    config = PrivateEvolutionConfig(**settings, max_length=16, max_new_tokens=16)
    return PrivateEvolutionGenerator(**MODELS, config=config, batch_size=8, **changes)


def run(generator):
    clients = [f"client-{number}" for number in range(1, 13) for _ in range(number)]
    kinds = [list(LABELS)[row % 2] for row in range(len(clients))]
    private = Dataset.from_dict({"client_id": clients, "text": random_texts(len(clients), seed=1), "kind": kinds})
    return generator(private, initial_population=random_texts(60, seed=2), num_samples=40)


def error_of(action):
    """Return type and message of the error that an action raises, or None."""
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def break_next(status, times, path_contains, method="POST"):
    fault = {"status": status, "times": times, "method": method, "path_contains": path_contains}
    urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/faults", data=json.dumps(fault).encode()).read()


def tensors(model):
    return {name: value.double().sum().item() for name, value in model.state_dict().items()}


def push(folder):
    hub.WAITS = (0.1, 0.1)
    api, generator, outcome = HfApi(), make_generator(), {}
    synthetic = run(generator)

    token = os.environ.pop("HF_TOKEN")
    outcome["no token"] = error_of(lambda: generator.push_to_hub(DATA))
    os.environ["HF_TOKEN"] = token
    outcome["wrong token"] = error_of(lambda: generator.push_to_hub(DATA, token="hf_wrong"))

    break_next(None, 50, "/commit/")
    outcome["cut connection"] = error_of(lambda: generator.push_to_hub(DATA))
    outcome["files after the cut"] = sorted(api.list_repo_files(DATA, repo_type="dataset"))
    break_next(500, 2, "/commit/")
    outcome["two 500s"] = error_of(lambda: generator.push_to_hub(DATA, license="cc0-1.0", language="en"))
    more = generator.expand(generator.seeds, num_samples=50)
    generator.push_to_hub(DATA, license="cc0-1.0", language="en")

    outcome |= push_pages(api, generator, folder / "saved")

    api.create_repo("me/photos", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"...", path_in_repo="cat.png", repo_id="me/photos", repo_type="dataset")
    outcome["other files"] = error_of(lambda: generator.push_to_hub("me/photos"))
    other = make_generator()
    run(other)
    outcome["another run"] = error_of(lambda: other.push_to_hub(DATA))
    outcome |= check_before_work(generator, other, folder / "saved")

    no_noise = make_generator(noise=lambda scale, size: [0] * size)
    run(no_noise)
    outcome["no guarantee"] = error_of(lambda: no_noise.push_to_hub("me/no-dp"))
    outcome["no guarantee, repo"] = api.repo_exists("me/no-dp", repo_type="dataset")
    no_noise.push_to_hub("me/no-dp", allow_no_guarantee=True)

    labeled = make_generator(LABELS)
    outcome["labeled"] = run(labeled).to_list()
    outcome["labeled seeds"] = labeled.seeds.to_list()
    labeled.push_to_hub(LABELED)
    outcome["labeled report"] = labeled.privacy_report.to_dict()

    outcome["synthetic"], outcome["more"] = list(synthetic["text"]), list(more["text"])
    outcome["seeds"] = generator.seeds.to_list()
    outcome["report"] = generator.privacy_report.to_dict()
    outcome["report of texts"] = find_privacy_report(more).without_names().to_dict()
    outcome |= {**finetune(folder), **train_at_a_revision(folder)}
    (folder / "pushed.json").write_text(json.dumps(outcome))


def check_before_work(generator, other, saved):
    """What a push would be refused for is seen before the work for it begins."""
    report, command = generator.privacy_report, ["expand", "--seeds", str(saved), "--num-samples", "50"]
    models = ["--expansion-model", str(MODELS["expansion_model"]), "--embedding-model", str(MODELS["embedding_model"])]
    written = saved.with_name("written")
    told = io.StringIO()
    with redirect_stderr(told):
        main([*command, *models, "--output-dir", str(written), "--push-to-hub", "me/photos"])
    return {
        "early, a new repository": error_of(lambda: hub.check_push("me/new", "dataset", report)),
        "early, its own": error_of(lambda: hub.check_push(DATA, "dataset", report)),
        "early, another run": error_of(lambda: hub.check_push(DATA, "dataset", other.privacy_report)),
        "early, public": error_of(lambda: hub.check_push(DATA, "dataset", report, private=True)),
        "late, public": error_of(lambda: generator.push_to_hub(DATA, private=True)),
        "early, no name": error_of(lambda: hub.check_push("no/such/name", "dataset", report)),
        "early, other files": told.getvalue(),
        "early, nothing written": not written.exists(),
        "private": [
            main([*command, *models, "--output-dir", str(written), "--push-to-hub", "me/closed", "--private-repo"]),
            *(HfApi().repo_info(repo, repo_type="dataset").private for repo in ("me/closed", DATA)),
        ],
    }


def push_pages(api, generator, folder):
    """Push the page of a run as a Space, twice, and into a Space of something else."""
    generator.save_pretrained(folder)
    addresses = [push_page(folder, PAGE) for _ in range(2)]
    api.create_repo("me/game", repo_type="space", space_sdk="static")
    api.upload_file(path_or_fileobj=b"A game.", path_in_repo="index.html", repo_id="me/game", repo_type="space")
    index = Path(hf_hub_download(PAGE, "index.html", repo_type="space")).read_text()
    return {
        "page address": addresses,
        "page files": sorted(api.list_repo_files(PAGE, repo_type="space")),
        "page": index,
        "page card": Path(hf_hub_download(PAGE, "README.md", repo_type="space")).read_text(),
        "page over a game": error_of(lambda: push_page(folder, "me/game")),
    }


def training_in(folder, name, repo, **changes):
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "max_length": 32, "learning_rate": 0.01, **changes}
    on_cpu = {"use_cpu": True, "bf16": False, "report_to": "none"}
    return SFTConfig(str(folder / name), push_to_hub=True, hub_model_id=repo, **on_cpu, **settings)


def finetune(folder):
    """Finetune both ways on the dataset of the Hub, by its name, and push."""
    llm, small = load_script("finetune_llm"), load_script("finetune_small")
    training = partial(training_in, folder)
    base = str(MODELS["expansion_model"])
    model = ModelConfig(model_name_or_path=base, dtype="float32", lora_r=2, lora_target_modules=["q_proj", "v_proj"])
    llm.main(FinetuningArguments(dataset=DATA, license="apache-2.0"), training("adapter", ADAPTER), model)
    arguments = small.SmallModelArguments(
        dataset=DATA, license="apache-2.0", model_name_or_path=base, public_dataset=str(folder / "public.jsonl")
    )
    small.main(arguments, training("small", SMALL))
    no_dp = FinetuningArguments(dataset="me/no-dp")
    api = HfApi()
    api.create_repo("me/cats")
    api.upload_file(path_or_fileobj=b"...", path_in_repo="cat.png", repo_id="me/cats")
    return {
        "adapter tensors": tensors(
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
        ),
        "small tensors": tensors(AutoModelForCausalLM.from_pretrained(folder / "small")),
        "adapter card": ModelCard.load(folder / "adapter" / "README.md").data.to_dict(),
        "small card": ModelCard.load(folder / "small" / "README.md").data.to_dict(),
        "model over cats": error_of(
            lambda: llm.main(FinetuningArguments(dataset=DATA), training("cats", "me/cats"), model)
        ),
        "trained before it was refused": (folder / "cats").exists(),
        "model of no guarantee": error_of(lambda: llm.main(no_dp, training("no-dp", "me/no-dp-model"), model)),
    }


def train_at_a_revision(folder):
    """Train an adapter from an earlier commit of a base, and load a finetuned model of an earlier commit."""
    llm, api = load_script("finetune_llm"), HfApi()
    base, other = Path(MODELS["expansion_model"]), folder / "other"
    weights = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        weights.lm_head.weight.mul_(2)
    weights.save_pretrained(other)
    commits = []
    for repo, places in ((BASE, (base, other)), (MOVED, (folder / "small", base))):
        api.create_repo(repo)
        for place in places:
            options = {"folder_path": place, "ignore_patterns": ["*.bin", "checkpoint-*", "stage-*"]}
            commits.append(api.upload_folder(repo_id=repo, delete_patterns=["*"], **options).oid)
    training = training_in(folder, "pinned", PINNED, learning_rate=0.0)
    model = ModelConfig(
        BASE, model_revision=commits[0], dtype="float32", lora_r=2, lora_target_modules=["q_proj", "v_proj"]
    )
    llm.main(FinetuningArguments(dataset=DATA), training, model)
    moved = AutoModelForCausalLM.from_pretrained(MOVED, revision=commits[2])
    return {
        "first commit": commits[0],
        "tensors of the first commit": tensors(AutoModelForCausalLM.from_pretrained(base)),
        "before": tensors(load_before_and_after(folder / "pinned")[0]()),
        "reports of an earlier commit": len(reports_of_writer(MOVED, moved)),
        "reports by its name with that commit": len(reports_of_writer(MOVED, f"{MOVED}@{commits[2]}")),
        "reports of main": len(reports_of_writer(MOVED, MOVED)),
        "by name with commit": tensors(load_causal_lm(f"{BASE}@{commits[0]}", torch.device("cpu"), torch.float32)[0]),
        "label": ModelSource.of(f"{BASE}@{commits[0]}").label,
    }


def config_of(repo):
    """As the card says."""
    return PrivateEvolutionConfig.from_pretrained(
        hf_hub_download(repo, "private_evolution_config.json", repo_type="dataset")
    )


def pull(folder):
    base = AutoModelForCausalLM.from_pretrained(MODELS["expansion_model"])
    generator = PrivateEvolutionGenerator.from_pretrained(DATA, **MODELS)
    card = DatasetCard.load(DATA)
    outcome = {
        "more": list(load_dataset(DATA, split="train")["text"]),
        "seeds": load_dataset(DATA, "seeds", split="train").to_list(),
        "restored seeds": generator.seeds.to_list(),
        "config equal": generator.config == config_of(DATA),
        "report": generator.privacy_report.to_dict(),
        "found report": find_privacy_report(DATA).without_names().to_dict(),
        "loaded report": find_privacy_report(load_dataset(DATA, split="train"), DATA).without_names().to_dict(),
        "no models": error_of(lambda: PrivateEvolutionGenerator.from_pretrained(DATA)),
        "no repository": error_of(lambda: PrivateEvolutionGenerator.from_pretrained("me/nothing")),
        "card": card.data.to_dict(),
        "card text": card.text,
        "no guarantee card": DatasetCard.load("me/no-dp").text,
        "adapter tensors": tensors(PeftModel.from_pretrained(base, ADAPTER)),
        "small tensors": tensors(AutoModelForCausalLM.from_pretrained(SMALL)),
        "vocabulary": len(AutoTokenizer.from_pretrained(SMALL)),
        "adapter card": ModelCard.load(ADAPTER).data.to_dict(),
        "small card": ModelCard.load(SMALL).data.to_dict(),
        "adapter text": ModelCard.load(ADAPTER).text,
        "pinned text": ModelCard.load(PINNED).text,
        "pinned tensors": tensors(read_causal_lm(PINNED, merge=True)[0]),
        "files": {
            repo: sorted(HfApi().list_repo_files(repo, repo_type=kind))
            for repo, kind in ((DATA, "dataset"), (ADAPTER, "model"), (SMALL, "model"))
        },
    }
    outcome |= {**pull_labeled(), "expanded": expand_by_command(folder)}
    generator.expand(generator.seeds, num_samples=45)
    generator.push_to_hub(DATA)
    outcome["after a push of the restored"] = load_dataset(DATA, split="train", revision="main").num_rows
    # Someone's own push mixes private rows into the repository, beside the report of the run.
    rows = load_dataset(DATA, split="train")
    mixed = concatenate_datasets([rows, Dataset.from_dict({"text": ["my own diary"]}, features=rows.features)])
    mixed.push_to_hub(DATA)
    outcome["report of a mixed repository"] = find_privacy_report(DATA) is not None
    outcome["training on it"] = load_training_texts(FinetuningArguments(dataset=DATA)).report is not None
    (folder / "pulled.json").write_text(json.dumps(outcome))


def pull_labeled():
    """Continue a run with labels, whose column has their names again."""
    generator = PrivateEvolutionGenerator.from_pretrained(LABELED, **MODELS)
    rows = load_dataset(LABELED, split="train")
    return {
        "labeled": rows.to_list(),
        "labeled seeds": generator.seeds.to_list(),
        "names of labels": [each.features["kind"].names for each in (rows, generator.seeds)],
        "labeled report": find_privacy_report(rows, LABELED) is not None,
        "more labeled": generator.expand(generator.seeds, 4, {"ham": 0.5, "spam": 0.5})["kind"][:],
    }


def expand_by_command(folder):
    """Write more texts from published seeds by the command, with a model of one's own, and push them elsewhere."""
    models = ["--expansion-model", str(MODELS["expansion_model"]), "--embedding-model", str(MODELS["embedding_model"])]
    target = ["--output-dir", str(folder / "more"), "--push-to-hub", MORE]
    status = main(["expand", "--seeds", LABELED, *models, "--num-samples", "6", *target])
    rows = load_dataset(MORE, split="train")
    report = find_privacy_report(rows, MORE)
    return [status, rows.num_rows, rows.column_names, report and report.without_names().to_dict()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"push": push, "pull": pull}[sys.argv[1]](Path(sys.argv[2]))
