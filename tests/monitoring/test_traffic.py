"""Recording never blocks, never shows half a file, and counts what it loses; windows are what was recorded."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import DataInvalid, UsageError
from components.traffic import (
    Feedback,
    Request,
    TrafficWriter,
    feedback_table,
    forget,
    read_feedback,
    read_window,
    request_table,
)

CRASHES = """
import sys, time
from pathlib import Path
from components.traffic import Request, TrafficWriter
writer = TrafficWriter(Path(sys.argv[1]), seconds=0.3)
for number in range(10**9):
    writer.record(Request(time.time(), str(number), None, "text", "1"))
    time.sleep(0.001)
    print(number, flush=True)
"""
PEAK = """
import sys
from pathlib import Path
import pyarrow as pa
from components.traffic import read_window
read_window(Path(sys.argv[1]), most=int(sys.argv[2]))
print(pa.default_memory_pool().max_memory())
"""


def request(number: int, **other: Any) -> Request:
    vector = np.array([np.cos(number), np.sin(number)], np.float32)
    facts: dict[str, Any] = {"time": float(number), "request_id": f"{number:04}", "embedding": vector}
    facts |= {"modality": "text" if number % 2 else "image", "model_version": "2" if number % 4 == 0 else "1"}
    return Request(**(facts | other))


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    rows = [request(1, norm=2.5, instruction="find", language="de", text_length=7, latency_ms=3.0, top_score=0.5),
            request(2, image_width=4, image_height=5, image_mode="RGB"), request(3, embedding=None)]  # fmt: skip
    with TrafficWriter(tmp_path) as writer:
        assert all(writer.record(row) for row in rows)
    assert writer.counts().rows == 3
    window = read_window(tmp_path)
    assert window.count == 3
    for vector, row in zip(window.vectors[:2], rows, strict=False):
        np.testing.assert_array_equal(vector, row.embedding)
    assert np.isnan(window.vectors[2]).all()
    assert window.columns["norm"].tolist()[0] == 2.5
    assert window.columns["language"].tolist() == ["de", "", ""]
    assert window.columns["image_mode"].tolist() == ["", "RGB", ""]
    np.testing.assert_array_equal(window.columns["image_width"], [np.nan, 4, np.nan])


def test_raw_inputs_are_kept_only_where_that_is_switched_on_and_as_they_are_redacted(tmp_path: Path) -> None:
    row = request(1, raw_text="call me on 555", raw_image=b"png")
    with TrafficWriter(tmp_path / "without") as writer:
        writer.record(row)
    with TrafficWriter(
        tmp_path / "with", raw=True, redact=lambda row: replace(row, raw_text=str(row.raw_text).replace("555", "***"))
    ) as writer:
        writer.record(row)
    stored = {name: pq.read_table(tmp_path / name).to_pylist()[0] for name in ("without", "with")}
    assert (stored["without"]["raw_text"], stored["without"]["raw_image"]) == (None, None)
    assert (stored["with"]["raw_text"], stored["with"]["raw_image"]) == ("call me on ***", b"png")
    assert "raw_text" not in read_window(tmp_path / "with").columns


def test_a_full_queue_drops_and_counts_and_does_not_wait(tmp_path: Path) -> None:
    held = threading.Event()

    def slow(rows: Sequence[Request]) -> pa.Table:
        held.wait(10)
        return request_table(rows)

    writer = TrafficWriter(tmp_path, table=slow, queued=10, rows_a_file=1)
    began = time.monotonic()
    taken = [writer.record(request(number)) for number in range(500)]
    assert time.monotonic() - began < 1
    held.set()
    counts = writer.close()
    assert counts.dropped_queue == taken.count(False) > 400
    assert counts.rows == taken.count(True) == read_window(tmp_path).count


def test_a_disk_that_cannot_be_written_drops_and_counts_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "traffic"
    folder.write_text("a file where the folder should be")
    writer = TrafficWriter(folder, seconds=0.05)
    writer.record(request(1))
    _wait(lambda: writer.counts().dropped_disk == 1)
    assert "NotADirectoryError" in str(writer.counts().fault)
    folder.unlink()
    writer.record(request(2))
    assert writer.close().rows == 1
    assert read_window(folder).columns["request_id"].tolist() == ["0002"]


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk that is full in the middle of one."""
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from components.traffic import Request, TrafficWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "writer = TrafficWriter(Path(sys.argv[1]))\n"
        "noise = np.random.default_rng(0)\n"
        "[writer.record(Request(1.0, str(n), noise.random(512, np.float32), 'text', '1')) for n in range(200)]\n"
        "counts = writer.close()\nassert counts.dropped_disk == 200 and not counts.rows, counts\nprint(counts.fault)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert "OSError" in done.stdout
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_process_killed_loses_only_the_last_moments_and_leaves_no_half_file(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASHES, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        last = 0
        while last < 1200:
            last = int(process.stdout.readline())
    finally:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    window = read_window(tmp_path)
    numbers = sorted(map(int, window.columns["request_id"]))
    assert numbers == list(range(len(numbers))), "what was written is all that came until then"
    lost = last - numbers[-1]
    assert 0 < lost < 700, f"{lost} lost of {last}: more than 0.3 s brought"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    seen: list[int] = []
    writer = TrafficWriter(tmp_path, seconds=0.01, rows_a_file=20)
    end = time.monotonic() + 2
    number = 0
    while time.monotonic() < end:
        for _ in range(30):
            writer.record(request(number))
            number += 1
        seen.append(read_window(tmp_path, most=100).count)
    written = writer.close().rows
    assert seen == sorted(seen)
    assert read_window(tmp_path).count == written


def test_windows_by_time_by_count_by_version_and_by_slice(tmp_path: Path) -> None:
    for part in (range(50, 100), range(50)):  # files are read in the order of time, not of writing
        with TrafficWriter(tmp_path, rows_a_file=7) as writer:
            for number in part:
                writer.record(request(number))

    def ids(**chosen: Any) -> list[int]:
        return [int(name) for name in read_window(tmp_path, **chosen).columns["request_id"]]

    assert ids(since=10, until=20) == list(range(10, 20))
    assert ids(count=5) == [95, 96, 97, 98, 99]
    assert ids(count=3, until=50) == [47, 48, 49]
    assert ids(count=3, until=50, version="2") == [40, 44, 48]
    assert ids(since=90, where={"modality": "text"}) == [91, 93, 95, 97, 99]
    with pytest.raises(UsageError, match="colour: is not recorded"):
        read_window(tmp_path, where={"colour": "red"})


def test_a_table_and_a_data_frame_are_read_as_a_folder_is(tmp_path: Path) -> None:
    table = request_table([request(number) for number in range(30)])
    (tmp_path / "one").mkdir()
    pq.write_table(table, tmp_path / "one" / "foreign.parquet")
    windows = [read_window(source, since=3, until=25) for source in (table, table.to_pandas(), tmp_path / "one")]
    for window in windows:
        assert window.count == 22
        np.testing.assert_array_equal(window.vectors, windows[0].vectors)
        assert window.columns["request_id"].tolist() == windows[0].columns["request_id"].tolist()
    few = read_window(table.select(["time", "request_id", "embedding"]))
    assert set(few.columns) == {"time", "request_id"}


def test_bad_traffic_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_window(tmp_path / "nowhere")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataInvalid, match=r"bad\.parquet: is no Parquet file"):
        read_window(tmp_path)
    pq.write_table(pa.table({"time": [1.0], "request_id": ["a"]}), tmp_path / "bad.parquet")
    with pytest.raises(DataInvalid, match="has no column 'embedding'"):
        read_window(tmp_path)
    table = request_table([request(1), request(2, embedding=np.zeros(3, np.float32))])
    with pytest.raises(DataInvalid, match="2 and 3 numbers"):
        read_window(table)


