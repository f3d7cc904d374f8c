from __future__ import annotations

import ast
import builtins
import dis
import heapq
import inspect
import posixpath
import shlex
import statistics
import string
import textwrap
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.python_functions import documented_functions

FILE = '''
import os, sys as system
import numpy as np
from pkg.other import helper
from . import sibling
from collections.abc import Iterable, Sequence

LIMIT = 3


def plain(values: Iterable[int], limit=2):
    """Return the first values.

    >>> plain([1, 2, 3])
    [1, 2]
    """
    # a comment stays
    return list(values)[:limit]


def needs_limit(x):
    """Use a constant of the file."""
    return x < LIMIT


def needs_own(x):
    """Use names of the own package, also from inside."""
    from pkg import inner
    return helper(sibling, inner, x)


@system.intern
async def needs_numpy(x):
    """Use a package."""
    import jax.numpy as jnp
    def nested(os):
        return os, np.sum(x), jnp
    return nested


def stub(x):
    """Not worth the name."""
    raise NotImplementedError


def undocumented(x):
    return x


def line(): "One line only."; return 1
'''


def test_functions_are_cut_with_what_they_need() -> None:
    plain, limit, own, numpy = documented_functions(FILE.replace("\n", "\r\n"), "src/pkg/module.py")
    assert (
        plain.document
        == (
            "from collections.abc import Iterable\n\n\n"
            + FILE.split("LIMIT = 3\n\n\n")[1].split("\n\n\ndef needs_limit")[0]
        )
        + "\n"
    )
    assert plain.header.endswith('    """\n')
    assert (plain.missing, plain.packages, plain.summary) == ((), (), "Return the first values.")
    assert FILE.split("\n")[plain.line - 1].startswith("def plain")
    assert limit.missing == ("LIMIT",)
    assert own.missing == ("helper", "inner", "sibling")
    assert own.packages == ()
    assert numpy.missing == ()
    assert numpy.packages == ("jax", "numpy")
    assert numpy.imports == ("import sys as system", "import numpy as np")
    assert numpy.source.startswith("@system.intern\nasync def needs_numpy")


MODULES = [heapq, posixpath, shlex, statistics, string, textwrap]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_self_contained_functions_of_the_standard_library_know_all_their_names(module: types.ModuleType) -> None:
    text = inspect.getsource(module)
    functions = documented_functions(text, f"{module.__name__}.py")
    defined = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert functions
    for function in functions:
        assert ast.dump(ast.parse(function.source).body[0]) == ast.dump(defined[function.name])
        if not function.missing:
            namespace: dict[str, object] = {}
            exec(function.document, namespace)
            made = namespace[function.name]
            assert loaded_globals(inspect.unwrap(made).__code__) <= {*namespace, *dir(builtins)}  # type: ignore[arg-type]
        else:
            code = compile(function.source, "x", "exec")
            provided = {function.name, *dir(builtins), *(statement.split()[-1] for statement in function.imports)}
            assert loaded_globals(code) - provided


def loaded_globals(code: types.CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(loaded_globals(c) for c in code.co_consts if isinstance(c, types.CodeType)))


@given(st.text(st.sampled_from("def f(x):\n\t \"'\\\r\f\0#@,=return pass")) | st.text())
def test_nothing_in_a_file_raises(text: str) -> None:
    documented_functions(text, "x.py")
    documented_functions(f'def f():\n    """Doc."""\n    {text}\n', "x.py")


def test_names_that_the_symbol_table_rejects_are_passed_over() -> None:
    assert documented_functions('def f(x):\n    """Doc."""\n    global x\n    return x\n', "x.py") == []
