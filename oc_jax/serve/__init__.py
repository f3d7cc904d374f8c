"""`--mode=serve`: a checkpoint behind the HTTP interface that OpenAI's clients speak.

    python run.py --mode=serve --checkpoint=out/cookbook/sft2
    curl localhost:8000/v1/completions -d '{"prompt": "def add(a, b):", "max_tokens": 32}'

Evaluation harnesses, editors and the `openai` client use it as they are; a small page to try it stands at `/`.
"""

from __future__ import annotations

import argparse
import ipaddress
import os

import uvicorn
from etils import epath

from oc_jax.decode import Engine
from oc_jax.serve.app import Api, Limits
from oc_jax.serve.worker import Worker


def main(argv: list[str]) -> None:
    """python run.py --mode=serve"""
    parser = argparse.ArgumentParser(prog="run.py --mode=serve", description="Serves a checkpoint over HTTP.")
    parser.add_argument("--checkpoint", required=True, type=epath.Path, help="directory of a finished train stage")
    parser.add_argument("--tokenizer", type=epath.Path, help="tokenizer directory (default: beside the checkpoint)")
    parser.add_argument("--name", help="what clients call the model (default: the checkpoint's last name)")
    parser.add_argument("--host", default="127.0.0.1", help="another than loopback needs a key")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--api_key", default=os.environ.get("OC_API_KEY"), help="default: the variable OC_API_KEY")
    parser.add_argument("--slots", type=int, default=16, help="sequences that are decoded at a time")
    parser.add_argument("--max_queue", type=int, default=256, help="requests that may wait or run; more get 429")
    parser.add_argument("--max_body_bytes", type=int, default=Limits.body_bytes)
    parser.add_argument("--request_seconds", type=float, default=Limits.request_seconds)
    args = parser.parse_args(argv)
    if not args.api_key and not _is_loopback(args.host):
        raise ValueError(f"--host={args.host} is open to others: give a key with --api_key or OC_API_KEY")
    tokenizer = args.tokenizer or args.checkpoint.parent / "tokenizer"
    engine = Engine.load(args.checkpoint, tokenizer, slots=args.slots)
    limits = Limits(args.max_body_bytes, args.request_seconds)
    serve(engine, args.name or args.checkpoint.name, args.host, args.port, args.api_key, args.max_queue, limits)


def serve(engine: Engine, name: str, host: str, port: int, api_key: str | None, max_queue: int, limits: Limits) -> None:
    """Until SIGINT or SIGTERM; what is running then ends first, what arrives later is refused."""
    worker = Worker(engine, max_queue=max_queue)
    worker.start()
    app = Api(worker, name, api_key=api_key, limits=limits).app()
    config = uvicorn.Config(app, host=host, port=port, log_level="info", access_log=False, timeout_graceful_shutdown=60)
    try:
        uvicorn.Server(config).run()
    finally:
        worker.stop()
        worker.join(timeout=60)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
