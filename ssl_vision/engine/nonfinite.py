"""What to do about updates that were skipped because a loss or gradient was not finite.

`Method` skips such an update on all processes before optimizer, teacher and centre see it. Here the
culprit is written down, and the policy decides whether the run goes on.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, TypeVar

import torch.distributed as dist
from torch import Tensor

from ssl_vision.distributed import any_rank, is_distributed, rank, world_size
from ssl_vision.engine.run import Run
from ssl_vision.engine.strategy import loss_scaler
from ssl_vision.engine.watchers import Update
from ssl_vision.errors import NonFiniteError
from ssl_vision.methods.base import Method

MAX_CONSECUTIVE = 3  # skipped updates in a row before policy `stop` or `rollback` acts
MAX_SHARE = 0.01  # of the last _WINDOW updates
_WINDOW = 1000  # updates
_MAX_IN_VAIN = 100  # skipped updates, when no other was made, after which no policy goes on
_MAX_ROLLBACKS = 10  # of one process's life; a run that needs more has another problem
_LARGEST = 1e18  # of a weight: squares of more overflow float32
_GRADIENT = "gradient of"
_SHOWN_IDS, _SHOWN_NAMES = 8, 3

Value = TypeVar("Value")


class NonFiniteGuard:
    """Applies `trainer.on_nonfinite`; runs before every other watcher.

    Args:
        policy: skip goes on as long as any update is made; stop ends the run after
            `MAX_CONSECUTIVE` skipped updates in a row or `MAX_SHARE` of the last thousand; rollback
            returns to the last checkpoint instead and leaves out the data in between.
        roll_back: Restores the newest checkpoint and returns its step; None if there is none.
    """

    def __init__(
        self,
        *,
        policy: Literal["skip", "stop", "rollback"],
        roll_back: Callable[[], int | None],
    ) -> None:
        self._policy = policy
        self._roll_back = roll_back
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._consecutive = 0
        self._num_rollbacks = 0
        self._num_seen = 0
        self._is_anything_learned = False  # also by an earlier process, whose run goes on here
        self.num_skipped = 0

    def after_update(self, run: Run, method: Method, update: Update) -> None:
        """Report and decide if the update was skipped."""
        self._recent.append(update.outcome.is_skipped)
        self._num_seen += 1
        self._is_anything_learned |= method.step > self._num_seen
        if not update.outcome.is_skipped:
            self._consecutive = 0
            self._is_anything_learned = True
            return
        if _is_overflow_of_scaling(run, update):
            return  # fp16's loss scale was too high; the scaler has lowered it
        self._consecutive += 1
        self.num_skipped += 1
        message = self._report(run, method, update)
        if self._consecutive == MAX_CONSECUTIVE:
            check_weights(run, method)
        if self._policy != "skip" and self._is_too_much():
            self._act(run, method, message)
        is_over = method.step >= run.stop_step or self.num_skipped >= _MAX_IN_VAIN
        if is_over and not self._is_anything_learned:
            raise self._end(run, message)

    def _is_too_much(self) -> bool:
        is_frequent = len(self._recent) == _WINDOW and sum(self._recent) > MAX_SHARE * _WINDOW
        return self._consecutive >= MAX_CONSECUTIVE or is_frequent

    def _report(self, run: Run, method: Method, update: Update) -> str:
        """Name terms, ranks and samples; on the terminal and in nonfinite.jsonl."""
        findings = _culprits(_gather(_find(update)))
        step = method.step
        for finding in findings:
            if run.is_main:
                run.folder.append("nonfinite.jsonl", {"step": step, **finding})
        message = f"update {step}: not finite, skipped; " + "; ".join(_describe(findings))
        run.warn(message)
        return message

    def _act(self, run: Run, method: Method, message: str) -> None:
        if self._policy == "rollback" and self._num_rollbacks < _MAX_ROLLBACKS:
            bad_step = method.step
            restored = self._roll_back()
            if restored is not None:
                self._num_rollbacks += 1
                self._consecutive = 0
                self._recent.clear()
                run.warn(
                    f"rolled back from update {bad_step} to checkpoint {restored}; the data in "
                    "between is left out"
                )
                return
        raise self._end(run, message)

    def _end(self, run: Run, message: str) -> NonFiniteError:
        return NonFiniteError(
            f"{message}. {self._consecutive} updates in a row, {self.num_skipped} in all "
            f"(trainer.on_nonfinite={self._policy}). Lower optim.base_lr or raise "
            "optim.warmup_epochs; with trainer.precision=16 try bf16; look at the samples listed "
            f"in {run.folder.path / 'nonfinite.jsonl'}."
        )


def check_weights(run: Run, method: Method) -> None:
    """End a run whose weights themselves are not finite, whatever the policy; a collective.

    Every loss after it is NaN, and checkpoints since hold the same: nothing can mend them. Weights
    so large that what is computed from them overflows are no better.

    Raises:
        NonFiniteError: A parameter, or a tensor of what is exported, is NaN or beyond 1e18.
    """
    state = {**dict(method.named_parameters()), **method.export_backbone().state_dict()}
    bad = [name for name, value in state.items() if not _is_finite(value)]
    if any_rank(bool(bad), device=run.fabric.device):
        raise NonFiniteError(
            f"update {method.step}: {len(bad)} of {len(state)} tensors of the network are NaN, "
            f"infinite or above {_LARGEST:g}, first {bad[0] if bad else 'on another process'}; the "
            "training diverged and cannot recover. Lower optim.base_lr or raise "
            "optim.warmup_epochs, and start again with resume=never."
        )


def _is_finite(value: object) -> bool:
    """Whether a tensor, or this process's part of it, is finite; what is none is."""
    if not isinstance(value, Tensor):
        return True
    own = value.to_local() if hasattr(value, "to_local") else value
    if own.numel() == 0 or not own.is_floating_point():
        return True
    return bool(own.detach().abs().amax() <= _LARGEST)  # NaN is not


