"""Projects with made-up results, in the format the stages leave them in."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.store.files import write_json, write_parquet, write_tensors

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_STEPS = (0, 1, 10, 250)

CLAIMS: list[dict[str, Any]] = [
    {
        "id": "peak",
        "statement": "Test error has a peak.",
        "source": "Section 4.1, Fig. 3",
        "observed": {
            "peak_minus_widest": {"value": 0.06293635530776051, "stderr": 0.02332024858072736},
            "peak_width": 30,
        },
        "threshold": {"standard_errors": 2.0},
        "holds": True,
    },
    {
        "id": "gap-widens",
        "statement": "The gap widens.",
        "source": "Section 4.1",
        "observed": {"widening": None, "steps": {"2-5": {"value": -1.5, "stderr": 0.5}}},
        "threshold": {"minimum": 0.0},
        "holds": False,
    },
]


@dataclass
class ResultsProject:
    """A folder with parameters and results.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def parameters_path(self) -> Path:
        return self.root / "params.yaml"

    @property
    def parameters(self) -> Parameters:
        return load_parameters(self.parameters_path)

    def results(self, case: str = "wide") -> Path:
        return self.root / "results" / case

    def history(self, case: str = "wide") -> pd.DataFrame:
        return pd.read_parquet(self.results(case) / "history.parquet")

    def configure(self, **tracking: Any) -> None:
        """Change settings in the section ``tracking``."""
        self.edit(lambda content: content["tracking"].update(tracking))

    def edit(self, change: Any) -> None:
        """Change the parameter file."""
        yaml = YAML(typ="safe", pure=True)
        content = yaml.load(self.parameters_path.read_text())
        change(content)
        self.parameters_path.write_text(json.dumps(content))

    def run_folders(self) -> list[Path]:
        """The run folders of the tracker."""
        return sorted((self.root / "wandb").glob("*run-*"))


def build(root: Path) -> ResultsProject:
    """Write a project with a sweep over widths, ``wide``, and a case without sweep, ``plain``."""
    root.mkdir(parents=True)
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((_REPOSITORY / "params.yaml").read_text())
    wide = copy.deepcopy(content["cases"]["double_descent"])
    wide["seeds"] = 2
    wide["model"]["widths"] = [2, 30]
    plain = copy.deepcopy(content["cases"]["modular_addition"])
    plain["seeds"] = 1
    content["cases"] = {"wide": wide, "plain": plain}
    content["tracking"] = {
        "tracker": "wandb",
        "project": "testing",
        "entity": None,
        "mode": "offline",
        "tags": ["first", "second"],
    }
    (root / "params.yaml").write_text(json.dumps(content))
    project = ResultsProject(root)
    sweep = [{"width": 2}, {"width": 30}]
    write_case(project, "wide", [(f"width-{v['width']:04d}", v) for v in sweep], seeds=2)
    write_case(project, "plain", [("all", {})], seeds=1)
    return project


def write_case(
    project: ResultsProject, case: str, groups: list[tuple[str, dict[str, Any]]], seeds: int
) -> None:
    """Write ``data/``, ``runs/`` and ``results/`` of one case."""
    data = project.root / "data" / case
    write_tensors(data / "shared.safetensors", {"x": torch.arange(12.0).reshape(3, 4)})
    write_json(data / "dataset.json", {"kind": case, "card": {"rows": 3}})
    frames = []
    for number, (group, values) in enumerate(groups):
        for seed in range(seeds):
            member = f"{group}_seed-{seed}"
            history = member_history(number, seed)
            folder = project.root / "runs" / case / member
            write_parquet(folder / "history.parquet", history)
            write_tensors(folder / "final.safetensors", {"w": torch.full((5,), float(seed))})
            write_json(folder / "manifest.json", {"member": member, "seed": seed})
            identity = pd.DataFrame(
                {"member": member, "group": group, "seed": seed, **values}, index=history.index
            )
            frames.append(pd.concat([identity, history], axis=1))
    results = project.results(case)
    write_parquet(results / "history.parquet", pd.concat(frames, ignore_index=True))
    write_json(
        results / "metrics.json",
        {"peak_width": 30, "width": {"0002": {"test_mse": 0.1, "test_mse_stderr": 1 / 3}}},
    )
    write_json(results / "claims.json", CLAIMS)
    write_figures(results)


def member_history(group: int, seed: int) -> pd.DataFrame:
    """Numbers that are hard to write down: thirds, tiny and huge ones, and a NaN."""
    steps = np.array(_STEPS, dtype=np.int64)
    count = len(steps)
    noise = np.random.default_rng([group, seed]).normal(size=count)
    missing = noise.copy()
    missing[1] = math.nan
    if seed == 0:
        missing[2] = math.nan
    return pd.DataFrame(
        {
            "step": steps,
            "train/mse": 1 / (3 + steps + seed) + group,
            "test/mse": np.exp(noise) * 1e-12,
            "test/effective_parameters": 1e9 / 7 + noise,
            "test/effective_parameters_stderr": np.abs(noise) + 0.1,
            "test/sometimes": missing,
        }
    )


def write_figures(results: Path) -> None:
    """Draw two pictures and write their tables and descriptions."""
    plots = results / "plots"
    plots.mkdir(parents=True)
    figures = []
    for name, title in (("error", "Error"), ("parameters", "Effective parameters")):
        picture = Image.new("RGBA", (180, 120), "white")
        ImageDraw.Draw(picture).line([(10, 110), (90, 60), (170, 10 + len(name))], "blue", 2)
        picture.save(plots / f"{name}.png")
        table = pd.DataFrame(
            {
                "width": [2, 30],
                "label": ["a", 'b, "c"'],
                "mse": [1 / 3, math.nan],
                "ok": [True, False],
            }
        )
        table.to_csv(plots / f"{name}.csv", index=False, lineterminator="\n")
        caption = f"{title} over steps."
        chart = {
            "datasets": {"panel1": "line,x,y\nl0,2,0.5\nl0,30,0.25\n"},
            "data": {"name": "panel1", "format": {"type": "csv"}},
            "mark": "line",
            "encoding": {axis: {"field": axis, "type": "quantitative"} for axis in ("x", "y")},
        }
        figures.append({"name": name, "title": title, "caption": caption, "chart": chart})
    question = "Why does it fall?"
    write_json(results / "figures.json", {"question": question, "figures": figures})
