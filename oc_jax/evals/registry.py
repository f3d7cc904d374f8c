"""All benchmarks by name. CodeArena is left out: its judge is GPT-4."""

from __future__ import annotations

from oc_jax.evals.benchmark import Benchmark
from oc_jax.evals.bigcodebench import BIGCODEBENCH, BIGCODEBENCH_HARD
from oc_jax.evals.cruxeval import CRUXEVAL_I, CRUXEVAL_O
from oc_jax.evals.humaneval import HUMANEVAL, HUMANEVAL_PLUS
from oc_jax.evals.leetcode import LEETCODE
from oc_jax.evals.livecodebench import LIVECODEBENCH
from oc_jax.evals.mbpp import MBPP, MBPP_3SHOT, MBPP_PLUS
from oc_jax.evals.mceval import MCEVAL, MDEVAL
from oc_jax.evals.multipl_e import MULTIPL_E

REGISTRY: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        HUMANEVAL,
        HUMANEVAL_PLUS,
        MBPP,
        MBPP_PLUS,
        MBPP_3SHOT,
        LEETCODE,
        CRUXEVAL_I,
        CRUXEVAL_O,
        MULTIPL_E,
        BIGCODEBENCH,
        BIGCODEBENCH_HARD,
        LIVECODEBENCH,
        MCEVAL,
        MDEVAL,
    )
}
