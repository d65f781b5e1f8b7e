"""The loop of fine-tuning, for whatever is tuned: one process, one update per batch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssl_vision.nn.batch_norm import one_sample_explained
from ssl_vision.randomness import seeded
from ssl_vision.types import Batch


def tune(
    model: nn.Module,
    batches_of: Callable[[int], Iterable[Batch]],
    loss_of: Callable[[Batch, int], Tensor],
    *,
    optimizer: Optimizer,
    set_rates: Callable[[int], None],
    epochs: int,
    key_of: Callable[[int], int],
    way_out: str,
    clip_norm: float | None = None,
) -> list[Tensor]:
    """Train a model.

    Args:
        model: In the mode it is to be trained in; frozen parameters stay as they are.
        batches_of: Epoch -> its batches.
        loss_of: Batch and step -> loss.
        optimizer: Of the model's trainable parameters.
        set_rates: Sets the optimizer's rates for a step, counted from 0.
        epochs: How many.
        key_of: Step -> key of what the forward pass draws (dropout, stochastic depth).
        way_out: What to do where batch norm meets a single sample, for its error.
        clip_norm: Largest norm of the gradient of an update; None for any.

    Returns:
        Losses of each epoch's updates, float32, (updates,), on the model's device.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    devices = [device for device in {p.device for p in trained} if device.type == "cuda"]
    epoch_losses, step = [], 0
    for epoch in range(epochs):
        losses = []
        for batch in batches_of(epoch):
            set_rates(step)
            with one_sample_explained(way_out), seeded(key_of(step), devices=devices):
                loss = loss_of(batch, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(trained, clip_norm)
            optimizer.step()
            losses.append(loss.detach().float())
            step += 1
        epoch_losses.append(torch.stack(losses))
    return epoch_losses
