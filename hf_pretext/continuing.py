"""The commands that continue a saved run and spend nothing: `hf-pretext expand` and `hf-pretext select`."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from .pages import add_private_repo, quality_in

EXPANSION_SETTINGS = {
    **{"seeds_per_prompt": int, "texts_per_prompt": int, "max_new_tokens": int, "min_words": int, "best_of": int},
    **{"temperature": float, "top_p": float},
}
"""Settings that `expand` may change, and their types. None of them changes what was released."""

LOADING = ("device", "dtype", "device_map", "batch_size")

OF_RELEASES: dict[str, Any] = {"selection": None, "accountant": None}
"""Objects of the caller that a saved run does not hold. They act on releases, so who makes none can do without."""


def add_expand(commands: Any) -> None:
    """Add the command `expand` to a parser."""
    expand = commands.add_parser(
        "expand", help="Write texts from the seeds of a saved run, with any language model. It spends nothing."
    )

    option = partial(_add_option, expand)
    option("seeds", required=True, help="Folder that `generate` wrote, or dataset repository of the Hub, with seeds.")
    option("revision", help="Branch, tag or commit of that repository.")
    option("expansion_model", required=True, help="Language model that writes: as in the file of `generate`.")
    option("num_samples", required=True, type=int, help="Number of texts.")
    option("output_dir", required=True, help="Folder for the dataset, its card, report and picture.")
    option(
        "embedding_model",
        help="Embedding model that ranks texts for `best_of`, if the saved run does not say where its own is.",
    )
    option("push_to_hub", metavar="REPO", help="Push the dataset to this repository of the Hub.")
    add_private_repo(expand)
    option("device", help="Where the models go. By default an accelerator or the CPU.")
    option("dtype", help="Their dtype, such as 'float32'. 'fastest' writes in bfloat16 if the CPU has it.")
    option("device_map", help="How a model that is too large for one device is spread, such as 'auto'.")
    option("batch_size", type=int, help="Texts per forward pass, or requests at a time.")
    for name, kind in EXPANSION_SETTINGS.items():
        option(name, type=kind, help="Setting of the expansion. By default the saved run's.")
    expand.set_defaults(run=_expand)


def add_select(commands: Any) -> None:
    """Add the command `select` to a parser."""
    select = commands.add_parser(
        "select", help="Choose public texts by what the releases of a saved run say of them. It spends nothing."
    )
    select.add_argument(
        "folder", metavar="run", help="Folder that `generate` wrote, or dataset repository of the Hub."
    )
    option = partial(_add_option, select)
    option("revision", help="Branch, tag or commit of that repository.")
    option("public", required=True, help="Public texts: a file, a folder or a dataset repository. They are streamed.")
    option("public_name", help="Configuration of the repository, such as 'en' of allenai/c4.")
    option("public_split", help="Split of the folder or repository.")
    option("num_samples", required=True, type=int, help="Number of texts to choose.")
    option("output_dir", required=True, help="Folder for the texts, their card and report.")
    option("embedding_model", help="Embedding model of the run, if the saved run does not say where it is.")
    option("device", help="Where it goes. By default an accelerator or the CPU.")
    option("dtype", default="auto", help="Its dtype.")
    option("batch_size", type=int, default=64, help="Texts per forward pass.")
    select.set_defaults(run=_select)


def _add_option(parser: Any, name: str, **settings: Any) -> None:
    parser.add_argument(*dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]), **settings)


def _expand(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from .configuration import PrivateEvolutionConfig
    from .expansion import check_num_samples
    from .generator import PrivateEvolutionGenerator
    from .hub import check_push, check_token, fetch_folder
    from .saved_runs import check_folder

    check_num_samples(options.num_samples)
    if options.push_to_hub is not None:
        check_token(None, options.push_to_hub)  # Before anything is loaded.
    given = {name: value for name, value in vars(options).items() if value is not None}
    overrides = {name: given[name] for name in ("embedding_model", *LOADING) if name in given}
    overrides["selection"] = None  # It acts on releases, and there will be none.
    changes = {name: given[name] for name in EXPANSION_SETTINGS if name in given}
    if changes:
        saved = PrivateEvolutionConfig.from_pretrained(fetch_folder(options.seeds, ["*.json"], options.revision))
        overrides["config"] = replace(saved, **changes)
    generator = PrivateEvolutionGenerator.from_pretrained(
        options.seeds,
        revision=options.revision,
        variation_model=None,
        expansion_model=options.expansion_model,
        **overrides,
    )
    if generator.seeds is None:
        raise ValueError(f"`--seeds`={options.seeds!r} holds no seeds. Give the folder or repository of a run.")
    check_folder(options.output_dir, generator.privacy_report)  # Before hours of writing.
    if options.push_to_hub is not None:
        check_push(options.push_to_hub, "dataset", generator.privacy_report, private=options.private_repo)
    synthetic = generator.expand(generator.seeds, num_samples=options.num_samples)
    generator.save_pretrained(options.output_dir)
    summarize(generator, len(synthetic), options.output_dir, pushed(generator, options))


def _select(options: argparse.Namespace) -> None:
    from .expansion import check_num_samples
    from .hub import check_is_not_audited
    from .models.embedder import TextEmbedder
    from .models.loading import load_sentence_transformer, resolve_device, resolve_dtype
    from .processes import is_main_process
    from .saved_runs import SavedRun
    from .selecting import check_target, embed_together, evidence_of, select_public

    check_num_samples(options.num_samples)
    check_is_not_audited(options.folder)
    saved = SavedRun.load(options.folder, options.revision)
    evidence_of(saved)
    check_target(options.output_dir, saved)  # Before hours of embedding.
    given: dict[str, Any] = {"variation_model": None, "expansion_model": None, **OF_RELEASES}
    if options.embedding_model is not None:
        given["embedding_model"] = options.embedding_model
    name = (saved.models(given) | given)["embedding_model"]
    device = resolve_device(options.device)
    model = load_sentence_transformer(name, device, resolve_dtype(options.dtype, device))
    embed = partial(embed_together, TextEmbedder(model, options.batch_size))
    about = options.public_split, options.public_name
    selection = select_public(saved, options.public, options.num_samples, embed, *about)
    if is_main_process():
        selection.save(options.output_dir, options.public)
        facts = selection.facts
        print(f"{facts.num_selected} of {facts.num_different} different public texts are in {options.output_dir}/,")
        print("with their card and report. They are copies, and no text of them is synthetic.")
        print(saved.report.guarantee)


def pushed(generator: Any, options: argparse.Namespace) -> str | None:
    """Push what a generator wrote, if a command was asked to. Returns the address."""
    if options.push_to_hub is None:
        return None
    address: str | None = generator.push_to_hub(options.push_to_hub, private=options.private_repo)
    return address


def summarize(generator: Any, num_texts: int, output_dir: str | Path, address: str | None) -> None:
    """Print what a generator wrote, what is guaranteed, and how good the texts look."""
    from .processes import is_main_process

    if is_main_process():
        print(f"{num_texts} synthetic texts, their card, report, picture and page are in {output_dir}/.")
        print(generator.privacy_report.guarantee, quality_in(output_dir), sep="\n")
        print(generator.time_table)
        if address:
            print(f"Pushed to {address}.")
