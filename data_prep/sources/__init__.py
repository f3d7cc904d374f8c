"""Where source code comes from: the stage `preprocess`, from anything that holds files to documents.

Listing walks the sources once, in order, into small Parquet parts of references; reading maps over those parts. Every
file that is seen becomes a row, readable or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents, funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.files import write_parquet
from data_prep.progress import Progress
from data_prep.sources import archives, environment, fingerprint, git, tables, trees, warc
from data_prep.sources.reference import SCHEMA, Reference, document, printable

ENVIRONMENT = "python-environment"
DEFAULT_SOURCES = [ENVIRONMENT]
_ROOT = Path(__file__).parents[2]
_SUFFIXES = ", ".join(archives.SUFFIXES + tables.SUFFIXES + warc.SUFFIXES)
_KINDS = f"{ENVIRONMENT!r}, a directory, a git repository, {_SUFFIXES}"


@gin.configurable
def preprocess(
    out: epath.Path,
    *,
    sources: list[str] = DEFAULT_SOURCES,
    max_bytes: int = 8_000_000,
    blobs: str | None = None,
    requirements: str = "requirements.txt",
    part_files: int = 1024,
    part_bytes: int = 16 << 20,
    engine: Engine = LocalEngine(),
) -> dict[str, int]:
    """Reads sources into documents (paper §2.1), a row for each file, in an order that depends on the sources alone.

    A source is told by what it is:
      "python-environment": the standard library and the distributions that `requirements` pulls in;
      a git repository, bare or not: the files of HEAD;
      a directory: its files, and the git repositories in it;
      a tar, zip or wheel file;
      a Parquet or JSON Lines file with the columns of The Stack v2, or of FineWeb and SkyPile (web pages);
      a WARC or WET file;
      a directory that holds only such tables and web archives.

    Reasons for dropping a file: unreadable, symlink, special_file, submodule, too_large, empty, binary, not_utf8,
    excluded_type, unknown_type, malformed_notebook; of archives damaged_archive, damaged_member, encrypted; of tables
    damaged_table, malformed_row, no_content, blob_missing, blob_damaged; of git damaged_blob.

    Args:
      out: documents directory to write.
      sources: names of sources; a relative path is relative to the current directory.
      max_bytes: a larger file is recorded and not read; the paper's 8 MB, taken as 8 · 10⁶ bytes.
      blobs: where tables without content find it: a directory or URL that /<blob_id> is appended to, or a template
        with {blob_id} in it.
      requirements: requirements file; a relative path is relative to the project.
      part_files: most files in one part.
      part_bytes: bytes of files at which a part is full.
      engine: where files are read.

    Raises:
      ValueError: a source is none of the above, or the sources hold no file.
    """
    scratch = out / "_scratch"
    listing = scratch / "references"
    if not (scratch / "LISTED").exists():
        for source in sources:
            _require(source)
        if scratch.exists():
            scratch.rmtree()
        listing.mkdir(parents=True)
        with open(scratch / "spool", "wb") as spool, Progress("list sources", None) as progress:
            lister = _Lister(
                spool, max_bytes, part_files, part_bytes, _ROOT / requirements, os.path.abspath(out.parent)
            )
            references = itertools.chain.from_iterable(map(lister, sources, _labels(sources)))
            readable = (_unless_too_large(reference, max_bytes) for reference in references)
            for number, part in enumerate(_parts(readable, part_files, part_bytes)):
                write_parquet(iter([_table(part)]), listing / f"part-{number:05d}.parquet")
                progress.update(sum(reference.rows for reference in part))
        if not any(listing.iterdir()):
            raise ValueError(f"preprocess.sources = {sources} hold no file")
        (scratch / "LISTED").touch()
    load = functools.partial(_load, max_bytes=max_bytes, blobs=blobs)
    engine.map(load, documents.parts(listing), out, label="preprocess")
    (scratch / "LISTED").unlink()  # first, so that a kill within rmtree leaves no listing that looks whole
    scratch.rmtree()
    return funnel.write(out)


def _fingerprint(sources: list[str], requirements: str, workdir: epath.Path) -> dict[str, str]:
    """Source → digest that changes when the source does; the recipe runner compares it before it skips the stage."""
    return {
        f"source {source}": fingerprint.of_environment(_ROOT / requirements)
        if source == ENVIRONMENT
        else fingerprint.of_path(source, os.path.abspath(workdir))
        for source in sources
    }


inspect.unwrap(preprocess).fingerprint = _fingerprint  # on the function itself, below what gin wraps around it


def _require(source: str) -> None:
    if source != ENVIRONMENT and not epath.Path(source).expanduser().exists():
        raise ValueError(f"preprocess.sources: {source!r} does not exist; expected {_KINDS}")


def _labels(sources: list[str]) -> list[str]:
    """What documents call each source: the name of the file or directory, with a number if it is not the first."""
    labels: list[str] = []
    for source in sources:
        name = printable(os.path.basename(os.path.abspath(source)))
        same = sum(label.split("#")[0] == name for label in labels)
        labels.append(f"{name}#{same + 1}" if same else name)
    return labels


@dataclasses.dataclass(frozen=True)
class _Lister:
    """Lists the files of a source of any kind."""

    spool: IO[bytes]
    max_bytes: int
    part_files: int
    part_bytes: int
    requirements: Path
    workdir: str  # the output of the recipe, which is no source where it lies within one

    def __call__(self, source: str, label: str) -> Iterator[Reference]:
        if source == ENVIRONMENT:
            return environment.references(label, self.requirements)
        path = epath.Path(source).expanduser()
        if path.is_dir():
            if not git.is_repository(os.fsencode(path)) and (found := _only_tables(path)):
                names = [printable(os.fspath(table.relative_to(path))) for table in found]
                return itertools.chain.from_iterable(map(self._table, itertools.repeat(label), found, names))
            return trees.references(label, os.path.abspath(os.fsencode(path)), os.fsencode(self.workdir))
        if path.exists() and _is_table(path.name):
            return self._table(label, path, printable(path.name))
        if path.exists() and archives.is_archive(os.fsencode(path)):
            return archives.references(label, os.fsencode(path), self.spool, self._spool_location, self.max_bytes)
        raise ValueError(f"preprocess.sources: {source!r} is none of {_KINDS}")

    @property
    def _spool_location(self) -> bytes:
        return os.fsencode(os.path.abspath(self.spool.name))

    def _table(self, label: str, path: epath.Path, name: str) -> Iterator[Reference]:
        if warc.is_warc(path.name):
            return warc.references(label, path, name, self.part_files, self.part_bytes)
        return tables.references(label, path, name, self.spool, self._spool_location, self.part_files, self.part_bytes)


def _is_table(name: str) -> bool:
    return tables.is_table(name) or warc.is_warc(name)


def _only_tables(directory: epath.Path) -> list[epath.Path]:
    """The tables and web archives in a directory that holds nothing else (hidden files aside); otherwise nothing."""
    found, waiting = [], [directory]
    with contextlib.suppress(PermissionError):
        while waiting:
            for path in waiting.pop().iterdir():
                if _is_table(path.name):
                    found.append(path)
                elif path.is_dir() and not os.path.islink(path):
                    waiting.append(path)
                elif not path.name.startswith((".", "_")):
                    return []
        return sorted(found)
    return []


def _unless_too_large(reference: Reference, max_bytes: int) -> Reference:
    if reference.reader in ("bytes", "git") and reference.size > max_bytes:
        return dataclasses.replace(reference, reader="none", reason="too_large")
    return reference


def _parts(references: Iterable[Reference], part_files: int, part_bytes: int) -> Iterator[list[Reference]]:
    part: list[Reference] = []
    files = size = 0
    for reference in references:
        part.append(reference)
        files += reference.rows
        size += reference.size if reference.reader != "none" else 0
        if files >= part_files or size >= part_bytes:
            yield part
            part, files, size = [], 0, 0
    if part:
        yield part


def _table(references: list[Reference]) -> pa.Table:
    columns = {field: [getattr(reference, field) for reference in references] for field in SCHEMA.names}
    return pa.table(columns, SCHEMA)


def _load(table: pa.Table, max_bytes: int, blobs: str | None) -> pa.Table:
    """References → documents, in order."""
    references = [Reference(**row) for row in table.to_pylist()]
    rows: list[dict[str, Any]] = []
    for (reader, location), group in itertools.groupby(references, lambda ref: (ref.reader, ref.location)):
        files = list(group)
        if reader == "bytes":
            rows += [document(ref, *_read(ref, max_bytes)) for ref in files]
        elif reader == "git":
            with contextlib.closing(git.read(location, [ref.key for ref in files])) as contents:
                rows += [
                    document(ref, data, None if data is not None else "damaged_blob")
                    for ref, data in zip(files, contents, strict=True)
                ]
        elif reader == "warc":
            rows += [document(*row) for ref in files for row in warc.read(ref, max_bytes)]
        elif reader == "none":
            rows += [document(ref, None, ref.reason) for ref in files]
        else:
            read = {"parquet": tables.read_parquet, "jsonl": tables.read_jsonl}[reader]
            rows += [document(*row) for ref in files for row in read(ref, max_bytes, blobs)]
    return pa.Table.from_pylist(rows, documents.SCHEMA)


def _read(reference: Reference, max_bytes: int) -> tuple[bytes | None, str | None]:
    try:
        # A file may have become a link or a pipe since it was listed: neither follow it nor wait for it.
        opened = os.open(reference.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                return None, "special_file"
            file.seek(reference.offset)
            data = file.read(max_bytes + 1 if reference.length < 0 else reference.length)
    except OSError as error:
        return None, trees.unreadable(error)
    return (data, None) if len(data) <= max_bytes else (None, "too_large")
