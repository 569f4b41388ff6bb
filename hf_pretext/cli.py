"""The command `hf-pretext`: `quickstart`, `generate`, `expand`, `report`, `scrub`, `plan`, `node` and `plays`."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pages import add_report, quality_in
from .scrubbing import add_scrub
from .version import __version__

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .configuration import PrivateEvolutionConfig

RUN_KEYS = (
    "private",
    "private_split",
    "query",
    "initial_population",
    "initial_population_split",
    "num_samples",
    "output_dir",
    "variation_model",
    "embedding_model",
    "expansion_model",
    "device",
    "dtype",
    "device_map",
    "batch_size",
)
REQUIRED_KEYS = ("private", "expansion_model", "num_samples", "output_dir", "delta")

EXPANSION_SETTINGS = {
    **{"seeds_per_prompt": int, "texts_per_prompt": int, "max_new_tokens": int, "min_words": int, "best_of": int},
    **{"temperature": float, "top_p": float},
}
"""Settings that `expand` may change, and their types. None of them changes what was released."""

LOADING = ("device", "dtype", "device_map", "batch_size")

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 if the input is not valid, or 130 after an interruption."""
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"hf-pretext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hf-pretext: interrupted. The same command resumes.", file=sys.stderr)
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser, whose `run` is what a command does."""
    parser = argparse.ArgumentParser(
        prog="hf-pretext", description="Differentially private synthetic text from federated clients."
    )
    parser.add_argument("--version", action="version", version=f"hf-pretext {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    quickstart = commands.add_parser(
        "quickstart", help="A whole run on Shakespeare's roles with small models, in minutes on two cores."
    )
    quickstart.add_argument(
        "--output-dir", default="quickstart-output", help="Folder for the dataset, card, report and picture."
    )
    quickstart.add_argument("--seed", type=int, default=0, help="Seed of everything but the noise.")
    quickstart.set_defaults(run=_quickstart)
    plays = commands.add_parser("plays", help="Write the quickstart's clients into files, for the recipes.")
    plays.add_argument("--output-dir", default="plays", help="Folder for private.jsonl and held_out.jsonl.")
    plays.set_defaults(run=_plays)
    config_help = (
        f"YAML file with the keys {', '.join(RUN_KEYS)} and any field of PrivateEvolutionConfig. It must hold "
        f"{', '.join(REQUIRED_KEYS)}, and one of epsilon and noise_multiplier."
    )
    generate = commands.add_parser("generate", help="Generate a synthetic dataset as a YAML file says.")
    generate.add_argument("--config", required=True, help=config_help)
    generate.add_argument(
        "--push-to-hub", "--push_to_hub", metavar="REPO", help="Push the dataset to this repository of the Hub."
    )
    generate.set_defaults(run=_generate)
    _add_expand(commands)
    add_report(commands)
    add_scrub(commands)
    plan = commands.add_parser(
        "plan", help="Print what a run will release and what it costs. It reads no private text and spends nothing."
    )
    plan.add_argument("--config", required=True, help="The YAML file of `hf-pretext generate`.")
    plan.add_argument(
        "--num-clients", "--num_clients", type=int, help="Number of clients, for what stands out of the noise."
    )
    plan.set_defaults(run=_plan)
    node = commands.add_parser(
        "node", help="Print what a federation's node has answered, and what it costs. It reads no private text."
    )
    node.add_argument("--private", required=True, help="The file or folder of `private` in the node's configuration.")
    node.add_argument("--ledger", help="The file of `ledger` there, if it has one.")
    node.set_defaults(run=_node)
    return parser


def _add_expand(commands: Any) -> None:
    expand = commands.add_parser(
        "expand", help="Write texts from the seeds of a saved run, with any language model. It spends nothing."
    )

    def option(name: str, **settings: Any) -> None:
        spellings = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
        expand.add_argument(*spellings, **settings)

    option("seeds", required=True, help="Folder that `generate` wrote, or dataset repository of the Hub, with seeds.")
    option("expansion_model", required=True, help="Language model that writes: as in the file of `generate`.")
    option("num_samples", required=True, type=int, help="Number of texts.")
    option("output_dir", required=True, help="Folder for the dataset, its card, report and picture.")
    option("embedding_model", help="Model that judges the texts, if the saved run does not say where its own is.")
    option("push_to_hub", metavar="REPO", help="Push the dataset to this repository of the Hub.")
    option("device", help="Where the models go. By default an accelerator or the CPU.")
    option("dtype", help="Their dtype, such as 'float32'. 'fastest' writes in bfloat16 if the CPU has it.")
    option("device_map", help="How a model that is too large for one device is spread, such as 'auto'.")
    option("batch_size", type=int, help="Texts per forward pass, or requests at a time.")
    for name, kind in EXPANSION_SETTINGS.items():
        option(name, type=kind, help="Setting of the expansion. By default the saved run's.")
    expand.set_defaults(run=_expand)


def _quickstart(options: argparse.Namespace) -> None:
    from .quickstart import run_quickstart

    run_quickstart(options.output_dir, options.seed)


def _plays(options: argparse.Namespace) -> None:
    from .plays import write_plays

    write_plays(options.output_dir)


def _plan(options: argparse.Namespace) -> None:
    from .planning import bills

    if options.num_clients is not None and options.num_clients < 1:
        raise ValueError(f"`--num_clients`={options.num_clients} must be at least 1.")
    print(bills(*read_run(Path(options.config), needs=("delta",)), options.num_clients))


def _node(options: argparse.Namespace) -> None:
    from .federated.node_ledger import NodeLedger, statement

    ledger = NodeLedger(options.private, options.ledger)
    if not ledger.path.exists() and not Path(options.private).exists():
        raise FileNotFoundError(
            f"`--private`={options.private!r} is no file or folder, and {str(ledger.path)!r} no ledger."
        )
    print(statement(ledger))


def _generate(options: argparse.Namespace) -> None:
    repo_id = options.push_to_hub
    run, settings = read_run(Path(options.config))
    from .artifacts import REPORT_NAME, RUN_FOLDER
    from .configuration import PrivateEvolutionConfig
    from .expansion import check_num_samples
    from .generator import PrivateEvolutionGenerator
    from .hub import check_token
    from .processes import is_main_process

    if repo_id is not None:
        check_token(None, repo_id)  # Before any budget is spent.
    config = PrivateEvolutionConfig(**settings)
    output_dir, num_samples = Path(str(run.pop("output_dir"))), run.pop("num_samples")
    check_num_samples(num_samples)
    private_source, public_source = (source_of(run, key) for key in ("private", "initial_population"))
    if _are_the_same(private_source, public_source):
        raise ValueError("`initial_population` is the private file itself, whose texts would be published.")
    run_dir = output_dir / RUN_FOLDER
    if (output_dir / REPORT_NAME).exists() and not run_dir.exists():
        raise ValueError(
            f"`output_dir`={str(output_dir)!r} holds the report of a run already, but not its folder {RUN_FOLDER!r}, "
            "from which it could resume. A second run on the same clients adds to its epsilon. Keep that report, and "
            "choose another folder."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    # The other processes do not see private text.
    private = read_private_source(private_source, config) if is_main_process() else None
    public = read_public_source(public_source, config)
    generator = PrivateEvolutionGenerator(**run, config=config, run_dir=run_dir)
    if generator.ledger.num_releases and is_main_process():
        ledger = generator.ledger
        counted, lost, planned = ledger.num_releases, ledger.num_lost, ledger.plan.num_releases
        print(
            f"Resuming {run_dir}/, which holds {counted} of {planned} releases"
            + (f", {lost} of them lost in a crash and spent all the same" if lost else "")
            + ": none is drawn again."
            + (" The private file is not asked any more." if counted >= planned else "")
        )
    seeds = generator.evolve(private, initial_population=public)
    # What was spent and what it bought are on disk before anything else can fail.
    generator.save_pretrained(output_dir)
    with _help_after_failure(output_dir, num_samples):
        synthetic = generator.expand(seeds, num_samples=num_samples)
    generator.save_pretrained(output_dir)
    address = generator.push_to_hub(repo_id) if repo_id is not None else None
    _summarize(generator, len(synthetic), output_dir, address)


@contextmanager
def _help_after_failure(output_dir: str | Path, num_samples: int) -> Iterator[None]:
    """Say how an expansion that fails is continued without spending again."""
    from .processes import is_main_process

    try:
        yield
    except Exception:
        if is_main_process():
            print(
                f"hf-pretext: the seeds are in {output_dir}/, and what they cost is not spent again. Mend what "
                "follows, or name another `expansion_model` in the file, and give the same command. Or write texts "
                f"elsewhere: hf-pretext expand --seeds {output_dir} --expansion-model MODEL "
                f"--num-samples {num_samples} --output-dir FOLDER",
                file=sys.stderr,
            )
        raise


def _summarize(generator: Any, num_texts: int, output_dir: str | Path, address: str | None) -> None:
    from .processes import is_main_process

    if is_main_process():
        print(f"{num_texts} synthetic texts, their card, report, picture and page are in {output_dir}/.")
        print(generator.privacy_report.guarantee, quality_in(output_dir), sep="\n")
        print(generator.time_table)
        if address:
            print(f"Pushed to {address}.")


def _expand(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from .configuration import PrivateEvolutionConfig
    from .expansion import check_num_samples
    from .generator import PrivateEvolutionGenerator
    from .hub import check_token, fetch_folder
    from .saved_runs import check_folder

    check_num_samples(options.num_samples)
    if options.push_to_hub is not None:
        check_token(None, options.push_to_hub)
    given = {name: value for name, value in vars(options).items() if value is not None}
    overrides = {name: given[name] for name in ("embedding_model", *LOADING) if name in given}
    changes = {name: given[name] for name in EXPANSION_SETTINGS if name in given}
    if changes:
        saved = PrivateEvolutionConfig.from_pretrained(fetch_folder(options.seeds, ["*.json"]))
        overrides["config"] = replace(saved, **changes)
    generator = PrivateEvolutionGenerator.from_pretrained(
        options.seeds, variation_model=None, expansion_model=options.expansion_model, **overrides
    )
    if generator.seeds is None:
        raise ValueError(f"`--seeds`={options.seeds!r} holds no seeds. Give the folder or repository of a run.")
    check_folder(options.output_dir, generator.privacy_report)  # Before hours of writing.
    synthetic = generator.expand(generator.seeds, num_samples=options.num_samples)
    generator.save_pretrained(options.output_dir)
    address = generator.push_to_hub(options.push_to_hub) if options.push_to_hub is not None else None
    _summarize(generator, len(synthetic), options.output_dir, address)


def is_same_place(path: Any, other: Any) -> bool:
    """Return whether two paths lead to the same file or folder, however they are spelled."""
    try:
        return Path(str(path)).samefile(str(other))
    except (OSError, ValueError):
        return str(path) == str(other)


def source_of(run: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Take out of the keys of a run what says where texts are.

    Args:
        run (`dict`): Keys of the run. They lose `key`, `<key>_split` and, with `private`, `query`.
        key (`str`): `"private"` or `"initial_population"`.

    Returns:
        `dict`: The `source`, and `split` and `query` if they are given. None if the run has no such key.

    Raises:
        ValueError: The split of something is given that is not.
        TypeError: A value is not a string.
    """
    names = {"source": key, "split": f"{key}_split", **({"query": "query"} if key == "private" else {})}
    given = {name: run.pop(each, None) for name, each in names.items()}
    found = {name: value for name, value in given.items() if value is not None}
    if found and "source" not in found:
        raise ValueError(f"`{names[next(iter(found))]}` is about `{key}`, which is missing.")
    for name, value in found.items():
        if not isinstance(value, str):
            raise TypeError(f"`{names[name]}` of type {type(value).__name__} must be a string.")
    return found or None