def test_many_requests_are_sampled_evenly_in_bounded_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for part in range(20):
        rows = [
            request(number, embedding=noise.random(256, np.float32))
            for number in range(part * 1000, part * 1000 + 1000)
        ]
        pq.write_table(request_table(rows), tmp_path / f"{part}.parquet")
    window = read_window(tmp_path, most=500)
    assert (window.count, len(window)) == (20_000, 500)
    assert abs(window.columns["time"].mean() - 10_000) < 4 * 20_000 / np.sqrt(12 * 500)
    assert (np.diff(window.columns["time"]) > 0).all()
    peaks = {most: int(subprocess.run([sys.executable, "-c", PEAK, tmp_path, str(most)], capture_output=True, text=True,
                                      check=True).stdout) for most in (500, 20_000)}  # fmt: skip
    assert peaks[20_000] > 20_000 * 256 * 4
    assert peaks[500] < 0.7 * 20_000 * 256 * 4


def test_what_is_too_old_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    for day in (0, 3):
        with TrafficWriter(tmp_path) as writer:
            writer.record(request(1, time=day * 86_400.0))
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(request_table([request(1)]), foreign)
    assert forget(tmp_path, before=86_400.0) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1970-01-04", "foreign.parquet"]


def test_feedback_lies_beside_and_the_last_word_counts(tmp_path: Path) -> None:
    assert read_feedback(tmp_path / "feedback", 0, 10) == {}
    with TrafficWriter(tmp_path / "feedback", table=feedback_table) as writer:
        for row in (Feedback(1.0, "a", 3), Feedback(2.0, "a", 1), Feedback(3.0, "b", 0), Feedback(11.0, "c", 1)):
            writer.record(row)
    assert read_feedback(tmp_path / "feedback", 0, 10) == {"a": 1, "b": 0}


def test_a_share_of_the_requests_is_recorded(tmp_path: Path) -> None:
    with TrafficWriter(tmp_path, share=0.25) as writer:
        taken = sum(writer.record(request(number)) for number in range(2000))
    assert 400 < taken < 600
    assert writer.counts().rows == taken


def _wait(holds: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
