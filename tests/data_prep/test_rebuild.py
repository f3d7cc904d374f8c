from __future__ import annotations

import json
import pathlib
import shutil
import sysconfig

import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import corpus_index, rebuild
from data_prep.dedup import exact_dedup
from data_prep.engine import LocalEngine
from data_prep.sampling import split
from data_prep.shards import shards
from data_prep.sources import preprocess
from data_prep.tokenizer import tokenizer
from data_prep.transforms import transform

MODULES = "textwrap string shlex fnmatch glob csv bisect heapq colorsys reprlib tabnanny base64".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A source tree of real modules, one with personal data and one twice, and the data set made from it."""
    top = tmp_path_factory.mktemp("rebuild")
    for i, module in enumerate(MODULES):
        repo = top / "sources" / f"repo{i % 4}"
        repo.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(sysconfig.get_path("stdlib")) / f"{module}.py", repo)
    (top / "sources" / "repo0" / "mail.py").write_text("# Written by someone@company.org\nADMIN = 'root@company.org'\n")
    shutil.copy(top / "sources" / "repo0" / "mail.py", top / "sources" / "repo1" / "copy.py")
    work, engine = epath.Path(top / "work"), LocalEngine(workers=1)
    outs = [work / name for name in ("preprocess", "exact_dedup", "transform", "split", "tokenizer", "corpus")]
    for out in outs:
        out.mkdir(parents=True)
    preprocess(outs[0], sources=[str(top / "sources")], engine=engine)
    exact_dedup(outs[1], documents=outs[0], buckets=2, engine=engine)
    transform(outs[2], documents=outs[1], engine=engine)
    split(outs[3], documents=outs[2], heldout_fraction=0.3, max_heldout_share=0.5, engine=engine)
    tokenizer(outs[4], documents=outs[3], vocab_size=600)
    shards(outs[5], documents=outs[3], tokenizer=outs[4], num_shards=2, engine=engine)
    return top


def rebuilt(run: pathlib.Path, sources: pathlib.Path, out: pathlib.Path) -> int:
    corpus, out = run / "work" / "corpus", epath.Path(out)
    return rebuild.main(
        [f"{corpus}/corpus_index.parquet", str(sources), f"--tokenizer={run / 'work' / 'tokenizer'}", f"--out={out}"]
    )


def test_the_index_lists_what_the_data_set_holds(run: pathlib.Path) -> None:
    rows, facts = corpus_index.read(epath.Path(run / "work" / "corpus" / "corpus_index.parquet"))
    manifest = json.loads((run / "work" / "corpus" / "manifest.json").read_text())
    assert facts["digest"] == manifest["digest"] and rows.num_rows == manifest["records"] > 5
    documents = [row for part in (run / "work" / "split").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    wanted = {row["id"]: row for row in documents if row["split"] == "train"}
    assert set(rows["id"].to_pylist()) == set(wanted)
    for row in rows.to_pylist():
        assert all(row[name] == wanted[row["id"]][name] for name in ("content_sha256", "repo", "path", "language"))


def test_the_corpus_is_built_again_from_index_and_sources(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = tmp_path / "elsewhere" / "sources"
    shutil.copytree(run / "sources", sources)
    (sources / "repo0" / "later.py").write_text("x = 1\n")  # what the index does not name changes nothing
    assert rebuilt(run, sources, tmp_path / "out") == 0
    assert "equal: " in capsys.readouterr().out
    original, again = run / "work" / "corpus", tmp_path / "out" / "corpus"
    names = sorted(path.name for path in original.iterdir() if path.name != "corpus_index.parquet")
    assert [(again / name).read_bytes() for name in names] == [(original / name).read_bytes() for name in names]


def test_missing_and_changed_sources_are_named(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = corpus_index.read(epath.Path(run / "work" / "corpus" / "corpus_index.parquet"))
    first, second, third, *_ = [f"{row['repo']}/{row['path']}" for row in rows.to_pylist()]
    sources = tmp_path / "sources"
    shutil.copytree(run / "sources", sources)
    (tmp_path / first).unlink()
    (tmp_path / second).write_text("changed = True\n")
    (tmp_path / third).write_bytes(b"\xff" + (tmp_path / third).read_bytes())
    assert rebuilt(run, sources, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert f"3 of {rows.num_rows} files" in message and len(message.splitlines()) == 1
    assert all(f"{name} ({state})" in message for name, state in ((first, "missing"), (second, "changed")))
    assert f"{third} (changed" in message
    assert not (tmp_path / "out" / "corpus" / "manifest.json").exists()


def test_what_cannot_be_rebuilt_is_said(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    index = epath.Path(run / "work" / "corpus" / "corpus_index.parquet")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"digest": "0"}')
    with pytest.raises(ValueError, match="is not the tokenizer of corpus"):
        rebuild.rebuild(index, [str(run / "sources")], epath.Path(tmp_path / "tokenizer"), epath.Path(tmp_path))
    with pytest.raises(ValueError, match="is no corpus_index.parquet"):
        rebuild.rebuild(
            epath.Path(next((run / "work" / "split").glob("*.parquet"))), [], epath.Path(tmp_path), epath.Path(tmp_path)
        )
