"""How to train, apart from optimizer and schedule."""

from dataclasses import dataclass

from expanders.errors import SettingError, check_choice
from expanders.training.compilation import CompileMode, Norm
from expanders.training.device import Precision


@dataclass(frozen=True)
class Settings:
    """How to train, apart from optimizer and schedule.

    Attributes:
        epochs: passes over the training images; 0 trains nothing.
        batch_size: images per step.
        label_smoothing: between 0 (off) and 1.
        clip_grad_norm: largest 2-norm of the whole gradient, or None for no clipping.
        precision: of the arithmetic; parameters stay float32. `tf32` and `bf16` are for GPUs and
            CPUs that have them; on a CPU, `tf32` computes as `fp32` does, yet names another run.
            `auto` is tf32 on a GPU and fp32 on a CPU.
        compile: mode of `torch.compile` for training steps, or `none`; `auto` compiles where that
            pays (see `expanders.training.compilation.chosen`).
        norm: what computes batch norm on a CPU: `torch`, or the operator (`native`), together with
            the ReLU that follows; `auto` is the operator where that pays.
        channels_last: keep images and dense kernels with the channels innermost.

    Raises:
        SettingError: if a value is out of its range.
    """

    epochs: int
    batch_size: int
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    precision: Precision = "auto"
    compile: CompileMode = "auto"
    norm: Norm = "auto"
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name, hint in (("precision", Precision), ("compile", CompileMode), ("norm", Norm)):
            check_choice(name, getattr(self, name), hint)
        if self.epochs < 0:
            raise SettingError("epochs", self.epochs, "must be 0 (no training) or more")
        if self.batch_size < 2:
            raise SettingError(
                "batch_size", self.batch_size, "must be 2 or more: batch norm needs two images"
            )
        if not 0 <= self.label_smoothing < 1:
            raise SettingError("label_smoothing", self.label_smoothing, "must be in [0, 1)")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise SettingError(
                "clip_grad_norm", self.clip_grad_norm, "must be above 0, or null for no clipping"
            )
