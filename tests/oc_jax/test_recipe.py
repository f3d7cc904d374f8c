import json

import gin
import pytest
from etils import epath

from oc_jax import recipe

CALLS = []


@gin.configurable(module="toy")
def scale(factor: float = 2.0):
    return lambda x: factor * x


@gin.configurable(module="toy")
def make(out: epath.Path, *, text: str = "hello", workers: int = 1) -> dict:
    CALLS.append("make")
    (out / "data.txt").write_text(text)
    return {"length": len(text)}


@gin.configurable(module="toy")
def use(
    out: epath.Path,
    *,
    source: epath.Path = epath.Path("make"),
    others: dict[epath.Path, float] | None = None,
    transform=gin.REQUIRED,
    fail: bool | str = False,
) -> None:
    CALLS.append("use")
    if fail == "at once":
        raise KeyboardInterrupt
    (out / "first.txt").write_text("written")
    if fail:
        raise KeyboardInterrupt
    (out / "copy.txt").write_text((source / "data.txt").read_text() + str(transform(1)))


@pytest.fixture(autouse=True)
def fresh(gin_cleared):
    CALLS.clear()


def stages(*bindings):
    gin.clear_config()
    gin.parse_config(["list.stages = [@toy.make, @late/toy.use]", "toy.use.transform = @toy.scale()", *bindings])
    return [recipe.Stage.from_reference(r) for r in gin.query_parameter("list.stages")]


@gin.configurable("list", module="toy")
def _list(stages=()):
    return stages


def run(workdir, *bindings, **options):
    for stage in stages(*bindings):
        recipe.run_stage(stage, epath.Path(workdir), **options)


def test_names_and_parameters_follow_scopes_macros_and_references():
    make_stage, use_stage = stages("FACTOR = 3.5", "late/toy.scale.factor = %FACTOR", "toy.make.workers = 7")
    assert (make_stage.name, use_stage.name) == ("make", "late")
    assert make_stage.parameters() == {"make.text": "hello"}  # workers change nothing that is made
    assert use_stage.parameters()["late/scale.factor"] == 3.5
    assert stages("toy.scale.factor = 9.0")[1].parameters()["late/scale.factor"] == 9.0
    assert stages()[1].parameters()["late/scale.factor"] == 2.0


def test_finished_stages_are_skipped_and_say_what_they_did(tmp_path):
    run(tmp_path)
    run(tmp_path)
    assert CALLS == ["make", "use"]
    done = json.loads((tmp_path / "make" / "DONE.json").read_text())
    assert done["params"] == {"make.text": "hello"} and done["result"] == {"length": 5}
    assert done["outputs"]["files"] == 1 and done["seconds"] >= 0 and done["peak_memory_gb"] > 0
    assert (tmp_path / "late" / "copy.txt").read_text() == "hello2.0"


def test_a_changed_parameter_runs_the_stage_and_its_readers_again_and_keeps_the_old_result(tmp_path):
    run(tmp_path)
    run(tmp_path, "toy.make.text = 'other'")
    assert CALLS == ["make", "use"] * 2
    assert (tmp_path / "late" / "copy.txt").read_text() == "other2.0"
    (old,) = (tmp_path / "superseded").glob("make-*")
    assert (old / "data.txt").read_text() == "hello"


def test_a_changed_reader_leaves_its_input_alone(tmp_path):
    run(tmp_path)
    run(tmp_path, "toy.scale.factor = 4.0")
    assert CALLS == ["make", "use", "use"]


def test_a_half_done_stage_resumes_but_refuses_another_configuration(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "toy.use.fail = True")
    with pytest.raises(recipe.RecipeError, match="late is half-done and late/use.fail was True and is now False"):
        run(tmp_path)
    run(tmp_path, allow_config_change=True)
    assert (tmp_path / "late" / "DONE.json").exists()


def test_what_a_killed_run_was_just_writing_is_no_result(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", "toy.use.fail = True")
    (tmp_path / "b" / "late" / ".copy.txt.0123.tmp").write_text("wri")  # kill -9 runs no clean-up
    run(tmp_path / "b", "toy.use.fail = False", allow_config_change=True)
    outputs = [json.loads((tmp_path / name / "late" / "DONE.json").read_text())["outputs"] for name in ("a", "b")]
    assert outputs[0] == outputs[1]


def test_a_stage_that_wrote_nothing_yet_takes_another_configuration(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "toy.use.fail = 'at once'")
    (tmp_path / "late" / "_scratch").mkdir()
    (tmp_path / "late" / "_scratch" / "spool").write_text("of other parameters")
    run(tmp_path)
    assert not (tmp_path / "late" / "_scratch").exists()


def test_a_scoped_reference_is_recorded_under_the_scope_it_runs_in():
    _, use_stage = stages("late/toy.use.transform = @own/toy.scale()", "own/toy.scale.factor = 9.0")
    assert use_stage.parameters()["own/scale.factor"] == 9.0
    with gin.config_scope("late"):
        assert gin.get_bindings("toy.use")["transform"](1) == 9.0  # what the function is called with


def test_a_workdir_may_lie_anywhere(tmp_path):
    workdir = tmp_path / "tensorboard" / "superseded"
    workdir.mkdir(parents=True)
    run(workdir)
    assert json.loads((workdir / "make" / "DONE.json").read_text())["outputs"]["files"] == 1
    run(workdir, "toy.make.text = 'other'")
    assert CALLS == ["make", "use"] * 2


def test_changed_data_is_refused_in_a_half_done_stage(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "toy.use.fail = True")
    with pytest.raises(recipe.RecipeError, match="half-done and source: make was"):
        run(tmp_path, "toy.use.fail = True", "toy.make.text = 'changed'")


def test_missing_and_half_done_inputs_are_named(tmp_path):
    with pytest.raises(recipe.RecipeError, match="late reads .*/nowhere, which is not there"):
        run(tmp_path, "toy.use.source = 'nowhere'")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "STARTED.json").write_text("{}")
    with pytest.raises(recipe.RecipeError, match="partial is half-done"):
        run(tmp_path, "toy.use.others = {'partial': 1.0}")


def test_stages_with_parentheses_are_refused():
    gin.parse_config(["list.stages = [@toy.scale()]"])
    with pytest.raises(recipe.RecipeError, match="without parentheses"):
        recipe.Stage.from_reference(gin.query_parameter("list.stages")[0])
