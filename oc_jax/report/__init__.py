"""The report: one self-contained HTML page that tells a run from raw files to scores.

It reads whatever stages have left in the workdir, so it can be made at any time; what is not there yet is said to be
missing. The page loads nothing, and all text from documents and models is escaped: both are strangers' text.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gin
from etils import epath

from oc_jax.report import gather, model_sections, sections
from oc_jax.report.text import count, esc, percent, si, size

LOGGER = logging.getLogger("oc_jax.report")
_HERE = Path(__file__).parent


@gin.configurable
def report(out: epath.Path, *, workdir: epath.Path = epath.Path(".")) -> dict[str, Any]:
    """Writes out/index.html about the stages in `workdir`. Returns its size in bytes and the number of stages on it."""
    workdir = epath.Path(workdir)
    html = page(workdir, exclude=epath.Path(out)).encode("utf-8", "replace")
    temporary = out / "index.html.tmp"
    temporary.write_bytes(html)
    temporary.replace(out / "index.html")
    LOGGER.info(f"the report: {out / 'index.html'}")
    return {"bytes": len(html), "stages": len(gather.stages(workdir, epath.Path(out)))}


def page(workdir: epath.Path, exclude: epath.Path) -> str:
    """The page about `workdir`; the stage in directory `exclude` (the report itself) is left out."""
    stages = gather.stages(workdir, exclude)
    corpus = gather.corpus(stages)
    curves = gather.curves(stages)
    results = {s.name: r for s in stages if (r := gather.read_json(s.directory / "results.json"))}
    written = {s.name: r for s in stages if (r := gather.read_json(s.directory / "samples.json"))}
    described = gather.tokenizer(stages)
    parts = {
        "Pipeline": sections.pipeline(stages),
        "Funnel": sections.funnel(corpus),
        "Languages": sections.languages(corpus),
        "Duplicates": sections.dedup(stages),
        "Rules": sections.rules(gather.funnels(stages)),
        "Dropped": sections.dropped(gather.funnels(stages)),
        "Tokenizer": sections.tokenizer(described),
        "Data sets": sections.data_sets(gather.manifests(stages), stages),
        "Training": model_sections.training(curves, gather.scores(workdir)),
        "Bits per byte": model_sections.bits_per_byte(results),
        "Benchmarks": model_sections.benchmarks(results),
        "Samples": model_sections.samples(written),
        "Configuration": sections.configuration(workdir, stages),
        "Environment": sections.environment(stages),
    }
    anchors = {name: name.lower().replace(" ", "-") for name in parts}
    links = "".join(f'<a href="#{anchors[name]}">{name}</a>' for name in parts)
    body = "".join(f'<section id="{anchors[name]}"><h2>{name}</h2>{html}</section>' for name, html in parts.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(workdir.name)}</title><style>{(_HERE / 'page.css').read_text()}</style></head><body>"
        f'<header><div><div class="over">OpenCoder cookbook · run report</div><h1>{esc(workdir.name)}</h1>'
        f'<p class="lead">{_lead(stages, corpus, curves, results)}</p>'
        f"{_tiles(stages, corpus, curves, results)}</div></header>"
        f"<nav><div>{links}</div></nav><main>{body}"
        "<footer>Made by the stage report from the files of the run; it can be made again at any time.</footer></main>"
        f"<script>{(_HERE / 'page.js').read_text()}</script></body></html>\n"
    )


def _lead(stages, funnels, curves, results) -> str:
    """The run in two or three sentences, as far as it has come."""
    out = []
    if funnels:
        first, last = funnels[0][1], funnels[-1][1]
        out.append(
            f"From <b>{count(first['in']['files'])} files</b> in {len(first['by_language'])} languages, "
            f"<b>{count(last['kept']['files'])}</b> ({size(last['kept']['bytes'])}) became the corpus."
        )
    if curves:
        sizes = [s.done["result"]["parameters"] for s in stages if "parameters" in (s.done.get("result") or {})]
        who = f"A model of <b>{si(sizes[-1])} parameters</b>" if sizes else "The model"
        tokens = sum(c.rows[-1]["at"] for c in curves)
        named = ", ".join(esc(c.name) for c in curves)
        out.append(f"{who} was trained on <b>{si(tokens)} tokens</b> ({named}).")
    for numbers in _having(results, "bits_per_byte").values():
        total = numbers["total"]
        out.append(
            f"It needs <b>{total['model']:.2f} bits per byte</b> of unseen code, where xz needs {total['xz']:.2f}."
        )
    solved = [
        f"<b>{sum(p['passed'] for p in numbers['problems'])} of {len(numbers['problems'])}</b> ({esc(stage)})"
        for stage, numbers in _having(results, "humaneval").items()
    ]
    if solved:
        out.append(f"HumanEval problems solved: {', '.join(solved)}.")
    return " ".join(out) or "Nothing has finished yet."


def _having(results: dict[str, dict[str, Any]], task: str) -> dict[str, dict[str, Any]]:
    """Evaluation stage → what it found in `task`, for the stages in which it was not skipped."""
    found = {stage: numbers[task] for stage, numbers in results.items() if task in numbers}
    return {stage: numbers for stage, numbers in found.items() if "skipped" not in numbers}


def _tiles(stages, funnels, curves, results) -> str:
    tiles: list[tuple[str, str, str]] = []
    seconds = sum(s.done.get("seconds", 0) for s in stages)
    unfinished = sum(not s.done for s in stages)
    aside = f"{len(stages) - unfinished} stages" + (f", {unfinished} not finished" if unfinished else "")
    total_time = f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds / 60:.1f} min"
    tiles.append(("Total time", total_time, aside))
    if funnels:
        first, last = funnels[0][1]["in"], funnels[-1][1]["kept"]
        tiles.append(
            ("Corpus", size(last["bytes"]), f"{percent(last['bytes'], first['bytes'])} of {size(first['bytes'])}")
        )
    if curves:
        last = curves[-1]
        tiles.append(("Trained on", f"{si(sum(c.rows[-1]['at'] for c in curves))}", f"tokens in {len(curves)} stages"))
        tiles.append(("Last loss", f"{last.rows[-1]['loss']:.3f}", last.name))
    for numbers in _having(results, "bits_per_byte").values():
        total = numbers["total"]
        better = 100 * (1 - total["model"] / total["xz"])
        aside = f"{abs(better):.0f} % {'below' if better >= 0 else 'above'} xz -9"
        tiles.append(("Bits per byte", f"{total['model']:.3f}", aside))
    for stage, numbers in _having(results, "humaneval").items():
        tiles.append(("HumanEval", f"{100 * numbers['pass@1']:.1f} %", f"pass@1, {stage}"))
    cells = (
        f'<div class="tile"><div class="name">{esc(n)}</div><div class="value">{esc(v)}</div>'
        f'<div class="aside">{esc(a)}</div></div>'
        for n, v, a in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'
