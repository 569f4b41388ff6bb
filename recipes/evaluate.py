"""Measure a finetuned model on held-out text, before and after finetuning, with intervals over clients.

```bash
python recipes/evaluate.py --model jobs-adapter --dataset held_out.jsonl
```

It takes one model: choose it by its validation loss on synthetic texts, which the finetuning recipes do, and measure
that one here, once. The figures go into `evaluation.json`, a picture and the model's card. An evaluation on private
text is not covered by the guarantee of the model, and the texts are written nowhere.

Held-out rows are read as those of the run. For texts with labels, `text_column` is enough. For records, give
`--text_column subject body`, and `--template` if the run had one. For conversations, give `--text_column messages
--chat_roles user assistant`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# `import evaluate` must find the library, and not this script.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

import numpy as np
from datasets import Dataset
from trl import TrlParser

from hf_pretext.artifacts import EVALUATION_NAME, EVALUATION_PICTURE_NAME
from hf_pretext.cards import MEASURES
from hf_pretext.data import list_rows, read_repository, read_texts
from hf_pretext.data.sources import is_repository
from hf_pretext.data.texts import NO_IDS, look_of
from hf_pretext.evaluation import TextDistribution, paired_bootstrap, score_next_tokens
from hf_pretext.evaluation.scoring import check_num_clients
from hf_pretext.files import atomic_folder, check_is_writable, write_json
from hf_pretext.finetuning import (
    TRAINING_NAME,
    check_push_of_model,
    load_before_and_after,
    push_model,
    report_of_model,
    run_recipe,
    write_model_card,
)
from hf_pretext.forms import Chat, Form, Plain, check_chat_roles, check_form, check_text_column, form_of
from hf_pretext.hub import fetch_folder
from hf_pretext.inputs import warn_of_unknown
from hf_pretext.models import load_sentence_transformer, resolve_device
from hf_pretext.models.checkpoints import read_tokenizer
from hf_pretext.models.embedder import TextEmbedder
from hf_pretext.plots import plot_evaluation
from hf_pretext.processes import is_main_process, num_processes, progress_label


@dataclass
class EvaluationArguments:
    """What to measure, and on what."""

    model: str = field(metadata={"help": "Finetuned model or LoRA adapter: a folder of the recipes, or a repository."})
    dataset: str = field(metadata={"help": "Held-out texts: a file, a folder, or a dataset repository of the Hub."})
    base_model: str | None = field(default=None, metadata={"help": "Model before finetuning. By default its own."})
    split: str = field(default="test", metadata={"help": "Name of the held-out texts, and split of a repository."})
    text_column: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={"help": "Column of texts or conversations, or the columns of records, as the run had them."},
    )
    template: str | None = field(default=None, metadata={"help": "Template of records, as the run had it."})
    chat_roles: list[str] | None = field(
        default=None, metadata={"help": "The two roles, if `text_column` holds conversations."}
    )
    client_column: str | None = field(
        default="client_id", metadata={"help": "Column that says whose a text is. null: each text is someone else's."}
    )
    is_private: bool = field(default=True, metadata={"help": "Whether the held-out texts are private, for the card."})
    num_texts: int | None = field(default=None, metadata={"help": "Measure on this many texts, drawn at random."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of a text that are read. null: all."})
    batch_size: int = field(default=16, metadata={"help": "Texts per forward pass."})
    synthetic: str | None = field(
        default=None, metadata={"help": "Synthetic texts, to measure their distance to the held-out texts as well."}
    )
    embedding_model: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "Model for that distance."}
    )
    device: str | None = field(
        default=None, metadata={"help": "Where the models go. null: an accelerator or the CPU."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the drawing of texts and of the bootstrap."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for the results. By default the model's."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the model again, with the figures in its card."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository to push to."})
    hub_private_repo: bool | None = field(default=None, metadata={"help": "Whether the repository is private."})
    hub_token: str | None = field(default=None, metadata={"help": "Token of the Hub."})
    allow_no_guarantee: bool = field(
        default=False, metadata={"help": "Push a model although no finite guarantee is known for it."}
    )
    publish_private_evaluation: bool = field(
        default=False, metadata={"help": "Publish rounded figures with the model although they are of private text."}
    )


def main(arguments: EvaluationArguments) -> None:
    """Measure as the arguments say."""
    publish = arguments.publish_private_evaluation
    folder = fetch_folder(arguments.model, ["*"], repo_type="model")
    if arguments.output_dir is None and not Path(arguments.model).is_dir():
        raise ValueError("`output_dir` is needed where `model` is a repository: the results have to go somewhere.")
    output = Path(arguments.output_dir or arguments.model)
    push = check_push(arguments, folder, output) if arguments.push_to_hub else None
    if is_main_process():
        check_is_writable("output_dir" if arguments.output_dir else "model", output)  # Before minutes of scoring.
    form = form_of_rows(arguments)
    rows, clients = held_out_rows(arguments, form)
    tokenizer = read_tokenizer(folder)
    texts = as_trained_on(rows, form, tokenizer)
    check_num_clients(len(set(clients)))
    base, finetuned = load_before_and_after(folder, arguments.base_model, arguments.device)
    options = {"batch_size": arguments.batch_size, "max_length": arguments.max_length}
    before = score_next_tokens(base(), tokenizer, texts, progress="Before finetuning", **options)
    after = score_next_tokens(finetuned(), tokenizer, texts, progress="After finetuning", **options)
    figures = {
        "dataset": published_name(arguments),
        "split": arguments.split,
        "is_private": arguments.is_private,
        "covered_by_the_guarantee": False,
        "num_texts": len(texts),
        "num_clients": len(set(clients)),
        "num_tokens": before.totals()["num_tokens"],
        "num_processes": num_processes(),
        "before": before.totals(),
        "after": after.totals(),
        "difference": paired_bootstrap(before, after, clients, seed=arguments.seed),
    }
    if arguments.synthetic:
        figures["synthetic_texts"] = measure_texts(arguments, rows, form)
    if is_main_process():
        print(table(figures))  # First, since a disk may be full.
        write_results(output, folder, figures)
        print(f"\n{output}/evaluation.json has these figures, and the model's card shows them.")
        if push:
            print(f"Pushed to {push_model(output, publish_private_evaluation=publish, **push)}.")


def check_push(arguments: EvaluationArguments, folder: Path, output: Path) -> dict[str, Any]:
    """Return where the model is pushed to, if it will be possible.

    Raises:
        ValueError: The results do not go into the model's own folder, which is what is pushed. Or as
            `check_push_of_model` says.
    """
    if output.resolve() != folder.resolve():
        raise ValueError(
            f"`push_to_hub` publishes the model's folder with the results in it, and `output_dir`={str(output)!r} is "
            f"another one than {str(folder)!r}. Download the model into a folder, name that as `model`, and leave "
            "`output_dir` out."
        )
    return check_push_of_model(
        arguments.hub_model_id,
        arguments.hub_token,
        report_of_model(folder),
        private=arguments.hub_private_repo,
        allow_no_guarantee=arguments.allow_no_guarantee,
    )


def published_name(arguments: EvaluationArguments) -> str:
    """Return what the card calls the held-out texts. What the owner calls private ones is not for the public."""
    if arguments.is_private:
        return "a private dataset"
    return Path(arguments.dataset).name if Path(arguments.dataset).exists() else arguments.dataset


def form_of_rows(arguments: EvaluationArguments) -> Form:
    """Return what a row is: a text, a record or a conversation."""
    given = arguments.text_column
    columns = [given] if isinstance(given, str) else given  # A file of settings may have either.
    column = columns[0] if len(columns) == 1 else tuple(columns)
    roles = None if arguments.chat_roles is None else tuple(arguments.chat_roles)
    check_text_column("text_column", column)
    if roles is not None:
        check_chat_roles("chat_roles", roles)
    settings: Any = SimpleNamespace(text_column=column, template=arguments.template, chat_roles=roles)
    check_form(settings)
    return form_of(settings)


def held_out_rows(arguments: EvaluationArguments, form: Form) -> tuple[Dataset, list[Any]]:
    """Read the held-out rows and whose they are.

    Raises:
        ValueError: The rows cannot be read, or some are without a client.
    """
    data, column = read_rows(arguments, form)
    clients = list(range(len(data))) if column is None else list(data[column])
    if nameless := sum(look_of(client) in NO_IDS for client in clients):
        raise ValueError(
            f"`client_column`={column!r} is missing in {nameless} of {len(clients)} rows, or a word such as 'null', "
            "and all of them would count as one client. Drop these rows, or give `--client_column null` if each row "
            "is another person's."
        )
    if arguments.num_texts is not None and arguments.num_texts < len(data):
        chosen = np.random.default_rng(arguments.seed).permutation(len(data))[: arguments.num_texts]
        data, clients = data.select(chosen), [clients[index] for index in chosen]
    return data, clients


def read_rows(arguments: EvaluationArguments, form: Form) -> tuple[Dataset, str | None]:
    """Read the rows, and return the column of their clients too, which a command line can only name "null"."""
    # What is private is not copied into a cache.
    read = read_repository if arguments.is_private and is_repository(arguments.dataset) else read_texts
    texts = form.column if isinstance(form, Plain) else None

    def with_column(column: str | None) -> Dataset:
        return read(arguments.dataset, texts, column, other_columns=form.source, split=arguments.split)

    if str(arguments.client_column).lower() in ("null", "none"):
        try:
            return with_column(arguments.client_column), arguments.client_column
        except ValueError:  # There is no column of that name. Any other mistake is found again.
            return with_column(None), None
    return with_column(arguments.client_column), arguments.client_column


def as_trained_on(rows: Dataset, form: Form, tokenizer: Any) -> list[str]:
    """Write rows as the texts that a model was finetuned on: conversations by the template of its tokenizer."""
    texts = list_rows(rows, form, "dataset")
    if not isinstance(form, Chat):
        return texts
    if tokenizer.chat_template is None:
        raise ValueError(
            "`chat_roles` is given, but the tokenizer of `model` has no chat template, so it was not finetuned on "
            "conversations. Leave `chat_roles` out, or name a model that was."
        )
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in rows[form.column]]
    begins = tokenizer.bos_token if tokenizer("").input_ids[:1] == [tokenizer.bos_token_id] else ""
    return [text.removeprefix(begins) for text in texts]  # Whoever reads them adds it again.


def measure_texts(arguments: EvaluationArguments, rows: Dataset, form: Form) -> dict[str, Any]:
    """Measure how near the synthetic texts are to the held-out ones."""
    assert arguments.synthetic is not None  # The caller has looked.
    # The synthetic dataset may call them otherwise, such as `messages`.
    column = form.columns[0] if isinstance(form, Plain) else None
    written = read_texts(arguments.synthetic, column, other_columns=form.columns)
    synthetic, held_out = list_rows(written, form, "synthetic", form.columns), list_rows(rows, form, "dataset")
    embedder = TextEmbedder(
        load_sentence_transformer(arguments.embedding_model, resolve_device(arguments.device), "auto")
    )
    warn_of_unknown(synthetic, embedder, "`synthetic`")
    with progress_label("Embedding"):
        return TextDistribution().compute(predictions=synthetic, references=held_out, embed=embedder)


def write_results(output: Path, folder: Path, figures: dict[str, Any]) -> None:
    """Write the figures, their picture, and the card that shows both."""
    with atomic_folder(output) as scratch:
        write_json(scratch / EVALUATION_NAME, figures)
        plot_evaluation(figures, scratch / EVALUATION_PICTURE_NAME)
    if output.resolve() == folder.resolve() and (folder / TRAINING_NAME).is_file():
        write_model_card(output)


def table(figures: dict[str, Any]) -> str:
    """Show the figures as a Markdown table."""
    lines = [
        f"{figures['num_texts']} texts of {figures['num_clients']} clients, {figures['num_tokens']} tokens "
        "(evaluation only, not covered by the guarantee):\n",
        "| | before | after | difference [95 % interval] |",
        "|---|---|---|---|",
    ]
    for name, words in MEASURES.items():
        change = figures["difference"][name]
        lines.append(
            f"| {words} | {figures['before'][name]:.4f} | {figures['after'][name]:.4f} | "
            f"{change['difference']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}] |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_recipe(main, TrlParser((EvaluationArguments,)))
