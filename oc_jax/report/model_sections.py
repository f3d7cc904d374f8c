"""The page's sections about training and evaluation."""

from __future__ import annotations

import json
import re
from typing import Any

from oc_jax.report import gather, paper_scores, svg
from oc_jax.report.text import count, esc, folded, key, missing, percent, si, size, table

_POINTS = 500  # per stage and curve
_COMPLETION = 1500  # characters


def training(curves: list[gather.Curve], scores: dict[str, dict[str, list[tuple[int, float]]]]) -> str:
    """`scores`: what was measured on checkpoints on the way, task → stage → (step, headline)."""
    if not curves:
        return missing("Nothing has been trained yet.")
    curves = [gather.Curve(c.name, _thinned(c.rows)) for c in curves]

    def bands(quantity: str) -> list[svg.Band]:
        return [svg.Band(c.name, c.rows[-1]["at"], [(r["at"], r.get(quantity)) for r in c.rows]) for c in curves]

    panels = [
        svg.panel(
            "Loss (nats per token)", bands("loss"), log=True, show="{:g}".format, smooth=True, names=True, height=320
        ),
        svg.panel("Learning rate", bands("learning_rate"), log=True, show="{:.0e}".format, height=160),
        *(svg.panel(task, _scored(curves, by_stage), log=False, show="{:.3g}".format, dots=True, height=180)
          for task, by_stage in scores.items()),
        svg.panel("Tokens per second", bands("tokens_per_second"), log=False, show=si, ticks=si, height=180),
    ]  # fmt: skip
    readings = []
    spans = svg.Axis([c.rows[-1]["at"] for c in curves]).spans()
    for (left, right), curve in zip(spans, curves, strict=True):
        for row in curve.rows:
            x = left + (right - left) * row["at"] / (curve.rows[-1]["at"] or 1)
            readings.append([round(x, 1), _reading(curve.name, row)])
    data = json.dumps(readings, ensure_ascii=False).replace("<", "\\u003c")
    rows = [
        (esc(c.name), count(c.rows[-1]["step"]), si(c.rows[-1]["at"]), f"{c.rows[0]['loss']:.3f}",
         f"{c.rows[-1]['loss']:.3f}", _median_rate(c), _mfu(c))
        for c in curves
    ]  # fmt: skip
    head = ("stage", "last step", "tokens", "first loss", "last loss", "tokens / s", "MFU")
    return (
        "<p>All training stages on one axis of tokens seen; each is given at least a tenth of the width. The faint "
        "line is the loss as logged, the strong one its running mean.</p>"
        f'<div class="curves">{"".join(panels)}<div class="readout" hidden></div>'
        f'<script type="application/json">{data}</script></div>' + table(head, rows, numeric=" nnnnnn")
    )


