"""The arithmetic behind the ahead-of-time reports, and with libtpu one of them anew."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from oc_jax import aot, flops, hlo
from oc_jax.model import ModelConfig
from oc_jax.optim import adamw
from oc_jax.sharding import MeshConfig, make_layout

ROOT = pathlib.Path(__file__).resolve().parents[2]
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed: pip install -r requirements-tpu.txt"
)
CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
    attention_backend="splash",
)


def arguments(**model):
    return {
        "model": dataclasses.replace(CONFIG, **model),
        "optimizer": adamw(),
        "schedule": lambda step: 1e-3,
        "compute_dtype": "float32",
        "loss_chunk": 64,
        "z_loss": 0.0,
        "batch_size": 8,
        "accumulation": 2,
        "seq_len": 256,
    }


@pytest.mark.parametrize(
    "remat, again",
    [
        ("none", ()),
        ("full", ("query", "key", "value", "context", "out", "gate", "up")),
        (["context"], ("query", "key", "value", "out", "gate", "up")),
        (["context", "query", "key", "value", "middle"], ("gate", "up")),
    ],
)
def test_recomputed_flops_are_those_of_the_products_that_are_not_kept(remat, again):
    layout = make_layout(MeshConfig(fsdp=2, tensor=2, context=2))
    traced, _ = aot.lower(arguments(remat=remat), layout)
    tokens, d, heads = 8 * 256, 128, 4 * 32
    once = {
        "query": d * heads,
        "key": d * heads // 2,
        "value": d * heads // 2,
        "out": d * heads,
        "gate": d * 256,
        "up": d * 256,
    }
    one = 2.0 * tokens * 3
    scores = one * heads * 256 / 2  # queries times keys, its causal half
    expected = sum(one * once[name] for name in again if name in once)
    expected += one * heads  # the row sums of output times its gradient
    expected += scores * (3 + 2 * ("context" in again))  # the backward kernels compute 3 products twice
    model = tokens * flops.train_flops_per_token(CONFIG, 256)
    assert aot.executed_flops(traced) - model == pytest.approx(expected, rel=1e-6)


def test_collectives_of_a_compiled_loop_are_counted_with_their_axes_and_bytes():
    layout = make_layout(MeshConfig(dcn=2, fsdp=4))
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=layout.sharding(None, "embed", None))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=layout.sharding("batch", None))

    def layer(x, w):
        return jnp.tanh(x @ layout.constrain(w, None, None)), None

    def f(x, weights):
        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    text = jax.jit(f).lower(x, weights).compile().as_text()
    found = hlo.collectives(text, dict(layout.mesh.shape))
    gathers = [c for c in found if c.kind == "all-gather"]
    weights_moved = [c for c in gathers if c.axes == ("fsdp",)]
    assert sum(c.bytes for c in weights_moved) == 5 * 64 * 64 * 4 * 3 / 4
    (reduction,) = [c for c in found if c.kind == "all-reduce"]
    assert reduction.axes == ("dcn", "fsdp") and reduction.bytes == 2 * 7 / 8 * 4


@pytest.mark.parametrize(
    "text, group",
    [
        ("replica_groups={{0,4},{1,5}}", [0, 4]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=1,'d'=2], device_ids=([2,4]T(1,0)) {'b'}", [0, 1, 2, 3]),
        ("source_target_pairs={{0,1},{1,2}}", [0, 1]),
    ],
)
def test_every_notation_of_groups_is_read(text, group):
    assert hlo.group_of(text, 8) == group


@pytest.mark.slow
@needs_libtpu
def test_a_step_of_the_real_size_needs_no_more_than_its_report_says(tmp_path):
    """OpenCoder-8B on 128 chips of v5p, sequences of 8,192."""
    golden = ROOT / "docs" / "aot" / "opencoder_8b_v5p-pretrain_8k-v5p_4x4x8.json"
    flags = ["--gin_file=gin/runs/opencoder_8b_v5p.gin", "--topology=v5p:4x4x8", f"--workdir={tmp_path}"]
    flags += ["--mode=aot", "--gin_bindings=run.recipe = [@pretrain_8k/train]"]
    subprocess.run([sys.executable, "run.py", *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    now = json.loads((tmp_path / golden.name).read_text())
    assert now["fits"] and aot.regressions(json.loads(golden.read_text()), now) == []


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_the_memory_of_a_chip_is_what_the_compiler_says(topology):
    """A program that is too large by far is refused with the size of the memory."""
    code = (
        "from oc_jax import aot; import jax, jax.numpy as jnp\n"
        f"device = aot.topology_devices({topology!r})[0]\n"
        "sharding = jax.sharding.SingleDeviceSharding(device)\n"
        "x = jax.ShapeDtypeStruct((2**19, 2**17), jnp.float32, sharding=sharding)\n"
        "try: jax.jit(lambda x: x.T + 1).lower(x).compile()\n"
        "except jax.errors.JaxRuntimeError as error: print(aot.CHIPS[device.device_kind].hbm_gib, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f" of {said.split()[0]}G hbm" in said or f"HBM ({said.split()[0]}G)" in said, said


@pytest.mark.slow
@needs_libtpu
def test_what_travels_between_slices_is_counted():
    """Each of two slices sends its sum of a gradient, cut over the slice's four chips, once."""
    code = (
        "import jax, jax.numpy as jnp\n"
        "from oc_jax import aot, hlo\n"
        "from oc_jax.sharding import MeshConfig, make_layout\n"
        "layout = make_layout(MeshConfig(dcn=2), aot.topology_devices('v5p:2x2x1', 2))\n"
        "shaped = lambda shape, *axes: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout.sharding(*axes))\n"
        "w, x = shaped((1024, 512), 'embed', None), shaped((4096, 1024), 'batch', None)\n"
        "step = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))), out_shardings=w.sharding)\n"
        "found = hlo.collectives(step.lower(w, x).compile().as_text(), dict(layout.mesh.shape))\n"
        "print(sum(c.bytes for c in found if c.axes == ('dcn',)))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert float(said) == 1024 * 512 * 4 / 4


@pytest.mark.slow
@needs_libtpu
def test_a_plan_promises_what_the_compiler_does_not_undercut():
    """Of the compiled steps of OpenCoder-8B on v5p, arithmetic names neither more memory nor more time."""
    code = (
        "import gin, json, run\n"
        "from oc_jax import aot, plan, recipe\n"
        "run.register(); run.parse_gin(['gin/runs/opencoder_8b.gin'], [])\n"
        "stages = [recipe.Stage.from_reference(r) for r in gin.query_parameter('run.recipe')]\n"
        "(stage,) = [stage for stage in stages if stage.name == 'pretrain_8k']\n"
        "found = plan.candidates(stage.arguments(), aot.topology_devices('v5p:4x4x8'), 1)\n"
        "print(json.dumps([[dict(c.layout.mesh.shape), c.arguments['accumulation'], c.arguments['model'].remat,"
        " c.seconds, c.gib] for c in found]))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    candidates = json.loads(said.splitlines()[-1])
    assert [c[3] for c in candidates] == sorted(c[3] for c in candidates)
    compared = 0
    for name in ("opencoder_8b", "opencoder_8b_v5p"):
        report = json.loads((ROOT / "docs" / "aot" / f"{name}-pretrain_8k-v5p_4x4x8.json").read_text())
        for mesh, parts, remat, seconds, gib in candidates:
            if (mesh, parts, remat) == (report["mesh"], report["accumulation"], report["remat"]):
                compared += 1
                assert 0.7 * report["memory"]["peak"] < gib <= report["memory"]["peak"]
                assert 0.9 * report["step_seconds"]["overlapped"] < seconds <= report["step_seconds"]["overlapped"]
    assert compared == 2


def test_what_got_worse_is_told():
    good = {"fits": True, "memory": {"peak": 50.0, "available": 95.0}, "model_flops": 1e17, "recomputed_flops": 2e16}
    good["step_seconds"] = {"exposed": 9.0}
    assert aot.regressions(good, good) == []
    assert aot.regressions(good, good | {"memory": {"peak": 50.9, "available": 95.0}}) == []
    assert aot.regressions(good, good | {"recomputed_flops": 1e16}) == []
    assert aot.regressions(good, good | {"recomputed_flops": 2.1e16}) == ["recomputed_flops: 2.1e+16, was 2e+16"]
    assert "fits no longer" in aot.regressions(good, good | {"fits": False})[0]
