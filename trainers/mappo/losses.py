"""The losses of PPO (Schulman et al., 2017), pure: tensors in, (loss, metrics) out. All tensors are [tokens]."""

from __future__ import annotations

import torch


def policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Clipped surrogate, summed over tokens: -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)."""
    log_ratios = logprobs - old_logprobs
    ratios = log_ratios.exp()
    clipped = ratios.clamp(1 - clip_low, 1 + clip_high)
    losses = torch.maximum(-advantages * ratios, -advantages * clipped)
    with torch.no_grad():
        metrics = {
            "clipped_share": ((ratios < 1 - clip_low) | (ratios > 1 + clip_high)).float().sum().item(),
            "approx_kl": k3(old_logprobs - logprobs).sum().item(),
        }
    return losses.sum(), metrics


def value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float | None
) -> torch.Tensor:
    """Half the squared error, summed over tokens; with a clip range, the worse of the free and the clipped value."""
    errors = (values - returns).square()
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (near - returns).square())
    return 0.5 * errors.sum()


def k1(log_ratios: torch.Tensor) -> torch.Tensor:
    """Estimator of KL(p || q) from samples of p: log(p / q). Unbiased; single values can be negative."""
    return log_ratios


def k3(log_ratios: torch.Tensor) -> torch.Tensor:
    """Estimator of KL(p || q) from samples of p, given log(p / q): q/p - 1 - log(q/p). Unbiased, never negative.

    After Schulman, "Approximating KL divergence" (2020).
    """
    return torch.expm1(-log_ratios) + log_ratios


def adapt_kl_coefficient(
    coefficient: float, kl: float, target: float, floor: float, num_samples: int, horizon: int = 10_000
) -> float:
    """The adaptive controller of Ziegler et al. (2019): up when `kl` is above `target`, down below, at least `floor`.

    The relative error is cut to ±0.2; `horizon` is the number of samples over which the coefficient may change e-fold
    at an error of 1.
    """
    error = max(-0.2, min(0.2, kl / target - 1))
    return max(floor, coefficient * (1 + error * num_samples / horizon))
