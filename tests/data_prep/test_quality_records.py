"""The command line of the quality signals, and the funnel by rule."""

from __future__ import annotations

import json
import pathlib

import pytest
from etils import epath

from data_prep.quality import __main__ as command
from data_prep.quality import funnel, records, rules
from data_prep.quality.profiles import PROFILES
from data_prep.quality.stages import quality_filter, score

GOOD = '''"""Rolling mean."""


def rolling_mean(values, width):
    """Means of all windows of `width` values."""
    total = sum(values[:width])
    means = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        means.append(total / width)
    return means


if __name__ == "__main__":
    samples = [3.0, 1.5, 4.0, 1.0, 5.0]
    for position, mean in enumerate(rolling_mean(samples, 2)):
        print(f"window {position}: {mean:.2f}")
'''
FILES = {
    "good.py": GOOD.encode(),
    "a/short.py": b"x = 1\n",
    "a/latin.py": "# caf\xe9\n".encode("latin-1"),
    "a/broken.py": (GOOD + "def (:\n").encode(),
    "b/readme.md": b"word\n",
    "b/picture.svg": b"<svg/>",
    "b/odd\udcff.py".encode("utf-8", "surrogateescape"): b"y = 2\n",
}


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    top = tmp_path / "tree"
    for name, data in FILES.items():
        path = top / (name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (top / "link.py").symlink_to(top / "good.py")
    return top


def run(tree: pathlib.Path, out: pathlib.Path, *flags: str) -> dict[str, dict]:
    assert command.main([*flags, "--out", str(out), str(tree)]) == 0
    assert not out.with_name(f"{out.name}.parts").exists()
    return {record["path"]: record for record in map(json.loads, out.read_text("utf-8").splitlines())}


def test_records_name_the_rules_that_drop(tree: pathlib.Path, tmp_path: pathlib.Path):
    found = run(tree, tmp_path / "out.jsonl", "--workers", "1")
    assert list(found) == sorted(found)
    assert len(found) == len(FILES)
    assert found["good.py"]["keep"] == 1 and not found["good.py"]["drop_reasons"]
    assert found["good.py"]["signals"]["qsc_codepython_cate_ast"] == 1
    assert "qsc_codepython_cate_ast" in found["a/broken.py"]["drop_reasons"]
    assert found["a/latin.py"]["keep"] is None and found["a/latin.py"]["error"].startswith("not_utf8")
    assert found["b/picture.svg"]["drop_reasons"] == ["doc_type:excluded"]
    assert "qsc_doc_num_words" in found["b/readme.md"]["drop_reasons"]
    assert found["b/odd%FF.py"]["program_lang"] == "python"


def test_a_threshold_can_be_replaced(tree: pathlib.Path, tmp_path: pathlib.Path):
    flags = ("--threshold", "code/python.frac_lines_func_ratio=> 0.5, < 0.1", "--threshold", "code/general.num_lines=")
    found = run(tree, tmp_path / "out.jsonl", *flags)
    assert found["good.py"]["drop_reasons"] == ["qsc_codepython_frac_lines_func_ratio"]
    assert "qsc_code_num_lines" not in found["a/short.py"]["drop_reasons"]


@pytest.mark.parametrize(
    "flags", [["--threshold", "num_lines=< 5"], ["--threshold", "code/python.num_lines=5"], ["nowhere"]]
)
def test_mistakes_are_told(flags: list[str], tree: pathlib.Path, tmp_path: pathlib.Path, capsys):
    assert command.main(["--out", str(tmp_path / "out.jsonl"), str(tree), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_workers_and_interruptions_do_not_change_the_bytes(tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch):
    monkeypatch.setattr(records, "PART_FILES", 2)
    one, two = epath.Path(tmp_path / "one.jsonl"), epath.Path(tmp_path / "two.jsonl")
    records.write([str(tree)], one, "refinecode", {}, workers=1)
    measured = []
    original = records.record

    def failing(path: str, *args: object) -> dict:
        measured.append(path)
        if path == "b/readme.md":
            raise KeyboardInterrupt
        return original(path, *args)

    monkeypatch.setattr(records, "record", failing)
    with pytest.raises(KeyboardInterrupt):
        records.write([str(tree)], two, "refinecode", {}, workers=1)
    assert not two.exists()
    before = list(measured)
    monkeypatch.setattr(records, "record", lambda path, *args: measured.append(path) or original(path, *args))
    records.write([str(tree)], two, "refinecode", {}, workers=1)
    assert not set(before[:2]) & set(measured[len(before) :])  # the first part was complete
    assert two.read_bytes() == one.read_bytes()


def test_a_changed_file_is_measured_again(tree: pathlib.Path, tmp_path: pathlib.Path, monkeypatch):
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(epath.Path("/").__class__, "rmtree", lambda self: None)  # as if killed before the end
    with pytest.raises(AssertionError):
        run(tree, out)
    (tree / "a/short.py").write_text("x = 1\ny = 2\n")
    monkeypatch.undo()
    assert run(tree, out)["a/short.py"]["signals"]["qsc_code_num_lines"] == 2


def test_records_agree_with_the_stages(tree: pathlib.Path, tmp_path: pathlib.Path, write_documents, run_stage):
    rows = [{"path": path, "text": (tree / path).read_text()} for path in ("good.py", "a/short.py", "a/broken.py")]
    run_stage(score, documents=write_documents("transform", rows))
    _, judged = run_stage(quality_filter, documents=epath.Path(tmp_path / "score"))
    found = run(tree, tmp_path / "out.jsonl")
    for row in judged:
        names = {name.split("_", 2)[2] for name in found[row["path"]]["drop_reasons"]}
        assert {reason.split(" ")[0] for reason in row["reasons"]} == names
    read = funnel.read(epath.Path(tmp_path / "quality_filter"))
    assert {file.path for file in read.values()} == {f"repo/{row['path']}" for row in rows}
    assert {rule for file in read.values() for rule in file.rules} >= {"cate_ast", "num_lines"}


def test_failed_signals_drop_only_in_the_default_profile():
    group = {"num_words": (rules.parse("< 30"),)}
    assert records.decide({}, {"num_words": "x"}, group, "key", failure_drops=True) == (["num_words"], [])
    assert records.decide({}, {"num_words": "x"}, group, "key", failure_drops=False) == ([], [])


def test_rules_with_a_probability_are_named():
    group = {"cate_testfile": (rules.parse("== 1 with probability 0.8"),)}
    decided = [records.decide({"cate_testfile": 1.0}, {}, group, str(i), True) for i in range(200)]
    assert all(drawn == ["cate_testfile"] for _, drawn in decided)
    assert 140 < sum(dropping == ["cate_testfile"] for dropping, _ in decided) < 180
    assert records.decide({"cate_testfile": 0.0}, {}, group, "key", True) == ([], [])


def test_full_names_tell_the_batches_apart():
    names = records.full_names(PROFILES["reference"], "code", "c")
    assert names["num_words"] == "qsc_code_num_words"
    assert names["frac_lines_goto"] == "qsc_codec_frac_lines_goto"
    assert records.full_names(PROFILES["reference"], "text", "markdown")["num_words"] == "qsc_doc_num_words"


def judged(**rules_of: str) -> dict[str, funnel.Judged]:
    return {
        path: funnel.Judged(path, "c" if path < "c" else "go", 10, tuple(names.split()))
        for path, names in rules_of.items()
    }


def test_the_funnel_counts_hits_and_sole_hits():
    files = judged(a="one two", b="one", c="two one", d="")
    hits = funnel.count(files.values())
    assert list(hits) == ["one", "two"]
    assert (hits["one"].files, hits["one"].sole, hits["one"].size) == (3, 1, 30)
    assert hits["one"].by_language == {"c": 2, "go": 1} and hits["one"].sole_by_language == {"c": 1}
    assert funnel.shares(files.values())["all"] == {"files": 4, "bytes": 40, "kept_files": 1, "kept_bytes": 10}
    assert funnel.shares(files.values())["go"]["kept_files"] == 1


def test_the_comparison_tells_what_changed_sides_and_why():
    one, other = judged(a="one", b="", c="two", d="", e=""), judged(a="", b="three", c="one", d="")
    only_one, only_other = funnel.changes(one, other)
    assert list(only_one) == ["a"] and list(only_other) == ["b"]
    text = funnel.comparison_text(("A", "B"), one, other, show=5)
    assert "A drops and B keeps 1 files" in text and "B drops and A keeps 1 files" in text
    assert "  b  three" in text and "1 files are in one of them only" in text


def test_the_funnel_command(tree: pathlib.Path, tmp_path: pathlib.Path, capsys):
    for profile in ("refinecode", "reference"):
        run(tree, tmp_path / f"{profile}.jsonl", "--profile", profile)
    capsys.readouterr()
    assert funnel.main([str(tmp_path / "refinecode.jsonl"), "--languages"]) == 0
    assert "qsc_codepython_cate_ast" in capsys.readouterr().out
    assert funnel.main([str(tmp_path / "refinecode.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["languages"]["all"]["files"] == len(FILES) - 1
    assert funnel.main([str(tmp_path / "reference.jsonl"), str(tmp_path / "refinecode.jsonl")]) == 0
    assert "drops and" in capsys.readouterr().out
    assert funnel.main([str(tmp_path / "nothing.jsonl")]) == 2
