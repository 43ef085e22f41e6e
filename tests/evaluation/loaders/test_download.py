from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Task, read_benchmark
from components.evaluation.loaders import fetch
from components.evaluation.loaders.download import needed
from tests.evaluation.loaders.conftest import V2, image_bytes, load, write_corpus

V1 = read_benchmark("mmeb-v1").tasks
NAME, REPOSITORY = "ViDoRe_docvqa", "vidore/docvqa_test_subsampled_beir"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = (
    "import sys; from pathlib import Path; from components.evaluation.benchmark import read_benchmark; "
    "from components.evaluation.loaders import fetch; "
    f"fetch({NAME!r}, read_benchmark('mmeb-v2').tasks[{NAME!r}], Path(sys.argv[1]))"
)


@pytest.mark.parametrize(
    ("task", "repositories", "patterns"),
    [
        (V1["CIRR"], ["TIGER-Lab/MMEB-eval"], ["CIRR/*", "images.zip"]),
        (
            V2["CIRR"],
            ["ziyjiang/MMEB_Test_Instruct", "TIGER-Lab/MMEB-V2"],
            ["CIRR/*", "image-tasks/mmeb_v1.tar.gz"],
        ),
        (
            V2["MSVD"],
            ["VLM2Vec/MSVD", "TIGER-Lab/MMEB-V2"],
            ["*.parquet", "*.json", "*.jsonl", "video-tasks/frames/video_ret.tar.gz*"],
        ),
        (V2[NAME], [REPOSITORY], ["*.parquet"]),
    ],
)
def test_without_the_hub_it_says_what_to_download_where(
    tmp_path: Path, task: Task, repositories: list[str], patterns: list[str]
) -> None:
    name = next(name for table in (V1, V2) for name in table if table[name] == task)
    with pytest.raises(UsageError, match=f"{name}: is not in {tmp_path}, and the hub is switched off") as raised:
        fetch(name, task, tmp_path)
    assert "HF_HUB_OFFLINE=0" in raised.value.remedy
    for repository in repositories:
        assert f"hf download {repository} " in raised.value.remedy
        assert f"--local-dir {tmp_path / repository}" in raised.value.remedy
    assert [pattern for _, wanted in needed(name, task) for pattern in wanted] == patterns


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: a revision, its files, and their bytes."""

    files: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"/api/datasets/{REPOSITORY}/revision/main":
            self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
        elif path == f"/api/datasets/{REPOSITORY}/tree/{COMMIT}":
            files = [file for file in sorted(self.files.rglob("*")) if file.is_file()]
            self.answer(json.dumps([self.described(file) for file in files]).encode())
        elif path.startswith(prefix := f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):
            self.answer((self.files / path.removeprefix(prefix)).read_bytes())
        else:
            self.send_error(404)

    def described(self, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
        path = file.relative_to(self.files).as_posix()
        return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs}

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the output of the tests clean."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Serves one repository and returns the address."""
    pages = {f"p{number}": image_bytes(number) for number in range(3)}
    write_corpus(tmp_path / "published", pages, {1: "who?"}, [(1, "p2", 1)])
    (tmp_path / "published/video.mp4").write_bytes(b"not needed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": tmp_path / "published"}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run_fetch(mirror: Path, hub: str) -> subprocess.CompletedProcess[str]:
    """Fetches in a process of its own: the hub's client reads its switches when it is imported."""
    switches = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub, "HF_HOME": str(mirror.with_name("home"))}
    return subprocess.run(
        [sys.executable, "-c", FETCH, str(mirror)], env=os.environ | switches, capture_output=True, text=True
    )


def test_what_is_fetched_can_be_loaded_and_is_held_to_its_published_hash(tmp_path: Path, hub: str) -> None:
    mirror = tmp_path / "mirror"
    fetched = run_fetch(mirror, hub)
    assert fetched.returncode == 0, fetched.stderr
    (query,) = load(NAME, mirror, 1, 3)
    assert query.item.text == "who?" and query.relevant == {2: 1.0}
    assert not (mirror / REPOSITORY / "video.mp4").exists()
    table = mirror / REPOSITORY / "qrels/test-00000-of-00001.parquet"
    table.write_bytes((mirror / REPOSITORY / "queries/test-00000-of-00001.parquet").read_bytes())
    with pytest.raises(DataInvalid, match=f"{table} is not what was published"):
        load(NAME, mirror, 1)


@pytest.mark.parametrize("begun", [False, True])
def test_a_hub_that_cannot_be_reached_is_an_error(tmp_path: Path, begun: bool) -> None:
    mirror = tmp_path / "mirror"
    if begun:
        (mirror / REPOSITORY).mkdir(parents=True)
        (mirror / REPOSITORY / "README.md").touch()
    fetched = run_fetch(mirror, "http://127.0.0.1:9")
    assert f"EmbedlineError: {NAME}: {REPOSITORY} cannot be fetched" in fetched.stderr
