"""How an encoder computes: as the model was saved, or in half precision.

    prepare(model, "bf16")      # a SentenceTransformer, changed in place

- torch: as the model was saved, mostly float32;
- bf16: matrix products and attention of the transformer in bfloat16; sums, norms, pooling and all that follows as they
  were. For GPUs, and for CPUs that multiply bfloat16 (AMX, AVX512-BF16; `lscpu` tells), which others do slowly;
- fp16: the same in float16, for GPUs without bfloat16.

Vectors of the three differ by rounding alone and may be compared with each other: an index of passages that one encoded
can be searched with queries that another encoded. docs/benchmarks.md has what is gained, and what it costs in recall.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Backend = Literal["torch", "bf16", "fp16"]


def prepare(model: SentenceTransformer, backend: Backend) -> None:
    """Let `model` compute by `backend`. Raises ValueError for one that is not known."""
    import torch

    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r} is none of {', '.join(get_args(Backend))}")
    if backend == "torch":
        return
    dtype = torch.bfloat16 if backend == "bf16" else torch.float16
    transformer = model[0]
    for module in transformer.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(dtype)  # once, not in every forward pass
    transformer.forward = torch.autocast(model.device.type, dtype)(transformer.forward)
    transformer.register_forward_hook(_in_float32)


def _in_float32(module: Any, given: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Means over tokens and the layers behind keep their precision."""
    return {name: value.float() if _is_half(value) else value for name, value in features.items()}


def _is_half(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
