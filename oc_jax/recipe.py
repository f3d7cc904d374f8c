"""Runs a recipe: a list of stages, each a plain function from input directories to one output directory.

A stage's directory is `workdir`/<name>, where the name is its gin scope (``pretrain`` for ``@pretrain/train``) or its
own. Parameters annotated with `epath.Path` are directories: `out`, and inputs given relative to the workdir.

STARTED.json is written when a stage begins and DONE.json when it is complete; both hold every parameter that the stage
can see (bindings and defaults, through all references) and the digests of its inputs. A directory without DONE.json is
half-done: stages resume inside it, and nobody reads from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import logging
import os
import resource
import subprocess
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
import psutil
from etils import epath

from oc_jax import distributed

LOGGER = logging.getLogger("oc_jax.recipe")

# Parameters that change how fast or how loud a stage is, never what it makes: a stage is not run again for them.
INCIDENTAL = frozenset(
    {
        "endpoint",
        "engine",
        "workers",
        "log_every",
        "checkpoint_every",
        "checkpoint_minutes",
        "keep_checkpoints",
        "keep_every",
        "profile_steps",
        "watchdog_minutes",
    }
)


class RecipeError(ValueError):
    """Something the user has to change; the text is one line that says what."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A configurable function under a gin scope."""

    function: Callable[..., dict[str, Any] | None]
    scope: str
    selector: str

    @property
    def name(self) -> str:
        return self.scope or self.selector.rpartition(".")[2]

    @classmethod
    def from_reference(cls, reference: Any) -> Stage:
        if not isinstance(reference, gin.config.ConfigurableReference) or reference.evaluate:
            raise RecipeError(
                f"run.recipe holds {reference!r}: list stages as @name or @scope/name, without parentheses"
            )
        scope, selector = reference.config_key
        return cls(reference.scoped_configurable_fn, scope, selector)

    def parameters(self) -> dict[str, Any]:
        """Every parameter this stage can see, as {"scope/name.parameter": JSON value}."""
        return dict(_parameters(self.scope, self.selector, self.function))

    def arguments(self) -> dict[str, Any]:
        """What gin passes to the function, references resolved, over its defaults."""
        with gin.config_scope(self.scope or None):
            return _values(self.scope, self.selector, self.function) | gin.get_bindings(self.selector)

    def directories(self, workdir: epath.Path) -> dict[str, Any]:
        """Input parameters with their directories resolved against `workdir`."""
        bound, resolved = _values(self.scope, self.selector, self.function), {}
        for name, hint in typing.get_type_hints(inspect.unwrap(self.function)).items():
            if name in bound and _holds_paths(hint):
                resolved[name] = _resolve(_plain(bound[name]), workdir)
        return resolved

    def inputs(self, workdir: epath.Path) -> dict[str, str]:
        """Digest of everything the stage reads, by "parameter: directory".

        What lies outside of the workdir a stage may describe itself, by a function `fingerprint` of its parameters
        that stands on it as an attribute. Raises RecipeError for an input that is missing or half-done.
        """
        out = workdir / self.name
        found = {
            f"{name}: {path.relative_to(workdir) if path.is_relative_to(workdir) else path}": input_digest(
                path, workdir, out
            )
            for name, value in self.directories(workdir).items()
            for path in _flat_directories(value)
        }
        fingerprint = getattr(inspect.unwrap(self.function), "fingerprint", None)
        if fingerprint:
            bound = _values(self.scope, self.selector, self.function) | {"workdir": workdir}
            wanted = inspect.signature(fingerprint).parameters
            found |= fingerprint(**{name: _plain(bound[name]) for name in wanted})
        return found


def _values(scope: str, selector: str, function: Callable) -> dict[str, Any]:
    """Parameter → bound value or default, for one configurable."""
    defaults = {
        p.name: p.default
        for p in inspect.signature(inspect.unwrap(function)).parameters.values()
        if p.default is not p.empty
    }
    with gin.config_scope(scope or None):
        return defaults | gin.get_bindings(selector, resolve_references=False)


def _parameters(scope: str, selector: str, function: Callable) -> Iterator[tuple[str, Any]]:
    prefix = f"{scope}/" if scope else ""
    for name, value in sorted(_values(scope, selector, function).items()):
        if name in INCIDENTAL:
            continue
        value = _plain(value)
        yield f"{prefix}{selector.rpartition('.')[2]}.{name}", _json(value)
        for reference in _references(value):
            inner_scope, inner = reference.config_key
            # A reference without a scope of its own is evaluated under that of its caller.
            yield from _parameters(inner_scope or scope, inner, reference.configurable.wrapped)