def _are_the_same(private: dict[str, Any] | None, public: dict[str, Any] | None) -> bool:
    if private is None or public is None:
        return False
    if private.get("split", "train") != public.get("split", "train"):  # That is the split of a repository.
        return False
    return is_same_place(private["source"], public["source"])


def read_private_source(source: dict[str, Any] | None, config: "PrivateEvolutionConfig") -> "Dataset":
    """Read the private texts that a run's file names. Errors name the key, and no password."""
    from .data.sources import read_private

    if source is None:
        raise ValueError("`private` is empty. It names a file, a folder, a repository of the Hub or a database.")
    wanted = _columns(config)
    if config.label_column is not None:
        wanted["other_columns"] = [*wanted.get("other_columns", ()), config.label_column]
    return _naming("private", lambda: read_private(**source, **wanted, client_column=config.client_column))


def read_public_source(
    source: dict[str, Any] | None, config: "PrivateEvolutionConfig"
) -> "Dataset | IterableDataset | None":
    """Read or stream the public texts that a run's file names, if it names any. Errors name the key."""
    if source is None:
        return None
    from .data.sources import read_public

    def read() -> "Dataset | IterableDataset":
        public = read_public(**source, **_columns(config), label_column=config.label_column)
        if _is_of_a_run(source["source"]):
            raise ValueError(
                f"{source['source']!r} is synthetic text of a run, and not public: the report of a new run would not "
                "count that one. Begin with public texts."
            )
        return public

    return _naming("initial_population", read)


