"""``prepare``: make the data sets of a case."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import DataError
from telescope_pipeline.parameters import load_case
from telescope_pipeline.parameters.user_code import make_importable
from telescope_pipeline.progress import spinner
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from telescope_pipeline.contract import Prepared


def run(case_name: str, parameters_path: Path) -> None:
    """Write ``data/<case>/``: safetensors files and the card ``dataset.json``.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Raises:
        DataError: If the kind of case prepares no data.
        TelescopeError: If the parameters or the data are not usable, or nothing can be written.
    """
    parameters, case = load_case(parameters_path, case_name)
    layout = Layout.beside(parameters_path)
    make_importable(layout.root)
    with spinner(f"prepare {case_name}"):
        module = import_module(f"telescope_pipeline.cases.{case.kind}.data")
        prepared: Prepared = module.prepare(case, parameters.run.seed)
        if not prepared.files:
            raise DataError(f"{case_name}: no data was prepared")
        card: dict[str, Any] = {
            "kind": case.kind,
            "seed": parameters.run.seed,
            "seeds": case.seeds,
            "parameters": case.model_dump(mode="json", include={"data"})["data"],
            "card": prepared.card,
            "files": {},
        }
        with files.new_folder(layout.data(case_name)) as folder:
            for stem, tensors in sorted(prepared.files.items()):
                path = folder / f"{stem}.safetensors"
                files.write_tensors(path, tensors)
                card["files"][path.name] = {
                    "sha256": files.sha256(path),
                    "tensors": {
                        name: _describe(tensor, f"{case_name}/{stem}: {name}")
                        for name, tensor in sorted(tensors.items())
                    },
                }
            files.write_json(folder / "dataset.json", card)


def _describe(tensor: Tensor, what: str) -> dict[str, Any]:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise DataError(f"{what} holds NaN or infinity")
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