def _scored(curves: list[gather.Curve], by_stage: dict[str, list[tuple[int, float]]]) -> list[svg.Band]:
    """A task's scores on the axis of tokens: each stands at the row of metrics.jsonl that is nearest to its step."""
    bands = []
    for curve in curves:
        nearest = lambda step, rows=curve.rows: min(rows, key=lambda row: abs(row["step"] - step))["at"]
        points = [(nearest(step), value) for step, value in by_stage.get(curve.name, [])]
        bands.append(svg.Band(curve.name, curve.rows[-1]["at"], points))
    return bands


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    step = -(-len(rows) // _POINTS)
    return rows[::step] if (len(rows) - 1) % step == 0 else [*rows[::step], rows[-1]]


def _reading(name: str, row: dict[str, Any]) -> str:
    lines = [
        f"{name}, step {row['step']:,}",
        f"loss           {row['loss']:.4f}",
        f"learning rate  {row['learning_rate']:.2e}",
    ]
    if row.get("tokens_per_second"):
        lines.append(f"tokens/s       {row['tokens_per_second']:,.0f}")
    return "\n".join(lines)


def _median_rate(curve: gather.Curve) -> str:
    rates = sorted(r["tokens_per_second"] for r in curve.rows if r.get("tokens_per_second"))
    return count(rates[len(rates) // 2]) if rates else "–"


def _mfu(curve: gather.Curve) -> str:
    values = [r["mfu"] for r in curve.rows if r.get("mfu")]
    return percent(values[-1], 1) if values else "–"


def bits_per_byte(results: dict[str, dict[str, Any]]) -> str:
    found = {n: r["bits_per_byte"] for n, r in results.items() if "bits_per_byte" in r}
    if not found:
        return missing("Bits per byte have not been measured yet.")
    if skipped := next((numbers["skipped"] for numbers in found.values() if "skipped" in numbers), None):
        return missing(f"Bits per byte were not measured: {skipped}.")
    out = [
        "<p>How many bits the model needs for a byte of held-out code, from repositories it has never seen: less is "
        "better. xz and zstd compress each file alone, as the model reads it; in the columns ‘together’ they compress "
        "all files of a language as one, so that later files may refer to earlier ones.</p>",
        key(model="model", xz="xz -9", zstd="zstd -19"),
    ]
    for stage, numbers in found.items():
        if len(found) > 1:
            out.append(f"<h3>{esc(stage)}</h3>")
        rows = sorted(numbers["by_language"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
        full = max(max(row["model"], row["xz"], row["zstd"]) for _, row in rows)
        cells = [_bits_row(name, row, full) for name, row in [*rows, ("all", numbers["total"])]]
        head = ("language", "bytes", "model", "xz -9", "zstd -19", "xz together", "zstd together", "")
        out.append(table(head, cells, numeric=" nnnnnn ", total=True))
    return "".join(out)


def _bits_row(name: str, row: dict[str, Any], full: float) -> tuple[str, ...]:
    columns = ("model", "xz", "zstd", "xz_together", "zstd_together")
    best = min(row[c] for c in columns if c in row)
    cells = ["–" if c not in row else f"<b>{row[c]:.3f}</b>" if row[c] == best else f"{row[c]:.3f}" for c in columns]
    marks = svg.strip({c: row[c] for c in ("xz", "zstd", "model")}, full)
    return esc(name), size(row["bytes"]), *cells, marks


def _score_row(stage: str, name: str, numbers: dict[str, Any], known: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    """One line of the table of scores; `known`: what the paper's models reach, by benchmark."""
    value, interval, truth = numbers.get("pass@1"), numbers.get("pass@1_interval"), numbers.get("ground_truth")
    paper = next((known[key] for key in (numbers.get("benchmark"), name) if key in known), ())
    return (
        esc(stage),
        esc(name),
        "not run" if value is None else f"<b>{100 * value:.1f}</b>",
        f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}" if interval else "–",
        count(numbers["tasks"]) + (f" ({numbers['not_run']} not run)" if numbers.get("not_run") else ""),
        f"{truth['passed']} of {truth['tasks']}" if truth else "–",
        *(f"{score:.1f}" for score in paper),
        *["–"] * (len(paper_scores.MODELS) - len(paper)),
    )


def _scores(found: list[tuple[str, str, dict[str, Any]]]) -> str:
    rows = []
    for stage, name, numbers in found:
        known = paper_scores.INSTRUCT if numbers.get("chat") else paper_scores.BASE
        rows.append(_score_row(stage, name, numbers, known))
        for group, part in numbers.get("by_group", {}).items():
            rows.append(_score_row("", group, part, known))
    head = ("stage", "benchmark", "pass@1, %", "95 % interval", "tasks", "own solutions", *paper_scores.MODELS)
    return (
        "<p>To the right what the paper prints in tables 6 to 8 for the same kind of model, base or instruct. ‘Own "
        "solutions’: how many of the benchmark’s own solutions pass on this machine. CodeArena is left out, as its "
        "judge is GPT-4.</p>" + table(head, rows, numeric="  nnnn" + "n" * len(paper_scores.MODELS))
    )


def benchmarks(results: dict[str, dict[str, Any]]) -> str:
    found = [(s, n, v) for s, r in results.items() for n, v in r.items() if isinstance(v, dict) and "problems" in v]
    if not found:
        return missing("No benchmark has been run yet.")
    out = []
    for stage, name, numbers in found:
        problems = numbers["problems"]
        passed = sum(p["passed"] for p in problems)
        heading = name if len(results) == 1 else f"{stage} / {name}"
        passes = {k: v for k, v in numbers.items() if re.fullmatch(r"pass@\d+", k) and v is not None}
        score = " · ".join(f"{k} {100 * v:.1f} %" for k, v in passes.items())
        how = "chat template" if numbers.get("chat") else "completion of the prompt"
        out.append(
            f"<h3>{esc(heading)}: {esc(score)}</h3>"
            f"<p>{passed} of {len(problems)} programs pass all tests of their problem. "
            f"{esc(how.capitalize())}, temperature {esc(numbers.get('temperature', '?'))}, at most "
            f"{esc(numbers.get('max_new_tokens', '?'))} new tokens; sandbox: {esc(numbers.get('sandbox', '?'))}.</p>"
        )
        prefix = re.sub(r"\W", "-", f"{stage}-{name}")
        anchors = [f"{prefix}-{i}" for i in range(len(problems))]
        squares = "".join(
            f'<a class="{_class(p)}" href="#{a}" title="{esc(p["task_id"])} {esc(p["detail"], 120)}"></a>'
            for p, a in zip(problems, anchors, strict=True)
        )
        listed = "".join(_problem(p, a) for p, a in zip(problems, anchors, strict=True))
        out.append(f'<div class="cells">{squares}</div>' + folded(f"All {len(problems)} programs", listed))
    colours = key(ok="passed", error="failed", timeout="out of time or memory")
    return _scores(found) + colours + "".join(out)


def _class(problem: dict[str, Any]) -> str:
    status = problem["status"]
    return status if status in ("ok", "timeout", "memory", "refused") else "error"


def _problem(problem: dict[str, Any], anchor: str) -> str:
    kind, word = ("pill ok", "passed") if problem["passed"] else ("pill", problem["status"])
    pill = f'<span class="{kind}">{esc(word)}</span>'
    detail = f'<p class="meta">{esc(problem["detail"], 300)}</p>' if problem["detail"] else ""
    completion = problem["completion"] or "(empty)"
    return folded(f"{esc(problem['task_id'])}", f"{detail}<pre>{esc(completion, _COMPLETION)}</pre>", pill, anchor)


def samples(written: dict[str, list[dict[str, Any]]]) -> str:
    if not any(written.values()):
        return missing("There are no samples yet.")
    out = []
    for stage, rows in written.items():
        if len(written) > 1:
            out.append(f"<h3>{esc(stage)}</h3>")
        blocks = []
        for row in rows:
            given, text = esc(row["prompt"], _COMPLETION), esc(row["completion"], _COMPLETION)
            between = "\n\n" if row["kind"] == "chat" else ""
            body = f'<pre><span class="given">{given}</span>{between}{text}</pre>'
            blocks.append(f'<div><p class="meta">{esc(row["kind"])}</p>{body}</div>')
        out.append(f'<div class="two">{"".join(blocks)}</div>')
    return "<p>What the prompt gave is grey, what the model wrote is dark.</p>" + "".join(out)
