"""Builds a data set again from its corpus_index.parquet and the sources, and proves that it is the same.

Sources are named as in `preprocess.sources`, and their last names must be those they had then. Only the listed files
are used; each must have the recorded content and, after the recorded repairs, the recorded text. The shards must have
the recorded digest.

Example:
  python -m data_prep.rebuild corpus/corpus_index.parquet SOURCE … --tokenizer=tokenizer --out=DIR
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import command, corpus_index
from data_prep import documents as docs
from data_prep.engine import Engine, LocalEngine
from data_prep.shards import shards
from data_prep.sources import preprocess
from data_prep.transforms import transform_text

SHOWN = 10  # files that an error names


def rebuild(
    index: epath.Path, sources: list[str], tokenizer: epath.Path, out: epath.Path, engine: Engine = LocalEngine()
) -> dict[str, Any]:
    """Writes the data set to out/<its name> and returns its manifest's digest and counts.

    Raises:
      ValueError: a file is missing or differs, the tokenizer is another, or the shards are not those of the index.
    """
    rows, facts = corpus_index.read(index)
    _check_rebuildable(rows, facts, tokenizer)
    scratch = out / "_scratch"
    everything, wanted = scratch / "preprocess", scratch / "documents"
    for directory in (everything, wanted, out / facts["name"]):
        directory.mkdir(parents=True, exist_ok=True)
    preprocess(everything, sources=sources, engine=engine)
    select = functools.partial(_select, index=os.fspath(index))
    engine.map(select, docs.parts(everything), wanted, label="files of the index")
    _check_files(rows, wanted)
    made = {name: facts[name] for name in ("kind", "split", "num_shards", "salt")}
    result = shards(out / facts["name"], documents=wanted, tokenizer=tokenizer, engine=engine, **made)
    if result["digest"] != facts["digest"]:
        raise ValueError(
            f"{out / facts['name']} has the digest {result['digest']}, the index says {facts['digest']}: all texts are "
            "right, so another version of this program wrote the shards"
        )
    scratch.rmtree()
    return result


def _check_rebuildable(rows: pa.Table, facts: dict[str, Any], tokenizer: epath.Path) -> None:
    derived = facts["kind"] == "messages" or any("parent" in json.loads(p) for p in rows["provenance"].to_pylist())
    if derived:
        raise ValueError(f"{facts['name']} is made of other documents: rebuild those and run its stage on them")
    digest = json.loads((tokenizer / "tokenizer.json").read_text())["digest"]
    if facts["tokenizer_digest"] != digest:
        raise ValueError(f"{tokenizer} is not the tokenizer of {facts['name']}, {facts['tokenizer_digest']}")


@functools.lru_cache(maxsize=1)
def _wanted(index: str) -> dict[str, dict[str, Any]]:
    table, _ = corpus_index.read(epath.Path(index))
    columns = ["id", "content_sha256", "natural_language", "split", "provenance"]
    return {row["id"]: row for row in table.select(columns).to_pylist()}


def _select(table: pa.Table, *, index: str) -> pa.Table:
    """The documents of the index, repaired as they were; those with other content are dropped as ``changed``."""
    wanted = _wanted(index)
    table = table.filter(pc.is_in(table["id"], pa.array(wanted, pa.string())))
    rows = table.to_pylist()
    for row in rows:
        known = wanted[row["id"]]
        if row["content_sha256"] != known["content_sha256"]:
            row["reasons"] = ["changed"]
        elif not row["reasons"]:
            if "transforms" in json.loads(known["provenance"]):
                row["text"], _ = transform_text(row["text"], row["language"], row["doc_type"])
            row |= {name: known[name] for name in ("natural_language", "split", "provenance")}
    return pa.Table.from_pylist(rows, docs.SCHEMA)


def _check_files(rows: pa.Table, found: epath.Path) -> None:
    """Raises ValueError if a file of the index is not there, or is not what it was, with the names of the first few."""
    texts = {row["id"]: row["text_sha256"] for row in rows.select(["id", "text_sha256"]).to_pylist()}
    state = dict.fromkeys(texts, "missing")
    for part in docs.parts(found):
        for row in docs.read_part(part, ["id", "text", "reasons"]).to_pylist():
            same = not row["reasons"] and corpus_index.text_digest(row["text"]) == texts[row["id"]]
            state[row["id"]] = "" if same else ", ".join(row["reasons"]) or "repaired differently"
    names = zip(*(rows[name].to_pylist() for name in ("id", "repo", "path")), strict=True)
    wrong = [f"{repo}/{path} ({state[i]})" for i, repo, path in names if state[i]]
    if wrong:
        shown = ", ".join(wrong[:SHOWN]) + (f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        raise ValueError(f"{len(wrong)} of {rows.num_rows} files are not those of the index: {shown}")


def main(argv: list[str] | None = None) -> int:
    parser = command.parser("data_prep.rebuild", __doc__)
    parser.add_argument("index", type=epath.Path, help="corpus_index.parquet of a data set")
    parser.add_argument("sources", nargs="+", help="what preprocess.sources was")
    parser.add_argument("--tokenizer", type=epath.Path, required=True, help="tokenizer directory of the data set")
    parser.add_argument("--out", type=epath.Path, required=True, help="directory to write to")
    flags = parser.parse_args(argv)
    try:
        result = rebuild(flags.index, flags.sources, flags.tokenizer, flags.out)
    except (ValueError, OSError) as error:
        print(f"rebuild: {error}", file=sys.stderr)
        return 1
    print(f"equal: {result['records']:,} records, {result['tokens']:,} tokens, digest {result['digest']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
