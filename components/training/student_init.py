"""What a student starts with: the weights that it can take over from its teacher."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from components.embedder import Embedder, TorchEmbedder
from components.embedder.config import TEXT_TOWERS
from components.embedder.dual_encoder import DualEncoder
from components.training.config import Towers


def init_student(encoder: DualEncoder, backbone: Towers, teacher: Embedder, folder: Path) -> None:
    """Gives a student its teacher's image layers of the same shape (Wu et al., TinyCLIP, 2023), and its text tower what
    that tower takes over; `folder` keeps what is computed for it."""
    if start := getattr(TEXT_TOWERS.of(backbone.text), "start", None):
        start(encoder, teacher, folder)
    if isinstance(teacher, TorchEmbedder):
        inherit(encoder.model.vision_model, teacher.encoder.model.vision_model)
        inherit(encoder.model.visual_projection, teacher.encoder.model.visual_projection)


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Copies the weights that have the same name and shape in both; what the student lacks is left out."""
    own = student.state_dict()
    shared = {
        name: value for name, value in teacher.state_dict().items() if name in own and own[name].shape == value.shape
    }
    student.load_state_dict(shared, strict=False)
