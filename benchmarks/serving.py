#!/usr/bin/env python
"""A server under many clients at once: is an answer lost or swapped, does it crash, does it leak?

    python benchmarks/serving.py [--minutes 10] [--checkpoint DIR]

Without a checkpoint it serves a small model of random weights. First each of the cases (greedy, sampled, several
choices, stop strings, streams) is asked alone. Then 64 clients ask them in random order, and compare each answer with
that; every fourth time a client sends something malformed or far too large instead, or hangs up in the middle. Memory,
threads and open files of the server are read from /proc all the while. Exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import pathlib
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
BODY_BYTES = 4 << 20
WORDS = "def return class import while lambda yield open sorted range print value index queue node tree".split()


def random_model(directory: pathlib.Path) -> pathlib.Path:
    """A train stage of random weights, large enough that texts differ, over single bytes."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import tokenizers
    from etils import epath
    from safetensors.numpy import save_file

    from oc_jax import hf

    source, rng = directory / "source", np.random.default_rng(0)
    source.mkdir()
    heads, kv, d, m = (
        SHAPE[n] for n in ("num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size")
    )
    shapes = {"self_attn.q_proj": (d, d), "self_attn.o_proj": (d, d), "mlp.gate_proj": (m, d), "mlp.up_proj": (m, d)}
    shapes |= {f"self_attn.{name}_proj": (kv * d // heads, d) for name in "kv"} | {"mlp.down_proj": (d, m)}
    draw = lambda *shape: 0.15 * rng.standard_normal(shape, np.float32)
    weights = {"model.embed_tokens.weight": draw(512, d), "lm_head.weight": draw(512, d)}
    weights["model.norm.weight"] = np.ones(d, np.float32)
    for i in range(SHAPE["num_hidden_layers"]):
        weights |= {f"model.layers.{i}.{name}.weight": draw(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{i}.{name}.weight"] = np.ones(d, np.float32)
    save_file(weights, source / "model.safetensors")
    (source / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", **SHAPE})
    )
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        piece: i for i, piece in enumerate([*alphabet, *(a + b for a in alphabet[:16] for b in alphabet[:15])])
    }
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    bpe.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    hf.import_model(epath.Path(source), epath.Path(directory / "model"))
    return directory / "model"


class Server:
    def __init__(self, checkpoint: pathlib.Path, log: pathlib.Path, slots: int = 16):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "run.py", "--mode=serve", f"--checkpoint={checkpoint}", f"--port={self.port}"]
        command += ["--name=model", f"--slots={slots}", f"--max_body_bytes={BODY_BYTES}"]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=log.open("w"))
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server did not start: {log.read_text()[-500:]}")
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.5)

    def get(self, path: str) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())

    def used(self) -> tuple[float, int, int]:
        """(resident MB, threads, open files)."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        number = lambda name: int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]
        files = len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))
        return number("VmRSS") / 1024, number("Threads"), files


def make_cases(count: int) -> list[dict]:
    """Bodies of /v1/completions, all different."""
    rng, cases = random.Random(0), []
    for i in range(count):
        words = " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 4, 12, 30])))
        case = {"model": "model", "prompt": f"{i} {words}", "max_tokens": rng.choice([1, 8, 24, 48]), "seed": i}
        case["temperature"] = rng.choice([0, 0, 0.7, 1.0])
        kind = rng.randrange(5)
        case |= [{}, {"stream": True}, {"n": 2}, {"stop": ["a", "th"]}, {"logprobs": 2}][kind]
        cases.append(case)
    return cases


def ask(port: int, case: dict, timeout: float = 300) -> list[str]:
    """The texts of the choices, each behind why it ended."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", "/v1/completions", json.dumps(case), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {data[:200]!r}")
    if not case.get("stream"):
        return [f"{c['finish_reason']}: {c['text']}" for c in json.loads(data)["choices"]]
    events = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    if events[-1] != "[DONE]":
        raise RuntimeError(f"a stream without its end: {events[-1][:200]}")
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    return [f"{choices[-1]['finish_reason']}: {''.join(c['text'] for c in choices)}"]


