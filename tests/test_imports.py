"""Which file may import which: the dependency direction of the architecture, walked from the syntax trees."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYERS = [  # a module may import from later lines only
    {"train", "serve", "report", "recipe", "plan"},
    {"evals", "aot", "hf"},
    {"decode"},
    {"step", "data", "checkpoint", "metrics", "sampling"},
    {"inference"},
    {"model", "loss", "optim", "schedule", "chat", "packing", "mixture"},
    {"attention"},
    {"sharding", "flops", "hlo", "tokenizer", "distributed", "watchdog", "cpu"},
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    """evals/humaneval.py → evals"""
    return path.relative_to(ROOT / "oc_jax").parts[0].removesuffix(".py")


FILES = sorted((ROOT / "oc_jax").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_oc_jax_imports_only_downwards(path):
    name = room(path)
    if name == "__init__":
        return
    assert name in LAYER, f"say in LAYERS where oc_jax/{name} belongs"
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "oc_jax" and len(parts) > 1 and parts[1] in LAYER and parts[1] != name:
            assert LAYER[parts[1]] > LAYER[name], f"{path.name} imports oc_jax.{parts[1]}, which is not below it"


@pytest.mark.parametrize("package, other", [("oc_jax", "data_prep"), ("data_prep", "oc_jax")])
def test_the_packages_never_import_each_other(package, other):
    for path in (ROOT / package).rglob("*.py"):
        assert not [m for m in imports(path) if m.split(".")[0] == other], path


def test_data_prep_imports_no_jax_and_nothing_imports_tensorflow_or_torch():
    for path in [*(ROOT / "oc_jax").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py"), ROOT / "run.py"]:
        roots = {module.split(".")[0] for module in imports(path)}
        assert not roots & {"tensorflow", "torch", "transformers"}, path
        assert "data_prep" not in path.parts or not roots & {"jax", "flax", "optax", "orbax"}, path


def test_only_checkpoint_imports_orbax_and_only_sharding_names_mesh_axes():
    for path in FILES:
        if path.name != "checkpoint.py":
            assert not [m for m in imports(path) if m.split(".")[0] == "orbax"], path
        if path.name != "sharding.py":
            strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert not strings & {"fsdp", "dcn"}, path