def _is_of_a_run(source: str) -> bool:
    """Return whether a privacy report lies beside texts: in their repository, or where a run or a copy has it."""
    from .artifacts import DATA_FILE, REPORT_NAME, SEEDS_FILE, SEEDS_NAME
    from .data.sources import is_repository
    from .hub import fetch_folder

    if is_repository(source):
        return (fetch_folder(source, [REPORT_NAME]) / REPORT_NAME).is_file()
    path = Path(source).resolve()
    inner = {Path(file).parent.name for file in (DATA_FILE, SEEDS_FILE)}
    places = [path, *([path.parent] if path.name in {SEEDS_NAME, *inner} else [])]
    places += [path.parent.parent] if path.parent.name in inner else []
    return any((place / REPORT_NAME).is_file() for place in places)


def _columns(config: "PrivateEvolutionConfig") -> dict[str, Any]:
    from .forms import Plain, form_of

    form = form_of(config)
    if isinstance(form, Plain):
        return {"text_column": form.column}
    return {"text_column": None, "other_columns": form.source}


def _naming(key: str, read: Callable[[], Any]) -> Any:
    """Read what a key of a run's file names, and name the key in errors."""
    try:
        return read()
    except (OSError, ValueError, TypeError, ImportError) as error:
        message = str(error).replace("`split`", f"`{key}_split`")
        kind = type(error) if type(error) in (FileNotFoundError, TypeError, ImportError) else ValueError
    raise kind(message if message.startswith(f"`{key}") else f"`{key}`: {message}")


