"""Makes the pictures of the README anew, from real runs: ``python docs/figures/make.py [FOLDER]``.

``grokking.png`` is the figure of ``telescope demo``; ``reading.png`` shows how to read p_train and
p_test, in three small networks whose smoother is followed exactly.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from telescope_core import TelescopeLens
from telescope_pipeline.contract import Figure
from telescope_pipeline.demo import demo
from telescope_pipeline.study.drawing import Guide, Panel, between, figure, on_sets
from telescope_pipeline.study.drawing.picture import png

POINTS, TEST_POINTS, STEPS = 60, 400, 600
_STRIDE, _DPI = 20, 130


@dataclass(frozen=True)
class Task:
    """A regression of 60 points and the network that learns it by gradient descent.

    Attributes:
        title: What its picture shows.
        target: Noiseless targets of inputs (rows, dimension).
        dimension: Of the standard normal inputs.
        noise: Standard deviation of the noise on training labels; test labels have none.
        hidden: Units of the network's one layer, tanh.
        scale: Of all initial weights, in units of torch's own.
        rate: Learning rate.
    """

    title: str
    target: Callable[[Tensor], Tensor]
    dimension: int
    noise: float
    hidden: int
    scale: float
    rate: float


def _smooth(x: Tensor) -> Tensor:
    return torch.sin(x[:, 0]) + 0.5 * x[:, 1]


def _product(x: Tensor) -> Tensor:
    return x[:, 0] * x[:, 1]


TASKS = (
    Task("generalising", _smooth, 5, 0.0, 30, 1.0, 0.1),
    Task("memorising", _product, 30, 0.0, 200, 2.0, 0.03),
    Task("fitting noise", _smooth, 5, 0.7, 10, 1.0, 0.1),
)


def history_of(task: Task, seed: int = 0) -> pd.DataFrame:
    """Train on a task.

    Returns:
        A row a block, columns ``step``, ``<set>/mse`` and ``<set>/effective_parameters``.
    """
    torch.manual_seed(seed)
    x = torch.randn(POINTS + TEST_POINTS, task.dimension)
    clean = task.target(x)
    y = clean[:POINTS] + task.noise * torch.randn(POINTS)
    model = nn.Sequential(
        nn.Linear(task.dimension, task.hidden), nn.Tanh(), nn.Linear(task.hidden, 1), nn.Flatten(0)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= task.scale
    loss = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=task.rate)
    sets = {"train": (x[:POINTS], y), "test": (x[POINTS:], clean[POINTS:])}
    test = {"test": sets["test"][0]}
    exactly = {"probes": "exact", "stride": _STRIDE}
    lens = TelescopeLens(model, optimizer, loss, x[:POINTS], y, test, **exactly)
    rows = []
    for step in range(1, STEPS + 1):
        with lens.step(torch.arange(POINTS)):
            optimizer.zero_grad()
            loss(model(x[:POINTS]), y).backward()
            optimizer.step()
        if step % _STRIDE == 0:
            record = lens.snapshot().to_record()
            for name, (inputs, targets) in sets.items():
                with torch.no_grad():
                    record[f"{name}/mse"] = float(loss(model(inputs), targets))
            rows.append(record)
    return pd.DataFrame(rows)


def reading() -> Figure:
    """Errors above and effective parameters below, for the three tasks side by side."""
    histories = [history_of(task) for task in TASKS]
    above = [
        Panel(
            on_sets(history, "mse"),
            title=task.title,
            y="mean squared error",
            x_scale="linear",
            y_scale="log",
            y_range=(1e-3, 4),
        )
        for task, history in zip(TASKS, histories, strict=True)
    ]
    below = []
    for history in histories:
        lines = on_sets(history, "effective_parameters")
        guide = Guide(POINTS, f"n = {POINTS}" if not below else "", axis="y")
        shaded = [between(*lines), *lines]
        below.append(
            Panel(
                shaded, y="effective parameters", x_scale="linear", y_range=(0, 66), guides=[guide]
            )
        )
    caption = "Errors and effective parameters on train and test points, and the gap between them."
    return figure(
        "reading", "How to read them", caption, [above, below], size=(210, 140), share_y="row"
    )


def _small(picture: bytes) -> bytes:
    """The same with 64 colours, a third of the bytes."""
    kept = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(64).save(kept, "PNG", optimize=True)
    return kept.getvalue()


def main() -> None:
    """Write both pictures into the folder that was named, or beside this file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.set_num_threads(1)
    (folder / "reading.png").write_bytes(_small(png(reading(), _DPI)))
    with tempfile.TemporaryDirectory() as kept:
        picture, sentences = demo(Path(kept) / "demo")
        (folder / "grokking.png").write_bytes(_small(picture.read_bytes()))
    print(*sentences, sep="\n")


if __name__ == "__main__":
    main()
