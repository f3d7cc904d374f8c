"""A recipe of the cookbook's shape that runs in a minute: a folder of real modules, a model of 60,000 parameters."""

import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Five "repositories" out of the standard library.
CORPUS = {
    "text": ["textwrap", "string", "difflib", "shlex", "pprint", "reprlib", "csv", "configparser", "fnmatch", "glob"],
    "maths": ["statistics", "fractions", "random", "heapq", "bisect", "colorsys", "functools", "operator", "numbers"],
    "files": ["tempfile", "shutil", "zipfile", "tarfile", "filecmp", "fileinput", "pathlib", "posixpath"],
    "web": ["smtplib", "ftplib", "imaplib", "poplib", "telnetlib", "socketserver", "mailbox", "cgi", "uuid", "base64"],
    "tools": ["pdb", "trace", "timeit", "tabnanny", "pyclbr", "inspect", "ast", "tokenize", "argparse", "optparse"],
}

BINDINGS = """
VOCAB_SIZE = 1024
ModelConfig.hidden_size = 24
ModelConfig.intermediate_size = 48
ModelConfig.num_hidden_layers = 1
ModelConfig.num_attention_heads = 2
ModelConfig.num_key_value_heads = 1
ModelConfig.head_dim = 12
ModelConfig.max_position_embeddings = 512
SEQ_LEN = 64
PRETRAIN_STEPS = 12
ANNEAL_STEPS = 8
SFT1_STEPS = 6
SFT2_STEPS = 6
train.batch_size = 4
sft1/train.seq_len = 256
sft2/train.seq_len = 256
sft1/train.batch_size = 4
sft2/train.batch_size = 4
train.checkpoint_every = 4
train.log_every = 1
wsd.warmup_steps = 4
bits_per_byte.max_bytes_per_language = 2048
humaneval.max_new_tokens = 8
humaneval.max_problems = 4
samples.max_new_tokens = 8
split.heldout_fraction = 0.3
split.max_heldout_share = 0.5
""".strip().splitlines()


def write_corpus(directory: pathlib.Path) -> pathlib.Path:
    for repo, modules in CORPUS.items():
        (directory / repo).mkdir(parents=True)
        for name in modules:
            source = pathlib.Path(sysconfig.get_path("stdlib")) / f"{name}.py"
            if source.exists():
                shutil.copy(source, directory / repo)
    return directory


def command(corpus: pathlib.Path, workdir: pathlib.Path, *bindings: str) -> list[str]:
    every = [f'preprocess.sources = ["{corpus}"]', *BINDINGS, *bindings]
    return [
        sys.executable,
        str(ROOT / "run.py"),
        "--gin_file=gin/runs/cookbook.gin",
        f"--workdir={workdir}",
        *(f"--gin_bindings={b}" for b in every),
    ]


def run(corpus: pathlib.Path, workdir: pathlib.Path, *bindings: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(corpus, workdir, *bindings), capture_output=True, text=True, cwd=ROOT)


def done(workdir: pathlib.Path) -> dict[str, dict]:
    """Stage → DONE.json, in the order in which the stages ended."""
    records = [json.loads(p.read_text()) for p in workdir.rglob("DONE.json") if "superseded" not in p.parts]
    return {r["stage"]: r for r in sorted(records, key=lambda r: r["finished"])}
