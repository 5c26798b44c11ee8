"""What a tracker keeps, read with its library's own reader into one form."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WORDS = {"nan": math.nan, "infinity": math.inf, "inf": math.inf}
_WORDS |= {"-infinity": -math.inf, "-inf": -math.inf}


@dataclass
class ReadBack:
    """A run as it was read.

    Attributes:
        finished: Whether the tracker calls it complete.
        name: What people read.
        config: Nested settings, without what the tracker adds.
        history: Steps and values by name.
        summary: Values that describe the run as a whole.
        pictures: Bytes and caption by key.
        tables: Columns and rows by key.
        artifacts: Bytes by artifact and by file.
    """

    finished: bool
    name: str
    config: Any
    history: dict[str, list[tuple[int, float]]]
    summary: dict[str, Any]
    pictures: dict[str, tuple[bytes, str | None]] = field(default_factory=dict)
    tables: dict[str, tuple[list[str], list[list[Any]]]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)


def number(value: Any) -> Any:
    """Read the words for numbers that are not finite."""
    return _WORDS.get(value.lower(), value) if isinstance(value, str) else value


def jsonl(root: Path, project: str, run_id: str) -> ReadBack:
    (folder,) = (root / "jsonl" / project).glob(f"*.{run_id}")
    about = _strict(folder / "run.json")
    history: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "history.jsonl").read_text().splitlines():
        row = json.loads(line)
        step = row.pop(about["step_key"])
        for name, value in row.items():
            history.setdefault(name, []).append((step, number(value)))
    pictures = about["pictures"]
    tables = {path: _strict(path) for path in (folder / "tables").rglob("*.json")}
    return ReadBack(
        about["state"] == "finished",
        about["name"],
        about["config"],
        history,
        _numbers(_strict(folder / "summary.json")),
        {k: ((folder / p["file"]).read_bytes(), p["caption"]) for k, p in pictures.items()},
        {_key(folder / "tables", p): (t["columns"], t["rows"]) for p, t in tables.items()},
        _copies(folder, about),
    )


def dvclive(root: Path, project: str, run_id: str) -> ReadBack:
    from dvclive import Live
    from dvclive.serialize import load_yaml
    from dvclive.utils import parse_metrics

    (folder,) = (root / "dvclive" / project).glob(f"*.{run_id}")
    about = json.loads((folder / "run.json").read_text())
    live = Live(str(folder), resume=True, save_dvc_exp=False, dvcyaml=None)
    files, latest = parse_metrics(live)
    latest.pop("step", None)
    metrics = folder / "plots" / "metrics"
    history = {
        _key(metrics, Path(path)): [(int(row["step"]), float(row[Path(path).stem])) for row in rows]
        for path, rows in files.items()
    }
    plots = {p: json.loads(p.read_text()) for p in (folder / "plots" / "custom").rglob("*.json")}
    images = folder / "plots" / "images"
    return ReadBack(
        about["state"] == "finished",
        about["name"],
        load_yaml(live.params_file),
        history,
        _numbers({key: value for key, value in latest.items() if key not in history}),
        {
            _key(images, p): (p.read_bytes(), about["captions"][_key(images, p)])
            for p in images.rglob("*.png")
        },
        {
            _key(folder / "plots" / "custom", path): (
                list(points[0]),
                [list(point.values()) for point in points],
            )
            for path, points in plots.items()
        },
        _copies(folder, about),
    )


def mlflow(root: Path, project: str, run_id: str) -> ReadBack:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(project)
    found = client.search_runs([experiment.experiment_id], f"tags.`telescope.id` = '{run_id}'")
    (run,) = found
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    summary = {name: rows for name, rows in history.items() if name.startswith("summary/")}
    with_types = _strict(_fetched(client, run, "summary.json"))
    for name, ((_, value),) in summary.items():
        assert same(value, number(with_types[name.removeprefix("summary/")]), mlflow=True)
    pictures = _tree(client, run, "pictures")
    tables = {k: json.loads(v) for k, v in _tree(client, run, "tables").items()}
    kept = _tree(client, run, "artifacts")
    artifacts: dict[str, dict[str, bytes]] = {}
    for name, content in kept.items():
        artifact, _, file = name.partition("/")
        if file:
            artifacts.setdefault(artifact, {})[file] = content
    return ReadBack(
        run.info.status == "FINISHED",
        run.info.run_name,
        _strict(_fetched(client, run, "config.json")),
        {name: rows for name, rows in history.items() if name not in summary},
        _numbers(with_types),
        {
            name.rpartition(".")[0]: (
                content,
                run.data.tags.get(f"caption.{name.rpartition('.')[0]}"),
            )
            for name, content in pictures.items()
        },
        {k.removesuffix(".json"): (t["columns"], t["data"]) for k, t in tables.items()},
        artifacts,
    )


def tensorboard(root: Path, project: str, run_id: str) -> ReadBack:
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (folder,) = (root / "tensorboard" / project).glob(f"*.{run_id}")
    about = json.loads((folder / "run.json").read_text())
    events = EventAccumulator(str(folder), size_guidance={TENSORS: 0})
    events.Reload()
    history, pictures, texts = {}, {}, {}
    for tag in events.Tags()["tensors"]:
        metadata = events.SummaryMetadata(tag)
        kind = metadata.plugin_data.plugin_name
        rows = [(event.step, make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if kind == "scalars":
            history[tag] = [(step, value.item()) for step, value in rows]
        elif kind == "images":
            pictures[tag] = rows[-1][1][2], metadata.summary_description
        else:
            texts[tag] = rows[-1][1].item().decode()
    unfenced = {k: json.loads(texts.pop(k)[4:-4]) for k in ("config", "summary")}
    return ReadBack(
        about["state"] == "finished",
        about["name"],
        unfenced["config"],
        history,
        _numbers(unfenced["summary"]),
        pictures,
        {tag: _markdown(text) for tag, text in texts.items()},
        _copies(folder, about),
    )


def trackio(root: Path, project: str, run_id: str) -> ReadBack:
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import MEDIA_DIR

    assert Path(MEDIA_DIR).is_relative_to(root)
    (run,) = [run for run in Api().runs(project) if run.name.endswith(f".{run_id}")]
    config = {key: value for key, value in run.config.items() if not key.startswith("_")}
    assert run.config["_Username"] is None
    assert config.pop("telescope")["id"] == run_id
    *rows, last = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    history: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        step = row.pop("step")
        row.pop("timestamp")
        for name, value in row.items():
            history.setdefault(name, []).append((step, number(value)))
    pictures = {k: v for k, v in last.items() if _type(v) == "trackio.image"}
    tables = {k: v["_value"] for k, v in last.items() if _type(v) == "trackio.table"}
    artifacts: dict[str, dict[str, bytes]] = {}
    for link in SQLiteStorage.get_run_artifacts(project, run.name, run.id)["output"]:
        artifacts[link["name"]] = _blobs(project, link)
    return ReadBack(
        "telescope/content" in last,
        run.name.removesuffix(f".{run_id}"),
        config,
        history,
        _numbers(
            {
                key.removeprefix("summary/"): value
                for key, value in last.items()
                if key.startswith("summary/")
            }
        ),
        {k: ((MEDIA_DIR / p["file_path"]).read_bytes(), p["caption"]) for k, p in pictures.items()},
        {k: (list(t[0]), [list(row.values()) for row in t]) for k, t in tables.items()},
        artifacts,
    )


def wandb(root: Path, project: str, run_id: str) -> ReadBack:
    from support.wandb_reader import read_run

    (folder,) = (root / project / "wandb").glob(f"offline-run-*-{run_id}")
    run = read_run(folder)
    until = time.monotonic() + 10
    while not run.ended and time.monotonic() < until:
        # The client says that it is done a little early.
        time.sleep(0.05)
        run = read_run(folder)
    assert run.about.project == project
    media = {k: v for row in run.history for k, v in row.items() if isinstance(v, dict)}
    history: dict[str, list[tuple[int, float]]] = {}
    for row in run.history:
        step = row.pop("step", None)
        for name, value in row.items():
            if name not in media:
                history.setdefault(name, []).append((step, number(value)))
    tables = {k: v for k, v in media.items() if v["_type"] == "table-file"}
    read = {k: json.loads((folder / "files" / v["path"]).read_text()) for k, v in tables.items()}
    return ReadBack(
        run.ended,
        run.about.display_name,
        run.config,
        history,
        # The client adds the last row.
        _numbers({k: v for k, v in run.summary.items() if k not in {*media, *history, "step"}}),
        {
            k: ((folder / "files" / v["path"]).read_bytes(), v["caption"])
            for k, v in media.items()
            if v["_type"] == "image-file"
        },
        {k: (t["columns"], t["data"]) for k, t in read.items()},
        {
            a.name: {e.path: Path(e.local_path).read_bytes() for e in a.manifest.contents}
            for a in run.artifacts
            if a.type == "kind"
        },
    )


def shelf(root: Path, project: str, run_id: str) -> ReadBack:
    kept = sys.modules["shelf_tracker"].SHELF[project][run_id]
    history: dict[str, list[tuple[int, float]]] = {}
    for step, row in kept["rows"]:
        for name, value in row.items():
            if name != "step":
                history.setdefault(name, []).append((step, value))
    return ReadBack(
        kept["finished"],
        kept["about"].name,
        kept["about"].config,
        history,
        kept["summary"],
        kept["pictures"],
        kept["tables"],
        kept["artifacts"],
    )


READERS: dict[str, Callable[[Path, str, str], ReadBack]] = {
    reader.__name__: reader
    for reader in (dvclive, jsonl, mlflow, shelf, tensorboard, trackio, wandb)
}


def same(read: Any, told: Any, mlflow: bool = False) -> bool:
    """Compare numbers to the last bit; MLflow's database has no infinities."""
    if isinstance(told, float) and math.isnan(told):
        return isinstance(read, float) and math.isnan(read)
    if mlflow and told in (math.inf, -math.inf):
        return bool(read == math.copysign(sys.float_info.max, told))
    return bool(read == told) and isinstance(read, bool) == isinstance(told, bool)