MALFORMED = [
    (b"{", 400),
    (b"[]", 400),
    (b"\xff\xfe", 400),
    (b'{"prompt": 5}', 400),
    (b'{"model": "model", "prompt": "a", "temperature": "hot"}', 400),
    (b'{"model": "model", "prompt": "a", "max_tokens": -1}', 400),
    (b'{"model": "model", "prompt": "a", "n": 100000}', 400),
    (b'{"model": "other", "prompt": "a"}', 404),
    (b'{"model": "model", "prompt": "' + b"many words " * 2000 + b'"}', 400),
    (b'{"prompt": "' + b"x" * BODY_BYTES + b'"}', 413),
    (b"[" * 100_000, 400),
]


def misuse(port: int, case: dict, rng: random.Random) -> str:
    """Sends what must be refused, or goes away in the middle. Returns what it did; raises where the answer is wrong."""
    body, status = rng.choice([*MALFORMED, *[(json.dumps(case).encode(), 0)] * 6])
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        if not status:
            connection.sendall((head + body)[: rng.choice([20, len(head), len(head) + len(body) // 2, 1 << 30])])
            time.sleep(rng.random() * 0.3)
            return "abandoned"
        try:
            connection.sendall(head + body)
        except OSError:
            pass  # refused before all was sent
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
        except ConnectionResetError:
            return "closed on us"  # the answer to a body that is too large may be lost on the way
        if answer.status != status:
            raise RuntimeError(f"{body[:60]!r} gave {answer.status} instead of {status}: {answer.read()[:200]!r}")
    return f"refused with {status}"


def client(
    port: int,
    number: int,
    cases: list[dict],
    alone: list[list[str]],
    end: float,
    told: collections.Counter,
    wrong: list,
) -> None:
    rng = random.Random(number)
    while time.monotonic() < end:
        i = rng.randrange(len(cases))
        try:
            if rng.random() < 0.25:
                told[misuse(port, cases[i], rng)] += 1
            elif (found := ask(port, cases[i])) == alone[i]:
                told["right"] += 1
            else:
                wrong.append(f"case {i}: {found} instead of {alone[i]}")
        except Exception as error:
            wrong.append(f"case {i}: {type(error).__name__}: {error}")


def load(server: Server, cases: list[dict], alone: list[list[str]], clients: int, minutes: float) -> bool:
    """Whether all went well."""
    told: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    started, rows = time.monotonic(), []
    end = started + 60 * minutes
    threads = [
        threading.Thread(target=client, args=(server.port, n, cases, alone, end, told, wrong), daemon=True)
        for n in range(clients)
    ]
    before = server.used()
    for thread in threads:
        thread.start()
    print(f"{'minute':>6} {'right':>8} {'others':>8} {'wrong':>6} {'MB':>8} {'threads':>8} {'files':>6}", flush=True)
    while any(thread.is_alive() for thread in threads) and server.process.poll() is None:
        time.sleep(min(30, 60 * minutes / 8))
        rows.append(server.used())
        others = sum(told.values()) - told["right"]
        shown = f"{rows[-1][0]:8.0f} {rows[-1][1]:8} {rows[-1][2]:6}"
        print(
            f"{(time.monotonic() - started) / 60:6.1f} {told['right']:8} {others:8} {len(wrong):6} {shown}", flush=True
        )
    time.sleep(3)
    after, pending = server.used(), server.get("/health")["pending"]
    print(f"sent: {dict(told)}; at the end {pending} pending")
    print(
        "before, after: "
        + ", ".join(f"{b:.0f} → {a:.0f} {n}" for b, a, n in zip(before, after, ("MB", "threads", "files"), strict=True))
    )
    print(*wrong[:10], sep="\n")
    grown = after[0] / rows[len(rows) // 2][0] - 1  # the second half; in the first programs are compiled
    print(f"memory of the second half: {grown:+.1%}")
    return not wrong and not pending and grown < 0.05 and after[2] <= before[2] + 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a train stage, its tokenizer beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint.resolve() if args.checkpoint else random_model(pathlib.Path(scratch))
        server = Server(checkpoint, pathlib.Path(scratch) / "log")
        try:
            cases = make_cases(args.cases)
            alone = [ask(server.port, case) for case in cases]
            print(f"{len(cases)} cases asked alone, {len({str(a) for a in alone})} different answers", flush=True)
            well = load(server, cases, alone, args.clients, args.minutes)
            server.process.terminate()
            code = server.process.wait(90)
        finally:
            server.process.kill()
        print(f"exit code after SIGTERM: {code}; {'all is well' if well and code in (0, -15) else 'NOT well'}")
        sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
