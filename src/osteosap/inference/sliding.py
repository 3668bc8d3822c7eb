"""Sliding-window inference over the body, with blended class probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from osteosap.config import StageConfig
from osteosap.errors import ConfigError
from osteosap.models.precision import small_convolutions_in_float32

__all__ = [
    "WindowConfig",
    "best_precision",
    "choose_device",
    "predict_probabilities",
    "resolve_precision",
]


class WindowConfig(StageConfig):
    """How windows move over an exam.

    ``overlap`` is the share of a window that its neighbour covers again; ``device`` is ``auto``,
    ``cpu`` or ``cuda``; ``precision`` ``auto`` takes bfloat16 where the hardware has it.
    """

    overlap: float = Field(default=0.25, ge=0.0, lt=1.0)
    windows_at_once: int = Field(default=1, ge=1)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes a GPU where there is one.

    Raises
    ------
    ConfigError
        The device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":", maxsplit=1)[0] not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device '{name}'", remedy="Use 'auto', 'cpu' or 'cuda'")
    if name != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"device '{name}' was asked for, but torch sees no GPU", remedy="Use 'auto' or 'cpu'"
        )
    return torch.device(name)


def best_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device computes it natively, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if supported is not None and supported() else "float32"


def resolve_precision(config: WindowConfig) -> Literal["float32", "bfloat16"]:
    """The precision that ``auto`` stands for on the chosen device."""
    if config.precision == "auto":
        return best_precision(choose_device(config.device))
    return config.precision


def predict_probabilities(
    network: nn.Module,
    images: npt.NDArray[np.floating],
    *,
    body: npt.NDArray[np.bool_],
    n_classes: int,
    patch: tuple[int, int, int],
    config: WindowConfig,
    progress: Callable[[float], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Class probabilities of one prepared exam; windows without body are not computed.

    Parameters
    ----------
    network
        Maps (B, C, ...) images to (B, ``n_classes``, ...) logits; on the chosen device.
    images
        (C, I, J, K) in [0, 1].
    body
        (I, J, K); windows that do not touch it are background.
    patch
        Window size in voxels.
    progress
        Called with the fraction done.

    Returns
    -------
    probabilities
        float32 (``n_classes``, I, J, K); sums to 1 over the classes.
    """
    from monai.inferers import sliding_window_inference

    device = choose_device(config.device)
    half = resolve_precision(config) == "bfloat16"
    window = _Window(network, n_classes, device, half, progress)
    window.total = _count_windows(body.shape, patch, config.overlap)
    joined = np.concatenate([images, body[None]]).astype(np.float32)
    was_training = network.training
    network.eval()
    try:
        with (
            torch.inference_mode(),
            warnings.catch_warnings(),
            small_convolutions_in_float32(network),
        ):
            warnings.simplefilter("ignore")  # MONAI indexes tensors in ways that torch deprecates
            blended = sliding_window_inference(
                torch.from_numpy(joined)[None],
                roi_size=patch,
                sw_batch_size=config.windows_at_once,
                predictor=window,
                overlap=config.overlap,
                mode="gaussian",
                sw_device=device,
                device=torch.device("cpu"),
            )
    finally:
        network.train(was_training)
    return np.asarray(blended[0].numpy(), dtype=np.float32)


class _Window:
    """Softmax of one batch of windows; the last channel is the body mask."""

    def __init__(
        self,
        network: nn.Module,
        n_classes: int,
        device: torch.device,
        half: bool,
        progress: Callable[[float], None] | None,
    ) -> None:
        self.network = network
        self.n_classes = n_classes
        self.device = device
        self.half = half
        self.progress = progress
        self.done = 0
        self.total = 1

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, C + 1, ...) to (B, n_classes, ...)."""
        output = torch.zeros(
            (windows.shape[0], self.n_classes, *windows.shape[2:]), device=windows.device
        )
        output[:, 0] = 1.0
        inside = windows[:, -1].flatten(1).amax(dim=1) > 0
        if inside.any():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.network(windows[inside, :-1])
            output[inside] = torch.softmax(logits.float(), dim=1)
        self.done += windows.shape[0]
        if self.progress is not None:
            self.progress(min(1.0, self.done / self.total))
        return output


def _count_windows(shape: tuple[int, ...], patch: tuple[int, int, int], overlap: float) -> int:
    steps = [max(1, int(p * (1.0 - overlap))) for p in patch]
    counts = [
        int(np.ceil(max(0, n - p) / s)) + 1 for n, p, s in zip(shape, patch, steps, strict=True)
    ]
    return int(np.prod(counts))
