"""The command `hf-pretext`: `quickstart`, `generate`, `plan`, `node`, `plays`, and those of other modules."""

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .continuing import add_expand, add_select, pushed, summarize
from .pages import add_private_repo, add_report
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
    "initial_population_name",
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
    "report_to",
)
REQUIRED_KEYS = ("private", "expansion_model", "num_samples", "output_dir", "delta")

RESUMING = ("quickstart", "generate")
"""Commands that keep what they have done, part by part."""

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 2 if the input is not valid, or 130 after an interruption."""
    options = make_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A text that a console cannot show must not make a run fail that has ended, as Windows' may.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"hf-pretext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "resumes" if options.command in RESUMING else "begins again, and has spent nothing"
        print(f"hf-pretext: interrupted. The same command {goes_on}.", file=sys.stderr)
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
    generate = commands.add_parser("generate", help="Generate a synthetic dataset from a YAML file.")
    generate.add_argument("--config", required=True, help=config_help)
    generate.add_argument(
        "--push-to-hub", "--push_to_hub", metavar="REPO", help="Push the dataset to this repository of the Hub."
    )
    add_private_repo(generate)
    generate.set_defaults(run=_generate)
    add_expand(commands)
    add_report(commands)
    add_scrub(commands)
    add_select(commands)
    plan = commands.add_parser(
        "plan", help="Print what a run will release and what it costs. It reads no private text and spends nothing."
    )
    plan.add_argument("--config", required=True, help="The YAML file of `hf-pretext generate`.")
    plan.add_argument(
        "--num-clients",
        "--num_clients",
        type=int,
        help="About how many clients there are: prints what stands out of the noise, and which settings we advise.",
    )
    plan.set_defaults(run=_plan)
    node = commands.add_parser(
        "node", help="Print what a federation's node has answered, and what it costs. It reads no private text."
    )
    node.add_argument("--private", required=True, help="The file or folder of `private` in the node's configuration.")
    node.add_argument("--ledger", help="The file of `ledger` there, if it has one.")
    node.set_defaults(run=_node)
    return parser


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
    from .artifacts import RUN_FOLDER
    from .configuration import PrivateEvolutionConfig
    from .expansion import check_num_samples
    from .generator import PrivateEvolutionGenerator
    from .hub import check_push, check_token
    from .processes import is_main_process
    from .saved_runs import check_folder

    if repo_id is not None:
        check_token(None, repo_id)  # Before anything is loaded.
    config = PrivateEvolutionConfig(**settings)
    output_dir, num_samples = Path(str(run.pop("output_dir"))), run.pop("num_samples")
    check_num_samples(num_samples)
    private_source, public_source = (source_of(run, key) for key in ("private", "initial_population"))
    if _are_the_same(private_source, public_source):
        raise ValueError("`initial_population` is the private file itself, whose texts would be published.")
    run_dir = output_dir / RUN_FOLDER
    _check_folder(output_dir, run_dir)
    # All processes read the same rows, and each of them answers for its own clients.
    is_new = not run_dir.exists()
    private = read_private_source(private_source, config) if is_new else None  # Before models are loaded.
    public = read_public_source(public_source, config)
    generator = PrivateEvolutionGenerator(**run, config=config, run_dir=run_dir)
    ledger = generator.ledger
    ledger.share()  # The main process alone has read it.
    if not ledger.num_releases:  # Before the first one is spent.
        check_folder(output_dir, generator.privacy_report)
    if repo_id is not None:
        check_push(repo_id, "dataset", generator.privacy_report, private=options.private_repo)
    counted, lost, planned = ledger.num_releases, ledger.num_lost, ledger.plan.num_releases
    if not is_new and counted < planned:
        private = read_private_source(private_source, config)
    if counted and is_main_process():
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
    summarize(generator, len(synthetic), output_dir, pushed(generator, options))


@contextmanager
def _help_after_failure(output_dir: str | Path, num_samples: int) -> Iterator[None]:
    """Say how an expansion that fails is continued without spending again."""
    from .processes import is_main_process

    try:
        yield
    except Exception:
        if is_main_process():
            print(
                f"hf-pretext: the seeds are in {output_dir}/, and what they cost is not spent again. Fix the error "
                "below, or name another `expansion_model` in the file, and give the same command. Or write texts "
                f"elsewhere: hf-pretext expand --seeds {output_dir} --expansion-model MODEL "
                f"--num-samples {num_samples} --output-dir FOLDER",
                file=sys.stderr,
            )
        raise


def _check_folder(output_dir: Path, run_dir: Path) -> None:
    """Refuse a folder that cannot be written, or that holds a report without the run that it is about."""
    from .artifacts import REPORT_NAME
    from .files import check_is_writable
    from .processes import is_main_process

    if (output_dir / REPORT_NAME).exists() and not run_dir.exists():
        raise ValueError(
            f"`output_dir`={str(output_dir)!r} holds the report of a run already, but not its folder "
            f"{run_dir.name!r}, from which it could resume. A second run on the same clients adds to its epsilon. "
            "Keep that report, and choose another folder."
        )
    if is_main_process():
        check_is_writable("output_dir", output_dir)


def is_same_place(path: Any, other: Any) -> bool:
    """Return whether two paths lead to the same file or folder, however they are spelled."""
    try:
        return Path(str(path)).samefile(str(other))
    except (OSError, ValueError):
        return str(path) == str(other)


def source_of(run: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Take out of the keys of a run what says where texts are.

    Args:
        run (`dict`):
            Keys of the run. They lose `key`, `<key>_split`, and `query` (private) or `<key>_name` (public).
        key (`str`): `"private"` or `"initial_population"`.

    Returns:
        `dict`: The `source`, and `split`, `query` and `name` if they are given. None if the run has no such key.

    Raises:
        ValueError: The split of something is given that is not.
        TypeError: A value is not a string.
    """
    more = {"query": "query"} if key == "private" else {"name": f"{key}_name"}
    names = {"source": key, "split": f"{key}_split", **more}
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
    from .hub import is_of_a_run

    def read() -> "Dataset | IterableDataset":
        public = read_public(**source, **_columns(config), label_column=config.label_column)
        if is_of_a_run(source["source"]):
            raise ValueError(
                f"{source['source']!r} is synthetic text of a run, and not public: the report of a new run would not "
                "count that one. Begin with public texts."
            )
        return public

    return _naming("initial_population", read)


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
    run = {key: _at_home(value) for key, value in values.items() if key in RUN_KEYS}
    return run, {key: value for key, value in values.items() if key in fields}


def _as_number(value: Any) -> Any:
    """Read `1e-5`, which YAML 1.1 takes for a string. Only `1.0e-5` is a number to it."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _at_home(value: Any) -> Any:
    """Read a path that begins with `~` as a shell does."""
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def _check_keys(path: Path, values: dict[str, Any], fields: set[str], needs: Sequence[str]) -> None:
    from .settings import shortened

    if unknown := sorted(map(str, set(values) - fields - set(RUN_KEYS))):
        known = sorted(fields | set(RUN_KEYS))
        near = sorted({match for key in unknown[:20] for match in get_close_matches(key[:100], known, n=1)})
        hint = f" Did you mean {near}?" if near else ""
        raise ValueError(f"{path} holds unknown keys: {shortened(unknown)}.{hint} Known are {known}.")
    if missing := [key for key in needs if values.get(key) is None]:
        hint = " Choose `delta` well below one over the number of clients." if "delta" in missing else ""
        raise ValueError(f"{path} lacks the keys {missing}.{hint}")


if __name__ == "__main__":
    sys.exit(main())
