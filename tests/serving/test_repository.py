"""A version number means one content for ever, and is in the repository whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import EmbedlineError, UsageError
from serving.repository import (
    CONFIG,
    MODEL,
    add_version,
    content_digest,
    read_config,
    remove_version,
    served,
    versions,
    write_config,
)


def names(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / MODEL).iterdir())


def test_versions_are_added_once_and_verified_after_that(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    assert versions(tmp_path) == served(tmp_path) == []
    assert add_version(tmp_path, bundles[0], 2) is True
    assert add_version(tmp_path, bundles[0], 2) is False
    assert add_version(tmp_path, bundles[1], 10) is True
    assert versions(tmp_path) == [2, 10]
    with pytest.raises(EmbedlineError, match=r"version 2 is in .* already, with another content"):
        add_version(tmp_path, bundles[1], 2)
    assert content_digest(tmp_path / MODEL / "2") == content_digest(bundles[0] / "version")


def test_caches_of_python_do_not_change_a_version_but_any_other_byte_does(tmp_path: Path, copied_bundle: Path) -> None:
    add_version(tmp_path, copied_bundle, 1)
    cache = tmp_path / MODEL / "1" / "__pycache__"
    cache.mkdir()
    (cache / "model.pyc").write_bytes(b"compiled")
    assert add_version(tmp_path, copied_bundle, 1) is False
    with (copied_bundle / "version" / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(EmbedlineError, match="another content"):
        add_version(tmp_path, copied_bundle, 1)


def test_a_copy_that_was_cut_short_is_neither_seen_nor_in_the_way(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    cut_short = tmp_path / MODEL / ".1.partial"
    cut_short.mkdir(parents=True)
    (cut_short / "model.py").write_text("half")
    assert versions(tmp_path) == []
    assert add_version(tmp_path, bundles[0], 1) is True
    assert names(tmp_path) == ["1"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, copied_bundle: Path) -> None:
    (copied_bundle / "version" / "image.onnx.data").symlink_to("nowhere")
    with pytest.raises(EmbedlineError, match="version 1 cannot be copied"):
        add_version(tmp_path, copied_bundle, 1)
    assert names(tmp_path) == []


def test_a_served_version_cannot_be_removed(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    for version in (1, 2):
        add_version(tmp_path, bundles[version - 1], version)
    write_config(tmp_path, 'name: "embedder"\n', [2])
    with pytest.raises(EmbedlineError, match="version 2 is being served"):
        remove_version(tmp_path, 2)
    remove_version(tmp_path, 1)
    remove_version(tmp_path, 1)
    assert names(tmp_path) == ["2", CONFIG]


def test_the_configuration_names_the_served_versions_once(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    for version in (1, 2):
        add_version(tmp_path, bundles[version - 1], version)
    write_config(tmp_path, 'name: "embedder"\nbackend: "python"', [2, 1])
    assert served(tmp_path) == [1, 2]
    write_config(tmp_path, read_config(tmp_path) or "", [2])
    assert served(tmp_path) == [2]
    assert (
        read_config(tmp_path)
        == 'name: "embedder"\nbackend: "python"\nversion_policy: { specific: { versions: [2] } }\n'
    )
    for wanted in ([], [3]):
        with pytest.raises(UsageError):
            write_config(tmp_path, 'name: "embedder"', wanted)
    assert served(tmp_path) == [2]


@pytest.mark.parametrize("version", [0, -1])
def test_versions_count_from_one(tmp_path: Path, bundles: tuple[Path, Path], version: int) -> None:
    with pytest.raises(UsageError):
        add_version(tmp_path, bundles[0], version)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bundle"):
        add_version(tmp_path / "repository", tmp_path, 1)


@pytest.mark.parametrize("part", ["version/model.py", "bundle.json", "config.pbtxt"])
def test_a_bundle_that_is_not_whole_is_refused(tmp_path: Path, copied_bundle: Path, part: str) -> None:
    (copied_bundle / part).unlink()
    with pytest.raises(UsageError, match=f"it has no {part}"):
        add_version(tmp_path, copied_bundle, 1)
    assert versions(tmp_path) == []
