"""The package as a whole: what importing it costs, and which module may know which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_pretext

PACKAGE = Path(hf_pretext.__file__).parent
# From the bottom up: a module imports only from those before it.
LAYERS = (
    "version configuration cleaning data files voting privacy noise selection sampling processes packaged_models "
    "models embedding clients checkpoint generation served expansion variation population measures evaluation audit "
    "plots cards hub finetuning generator plays quickstart cli"
).split()


def imported_modules(code):
    script = f"import sys; {code}; print(*sorted(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "code",
    ["import hf_pretext", "import hf_pretext.privacy, hf_pretext.noise, hf_pretext.voting, hf_pretext.selection"],
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
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    guards = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for_types = [child for node in guards for child in ast.walk(node)]
    assert not [node for node in ast.walk(tree) if "hf_pretext" in (getattr(node, "module", None) or "")]
    return {node.module for node in nodes if node not in for_types and node.module}


def test_modules_import_from_below_only():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*LAYERS, "__init__"}
    for height, module in enumerate(LAYERS):
        assert own_imports(module) <= set(LAYERS[:height]), module


def test_only_the_generator_knows_the_private_side():
    knowing = {module for module in LAYERS if "clients" in own_imports(module)}
    assert knowing == {"generator"}


def test_the_federation_is_above_everything_and_its_client_knows_no_server():
    """What runs beside a client's text loads no generator and, until it embeds, no torch."""
    loaded = imported_modules("import hf_pretext.federated.client")
    assert not loaded & {"hf_pretext.generator", "hf_pretext.federated.server", "torch"}
    assert not any("federated" in own_imports(module) for module in LAYERS)


def test_nothing_is_unpickled_or_trusted():
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        for words in ("pickle.load", "trust_remote_code=True", "torch.load", "eval(" + "compile"):
            assert words not in text, path
