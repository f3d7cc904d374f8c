"""The whole recipe on a folder with little Python and many broken files: to the report, with every loss on record."""

import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import small_recipe  # noqa: E402
import strangers_folder  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = strangers_folder.write(tmp_path_factory.mktemp("strangers") / "a folder")
    workdir = tmp_path_factory.mktemp("workdir")
    return small_recipe.run(folder, workdir), workdir


def look_up(workdir, *flags):
    command = [sys.executable, "-m", "data_prep.funnel", str(workdir), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=small_recipe.ROOT)


def test_the_recipe_runs_to_the_report(finished):
    process, workdir = finished
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Traceback" not in process.stderr
    assert (workdir / "report" / "index.html").stat().st_size > 10_000
    result = {stage: done["result"] for stage, done in small_recipe.done(workdir).items()}
    assert all(result["instructions"][stage] for stage in ("stage1", "stage2"))
    assert result["data/functions"]["records"] > 0
    assert all(result[stage]["loss"] > 0 for stage in ("pretrain", "anneal", "sft1", "sft2"))
    assert "corpus" in result["anneal"]["epochs"]


@pytest.mark.parametrize(("name", "reason"), strangers_folder.NASTY.items())
def test_every_broken_file_has_its_reason(finished, name, reason):
    _, workdir = finished
    shown = look_up(workdir, "--path", f"*/{name}")
    assert shown.returncode == 0, shown.stderr
    assert f"dropped by preprocess: {reason}" in shown.stdout


@pytest.mark.parametrize("glob", ["*/a name with spaces.go", "*/one\nname.js", "*%FF%FE.go", "*/notes.ipynb"])
def test_files_with_odd_names_are_found(finished, glob):
    _, workdir = finished
    shown = look_up(workdir, "--path", glob, "--text")
    assert shown.returncode == 0, shown.stderr
    assert " bytes" in shown.stdout and "(no text)" not in shown.stdout


def test_a_folder_of_a_few_files_of_one_project_is_enough(tmp_path):
    (tmp_path / "tiny" / "src").mkdir(parents=True)
    for number, text in enumerate((strangers_folder.JAVA, strangers_folder.JAVASCRIPT, strangers_folder.MARKDOWN)):
        (tmp_path / "tiny" / "src" / f"file{number}.{('java', 'js', 'md')[number]}").write_text(text)
    process = small_recipe.run(tmp_path / "tiny", tmp_path / "workdir")
    assert process.returncode == 0, process.stderr[-3000:]
    done = small_recipe.done(tmp_path / "workdir")
    assert done["tokenizer"]["result"]["pieces"] < done["tokenizer"]["result"]["vocab_size"]
    assert (tmp_path / "workdir" / "report" / "index.html").exists()
