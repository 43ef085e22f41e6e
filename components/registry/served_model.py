"""What MLflow runs when it loads a registered version: the bundle's own runtime on the bundle's own graphs.

MLflow copies this file into the model, so it imports nothing of this project.
"""

import base64
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        version = Path(context.artifacts["bundle"], "version")
        name = f"embedline_runtime_{abs(hash(str(version)))}"
        spec = importlib.util.spec_from_file_location(name, version / "runtime.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up here
        spec.loader.exec_module(module)
        self.runtime = module.Runtime(version)

    def predict(self, context: PythonModelContext, model_input: pandas.DataFrame, params: Any = None) -> Any:
        """Returns `(n, dimension)` float32 for the columns `text`, `image` (base64), `instruction`, each optional."""
        empty = [None] * len(model_input)
        texts, images, instructions = (
            [part if isinstance(part, str) and part else None for part in model_input.get(name, empty)]
            for name in ("text", "image", "instruction")
        )
        contents = [image and base64.b64decode(image, validate=True) for image in images]
        return self.runtime.encode(texts, contents, instructions)


set_model(ServedModel())
