"""Fine-tuning and distillation: losses, samplers, resumable loop; each stage is one function."""

from components.training.stages import distil, embed_with_teacher, fine_tune

__all__ = ["distil", "embed_with_teacher", "fine_tune"]
