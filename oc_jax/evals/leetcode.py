"""LeetCode contest problems of January to July 2024, as OpenCodeEval and DeepSeek-Coder ask them: class Solution."""

from __future__ import annotations

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Judged, Program, Source
from oc_jax.evals.humaneval import BASE_STOPS, STOPS
from oc_jax.evals.sandbox import SENTINEL

IMPORTS = """from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
"""
NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next

class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
"""
CALL = """
_solution = Solution()
def _call(method, args, kwargs):
    return getattr(_solution, method)(*args, **kwargs)
"""
PROXY = """
class Solution:
    def __getattr__(self, method):
        return lambda *args, **kwargs: candidate(method, args, kwargs)
"""


def load(path: epath.Path | None) -> list[Problem]:
    rows = read_rows(data_files(path, "LeetCode's 20240121-Jul.jsonl")[0])
    return [Problem(row["task_id"], row["prompt"].rstrip() + "\n", row["prompt_sft"], row) for row in rows]


def extract(problem: Problem, completion: str) -> str:
    text = extraction.truncate(completion, STOPS)
    return IMPORTS + NODES + extraction.solution(problem.prompt, text, "Solution")


def program(problem: Problem, solution: str) -> Judged:
    test = problem.row["test"]
    if "Node" in test:  # such values don't pass between processes
        return Source("python", f"{solution}\n{test}\nprint('{SENTINEL}')\n")
    return Program(solution + CALL, f"{IMPORTS}{PROXY}{test}", "_call")


LEETCODE = Benchmark("leetcode", load, extract, program, stops=lambda problem: BASE_STOPS, chat_stops=STOPS)
