"""``plot``: draw the figures of a case."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from telescope_core.errors import ConfigurationError
from telescope_pipeline.parameters.reading import case_of, load_parameters
from telescope_pipeline.progress import spinner
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.contract import Figure


def run(case_name: str, parameters_path: Path) -> None:
    """Write a PNG and a CSV per figure to ``results/<case>/plots/``, and ``figures.json``.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Raises:
        TelescopeError: If the parameters or the history are not usable, or nothing can be written.
    """
    parameters = load_parameters(parameters_path)
    case = case_of(parameters, case_name)
    layout = Layout.beside(parameters_path)
    results = layout.results(case_name)
    with spinner(f"plot {case_name}"):
        import matplotlib as mpl

        mpl.use("Agg")
        history = files.read_parquet(results / "history.parquet")
        module = import_module(f"telescope_pipeline.cases.{case.kind}.figures")
        figures: list[Figure] = module.draw(case, history)
        if len({figure.name for figure in figures}) < len(figures):
            raise ConfigurationError(f"{case_name}: two figures have the same name")
        with files.new_folder(results / "plots") as folder:
            for figure in figures:
                # Without the version of matplotlib in it the picture depends on its content only.
                figure.figure.savefig(
                    folder / f"{figure.name}.png",
                    dpi=case.plot.dpi,
                    metadata={"Software": None},
                )
                figure.table.to_csv(folder / f"{figure.name}.csv", index=False, lineterminator="\n")
        index = [
            {"name": figure.name, "title": figure.title, "caption": figure.caption}
            for figure in figures
        ]
        files.write_json(results / "figures.json", index)
