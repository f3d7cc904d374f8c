from __future__ import annotations

import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from etils import epath

from oc_jax.report import gather, model_sections, report, svg, text
from tests.oc_jax.synthetic_run import LANGUAGES, REASONS, write_json, write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "cook<book> & co"
    write_run(workdir)
    return workdir


class Page(html.parser.HTMLParser):
    """Checks nesting and collects what the page refers to."""

    VOID = frozenset({"meta", "br", "img", "hr", "link", "input"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")], "an event handler from strangers' text"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # SVG's <rect/>
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(workdir) -> str:
    out = epath.Path(workdir) / "report"
    result = report(out, workdir=epath.Path(workdir))
    assert result["bytes"] == (out / "index.html").stat().length < 2_000_000
    return (out / "index.html").read_text()


SECTIONS = [
    "Pipeline",
    "Funnel",
    "Languages",
    "Dropped",
    "Tokenizer",
    "Data sets",
    "Training",
    "Bits per byte",
    "Benchmarks",
    "Samples",
    "Configuration",
    "Environment",
]


def test_page_is_well_formed_and_loads_nothing(page):
    parsed = Page(page)
    assert [r for r in parsed.references if not r.startswith("#")] == []
    assert {r[1:] for r in parsed.references} <= set(parsed.ids) and len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert not {"img", "iframe", "link", "object", "embed"} & set(parsed.tags)


def test_strangers_text_stays_text(page):
    parsed = Page(page)
    assert parsed.tags.count("script") == 2 and 'document.title="owned"' in parsed.text
    assert not any("owned" in script for script in parsed.scripts)
    assert not re.search("[\x00-\x08\x1b\u202e]", page)
    assert "cook<book> & co" in parsed.text


def test_all_sections_are_filled(page):
    shown = Page(page).text
    for name in SECTIONS:
        assert name in shown
    assert 'class="missing"' not in page.replace('<p class="missing">not text</p>', "")


def test_numbers_of_the_run_are_on_the_page(page, workdir):
    shown = Page(page).text
    into = sum(LANGUAGES.values())
    gone = sum(n for reasons in REASONS.values() for n in reasons.values())
    assert f"{into:,} files" in shown and f"{into - gone:,}" in shown
    for reason in ("too_large", "exact_duplicate", "frac_chars_comments > 0.8", "humaneval_10gram"):
        assert reason in shown
    for name in ("base", "chat"):
        results = json.loads((workdir / "eval" / name / "results.json").read_text())
        assert f"{100 * results['humaneval']['pass@1']:.1f} %" in shown
    assert "163 of 164" in shown and "54.3" in shown and "72.5" in shown  # the paper's HumanEval, base and instruct
    results = json.loads((workdir / "eval" / "base" / "results.json").read_text())
    assert f"{results['bits_per_byte']['total']['model']:.3f}" in shown
    assert "84.00 %" in shown and "1.37" in shown and "pretrain/train.mixture" in shown
    assert "99999" not in shown and "superseded" not in shown


def test_same_workdir_same_page(page, workdir):
    report(epath.Path(workdir) / "report", workdir=epath.Path(workdir))
    assert (workdir / "report" / "index.html").read_text() == page


@pytest.mark.parametrize("keep", [[], ["preprocess"], ["pretrain"], ["eval"], ["tokenizer", "data"]])
def test_partial_workdirs_say_what_is_missing(workdir, tmp_path, keep):
    for name in keep:
        shutil.copytree(workdir / name, tmp_path / "run" / name)
    for part in (tmp_path / "run").glob("*/part-*.parquet"):
        part.unlink()
    out = epath.Path(tmp_path / "run" / "report")
    out.mkdir(parents=True)
    report(out, workdir=epath.Path(tmp_path / "run"))
    written = (out / "index.html").read_text()
    Page(written)
    assert 'class="missing"' in written
    assert ("Nothing has been trained yet." in written) == ("pretrain" not in keep)


def test_half_done_stage_is_named(workdir, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(workdir / "preprocess", tmp_path / "run" / "preprocess")
    write_json(tmp_path / "run" / "fuzzy_dedup" / "STARTED.json", {"params": {}})
    report(epath.Path(tmp_path / "run"), workdir=epath.Path(tmp_path / "run"))
    shown = Page((tmp_path / "run" / "index.html").read_text()).text
    assert "fuzzy_dedup" in shown and "1 not finished" in shown


def test_dropped_examples_are_the_smallest_ids_with_their_reason(workdir):
    counted = json.loads((workdir / "preprocess" / "funnel.json").read_text())
    examples = gather.dropped(epath.Path(workdir) / "preprocess", counted)
    rows = pq.read_table(workdir / "preprocess" / "part-00000.parquet").to_pylist()
    for reason in REASONS["preprocess"]:
        expected = sorted(row["id"] for row in rows if reason in row["reasons"])[:3]
        assert [document.id for document in examples[reason]] == expected
    assert all(document.text is None for document in examples["not_utf8"])


def test_rules_and_the_curve_of_the_banding_are_shown(page):
    shown = Page(page)
    assert "num_lines < 2" in shown.text and "60 alone" in shown.text
    assert "quality_filter-num_lines-2" in shown.ids and "#quality_filter-num_lines-2" in shown.references
    assert "16 × 128 bands × rows" in shown.text and "71.1 %" in shown.text and "at J = 0.976" in shown.text


def test_tokens_on_the_axis_count_the_steps_between_rows(workdir):
    pretrain = next(
        s for s in gather.stages(epath.Path(workdir), epath.Path(workdir) / "report") if s.name == "pretrain"
    )
    (curve,) = gather.curves([pretrain])
    assert (curve.rows[0]["at"], curve.rows[-1]["at"]) == (16384, 699 * 16384)


def test_scores_of_checkpoints_stand_above_their_steps(tmp_path):
    for step, score in ((10, 2.0), (20, 1.5)):
        (tmp_path / f"scores/anneal/{step}").mkdir(parents=True)
        write_json(
            tmp_path / f"scores/anneal/{step}/results.json", {"headlines": {"bits_per_byte": score, "samples": None}}
        )
    rows = [{"step": step, "loss": 2.0, "learning_rate": 1e-3, "at": step} for step in range(1, 21)]
    section = model_sections.training(
        [gather.Curve("pretrain", rows), gather.Curve("anneal", rows)], gather.scores(epath.Path(tmp_path))
    )
    dots = [float(x) for x in re.findall(r'class="dot" cx="([\d.]+)"', section)]
    assert dots == sorted(dots) and len(dots) == 2 and dots[0] == pytest.approx(0.75 * svg.WIDTH, rel=0.05)
    assert "bits_per_byte" in section and "samples" not in section


def test_axis_gives_every_stage_a_visible_width():
    spans = svg.Axis([1e9, 1e3, 1e8]).spans()
    widths = [right - left for left, right in spans]
    assert spans[0][0] == svg.LEFT and spans[-1][1] == pytest.approx(svg.WIDTH - svg.RIGHT)
    assert min(widths) >= 0.08 * sum(widths)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("values", [[1.0, 1.0], [0.0, 0.0], [3e-4, 1e-5], [9.1, 1.2], [1e-9, 1e6]])
def test_panel_draws_any_values(values, log):
    drawn = svg.panel("t", [svg.Band("a", 10.0, list(enumerate(values)))], log=log, show=str)
    assert "nan" not in drawn and "inf" not in drawn
    for number in re.findall(r'(?:y|y1|y2)="([-\d.]+)"', drawn):
        assert -20 <= float(number) <= 260


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (text.size(999), "999 B"),
        (text.size(1_500_000), "1.5 MB"),
        (text.si(1_905_650_880), "1.91 B"),
        (text.duration(3.21), "3.2 s"),
        (text.duration(187), "3 min 07 s"),
        (text.duration(7384), "2 h 03 min"),
        (text.percent(1, 0), "–"),
        (text.esc("a<b>\x07" + "c" * 9, 8), "a&lt;b&gt;\ufffdccc …"),
    ],
)
def test_numbers_and_text(made, expected):
    assert made == expected


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(page, workdir, tmp_path):
    """No script error, no section without height, nothing wider than a laptop's window; the curves answer the mouse."""
    probe = """<script>
      addEventListener("error", (e) => document.title += " ERROR " + e.message);
      addEventListener("load", () => {
        const curves = document.querySelector(".curves"), frame = curves.getBoundingClientRect();
        const place = {clientX: frame.left + 300, clientY: frame.top + 50, bubbles: true};
        curves.dispatchEvent(new MouseEvent("mousemove", place));
        const flat = [...document.querySelectorAll("section")].filter((s) => s.getBoundingClientRect().height < 60);
        document.title = JSON.stringify({flat: flat.map((s) => s.id),
          wide: document.documentElement.scrollWidth > innerWidth,
          readout: document.querySelector(".readout").textContent, owned: document.title.includes("owned")});
      });
    </script>"""
    probed = tmp_path / "page.html"
    probed.write_text(page.replace("<title>", probe + "<title>", 1))
    assert CHROMIUM
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1280,800",
        "--dump-dom",
        str(probed),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search("<title>(.*?)</title>", dom, re.DOTALL)
    assert title
    seen = json.loads(html.unescape(title[1]))
    assert seen["flat"] == [] and seen["wide"] is False and seen["owned"] is False
    assert re.match(r"pretrain, step \d+\nloss +\d", seen["readout"])
