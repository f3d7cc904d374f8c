"""The running Python environment as a corpus: the standard library and what a requirements file pulls in.

Only files that are the same wherever the same versions are installed are listed: no byte code, no installer's notes,
no scripts with the interpreter's path in them, no build configuration.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from data_prep.sources.reference import Reference, provenance

_LOCAL_DIRECTORIES = {"__pycache__", "site-packages", "dist-packages", "lib-dynload"}
_TEST_DIRECTORIES = {"test", "tests", "idle_test"}
_LOCAL_PREFIXES = ("_sysconfigdata", "config-", "sitecustomize", "EXTERNALLY-MANAGED")


def references(source: str, requirements: Path) -> Iterator[Reference]:
    """Files of `cpython` and of every distribution, ordered by repository and path.

    Raises:
      FileNotFoundError: the requirements file, or a distribution that it needs, is missing.
    """
    by_repo = {"cpython": _standard_library(source)}
    for distribution in closure(requirements):
        by_repo[canonicalize_name(distribution.metadata["Name"])] = _distribution(source, distribution)
    for repo in sorted(by_repo):
        yield from sorted(by_repo[repo], key=lambda reference: reference.path)


def closure(requirements: Path) -> list[importlib.metadata.Distribution]:
    """The installed distributions that the lines of `requirements` name, and all that those require, by name.

    Raises:
      FileNotFoundError: the file, or a distribution, is missing.
      ValueError: a line is not a plain requirement.
    """
    if not requirements.exists():
        raise FileNotFoundError(f"{requirements} does not exist: bind preprocess.requirements to a requirements file")
    waiting = []
    for line in requirements.read_text("utf-8").splitlines():
        if line.split("#")[0].strip():
            waiting += _extras(_parse(line.split("#")[0], str(requirements)))
    found: dict[str, importlib.metadata.Distribution] = {}
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise FileNotFoundError(f"{name} is not installed: pip install -r {requirements.name}") from error
        for line in found[name].requires or []:
            requirement = _parse(line, name)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += _extras(requirement)
    return [found[name] for name in sorted(found)]


def _parse(line: str, where: str) -> Requirement:
    try:
        return Requirement(line.strip())
    except InvalidRequirement as error:
        raise ValueError(f"{where}: {line.strip()!r} is not a plain requirement (name, extras, versions)") from error


def _extras(requirement: Requirement) -> list[tuple[str, str]]:
    return [(canonicalize_name(requirement.name), extra) for extra in ("", *sorted(requirement.extras))]


def licence_of(metadata: Message) -> str | None:
    """Licence from a distribution's metadata: the expression, a short licence field, or the classifiers."""
    field = (metadata.get("License") or "").strip()
    classifiers = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or [] if c.startswith("License :: ")]
    short = field if field != "UNKNOWN" and "\n" not in field else ""
    first_line = field.splitlines()[0].strip() if field else ""
    return metadata.get("License-Expression") or short or " AND ".join(classifiers) or first_line or None


def _distribution(source: str, distribution: importlib.metadata.Distribution) -> list[Reference]:
    listed = []
    metadata = cast(Message, distribution.metadata)  # parsed anew on each access
    repo, licence = canonicalize_name(metadata["Name"]), licence_of(metadata)
    for file in distribution.files or []:
        local = file.parts[0] in ("..", "/") or file.parts[0].endswith((".dist-info", ".egg-info"))
        if local or "__pycache__" in file.parts or file.suffix == ".pyc":
            continue
        location = os.fspath(file.locate())
        listed.append(
            Reference(
                "bytes",
                source,
                repo,
                file.as_posix(),
                size=os.path.getsize(location) if os.path.exists(location) else 0,
                location=os.fsencode(location),
                commit=metadata["Version"],
                licence=licence,
                provenance=provenance(reader="environment"),
            )
        )
    return listed


def _standard_library(source: str) -> list[Reference]:
    top = sysconfig.get_paths()["stdlib"]
    listed = []
    for directory, subdirectories, names in os.walk(top):
        kept = set(subdirectories) - _LOCAL_DIRECTORIES - _TEST_DIRECTORIES
        subdirectories[:] = sorted(name for name in kept if not name.startswith(_LOCAL_PREFIXES))
        for name in names:
            location = os.path.join(directory, name)
            if name.startswith(_LOCAL_PREFIXES) or name.endswith(".pyc") or os.path.islink(location):
                continue
            listed.append(
                Reference(
                    "bytes",
                    source,
                    "cpython",
                    os.path.relpath(location, top).replace(os.sep, "/"),
                    size=os.path.getsize(location),
                    location=os.fsencode(location),
                    commit=platform.python_version(),
                    licence="PSF-2.0",
                    provenance=provenance(reader="environment"),
                )
            )
    return listed
