"""Numbers made from verdicts."""

from __future__ import annotations

import math


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples passes, given that c of n did: 1 − C(n−c, k) / C(n, k).

    The unbiased estimator of Chen et al. (arXiv 2107.03374, §2.1). Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} needs 0 ≤ c ≤ n and 1 ≤ k ≤ n, got n={n}, c={c}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def wilson_interval(proportion: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a proportion, 95 % by default (Wilson 1927): stays within [0, 1], also for 0 and 1."""
    centre = proportion + z * z / (2 * trials)
    half = z * math.sqrt(proportion * (1 - proportion) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
