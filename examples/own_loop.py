"""Train a method in a loop of your own: one call an update moves all that has to move."""

from itertools import islice

from _views import make


def main(epochs: int = 3, max_steps: int | None = None, batch_size: int = 128) -> float:
    """Train; the last loss."""
    method, loader = make(batch_size, epochs)
    optimizer = method.make_optimizer()
    method.train()
    loss = float("nan")
    for epoch in range(epochs):
        for batch in islice(loader, max_steps):
            # Schedules, clipping, teachers, masks' keys and `method.step` move with it.
            output = method.update(batch, optimizer)
        loss = float(output.loss)
        print(f"epoch {epoch}: update {method.step}, loss {loss:.2f}")
    network = method.export_backbone().standalone()  # a plain timm model
    print(type(network).__name__)
    return loss


if __name__ == "__main__":
    main()
