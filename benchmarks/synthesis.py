#!/usr/bin/env python
"""Synthesis end to end with a real teacher: SmolLM2-135M behind --mode=serve, undisturbed and killed twice.

    python benchmarks/synthesis.py [--model DIR] [--work DIR]

Three pipelines take 500 requests or so: answers to questions about functions of the standard library, which dialogues
are about code, and how good files are as seeds. All requests go through a proxy that counts, by the key in the request,
which answers went out whole: those are paid for. The run that is killed (kill -9 of its process group, at a third and
at two thirds) must end with the bytes of the undisturbed one and ask for none of them again. What was under way when a
kill came, or went out less than half a second before, counts as lost: it may be asked again.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import smollm2  # noqa: E402

from data_prep import conversations  # noqa: E402
from data_prep import documents as docs  # noqa: E402
from data_prep.files import write_parquet  # noqa: E402

BINDINGS = """
run.recipe = [@answers/synthesis, @dialogues/synthesis, @scored/synthesis]
TEACHER = "teacher"
Endpoint.concurrency = 16
answers/synthesis.seeds = "questions"
answers/synthesis.pipeline = @evol()
evol.rounds = 0
answers/synthesis.max_seeds = 50
answers/synthesis.requests = {"answer": {"max_tokens": 24}}
dialogues/synthesis.seeds = "questions"
dialogues/synthesis.pipeline = @code_related()
dialogues/synthesis.requests = {"classify": {"max_tokens": 4}}
scored/synthesis.seeds = "algorithmic"
scored/synthesis.pipeline = @score_seeds()
scored/synthesis.max_chars = 400
scored/synthesis.requests = {"score_seed": {"max_tokens": 24}}
""".strip().splitlines()
STAGES = ("answers", "dialogues", "scored")
QUESTIONS, FILES = 115, 5


class Proxy:
    """Passes requests on and counts. sent: key → attempts; paid: key → answers that went out whole."""

    def __init__(self, port: int) -> None:
        self.port, self.sent, self.paid = port, collections.Counter[str](), collections.Counter[str]()
        self.repeated = 0  # attempts at what had been paid for
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                key = _header(head, "idempotency-key")
                body = await reader.readexactly(int(_header(head, "content-length") or 0))
                if key:
                    self.sent[key] += 1
                    self.repeated += self.paid[key] > 0
                answer = await self._forward(head, body)
                writer.write(answer)
                await writer.drain()
                if key and answer.startswith(b"HTTP/1.1 200") and not reader.at_eof():  # whoever asked is still there
                    self.paid[key] += 1
        writer.close()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        answer += await reader.readexactly(int(_header(answer, "content-length") or 0))
        writer.close()
        return answer


def _header(head: bytes, name: str) -> str:
    lines = (line.partition(": ") for line in head.decode().split("\r\n"))
    return next((value for key, _, value in lines if key.lower() == name), "")


def write_seeds(workdir: pathlib.Path) -> None:
    """Questions about functions of the standard library with their docstrings, and a few files to score."""
    questions, files = [], []
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                ask = f"What does {path.stem}.{node.name} in Python do? Answer in ten words."
                answer = said.split("\n")[0]
                messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
                provenance = json.dumps({"file": path.name, "row": len(questions)})
                questions.append(conversations.row(messages, kind="doc", language="python", provenance=provenance))
        files.append(_document(path.name, text))
    questions.sort(key=lambda row: row["id"])
    for name, rows, schema in (
        ("questions", questions[:QUESTIONS], conversations.SCHEMA),
        ("algorithmic", files[:FILES], docs.SCHEMA),
    ):
        (workdir / name).mkdir(parents=True)
        write_parquet(iter([pa.Table.from_pylist(rows, schema)]), epath.Path(workdir / name / "part-00000.parquet"))


def _document(path: str, text: str) -> dict[str, Any]:
    facts = {"path": path, "repo": "stdlib", "language": "python", "doc_type": "code", "source": "stdlib"}
    digest = hashlib.sha256(text.encode()).hexdigest()
    identity = docs.document_id("stdlib", "stdlib", path, None)
    return facts | {"id": identity, "content_sha256": digest, "text": text, "size": len(text), "provenance": "{}"} | {
        "reasons": []
    }  # fmt: skip


@contextlib.contextmanager
def serving(model: pathlib.Path, work: pathlib.Path) -> Iterator[int]:
    """The port of a server of the model, which is imported first."""
    if not (work / "base" / "DONE.json").exists():
        command = [sys.executable, ROOT / "run.py", "--mode=import", f"--model={model}", f"--out={work / 'base'}"]
        subprocess.run(command, check=True, cwd=ROOT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, ROOT / "run.py", "--mode=serve", f"--checkpoint={work / 'base'}", "--name=teacher"]
    server = subprocess.Popen([*command, f"--port={port}"], cwd=ROOT, stderr=(work / "serve.log").open("w"))
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models"):
                break
            time.sleep(0.5)
        else:
            sys.exit(f"the server ended: see {work / 'serve.log'}")
        yield port
    finally:
        server.terminate()
        server.wait()


def start(workdir: pathlib.Path, url: str) -> subprocess.Popen:
    bindings = [*BINDINGS, f'TEACHER_URL = "{url}"']
    command = [sys.executable, ROOT / "run.py", "--gin_file=gin/stages/synthesis.gin", f"--workdir={workdir}"]
    with (workdir / "console.log").open("a") as log:
        return subprocess.Popen(
            [*command, *(f"--gin_bindings={b}" for b in bindings)], cwd=ROOT, start_new_session=True, stderr=log
        )


def digests(workdir: pathlib.Path) -> list[str]:
    return [json.loads((workdir / stage / "DONE.json").read_text())["outputs"]["digest"] for stage in STAGES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "out" / "smollm2", help="made if not there")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "out" / "benchmark_synthesis")
    args = parser.parse_args()
    if not (args.model / "config.json").exists():
        try:
            smollm2.write(args.model)
        except ImportError as error:
            sys.exit(f"skipped: {error}")
    args.work.mkdir(parents=True, exist_ok=True)
    with serving(args.model, args.work) as port:
        proxies = {}
        for name, kills in (("undisturbed", ()), ("killed", (1 / 3, 2 / 3))):
            workdir = args.work / name
            shutil.rmtree(workdir, ignore_errors=True)
            write_seeds(workdir)
            proxy = proxies[name] = Proxy(port)
            began, lost = time.monotonic(), 0
            for share in kills:
                process = start(workdir, proxy.url)
                while process.poll() is None and len(proxy.paid) < share * len(proxies["undisturbed"].paid):
                    time.sleep(0.01)
                paid = collections.Counter(proxy.paid)
                time.sleep(0.5)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                proxy.paid = paid
                lost += 1
            if start(workdir, proxy.url).wait():
                sys.exit(f"the run failed: see {workdir / 'console.log'}")
            seconds = time.monotonic() - began
            print(
                f"{name}: {len(proxy.sent)} requests in {seconds:.0f} s, {lost} kills, "
                f"{sum(proxy.sent.values())} attempts, {proxy.repeated} of them for what had been paid for",
                flush=True,
            )
    for stage in STAGES:
        result = json.loads((args.work / "killed" / stage / "DONE.json").read_text())["result"]
        steps = {s["step"]: {n: s[n] for n in ("entered", "passed", "requests", "rejected")} for s in result["steps"]}
        print(f"{stage}: {result['files_kept']} of {result['files_in']} rows kept; {json.dumps(steps)}")
    same = digests(args.work / "undisturbed") == digests(args.work / "killed")
    print(f"the data sets are {'the same' if same else 'DIFFERENT'}, byte for byte")
    sys.exit(not same or proxies["killed"].repeated > 0)


if __name__ == "__main__":
    main()