class _Finding(TypedDict):
    """What one process saw: non-finite terms, samples of the batches they were in."""

    rank: int
    terms: list[str]
    samples: list[int]


def _is_overflow_of_scaling(run: Run, update: Update) -> bool:
    """Whether only fp16's scaled gradients overflowed: every loss is finite, on all processes."""
    if loss_scaler(run.fabric) is None:
        return False
    is_finite = all(bool(output.loss.isfinite()) for output in update.outputs)
    return all(_gather(is_finite))


def _find(update: Update) -> _Finding:
    terms, samples = [], []
    for output, index in zip(update.outputs, update.index, strict=True):
        values = {"loss": float(output.loss)}
        values |= {name: float(value) for name, value in output.metrics.items()}
        bad = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        terms += [term for term in bad if term not in terms]
        if bad:
            samples += index.tolist()
    names = update.outcome.bad_gradients
    if not terms and names:
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        terms = [f"{_GRADIENT} {', '.join(names[:_SHOWN_NAMES])}{more}"]
        samples = [i for index in update.index for i in index.tolist()]
    return {"rank": rank(), "terms": terms, "samples": samples}


def _culprits(findings: Sequence[_Finding]) -> list[_Finding]:
    """Processes with a bad loss; with bad gradients only where no loss is to blame.

    Averaging gradients over processes spreads one process's NaN to all.
    """
    found = [finding for finding in findings if finding["terms"]]
    return [f for f in found if not f["terms"][0].startswith(_GRADIENT)] or found


def _gather(value: Value) -> list[Value]:
    """One value from each process; rare enough for pickles."""
    found = [value] * world_size()
    if is_distributed():
        dist.all_gather_object(found, value)
    return found


def _describe(findings: Sequence[_Finding]) -> list[str]:
    described = []
    for finding in findings:
        ids = finding["samples"]
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        shown = ", ".join(str(i) for i in ids[:_SHOWN_IDS])
        described.append(
            f"{', '.join(finding['terms'])} on rank {finding['rank']}, samples {shown}{more}"
        )
    return described or ["no term could be named"]
