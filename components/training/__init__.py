"""Fine-tuning and distillation by recipes: losses, samplers, resumable loop; each stage is one function."""

from components.training.stages import Places, embed_with_teacher, mine_negatives, train_model

__all__ = ["Places", "embed_with_teacher", "mine_negatives", "train_model"]
