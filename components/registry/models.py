"""The registered model: its versions, what each was made from, and which version plays which role."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.pyfunc import save_model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from components.errors import EmbedlineError, UsageError
from components.files import folder_sha256
from components.registry.card import summary
from components.registry.gate import Verdict
from components.registry.tracking import MODEL as MODEL
from components.registry.tracking import Run, Tracking
from components.scores import Scores
from components.workspace import STATE

REFERENCE = "models:/"
"""How MLflow begins the name of a registered version."""
VERSIONS = STATE / "versions"
Role = Literal["champion", "challenger", "previous"]
ROLES: tuple[Role, ...] = get_args(Role)
Roles = dict[str, str | None]
"""The version that plays each role; `None` where none does."""
UNKNOWN_VERSION = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
MOST_VERSIONS = 10_000
MOST_CHARACTERS = 5000
"""What MLflow's database keeps of a description."""
PRUNED = "pruned"
"""The tag of a version whose bundle was removed: when. Its record stays."""
RUNTIME_PACKAGES = ("numpy", "onnxruntime", "tokenizers", "pillow")


def register(run: Run, bundle: Path, scores: Scores, tags: Mapping[str, str]) -> str:
    """Logs the bundle as a model with a signature, registers it, and returns its version number.

    A bundle with the same fingerprint is registered once: its version is returned again, unless it was pruned.
    `scores` are those of the variant that the bundle ships; `tags` name the data, the commit and the flow run.
    """
    tracking = run.tracking
    description = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    fingerprint = str(description["fingerprint"])
    _create_model(tracking)
    if known := registered(tracking, fingerprint):
        return known
    all_tags = {
        **tags,
        "fingerprint": fingerprint,
        "bundle_sha256": folder_sha256(bundle),
        "model_fingerprint": scores.model.fingerprint,
        "overall": f"{scores.aggregates['overall']:.6f}",
    }
    logged = _log(run, bundle, int(description["dimension"]))
    version = tracking.client.create_model_version(
        tracking.model, logged.artifact_location, run_id=run.run_id, tags=all_tags, model_id=logged.model_id
    )
    return str(version.version)


def registered(tracking: Tracking, fingerprint: str) -> str | None:
    """Returns the version whose bundle has the fingerprint, the latest one that was not pruned, if there is one."""
    found = tracking.client.search_model_versions(f"name = '{tracking.model}' and tags.fingerprint = '{fingerprint}'")
    known = [int(version.version) for version in found if PRUNED not in version.tags]
    return str(max(known)) if known else None


def download(tracking: Tracking, version: str, to: Path) -> Path:
    """Fetches the bundle of a version into the folder `to`, whole or not at all, and returns `to`.

    Raises `EmbedlineError` if its bytes are not those that were registered, `UsageError` if they were pruned.
    """
    tags = facts(tracking, version)
    require_bundle(version, tags)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as folder:
        stored = f"{location(tracking, version)}/artifacts"
        artifacts = Path(download_artifacts(stored, dst_path=folder, tracking_uri=tracking.uri))
        (fetched,) = artifacts.iterdir()
        if folder_sha256(fetched) != tags["bundle_sha256"]:
            raise EmbedlineError(
                f"version {version} of {tracking.model} is damaged: its files are not those that were registered",
                "Restore MLflow's artifact store from a backup, or register the bundle again under a new fingerprint.",
            )
        if to.exists():
            shutil.rmtree(to)
        fetched.replace(to)
    return to


def resolve(tracking: Tracking, reference: str) -> str:
    """Returns the number of the version that `models:/NAME/3` or `models:/NAME@champion` names.

    Raises `UsageError` if it names none.
    """
    form = re.fullmatch(rf"{REFERENCE}([\w.-]+)(?:/(\d+)|@([\w.-]+))", reference)
    if form is None:
        raise UsageError(
            f"{reference}: names no version",
            f"Write {REFERENCE}{tracking.model}/3 or {REFERENCE}{tracking.model}@champion.",
        )
    name, number, alias = form.groups()
    if name != tracking.model:
        raise UsageError(f"{reference}: there is no model {name}", f"The model is called {tracking.model}.")
    if number:
        facts(tracking, number)
        return str(int(number))
    known = aliases(tracking)
    if alias not in known:
        remedy = f"These are: {', '.join(sorted(known)) or 'none'}."
        raise UsageError(f"no version of {tracking.model} is {alias}", remedy)
    return known[alias]


def fetched(tracking: Tracking, version: str) -> Path:
    """Returns the bundle of a version, downloaded unless the very bytes that were registered are here already.

    Raises as `download` does.
    """
    folder = tracking.root / VERSIONS / version
    if folder.is_dir() and folder_sha256(folder) == facts(tracking, version)["bundle_sha256"]:
        return folder
    return download(tracking, version, folder)


def require_bundle(version: str, tags: Mapping[str, str]) -> None:
    """Raises `UsageError` if the version with these tags has no bundle any more."""
    if PRUNED in tags:
        raise UsageError(
            f"the bundle of version {version} was pruned on {tags[PRUNED]}",
            f"Make it again: `embedline reproduce {version}`.",
        )