def _plain(value: Any) -> Any:
    """`value` with macros replaced by what they stand for."""
    if isinstance(value, gin.config.ConfigurableReference) and value.configurable.name == "macro":
        return _plain(gin.query_parameter("/".join([*value.scopes, "gin.macro.value"])))
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _references(value: Any) -> Iterator[Any]:
    if isinstance(value, gin.config.ConfigurableReference):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _references(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _references(v)


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v) for v in value]
    return str(value)


def _holds_paths(hint: Any) -> bool:
    """True for epath.Path, and for optionals, lists and dict keys of it."""
    if hint is epath.Path:
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_holds_paths(a) for a in args)
    return origin in (list, dict) and args[0] is epath.Path


def _resolve(value: Any, workdir: epath.Path) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {workdir / k: v for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [workdir / v for v in value]
    return workdir / value


def _flat_directories(value: Any) -> list[epath.Path]:
    return [] if value is None else list(value) if isinstance(value, dict | list) else [value]


def input_digest(directory: epath.Path, workdir: epath.Path, reader: epath.Path) -> str:
    """Digest of what a stage reads: that of the stage that wrote it, else of all finished stages or files below.

    Raises RecipeError if `directory` is missing or half-done.
    """
    for writer in (directory, *directory.parents):
        if (writer / "DONE.json").exists():
            return json.loads((writer / "DONE.json").read_text())["outputs"]["digest"]
        if (writer / "STARTED.json").exists():
            raise RecipeError(f"{writer} is half-done: run its stage to the end before {reader.name}")
        if writer == workdir:
            break
    if not directory.exists():
        raise RecipeError(
            f"{reader.name} reads {directory}, which is not there: add its stage to run.recipe, or bind its path"
        )
    done = [
        p for p in _files(directory) if p.name == "DONE.json" and p.parent != reader and "superseded" not in p.parts
    ]
    if done:
        lines = [f"{p.parent.relative_to(directory)} {json.loads(p.read_text())['outputs']['digest']}" for p in done]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return output_digest(directory)["digest"]


def _files(directory: epath.Path) -> list[epath.Path]:
    """All files below `directory`, sorted by path."""
    found = []
    for path in directory.iterdir():
        found += _files(path) if path.is_dir() else [path]
    return sorted(found)


def output_digest(directory: epath.Path) -> dict[str, Any]:
    """SHA-256 over the names, sizes and contents of all files (contents up to 1 GiB each), with their number and bytes.

    Logs, the stage's own JSON files and the manifests of single files do not count.
    """
    total, count, digest = 0, 0, hashlib.sha256()
    for path in _files(directory):
        name = os.fspath(path.relative_to(directory))
        apart = name.startswith(("tensorboard/", "profile/")) or "_manifests" in path.parts
        if apart or name in ("DONE.json", "STARTED.json", "metrics.jsonl"):
            continue
        size = path.stat().length
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if size <= 2**30:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())  # pyright: ignore[reportArgumentType]
        total, count = total + size, count + 1
    return {"digest": digest.hexdigest(), "files": count, "bytes": total}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Human-readable list of what changed between two flat dictionaries."""
    changed = []
    for key in sorted(then.keys() | now.keys()):
        if key not in now:
            changed.append(f"{key} was {then[key]!r} and is gone")
        elif key not in then:
            changed.append(f"{key} is new: {now[key]!r}")
        elif then[key] != now[key]:
            changed.append(f"{key} was {then[key]!r} and is now {now[key]!r}")
    return changed


def run_stage(stage: Stage, workdir: epath.Path, *, allow_config_change: bool = False) -> bool:
    """Skips, resumes or runs `stage`; returns whether it had anything to do.

    Of several processes the first decides and writes the records; all run the stage. A finished stage whose parameters
    and inputs are unchanged is skipped; one whose are not is run again, and its old result moves to workdir/superseded.
    Raises RecipeError for a half-done stage whose parameters or inputs changed, unless `allow_config_change`.
    """
    wanted = distributed.from_leader(lambda: _begin(stage, workdir, allow_config_change))
    if wanted is None:
        return False
    _call(stage, workdir / stage.name, stage.directories(workdir), wanted)
    return True


def _begin(stage: Stage, workdir: epath.Path, allow_config_change: bool) -> dict[str, Any] | None:
    """Prepares the stage's directory. Returns what STARTED.json records, or None if there is nothing to do."""
    out = workdir / stage.name
    wanted = {"params": json.loads(json.dumps(stage.parameters())), "inputs": stage.inputs(workdir)}
    if (out / "DONE.json").exists():
        done = json.loads((out / "DONE.json").read_text())
        changed = _changes(done, wanted)
        if not changed:
            LOGGER.info(f"{stage.name}: done before ({done['seconds']:.0f} s), skipped")
            return None
        old = workdir / "superseded" / f"{stage.name.replace('/', '.')}-{done['outputs']['digest'][:12]}"
        LOGGER.info(
            f"{stage.name}: {changed[0]}{_more(changed)}: runs again; the old result moves to superseded/{old.name}"
        )
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.exists():
            old.rmtree()
        out.rename(old)
    elif (out / "STARTED.json").exists():
        for path in _files(out):
            if path.suffix == ".tmp":  # what a killed run was just writing; it would count as a result
                path.unlink()
        changed = _changes(json.loads((out / "STARTED.json").read_text()), wanted)
        if changed and not _has_results(out):
            out.rmtree()
        elif changed and not allow_config_change:
            raise RecipeError(
                f"{stage.name} is half-done and {changed[0]}{_more(changed)}: change it back, delete {out}, or pass "
                "--allow_config_change"
            )
        else:
            LOGGER.info(f"{stage.name}: resumes")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "STARTED.json", wanted)
    return wanted


