"""A data set that DVC versions, as MLflow's record of an input (entry point `mlflow.dataset_source`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from mlflow.data.dataset_source import DatasetSource

from components.errors import EmbedlineError


class DvcDatasetSource(DatasetSource):
    """A path in the workspace, its DVC hash, and the git commit whose `PATH.dvc` names that hash, where known."""

    def __init__(self, path: str, md5: str, commit: str | None = None) -> None:
        self.path = path
        self.md5 = md5
        self.commit = commit

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    def load(self, root: Path | None = None) -> Path:
        """Returns the folder of the data set in the workspace `root` (by default the current folder).

        Raises `EmbedlineError` if the workspace holds another version, and says how to fetch this one.
        """
        workspace = root or Path.cwd()
        present = yaml.safe_load((workspace / f"{self.path}.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
        if present != self.md5:
            commit = self.commit or "COMMIT"
            remedy = f"Fetch it with `git checkout {commit} {self.path}.dvc && dvc checkout {self.path}`."
            raise EmbedlineError(f"{workspace / self.path} holds version {present}, not {self.md5}", remedy)
        return workspace / self.path

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> DvcDatasetSource:
        raise NotImplementedError("a DVC data set is named by path and hash, not by one string")

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "md5": self.md5, "commit": self.commit}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> DvcDatasetSource:
        return cls(source_dict["path"], source_dict["md5"], source_dict.get("commit"))
