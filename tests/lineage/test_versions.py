import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from components import lineage
from components.config import Config
from components.errors import DataInvalid, EmbedlineError, UsageError

pytestmark = pytest.mark.system("git")

REPOSITORY = Path(__file__).parents[2]
Script = Callable[[str], None]
ENDLESS = """
    import os, pathlib, time
    pathlib.Path("artifacts").mkdir(exist_ok=True)
    pathlib.Path("artifacts/.first.partial").write_text("half")
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_elsewhere(workspace: Path) -> subprocess.Popen[bytes]:
    """Starts `reproduce` in another process, that can be killed."""
    code = "import pathlib; from components import lineage; lineage.reproduce(pathlib.Path('.'), 'first')"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=workspace, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )


def test_a_stage_runs_once_then_is_found_up_to_date(workspace: Path) -> None:
    assert "first" in lineage.changed_stages(workspace)
    reported: list[str] = []
    first = lineage.reproduce(workspace, "first", tell=reported.append)
    assert first.ran and "first is done" in reported and "first is done" in first.log.read_text()
    assert lineage.changed_stages(workspace) == {}
    assert not lineage.reproduce(workspace, "first").ran
    assert lineage.producing_runs(workspace) == {"first": "run-of-first"}


def test_only_what_a_stage_depends_on_repeats_it(workspace: Path) -> None:
    lineage.reproduce(workspace, "first")
    digest = lineage.lock_digest(workspace)
    (workspace / "params.yaml").write_text("first: {steps: 1}\nserving: {threads: 4}\n")
    assert lineage.changed_stages(workspace) == {}
    (workspace / "params.yaml").write_text("first: {steps: 2}\n")
    assert list(lineage.changed_stages(workspace)) == ["first"]
    assert lineage.reproduce(workspace, "first").ran
    assert lineage.lock_digest(workspace) != digest


def test_changed_data_is_seen_until_it_is_added(workspace: Path) -> None:
    before = lineage.data_hash(workspace)
    assert lineage.unreviewed_changes(workspace) == {}
    (workspace / "data" / "rows.txt").write_text("two\n")
    assert lineage.unreviewed_changes(workspace) == {"modified": ["data/"]}
    after = lineage.add(workspace)
    assert after != before and after == lineage.data_hash(workspace)
    assert lineage.unreviewed_changes(workspace) == {}


def test_a_data_set_that_was_never_added_is_used_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.dvc is missing"):
        lineage.data_hash(tmp_path)


def test_a_stage_sees_its_environment_and_the_same_python(workspace: Path, script: Script) -> None:
    script("import os, sys; print(os.environ['MLFLOW_RUN_ID'], sys.prefix); open('artifacts/first', 'w')")
    (workspace / "artifacts").mkdir(exist_ok=True)
    reported: list[str] = []
    with pytest.raises(EmbedlineError):  # it writes no metrics file
        lineage.reproduce(workspace, "first", {"MLFLOW_RUN_ID": "abc"}, reported.append)
    assert f"abc {sys.prefix}" in reported


def test_a_failing_stage_comes_back_with_its_own_words_and_kind(workspace: Path, script: Script) -> None:
    script("""
        import sys
        print("embedline: data/train/a.parquet: 3 rows are duplicates", file=sys.stderr)
        print("  Remove them, then run again.", file=sys.stderr)
        sys.exit(4)
    """)
    with pytest.raises(DataInvalid) as failure:
        lineage.reproduce(workspace, "first")
    assert failure.value.problem == "stage first: data/train/a.parquet: 3 rows are duplicates"
    assert "Remove them, then run again." in failure.value.remedy and "first.log" in failure.value.remedy
    assert not (workspace / "dvc.lock").exists()


def test_a_stage_that_crashes_shows_the_end_of_its_output(workspace: Path, script: Script) -> None:
    script("raise ValueError('the disk is full')")
    with pytest.raises(EmbedlineError, match="ValueError: the disk is full") as failure:
        lineage.reproduce(workspace, "first")
    assert failure.value.exit_code == 1


def test_an_unknown_stage_is_an_error(workspace: Path) -> None:
    with pytest.raises(EmbedlineError, match="nosuch"):
        lineage.reproduce(workspace, "nosuch")


def test_a_stage_killed_alone_is_reported_and_can_run_again(workspace: Path, script: Script) -> None:
    good = (workspace / "first.py").read_text()
    script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EmbedlineError, match="signal 9"):
        lineage.reproduce(workspace, "first")
    (workspace / "first.py").write_text(good)
    assert lineage.reproduce(workspace, "first").ran


def test_killing_the_run_ends_its_stage_and_leaves_nothing_under_the_final_name(
    workspace: Path, script: Script
) -> None:
    good = (workspace / "first.py").read_text()
    script(ENDLESS)
    run = run_elsewhere(workspace)
    wait_for(lambda: (workspace / "pid").is_file() and bool((workspace / "pid").read_text()))
    stage = int((workspace / "pid").read_text())
    assert is_alive(stage)
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_for(lambda: not is_alive(stage))
    assert not (workspace / "artifacts" / "first").exists()
    (workspace / "first.py").write_text(good)
    assert lineage.reproduce(workspace, "first").ran
    assert (workspace / "artifacts" / "first").read_text() == "result"


def test_interrupting_the_run_interrupts_the_stage(workspace: Path, script: Script) -> None:
    script("""
        import pathlib, time
        try:
            pathlib.Path("started").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            pathlib.Path("interrupted").touch()
    """)
    run = run_elsewhere(workspace)
    wait_for((workspace / "started").is_file)
    run.send_signal(signal.SIGINT)
    wait_for((workspace / "interrupted").is_file)
    run.wait(120)


@pytest.mark.parametrize("content", ['{"write": {"a', '{"write": {"data": {"pid": 1, "cmd": "dvc"}}, "read": {}}'])
def test_what_a_kill_left_of_dvc_s_lock_file_is_no_obstacle(workspace: Path, content: str) -> None:
    """A torn file, and one whose process number belongs to a process that is younger than the file."""
    left = workspace / ".dvc" / "tmp" / "rwlock"
    left.parent.mkdir(exist_ok=True)
    left.write_text(content)
    os.utime(left, (1, 1))
    assert lineage.reproduce(workspace, "first").ran


def test_a_dvc_of_the_user_s_own_is_not_disturbed(workspace: Path) -> None:
    others = workspace / ".dvc" / "tmp" / "rwlock"
    others.parent.mkdir(exist_ok=True)
    target = workspace / "artifacts" / "first"
    others.write_text(json.dumps({"write": {str(target): {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}))
    with pytest.raises(EmbedlineError, match=f"PID {os.getpid()}"):
        lineage.reproduce(workspace, "first")


def test_no_parameter_has_a_name_that_dvc_leaves_out_of_its_run_cache(workspace: Path) -> None:
    """DVC 3.67 drops keys called `size` and `nfiles` from the run cache's key, those of parameters too: changing such a
    parameter would bring back the outputs of its old value."""
    lineage.reproduce(workspace, "first")
    (workspace / "params.yaml").write_text("first: {steps: 1, size: 2}\n")
    assert not lineage.reproduce(workspace, "first").ran, "DVC is corrected: this test and its rule can go"
    assert not {"size", "nfiles"} & set(parameter_names(Config))


def parameter_names(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from parameter_names(field.annotation)
