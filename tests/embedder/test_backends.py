import shutil
from pathlib import Path

from components.embedder import fingerprint


def test_a_fingerprint_changes_with_any_byte_of_any_file(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    original = fingerprint(copy)
    assert original == fingerprint(directory)
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(copy) != original, file.name
        file.write_bytes(content)
    assert fingerprint(copy) == original


def test_a_fingerprint_changes_with_a_name_and_with_a_file_more(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "more").touch()
    more = fingerprint(copy)
    (copy / "more").rename(copy / "other")
    assert len({fingerprint(directory), more, fingerprint(copy)}) == 3
