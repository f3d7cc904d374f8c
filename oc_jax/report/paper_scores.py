"""Pass@1 in the paper (arXiv 2411.04905, tables 6 to 8), in percent, by benchmark or MultiPL-E language."""

from __future__ import annotations

MODELS = ("OpenCoder-1.5B", "OpenCoder-8B", "Qwen2.5-Coder-1.5B", "Qwen2.5-Coder-7B")
BASE: dict[str, tuple[float, ...]] = {  # table 6
    "humaneval": (54.3, 66.5, 43.9, 61.6),
    "humaneval_plus": (49.4, 63.4, 36.6, 53.0),
    "mbpp": (70.6, 79.9, 69.2, 76.9),
    "mbpp_plus": (58.7, 70.4, 58.6, 62.9),
    "mbpp_3shot": (51.8, 60.6, 59.2, 68.8),
    "bigcodebench": (24.5, 40.5, 34.6, 45.8),
    "bigcodebench_hard": (5.4, 9.5, 9.5, 16.2),
}
INSTRUCT: dict[str, tuple[float, ...]] = {  # table 7
    "humaneval": (72.5, 83.5, 70.7, 88.4),
    "humaneval_plus": (67.7, 78.7, 66.5, 84.1),
    "mbpp": (72.7, 79.1, 69.2, 83.5),
    "mbpp_plus": (61.9, 69.0, 59.4, 71.7),
    "bigcodebench": (33.3, 40.3, 32.5, 41.0),
    "bigcodebench_hard": (11.5, 16.9, 6.8, 18.2),
    "livecodebench": (12.8, 23.2, 15.7, 37.6),
    # table 8, of which OpenCoder's rows
    "java": (64.6, 72.2),
    "cpp": (50.9, 61.5),
    "cs": (61.4, 75.9),
    "ts": (63.5, 78.0),
    "js": (62.1, 79.5),
    "php": (55.3, 73.3),
    "sh": (29.7, 44.3),
}
