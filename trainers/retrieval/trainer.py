"""transformers' Trainer with what fit.py promises: see there."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from trainers.retrieval.ahead import Ahead, Steps
from trainers.retrieval.learner import Learner
from trainers.retrieval.watch import Progress, Watch

logger = logging.getLogger(__name__)
WHOLE = "whole"  # the file that a checkpoint has when everything else is written
_WEIGHTS, _STATE = "model.safetensors", "trainer_state.json"


class FitTrainer(Trainer):
    """One per training; `train` may be called once."""

    def __init__(
        self,
        learner: Learner[Any],
        ahead: Ahead,
        arguments: TrainingArguments,
        evaluate: Callable[[], dict[str, float]] | None,
        evaluate_every: int | None,
        progress: Progress,
    ) -> None:
        self.learner, self.ahead = learner, ahead
        self._measure = evaluate
        self._watch = Watch(progress.name, arguments.learning_rate)
        self.folder = Path(arguments.output_dir or "")
        callbacks: list[TrainerCallback] = [progress]
        if evaluate is not None:
            callbacks.append(_EvaluateEvery(evaluate_every))
        super().__init__(learner, arguments, train_dataset=ahead, callbacks=callbacks)
        self.remove_callback(PrinterCallback)

    # ---- data and processes ------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.ahead, batch_sampler=Steps(self.ahead.batches), collate_fn=_only)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        return _Wrapped(model)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> contextlib.AbstractContextManager:
        return self.accelerator.autocast()  # it is DDP's wrapper that would have done so

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.gradient_state.sync_gradients:
            self.learner.team.sum_gradients(self._trained())
        self._watch.saw(loss, last=self.accelerator.gradient_state.sync_gradients)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called once before every step. A step without a direction is left out: no gradient, no change."""
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.args.fp16  # the scaler of fp16 looks for gradients that are too large, and leaves the step out
        if not self._watch.is_sound(float("nan") if norm is None else float(norm), scaled, self.state.global_step + 1):
            for parameter in self._trained():
                parameter.grad = None
        return norm

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.learner.parameters() if parameter.requires_grad]

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """What the first process measures; its first metric decides which model is best."""
        assert self._measure is not None
        team = self.learner.team
        metrics: dict[str, float] = {}
        self.learner.eval()
        if team.is_first:
            self.ahead.settle()
            metrics = self._measure()
        metrics = team.gather([metrics] if team.is_first else [])[0]
        first = {"eval_first": next(iter(metrics.values()))} if metrics else {}
        self.log({f"eval_{name}": value for name, value in metrics.items()})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, first)
        return first

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not metrics:  # nothing to measure on
            return False
        best = super()._determine_best_metric(metrics, trial)
        if best:
            self.control.should_save = True
        return best

    def take_best(self) -> dict[str, float]:
        """Put the best model's weights into the learner; returns its metrics."""
        best = self.state.best_global_step
        if best and best != self.state.global_step:
            logger.info("best at step %d of %d: taking that model", best, self.state.global_step)
            self._load_from_checkpoint(str(self.folder / f"checkpoint-{best}"))
        logs = [log for log in self.state.log_history if log["step"] == (best or self.state.global_step)]
        return {
            name.removeprefix("eval_"): value for log in logs for name, value in log.items() if name.startswith("eval_")
        }

    def last_loss(self) -> float:
        return next((log["loss"] for log in reversed(self.state.log_history) if "loss" in log), float("nan"))

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def ended(self, checkpoint: Path) -> bool:
        """Whether this checkpoint is of the last step; then it is loaded, and nothing is left to train."""
        state = TrainerState.load_from_json(str(checkpoint / _STATE))
        if state.global_step < state.max_steps:
            logger.info("going on from step %d of %d", state.global_step, state.max_steps)
            return False
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        return True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        if (folder / WHOLE).is_file():
            return
        super()._save_checkpoint(model, trial)
        self.learner.team.wait()  # every process has written its random state
        if not self.learner.team.is_first:
            return
        (folder / WHOLE).touch()
        keep = {self.state.global_step, self.state.best_global_step}
        for other in folder.parent.glob("checkpoint-*"):
            if int(other.name.split("-")[1]) not in keep:
                (other / WHOLE).unlink(missing_ok=True)
                shutil.rmtree(other)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The weights that are trained: those of a frozen model under adapters are where they came from."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: p.detach().contiguous() for name, p in self.learner.named_parameters() if p.requires_grad},
            folder / _WEIGHTS,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        trained = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        assert weights.keys() == trained.keys(), "a checkpoint of another model"
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])


class _Wrapped(nn.Module):
    """What Trainer takes for a model made ready for several processes, so that it does not put it into DDP."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, **batch: Any) -> Any:
        return self.learner(**batch)


class _EvaluateEvery(TrainerCallback):
    """Says when to evaluate: every so many steps, and at the end."""

    def __init__(self, every: int | None) -> None:
        self._every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps or (self._every and state.global_step % self._every == 0):
            control.should_evaluate = True


def _only(batch: list[Any]) -> Any:
    (only,) = batch
    return only
