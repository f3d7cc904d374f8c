"""Domains: which are about code, which of their paths to confirm, and which of their pages to learn from next.

A domain is code-related if more than 10 % of its pages are recalled (paper §2.1.2, step 4). All functions take the
rows of whole domains, as `Engine.reduce` hands them out.
"""

from __future__ import annotations

import collections
import json
from typing import Any

import pyarrow as pa

from data_prep.sampling import draw
from data_prep.web import urls

SCORED = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("domain", pa.string()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),  # of the text
        ("score", pa.float32()),
    ]
)
DOMAINS = pa.schema(
    [
        ("domain", pa.string()),
        ("pages", pa.int64()),
        ("recalled", pa.int64()),
        ("tokens", pa.int64()),  # of the recalled pages
        ("bytes", pa.int64()),
        ("code", pa.bool_()),  # whether the domain is code-related
        ("proposals", pa.string()),  # JSON: [[path prefix, pages, recalled], …]
    ]
)
REASONS = ("joined", "hard", "random")  # see candidates
LABELS = pa.schema([("id", pa.string()), ("code", pa.bool_()), ("why", pa.string())])


def judge(table: pa.Table, *, threshold: float, share: float, min_pages: int, confirm: float) -> pa.Table:
    """Scored pages → one row of `DOMAINS` for each domain, in order."""
    return pa.Table.from_pylist(
        [_domain(name, rows, threshold, share, min_pages, confirm) for name, rows in _by_domain(table)],
        DOMAINS,
    )


def _domain(
    name: str, rows: list[dict[str, Any]], threshold: float, share: float, min_pages: int, confirm: float
) -> dict[str, Any]:
    recalled = [row for row in rows if row["score"] >= threshold]
    code = len(rows) >= min_pages and len(recalled) > share * len(rows)
    return {
        "domain": name,
        "pages": len(rows),
        "recalled": len(recalled),
        "tokens": sum(row["tokens"] for row in recalled),
        "bytes": sum(row["bytes"] for row in recalled),
        "code": code,
        "proposals": json.dumps(_proposals(rows, threshold, min_pages, confirm) if code else []),
    }


def _proposals(rows: list[dict[str, Any]], threshold: float, min_pages: int, confirm: float) -> list[Any]:
    """The shortest prefixes with a recalled share of at least `confirm`, and the domain itself if it has less."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        for prefix in urls.prefixes(row["url"]):
            counts[prefix][0] += 1
            counts[prefix][1] += row["score"] >= threshold
    found: list[Any] = []
    for prefix, (pages, recalled) in sorted(counts.items()):  # a prefix comes before those that it begins
        covered = any(prefix.startswith(shorter + "/") and hits >= confirm * all_ for shorter, all_, hits in found)
        if pages >= min_pages and not covered and (recalled >= confirm * pages or "/" not in prefix):
            found.append([prefix, pages, recalled])
    return found


def candidates(
    table: pa.Table,
    *,
    threshold: float,
    share: float,
    min_pages: int,
    confirmed: urls.Patterns,
    rejected: urls.Patterns,
    random: float,
    salt: str,
) -> pa.Table:
    """Scored pages → `LABELS` of those that the next round may learn from.

    joined: a page that a confirmed pattern matches and the classifier missed. hard: a page that was recalled although a
    rejected pattern matches it or its domain is not code-related. random: a draw with the share `random` from the
    other pages of such domains and patterns.
    """
    found = []
    for _, rows in _by_domain(table):
        recalled = sum(row["score"] >= threshold for row in rows)
        foreign = len(rows) >= min_pages and recalled <= share * len(rows)
        for row in rows:
            right, wrong = confirmed.match(row["url"]), rejected.match(row["url"])
            if right and not wrong:
                if row["score"] < threshold:
                    found.append({"id": row["id"], "code": True, "why": "joined"})
            elif wrong or foreign:
                if row["score"] >= threshold:
                    found.append({"id": row["id"], "code": False, "why": "hard"})
                elif draw(salt, row["id"]) < random:
                    found.append({"id": row["id"], "code": False, "why": "random"})
    return pa.Table.from_pylist(found, LABELS)


def _by_domain(table: pa.Table) -> list[tuple[str, list[dict[str, Any]]]]:
    domains: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in table.to_pylist():
        if row["domain"]:
            domains[row["domain"]].append(row)
    return sorted(domains.items())
