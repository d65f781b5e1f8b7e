"""Train a method under a stock Lightning Trainer, with your own loader."""

import lightning as L
from _views import make


def main(epochs: int = 3, max_steps: int = -1, batch_size: int = 128, **trainer: object) -> int:
    """Train; updates done."""
    method, loader = make(batch_size, epochs)
    arguments: dict[str, object] = {
        "max_epochs": epochs,
        "max_steps": max_steps,
        "enable_checkpointing": False,
        "logger": False,
        **trainer,  # devices=2, precision="bf16-mixed", ...
    }
    L.Trainer(**arguments).fit(method, loader)  # type: ignore[arg-type]
    network = method.export_backbone().standalone()  # a plain timm model
    print(type(network).__name__, "after", method.step, "updates")
    return method.step


if __name__ == "__main__":
    main()
