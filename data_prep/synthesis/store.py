"""What a teacher has answered and what became of programs, written down before it is used: it is paid for once.

responses.jsonl is only ever appended to. Each line is a JSON object with the `key` of what was asked; a line that a
crash has cut is cut off when the file is opened, and whatever it held is asked again.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any

LOGGER = logging.getLogger("data_prep")


def key_of(value: Any) -> str:
    """SHA-256 hex of a JSON value; equal values have equal keys in every run."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Store:
    """The lines of DIRECTORY/responses.jsonl by key; of equal keys the first counts.

    Memory grows by the keys and the places of their lines, not by what the lines hold.

    Attributes:
      usage: model → [prompt tokens, completion tokens] that have been paid for, answers that were lost included.

    Raises:
      ValueError: another process writes to it, or a line in its middle is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if "://" in os.fspath(directory):
            raise ValueError(
                f"{directory}: responses are appended line by line, so give Endpoint.responses a local path"
            )
        self.path = pathlib.Path(directory) / "responses.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ValueError(f"{self.path} is in use by another run: wait for it, or bind Endpoint.responses") from None
        self.usage: dict[str, list[int]] = {}
        self._places: dict[str, tuple[int, int]] = {}  # key → (offset, bytes)
        self._end = self._written = self._synced = 0
        self._syncing = asyncio.Lock()
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._read()

    def close(self) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> dict[str, Any] | None:
        place = self._places.get(key)
        return None if place is None else json.loads(os.pread(self._file, place[1], place[0]))

    async def once(self, key: str, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
        """The record of `key`, else what `make` adds. Seeds that are alike ask alike, maybe at the same time."""
        if (found := self.get(key)) is not None:
            return found
        if key not in self._pending:
            self._pending[key] = asyncio.ensure_future(make())
            self._pending[key].add_done_callback(lambda _: self._pending.pop(key))
        return await self._pending[key]

    async def add(self, key: str | None, record: dict[str, Any]) -> None:
        """Appends `record` and returns once it is on the disk. Without a key only its "usage" counts."""
        line = json.dumps({"key": key, **record}, ensure_ascii=True).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self.path}: the disk is full; make room and run again")
        self._note({"key": key, **record}, len(line))
        self._written += 1
        mine = self._written
        async with self._syncing:  # those that wait here are synced together
            if self._synced < mine:
                upto = self._written
                await asyncio.to_thread(os.fsync, self._file)
                self._synced = upto

    def _note(self, record: dict[str, Any], length: int) -> None:
        if record["key"] is not None:
            self._places.setdefault(record["key"], (self._end, length))
        if usage := record.get("usage"):
            total = self.usage.setdefault(record["model"], [0, 0])
            total[0] += usage[0]
            total[1] += usage[1]
        self._end += length

    def _read(self) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    LOGGER.warning("%s: its last line was cut off by a crash and is dropped", self.path)
                    os.ftruncate(self._file, self._end)
                    break
                try:
                    self._note(json.loads(line), len(line))
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    raise ValueError(f"line {number} of {self.path} is damaged: take it out to ask again") from error
        directory = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