def _call(stage: Stage, out: epath.Path, directories: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Runs the stage's function and writes DONE.json."""
    started, clock = time.time(), time.monotonic()
    LOGGER.info(f"{stage.name}: starts")
    with PeakMemory() as memory:
        result = stage.function(out, **directories) or {}
    seconds = time.monotonic() - clock
    if not distributed.leads():
        return
    record = {
        "stage": stage.name,
        **wanted,
        "outputs": output_digest(out),
        "result": result,
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(memory.peak / 2**30, 2),
        "code_version": code_version(),
        "started": started,
        "finished": time.time(),
    }
    write_json(out / "DONE.json", record)
    LOGGER.info(f"{stage.name}: done in {seconds:.0f} s, peak memory {memory.peak / 2**30:.1f} GiB")


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return differences(then["params"], now["params"]) + differences(then["inputs"], now["inputs"])


def _has_results(out: epath.Path) -> bool:
    """Whether a half-done stage has written anything that a run under other parameters must not mix with."""
    names = (os.fspath(path.relative_to(out)) for path in _files(out))
    return any(not name.startswith(("STARTED.json", "_")) for name in names)


def operative_config(workdir: epath.Path, stages: Sequence[Stage]) -> str:
    """What the finished stages used, as text: every parameter they saw, bound or default."""
    lines = []
    for stage in stages:
        path = workdir / stage.name / "DONE.json"
        if path.exists():
            params = json.loads(path.read_text())["params"]
            lines += [f"# {stage.name}", *(f"{name} = {value!r}" for name, value in params.items()), ""]
    return "\n".join(lines)


def unbound(stages: Sequence[Stage]) -> list[str]:
    """Parameters of `stages` that have to be bound and are not."""
    return [name for stage in stages for name, value in stage.parameters().items() if value == str(gin.REQUIRED)]


def _more(changes: list[str]) -> str:
    return f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""


def write_json(path: epath.Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def code_version() -> str:
    """The commit of the code that runs, with +changes if the checkout has any; "unknown" outside git."""
    here = epath.resource_path("oc_jax").parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = lambda *args: (
            subprocess.run(["git", "-C", here, *args], capture_output=True, check=True, text=True).stdout
        )
        return run("rev-parse", "--short=12", "HEAD").strip() + ("+changes" if run("status", "--porcelain") else "")
    return "unknown"


class PeakMemory:
    """Samples the resident memory of this process and its children; `peak` in bytes."""

    def __enter__(self):
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        process = psutil.Process()
        while not self._stop.wait(0.25):
            total = process.memory_info().rss
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            self.peak = max(self.peak, total)

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        if not self.peak:  # a stage shorter than one sample
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
