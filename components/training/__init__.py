"""Fine-tuning and distillation by recipes: losses, samplers, resumable loop."""

from components.training.mining import mine_negatives
from components.training.teachers import embed_with_teacher
from components.training.train import TrainingPaths, train_model

__all__ = ["TrainingPaths", "embed_with_teacher", "mine_negatives", "train_model"]
