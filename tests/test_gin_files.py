"""Every gin file parses, its stages resolve, and its model and optimizer have shapes."""

import inspect
import pathlib
import sys

import gin
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import run as run_module  # noqa: E402

RUNS = sorted((ROOT / "gin" / "runs").glob("*.gin")) + sorted((ROOT / "gin" / "ablations").glob("*.gin"))


@pytest.fixture(scope="module", autouse=True)
def configurables():
    run_module.register()


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_run_file_resolves_and_its_state_has_shapes(path, gin_cleared):
    import jax

    from oc_jax import recipe
    from oc_jax.sharding import MeshConfig, make_layout
    from oc_jax.step import state_shardings

    run_module.parse_gin([str(path)], [])
    for reference in gin.query_parameter("run.recipe"):
        stage = recipe.Stage.from_reference(reference)
        parameters = stage.parameters()
        missing = [k for k, v in parameters.items() if v == str(gin.REQUIRED)]
        assert not missing, f"{stage.name}: unbound {missing}"
        if stage.selector.endswith("train.train"):
            with gin.config_scope(stage.scope):
                bound = gin.get_bindings(stage.selector)
            layout = make_layout(MeshConfig(dcn=1, fsdp=1), jax.devices()[:1])
            shapes, _ = state_shardings(bound["model"], bound["optimizer"], layout)
            assert shapes.params["embedding"].shape[0] == bound["model"].vocab_size
            rates = [float(bound["schedule"](s)) for s in (0, bound["steps"] - 1)]
            assert all(rate >= 0 for rate in rates)


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_every_data_set_to_train_on_is_decontaminated(path, gin_cleared):
    from etils import epath

    from oc_jax import recipe

    run_module.parse_gin([str(path)], [])
    workdir = epath.Path("/work")
    stages = {s.name: s for s in map(recipe.Stage.from_reference, gin.query_parameter("run.recipe"))}

    def clean(directory):
        names = [str(d.relative_to(workdir)) for d in (directory, *directory.parents) if d.is_relative_to(workdir)]
        stage = next((stages[name] for name in names if name in stages), None)
        if stage is None:
            return False
        documents = {name: d for name, d in stage.directories(workdir).items() if name != "tokenizer"}
        return stage.selector.endswith(".decontaminate") or any(map(clean, documents.values()))

    for name, stage in stages.items():
        if stage.selector.endswith(".shards") and stage.arguments()["kind"] != "text":
            assert clean(workdir / name), f"{path.name}: no decontaminate stands before {name}"


@pytest.mark.parametrize("name, parameters", [("1p5b", 1_905_650_880), ("8b", 7_771_262_976)])
def test_the_papers_models_have_exactly_the_papers_parameters(name, parameters, gin_cleared):
    import math

    import jax

    from oc_jax import flops
    from oc_jax.model import ModelConfig, abstract

    run_module.parse_gin([f"gin/models/{name}.gin"], [])
    config = ModelConfig()
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(abstract(config)[1])) == parameters
    assert flops.parameter_count(config) == parameters


def test_every_run_file_begins_with_a_line_for_the_help():
    for path in RUNS:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ") and len(first) < 140, path


@pytest.mark.parametrize("path", sorted((ROOT / "gin").rglob("*.gin")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_gin_file_is_included_or_run(path):
    if path in RUNS:
        return
    name = str(path.relative_to(ROOT))
    assert any(f"include '{name}'" in other.read_text() for other in (ROOT / "gin").rglob("*.gin")), f"{name} is unused"


def test_stages_are_documented(gin_cleared):
    from oc_jax import recipe

    run_module.parse_gin(["gin/runs/cookbook.gin"], [])
    for reference in gin.query_parameter("run.recipe"):
        function = inspect.unwrap(recipe.Stage.from_reference(reference).function)
        assert inspect.getdoc(function), function
