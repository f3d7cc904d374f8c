"""launch/: what can be checked without a cluster."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
MANIFESTS = sorted((ROOT / "launch").glob("*.yaml"))


def test_scripts_pass_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_jobs_that_kubernetes_accepts(path):
    """A JobSet is a list of Jobs; each is checked against the schema of batch/v1."""
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate")
    (jobset,) = yaml.safe_load_all(path.read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) <= {"failurePolicy", "network", "replicatedJobs", "successPolicy", "suspend"}
    for job in jobset["spec"]["replicatedJobs"]:
        assert set(job) == {"name", "replicas", "template"}
        manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        validate.validate(manifest, "1.29", strict=True)
        pod = job["template"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        gin = next(flag.split("=")[1] for flag in container["args"] if flag.startswith("--gin_file="))
        assert (ROOT / gin).exists()


# Stands for Python: ends as run.py would after what it is told by its last flag.
FAKE = """#!/usr/bin/env bash
case "${@: -1}" in
  finished) echo "12:00:00  recipe finished" >&2 ;;
  broken) exit 3 ;;
  waits)
    trap 'echo "run.py: stopped by SIGTERM, saved at step 5" >&2; exit 0' TERM
    echo ready >&2
    while :; do sleep 0.1; done
    ;;
esac
"""


@pytest.fixture
def wrapped(tmp_path):
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def start(how):
        command = [ROOT / "launch" / "run.sh", how]
        return subprocess.Popen(command, env=os.environ | {"PYTHON": str(fake)}, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize("how, code", [("finished", 0), ("broken", 3), ("stopped", 75)])
def test_the_wrapper_tells_finished_from_stopped(wrapped, how, code):
    assert wrapped(how).wait(timeout=30) == code


def test_the_wrapper_hands_sigterm_on_and_asks_to_be_started_again(wrapped):
    process = wrapped("waits")
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert "saved at step 5" in process.stderr.read()
