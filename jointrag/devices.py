"""Where a model may run."""

from __future__ import annotations


def check_device(device: str) -> None:
    """Raises ValueError for what is no device, and for a GPU that is not there."""
    import torch

    try:
        wanted = torch.device("cpu" if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f"--device {device}: auto, cpu, cuda or cuda:1 is expected") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs here; use cpu or auto")
