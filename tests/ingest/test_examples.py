"""The scripts and manifests of docs/examples, run in miniature; Slurm and ssh are stand-ins that run bash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.images.synth import write
from dataforge.shards.reader import Shards

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
STAND_INS = {
    "dataforge": f'command=$1\nshift\n[ "$command" = merge ] || set -- "$@" --shard-mib 1 --json\n'
    f'exec "{sys.executable}" -m dataforge "$command" "$@"',
    # ssh HOST COMMAND: a shell of the host reads the command
    "ssh": 'shift\nexec bash -c "$*"',
    # sbatch --parsable --array=1-N SCRIPT ARGUMENTS; sbatch --dependency=afterok:ID --wrap COMMAND
    "sbatch": """
if [ "$1" = --parsable ]; then
    tasks=${2#--array=1-}
    shift 2
    for task in $(seq "$tasks"); do SLURM_ARRAY_TASK_ID=$task bash "$@" >&2 || exit 1; done
    echo 17
else
    [ "$1 $2" = "--dependency=afterok:17 --wrap" ] && bash -c "$3"
fi""",
}
Shell = Callable[..., None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set in "co co", and in "whole" what one process makes of it: three shards."""
    data = tmp_path_factory.mktemp("data")
    write(data / "co co", images=24, seed=0, size=(600, 800))
    words = ["ingest", "coco", str(data / "co co"), "--out", str(data / "whole"), "--shard-mib", "1"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert len(list((data / "whole").rglob("table.arrow"))) == 3
    return data


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a function that runs a command line of bash with the stand-ins on its path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)

    def run(*words: object, **variables: object) -> None:
        path = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **path, **{name: str(value) for name, value in variables.items()}}
        done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_slurm(data: Path, tmp_path: Path, shell: Shell) -> None:
    script = EXAMPLES / "ingest.slurm"
    for line in script.read_text().splitlines()[1:]:
        if not line.startswith("#SBATCH --"):
            assert not line  # directives after the first command are not read
            break
    shell("bash", script, "coco", data / "co co", tmp_path / "out", PARTS=3)
    assert Shards(tmp_path / "out").fingerprint == Shards(data / "whole").fingerprint
    assert len(list((tmp_path / "out.parts").glob("*/part.json"))) == 3


def test_ssh(data: Path, tmp_path: Path, shell: Shell) -> None:
    shell("bash", EXAMPLES / "ingest_ssh.sh", "coco", data / "co co", tmp_path / "o u t", "host1", "host2")
    assert Shards(tmp_path / "o u t").fingerprint == Shards(data / "whole").fingerprint


def test_kubernetes(data: Path, tmp_path: Path, shell: Shell) -> None:
    jobs = [yaml.safe_load((EXAMPLES / name).read_text()) for name in ("ingest_job.yaml", "merge_job.yaml")]
    (tmp_path / "coco").symlink_to(data / "co co")
    for job in jobs:
        spec = job["spec"]
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        assert spec.get("parallelism", 1) <= spec.get("completions", 1)
        (container,) = spec["template"]["spec"]["containers"]
        (volume,) = spec["template"]["spec"]["volumes"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
        words = [word.replace("/data", str(tmp_path)) for word in container["command"] + container["args"]]
        for index in range(spec.get("completions", 1)):
            shell(*words, JOB_COMPLETION_INDEX=index)
    assert Shards(tmp_path / "shards").fingerprint == Shards(data / "whole").fingerprint
