"""Repairs of a text that would be a pity to drop: copyright notices and personal data go, the code stays.

Transformation stands before the quality filter, so that a small pervasive defect does not cost the file
(arXiv 2411.04905, section 2.1.1).
"""

from __future__ import annotations

import collections
import json

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel, notices, pii
from data_prep.engine import Engine, LocalEngine


@gin.configurable
def transform(
    out: epath.Path, *, documents: epath.Path = epath.Path("fuzzy_dedup"), engine: Engine = LocalEngine()
) -> dict:
    """Removes copyright notices (`notices.remove_notice`) and personal data (`pii.redact`) from every text.

    Nothing is dropped; `size` stays that of the raw file. What was done to a document stands in its `provenance` as
    ``"transforms": {"copyright": 1, "email": 2, …}``.

    Returns:
      The funnel, and "transforms": number of replacements of each kind in all documents.
    """
    result = funnel.documents_map(engine, _transform, documents, out, label="transforms")
    counts = collections.Counter[str]()
    for table in docs.read(out, ["provenance"]):
        for provenance in table["provenance"].to_pylist():
            counts.update(json.loads(provenance).get("transforms", {}))
    return result | {"transforms": dict(sorted(counts.items()))}


def transform_text(text: str, language: str = "unknown", doc_type: str = "code") -> tuple[str, dict[str, int]]:
    """(the repaired text, number of repairs of each kind); repairing a repaired text changes nothing."""
    without_notice = notices.remove_notice(text, language, doc_type)
    repaired, counts = pii.redact(without_notice, language)
    return repaired, ({"copyright": 1} if without_notice != text else {}) | counts


def _transform(table: pa.Table) -> pa.Table:
    texts, provenances = table["text"].to_pylist(), table["provenance"].to_pylist()
    kinds = zip(table["language"].to_pylist(), table["doc_type"].to_pylist(), strict=True)
    for i, (language, doc_type) in enumerate(kinds):
        texts[i], counts = transform_text(texts[i], language, doc_type)
        if counts:
            provenances[i] = json.dumps(json.loads(provenances[i]) | {"transforms": counts}, ensure_ascii=False)
    for name, values in (("text", texts), ("provenance", provenances)):
        field = docs.SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table