def read_run(path: Path, needs: Sequence[str] = REQUIRED_KEYS) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a YAML file into the keys of the run and the fields of the configuration.

    Args:
        path (`Path`): The file.
        needs (`Sequence[str]`, *optional*): Keys that it must hold.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file.
    """
    import dataclasses

    import yaml

    from .configuration import PrivateEvolutionConfig

    if not path.is_file():
        raise FileNotFoundError(f"`--config`={str(path)!r} is not a file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        # The whole error quotes the line, in which a password may be.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = f"{error.problem}{line}"
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # Some tags on values that they do not fit raise errors that are not YAML's own.
        problem = f"it raises a {type(error).__name__}"
    else:
        problem = ""
    if problem:
        raise ValueError(f"{path} is not YAML that can be read: {problem}.")
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines.")
    values = {key: _as_number(value) for key, value in values.items()}
    fields = {field.name for field in dataclasses.fields(PrivateEvolutionConfig)}
    _check_keys(path, values, fields, needs)
    run = {key: value for key, value in values.items() if key in RUN_KEYS}
    return run, {key: value for key, value in values.items() if key in fields}


def _as_number(value: Any) -> Any:
    """Read `1e-5`, which YAML 1.1 takes for a string. Only `1.0e-5` is a number to it."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _check_keys(path: Path, values: dict[str, Any], fields: set[str], needs: Sequence[str]) -> None:
    from .settings import shortened

    if unknown := sorted(map(str, set(values) - fields - set(RUN_KEYS))):
        known = sorted(fields | set(RUN_KEYS))
        near = sorted({match for key in unknown[:20] for match in get_close_matches(key[:100], known, n=1)})
        hint = f" Did you mean {near}?" if near else ""
        raise ValueError(f"{path} holds unknown keys: {shortened(unknown)}.{hint} Known are {known}.")
    if missing := [key for key in needs if key not in values]:
        hint = " Choose `delta` well below one over the number of clients." if "delta" in missing else ""
        raise ValueError(f"{path} lacks the keys {missing}.{hint}")


if __name__ == "__main__":
    sys.exit(main())
