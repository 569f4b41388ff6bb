"""The package as a whole: what importing it costs, and which module may know which."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import hf_pretext

PACKAGE = Path(hf_pretext.__file__).parent
# From the bottom up: a module imports only from its own floor and from those below it.
FLOORS = (
    "version artifacts lazy moved settings forms labels paper configuration files processes segmentation cleaning "
    "templating prompts data privacy clients runs evolution models tilting seed_texts choosing expansion evaluation "
    "personal quality plots cards coverage croissant hub finetuning page saved_files saved_runs saving selecting "
    "preferences inputs generator audit federated plays pages scrubbing planning quickstart continuing cli"
).split()
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def imported_modules(code):
    script = f"import sys; {code}; print(*sorted(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "code",
    [
        "import hf_pretext",
        "import hf_pretext.privacy, hf_pretext.clients.questions, hf_pretext.clients.clipping",
        "import hf_pretext.evolution.algorithm, hf_pretext.evolution.population, hf_pretext.evolution.selection",
        "import hf_pretext.models.engine, hf_pretext.models.variation",
        "import hf_pretext.cli, hf_pretext.federated.node",
    ],
)
def test_light_imports(code):
    heavy = {"torch", "transformers", "datasets", "sentence_transformers", "opendp", "dp_accounting", "matplotlib"}
    assert not imported_modules(code) & heavy


def test_help_is_quick_to_import():
    assert not imported_modules("import hf_pretext.cli") & {"torch", "transformers", "numpy"}


def test_every_public_name_resolves():
    for name in hf_pretext.__all__:
        assert getattr(hf_pretext, name) is not None
    assert set(dir(hf_pretext)) == set(hf_pretext.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hf_pretext.nothing  # noqa: B018


def own_imports(module):
    """List the modules of the package that a module imports, also inside functions and for types."""
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert "hf_pretext" not in (node.module or ""), f"{module}: imports inside the package are relative"
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                names = [".".join(filter(None, [*base, alias.name])) for alias in node.names]
                found |= {name if name in MODULES else ".".join(filter(None, base)) for name in names}
    return found - {""}


def test_modules_import_from_their_floor_and_below():
    assert {module.partition(".")[0] for module in MODULES} == set(FLOORS)
    for module in MODULES:
        floor = FLOORS.index(module.partition(".")[0])
        above = {each for each in own_imports(module) if FLOORS.index(each.partition(".")[0]) > floor}
        assert not above, f"{module} imports {above}"


def test_no_modules_import_each_other_in_a_circle():
    """`TopologicalSorter` raises an error that names the circle."""
    graph = {module: own_imports(module) - {module} for module in MODULES}
    # A package's `__init__` only gathers names of its modules.
    inner = {module: {each for each in found if each in MODULES} for module, found in graph.items()}
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    for module, found in inner.items():
        inner[module] = {each for each in found if not (each in packages and module.startswith(f"{each}."))}
    list(TopologicalSorter(inner).static_order())


def test_only_these_modules_know_a_pool():
    """What a run is given becomes one, the generator and the loop hand it on, and the run asks it."""
    knowing = {module for module in MODULES if own_imports(module) & {"clients.pool", "clients.in_memory"}}
    assert knowing == {
        *("clients", "clients.in_memory", "federated.server"),
        *("inputs", "generator", "evolution.algorithm", "runs.run"),
    }


def test_the_client_of_a_federation_knows_no_server():
    """What runs beside a client's text loads no generator and, until it embeds, no torch."""
    loaded = imported_modules("import hf_pretext.federated.client")
    assert not loaded & {"hf_pretext.generator", "hf_pretext.federated.server", "torch"}


def test_nothing_is_unpickled_or_trusted():
    for path in MODULES.values():
        text = path.read_text()
        for words in ("pickle.load", "trust_remote_code=True", "torch.load", "eval(" + "compile"):
            assert words not in text, path


OLD_NAMES = {
    "audit": "read_scores",
    "cards": "dataset_card",
    "checkpoint": "RunFolder",
    "clients": "InMemoryClientPool",
    "embedding": "TextEmbedder",
    "evaluation": "score_next_tokens",
    "finetuning": "GuaranteeCallback",
    "generation": "TextGenerator",
    "measures": "frechet_distance",
    "models": "load_causal_lm",
    "noise": "DiscreteGaussian",
    "packaged_models": "locate",
    "population": "Reserve",
    "privacy": "PrivacyReport",
    "processes": "broadcast",
    "sampling": "sample_tokens",
    "selection": "smooth_votes",
    "served": "ServedTextGenerator",
    "variation": "MaskedVariation",
    "voting": "quantize_embeddings",
}


@pytest.mark.filterwarnings("ignore:hf_pretext.* moved to")
@pytest.mark.parametrize("module", OLD_NAMES)
def test_import_paths_of_the_first_edition_still_work(module):
    assert getattr(import_module(f"hf_pretext.{module}"), OLD_NAMES[module]) is not None


def test_an_old_import_path_says_where_it_moved():
    sys.modules.pop("hf_pretext.voting", None)
    with pytest.warns(DeprecationWarning, match="hf_pretext.voting moved to hf_pretext.clients.samples"):
        module = import_module("hf_pretext.voting")
    with pytest.raises(AttributeError, match="has no attribute 'cast_votes'. It moved to"):
        module.cast_votes  # noqa: B018


def complexity(function):
    """McCabe's cyclomatic complexity: one, and one for each place where the flow divides."""
    branches = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.Assert, ast.With)
    number = 1
    for node in ast.walk(function):
        number += isinstance(node, branches[:-1])
        number += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
    return number


def lines_of_code(node):
    """Lines of a class or function without its docstrings."""
    docs = [
        child.body[0].end_lineno - child.body[0].lineno + 1
        for child in ast.walk(node)
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(child)
    ]
    return node.end_lineno - node.lineno + 1 - sum(docs)


def test_files_classes_and_functions_stay_small():
    sniffing = 0
    for module, path in MODULES.items():
        text = path.read_text()
        assert text.count("\n") <= 450, module
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert lines_of_code(node) <= 350, f"{module}.{node.name}"
            if isinstance(node, ast.FunctionDef):
                assert complexity(node) <= 15, f"{module}.{node.name}: {complexity(node)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                sniffing += node.func.id in ("hasattr", "getattr")
    assert sniffing <= 15


def test_the_algorithm_is_read_in_25_lines():
    tree = ast.parse(MODULES["evolution.algorithm"].read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "evolve")
    assert lines_of_code(function) <= 25
