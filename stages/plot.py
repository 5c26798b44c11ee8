"""``plot``: draw the figures of a case."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from telescope_core.errors import ConfigurationError
from telescope_pipeline.parameters import load_case
from telescope_pipeline.progress import spinner
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.contract import Figure


def run(case_name: str, parameters_path: Path) -> None:
    """Write a PNG and a CSV per figure to ``results/<case>/plots/``, and two files about them.

    ``figures.json`` describes how they are drawn, and names the pictures by their hashes;
    ``figures-told.json`` holds what they tell: the same for pictures that only look different.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Raises:
        ConfigurationError: If two figures have the same name.
        TelescopeError: If the parameters or the history are not usable, or nothing can be written.
    """
    _, case = load_case(parameters_path, case_name)
    layout = Layout.beside(parameters_path)
    results = layout.results(case_name)
    with spinner(f"plot {case_name}"):
        from telescope_pipeline.study.drawing.picture import png

        history = files.read_parquet(results / "history.parquet")
        module = import_module(f"telescope_pipeline.cases.{case.kind}.figures")
        figures: list[Figure] = module.draw(case, history)
        if len({figure.name for figure in figures}) < len(figures):
            raise ConfigurationError(f"{case_name}: two figures have the same name")
        entries, told = [], []
        with files.new_folder(results / "plots") as folder:
            for figure in figures:
                picture = png(figure, case.plot.dpi)
                table = figure.table.to_csv(index=False, lineterminator="\n").encode()
                (folder / f"{figure.name}.png").write_bytes(picture)
                (folder / f"{figure.name}.csv").write_bytes(table)
                words = {
                    "name": figure.name,
                    "title": figure.title,
                    "see": figure.see,
                    "caption": figure.caption,
                    "key": list(figure.key),
                }
                entries.append({**words, "picture": _sha256(picture), "chart": figure.chart})
                told.append({**words, "table": _sha256(table)})
        index = {
            "question": module.QUESTION,
            "headline": module.headline(case, history),
            "figures": entries,
        }
        # The points of every chart are in it: compact, it takes a third.
        files.write_bytes(results / "figures.json", files.json_bytes(index, indent=None))
        files.write_json(results / "figures-told.json", {**index, "figures": told})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
