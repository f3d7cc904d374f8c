"""The stage `web_pages`: web pages, as `preprocess` reads them, to their main text, domain and natural language."""

from __future__ import annotations

import json
from typing import Any

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.natural_language import identify
from data_prep.web import urls
from data_prep.web.main_text import main_text

SCHEMA = docs.SCHEMA.append(pa.field("domain", pa.string()))


@gin.configurable
def web_pages(
    out: epath.Path, *, documents: epath.Path = epath.Path("preprocess"), engine: Engine = LocalEngine()
) -> dict[str, int]:
    """Replaces HTML by its main text and notes URL, column `domain`, and natural language of every document.

    Text that is no HTML (WET, FineWeb, SkyPile) stays as it is. A page of a tree of files that has directories named
    like hosts, as `wget --mirror` writes it, gets its URL from its path. Reason: ``no_main_text``.
    """
    return funnel.documents_map(engine, _pages, documents, out, label="web pages")


def _pages(table: pa.Table) -> pa.Table:
    return pa.Table.from_pylist([_page(row) for row in table.to_pylist()], SCHEMA)


def _page(row: dict[str, Any]) -> dict[str, Any]:
    host = row["repo"].rpartition("/")[2]
    url = row["url"] or (f"https://{host}/{row['path']}" if "." in host else None)
    row |= {"url": url, "domain": urls.domain(url) if url else None}
    if row["language"] == "html":
        text = main_text(row["text"])
        if text is None:
            return row | {"reasons": ["no_main_text"]}
        facts = json.loads(row["provenance"]) | {"main_text": "trafilatura"}
        provenance = json.dumps(facts, sort_keys=True, ensure_ascii=True)
        row |= {"text": text, "language": "text", "doc_type": "text", "provenance": provenance}
    return row | {"natural_language": identify(row["text"])}
