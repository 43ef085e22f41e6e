"""`embedline export`: any model of a class that is exported, in the variants that params.yaml describes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError


def export(
    model: Annotated[str | None, typer.Argument(help="A model directory, or the name of a model on the hub.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to write, with a folder for each variant.")] = None,
    variants: Annotated[
        str | None, typer.Option(help="Some of export.variants of params.yaml, as in fp32,int8; else all of them.")
    ] = None,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Build TensorRT engines too, without a GPU.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Show what was measured of the student's variants, and which is chosen.")
    ] = False,
    machine: Machine = False,
) -> None:
    """Export a model that this line did not train, each variant proved on items of data/ to answer as the model does.

    Example: `embedline export some/model --output artifacts/exported --variants fp32,int8`
    """
    if report:
        show_choice(machine)
        return
    if model is None or output is None:
        raise UsageError("embedline export needs a model and --output", "Name both, or ask for --report alone.")
    from components import config as configuration
    from components.backends.directory import find_directory
    from components.export.config import Export
    from components.export.export import export as write_variants
    from components.export.export import require_former_export
    from components.export.tensorrt.settings import TensorRT
    from components.files import folder_bytes
    from components.workspace import DATA

    settings = configuration.read_section(Path(configuration.PARAMETERS), Export)
    if variants is not None:
        settings = settings.only(variants.split(","))
    if tensorrt and settings.tensorrt is None:
        settings = settings.model_copy(update={"tensorrt": TensorRT()})
    require_former_export(output)
    found = write_variants(settings, find_directory(model), DATA, output)
    sizes = {name: folder_bytes(output / name) for name in found}
    if machine:
        say({"output": output, "variants": {name: {"bytes": sizes[name], **found[name].numbers} for name in found}})
        return
    table = Table("variant", "megabytes", "least cosine", "mean cosine", "same nearest", title=model)
    for name, parity in found.items():
        cosines = (f"{parity.minimum:.5f}", f"{parity.mean:.5f}", f"{parity.rank_agreement_1:.1%}")
        table.add_row(name, f"{sizes[name] / 1e6:.1f}", *cosines)
    screen.print(table)
    screen.print(f"The variants are in {output}.", markup=False)


def show_choice(machine: bool) -> None:
    from components.export.choice import markdown
    from components.export.choice import report as rows_of
    from components.workspace import ONNX

    rows = rows_of(ONNX)
    if machine:
        say([asdict(row) for row in rows])
    else:
        screen.print(markdown(rows), markup=False, soft_wrap=True)