def pixels(content: bytes) -> tuple[tuple[int, int], bytes]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        return picture.size, picture.convert("RGBA").tobytes()


def _strict(path: Path) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{path} holds {word}, which is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return {key: number(value) for key, value in values.items()}


def _key(root: Path, path: Path) -> str:
    relative = path.relative_to(root)
    return relative.with_name(relative.name.rpartition(".")[0]).as_posix()


def _copies(folder: Path, about: dict[str, Any]) -> dict[str, dict[str, bytes]]:
    return {
        name: {file: (folder / path).read_bytes() for file, path in kept["files"].items()}
        for name, kept in about["artifacts"].items()
    }


def _fetched(client: Any, run: Any, path: str) -> Path:
    return Path(client.download_artifacts(run.info.run_id, path))


def _tree(client: Any, run: Any, folder: str) -> dict[str, bytes]:
    if folder not in {entry.path for entry in client.list_artifacts(run.info.run_id)}:
        return {}
    root = _fetched(client, run, folder)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _markdown(text: str) -> tuple[list[str], list[list[Any]]]:
    head, _, *lines = [_cells(line) for line in text.splitlines()]
    return head, [[_typed(cell) for cell in line] for line in lines]


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [cell.strip().replace("\\|", "|").replace("\\\\", "\\") for cell in cells]


def _typed(cell: str) -> Any:
    words: dict[str, Any] = {"": None, "True": True, "False": False}
    if cell in words:
        return words[cell]
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _type(value: Any) -> str | None:
    return value.get("_type") if isinstance(value, dict) else None


def _blobs(project: str, link: dict[str, Any]) -> dict[str, bytes]:
    from trackio import cas
    from trackio.sqlite_storage import SQLiteStorage

    spec = f"v{link['version']}"
    found = SQLiteStorage.get_artifact_manifest(project, link["name"], spec)
    assert found is not None
    return {
        entry["path"]: Path(cas.blob_path(project, entry["digest"])).read_bytes()
        for entry in found["manifest"]
    }