def location(tracking: Tracking, version: str) -> str:
    """Returns where the artifact store has, or had, what was logged of the version."""
    return str(tracking.client.get_model_version_download_uri(tracking.model, version))


def stored_bytes(tracking: Tracking, location: str) -> int:
    """Returns how many bytes the artifact store has at a location."""
    store = get_artifact_repository(location, tracking.uri)

    def size(path: str | None) -> int:
        return sum(size(each.path) if each.is_dir else each.file_size or 0 for each in store.list_artifacts(path))

    return size(None)


def remove_stored(tracking: Tracking, location: str) -> None:
    """Removes what the artifact store has at a location."""
    get_artifact_repository(location, tracking.uri).delete_artifacts()  # type: ignore[no-untyped-call]


def mark_pruned(tracking: Tracking, version: str, when: str) -> None:
    """From now on nobody may fetch, nominate or go back to the version."""
    tracking.client.set_model_version_tag(tracking.model, version, PRUNED, when)


def round_of(tracking: Tracking, version: str) -> str:
    """Returns the run that registered the version."""
    return str(tracking.client.get_model_version(tracking.model, version).run_id)


def facts(tracking: Tracking, version: str) -> dict[str, str]:
    """Returns the tags of a version. Raises `UsageError` if there is none of this number."""
    try:
        return dict(tracking.client.get_model_version(tracking.model, version).tags)
    except MlflowException as error:
        if error.error_code not in UNKNOWN_VERSION:
            raise
        remedy = "MLflow's page of the model lists its versions."
        raise UsageError(f"{tracking.model} has no version {version}", remedy) from error


def versions(tracking: Tracking) -> dict[str, dict[str, str]]:
    """Returns the tags of every version by its number, in ascending order; `round` is the run that registered it."""
    found = tracking.client.search_model_versions(f"name = '{tracking.model}'", max_results=MOST_VERSIONS)
    ascending = sorted(found, key=lambda version: int(version.version))
    return {str(version.version): {**version.tags, "round": version.run_id or ""} for version in ascending}


def role(tracking: Tracking, name: Role) -> str | None:
    """Returns the number of the version that plays the role, if one does."""
    return roles(tracking)[name]


def roles(tracking: Tracking) -> Roles:
    """Returns the version of every role."""
    known = aliases(tracking)
    return {name: known.get(name) for name in ROLES}


def aliases(tracking: Tracking) -> dict[str, str]:
    """Returns the version of every alias, also of those that are no role."""
    registered = _registered(tracking)
    return {name: str(version) for name, version in registered.aliases.items()} if registered else {}


def set_role(tracking: Tracking, name: Role, version: str | None) -> None:
    """Gives the role to a version, or to none. Only `promotion` calls this: every change of role is in the ledger."""
    if version is None:
        tracking.client.delete_registered_model_alias(tracking.model, name)
    else:
        tracking.client.set_registered_model_alias(tracking.model, name, version)


def describe(tracking: Tracking, version: str, card: str, quality: Verdict) -> None:
    """Gives a version the beginning of its model card as its description in MLflow."""
    tracking.client.update_model_version(tracking.model, version, summary(card, quality, MOST_CHARACTERS))


def copy_description(source: Tracking, version: str, to: Tracking, number: str) -> None:
    """Describes a version as that of another environment which it is a copy of."""
    if description := source.client.get_model_version(source.model, version).description:
        to.client.update_model_version(to.model, number, description)


def model_tags(tracking: Tracking) -> dict[str, str]:
    """Returns the tags of the model as a whole; none before its first version."""
    registered = _registered(tracking)
    return dict(registered.tags) if registered else {}


def _registered(tracking: Tracking) -> RegisteredModel | None:
    try:
        return tracking.client.get_registered_model(tracking.model)
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return None
        raise


def _create_model(tracking: Tracking) -> None:
    try:
        tracking.client.create_registered_model(tracking.model)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _log(run: Run, bundle: Path, dimension: int) -> LoggedModel:
    """Returns the logged model. This is `mlflow.pyfunc.log_model` without its global active run."""
    tracking = run.tracking
    logged = tracking.client.create_logged_model(
        tracking.experiment_id, name="embedder", source_run_id=run.run_id, model_type="onnx-embedder"
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow asks for an example though the signature is given
        path = Path(folder, "model")
        save_model(
            path,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"bundle": str(bundle.resolve())},
            signature=_signature(dimension),
            pip_requirements=[f"{name}=={installed_version(name)}" for name in ("mlflow", *RUNTIME_PACKAGES)],
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run.run_id,
                model_id=logged.model_id,
            ),
        )
        tracking.client.log_model_artifacts(logged.model_id, str(path))
    tracking.client.finalize_logged_model(logged.model_id, "READY")
    tracking.client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _signature(dimension: int) -> ModelSignature:
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=False) for name in ("text", "image", "instruction")
    ]
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype(np.float32), (-1, dimension))]))
