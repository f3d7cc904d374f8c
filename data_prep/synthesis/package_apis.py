"""What an installed library says of its functions, for questions about its current interface (paper §4.1).

`package_seeds` finds which functions of the wanted packages a document calls and asks the packages themselves for
signature and documentation. They are imported in a process of their own, describe_package.py: what an import does, or
prints, or breaks, stays there.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import inspect
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.python_functions import parse
from data_prep.sampling import draw

COLUMNS = ("package", "api_requirements", "api_doc")
_APIS = pa.field("apis", pa.list_(pa.string()))


@gin.configurable
def package_seeds(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    packages: list[str] = gin.REQUIRED,
    max_apis: int = 3,
    max_doc_chars: int = 2000,
    timeout_seconds: float = 300.0,
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Keeps Python documents that call functions of `packages` and adds what their documentation says of these.

    Columns beside those of a document: package (the one with most functions), api_requirements (names, one a line),
    api_doc (signatures and docstrings). Reason: ``no_package_api``.

    Args:
      packages: top-level modules that are installed here, such as "numpy".
      max_apis: functions asked for in one question, drawn by the document's id.
      max_doc_chars: of one function's documentation.
      timeout_seconds: for a package to be imported and read.

    Returns:
      The funnel; "versions": of the packages; "apis": number of documented functions of each.

    Raises:
      ValueError: a package is not installed, or cannot be imported in time.
    """
    called = out / "_scratch" / "called"
    called.mkdir(parents=True, exist_ok=True)
    find = functools.partial(_find, packages=tuple(packages))
    engine.map(find, docs.parts(documents), called, label="calls of packages")
    names = {
        name
        for part in docs.parts(called)
        for row in docs.read_part(part, ["apis"])["apis"].to_pylist()
        for name in row
    }
    known, versions = {}, {}
    for package in packages:
        wanted = sorted(name for name in names if name.split(".")[0] == package)
        known[package], versions[package] = _documented(package, wanted, timeout_seconds)
    add = functools.partial(_add, known=known, max_apis=max_apis, max_doc_chars=max_doc_chars)
    result = funnel.documents_map(engine, add, called, out, label="documentation of packages")
    (out / "_scratch").rmtree()
    return result | {"versions": versions, "apis": {package: len(found) for package, found in known.items()}}


def _fingerprint(packages: list[str]) -> dict[str, str]:
    return {f"package {name}": version_of(name) for name in packages}


inspect.unwrap(package_seeds).fingerprint = _fingerprint


def version_of(package: str) -> str:
    """Version of the distribution that a top-level module comes from. Raises ValueError if there is none."""
    found = importlib.metadata.packages_distributions().get(package)
    if not found:
        raise ValueError(f"package_seeds.packages: {package} is not installed here: pip install it, or take it out")
    return importlib.metadata.version(found[0])


def _find(table: pa.Table, *, packages: tuple[str, ...]) -> pa.Table:
    table = docs.kept(table).select(docs.SCHEMA.names)
    rows = zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True)
    apis = [sorted(set(calls(text, packages))) if language == "python" else [] for text, language in rows]
    return table.append_column(_APIS, pa.array(apis, _APIS.type))


def calls(text: str, packages: Sequence[str]) -> Iterator[str]:
    """Full names, such as numpy.linalg.norm, of what a Python file calls of `packages`."""
    tree = parse(text)
    names: dict[str, str] = {}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call):
            base, attributes = node.func, []
            while isinstance(base, ast.Attribute):
                attributes.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name) and names.get(base.id, "").split(".")[0] in packages:
                yield ".".join([names[base.id], *reversed(attributes)])


def _documented(package: str, names: list[str], timeout: float) -> tuple[dict[str, str], str]:
    """(name → signature and docstring, for those that there are, version)."""
    version = version_of(package)
    command = [sys.executable, "-P", pathlib.Path(__file__).with_name("describe_package.py"), package]
    try:
        done = subprocess.run(command, input=json.dumps(names), capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{package} could not be read within {timeout:g} s: raise timeout_seconds") from None
    if done.returncode:
        raise ValueError(f"{package} cannot be imported: {done.stderr.strip().splitlines()[-1][:200]}")
    return json.loads(done.stdout.splitlines()[-1]), version


def _add(table: pa.Table, *, known: Mapping[str, Mapping[str, str]], max_apis: int, max_doc_chars: int) -> pa.Table:
    added, reasons = [], []
    for identity, apis in zip(table["id"].to_pylist(), table["apis"].to_pylist(), strict=True):
        found = {package: [api for api in apis if api in documented] for package, documented in known.items()}
        package = max(found, key=lambda name: len(found[name]))
        chosen = sorted(found[package], key=lambda api: draw(identity, api))[:max_apis]
        texts = [known[package][api][:max_doc_chars] for api in chosen]
        added.append((package, "\n".join(chosen), "\n\n".join(texts)))
        reasons.append([] if chosen else ["no_package_api"])
    table = docs.drop(table.drop_columns(["apis"]), reasons)
    for name, values in zip(COLUMNS, zip(*added, strict=True) if added else ((),) * len(COLUMNS), strict=True):
        table = table.append_column(name, pa.array(values, pa.string()))
    return table
