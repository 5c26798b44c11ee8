"""The tables of case study 2 (Section 4.2), with the columns of the tabular benchmark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.dataset import describe_noise
from telescope_pipeline.study.datasets.entry import Entry, TableFacts
from telescope_pipeline.study.datasets.files import Content, read_files
from telescope_pipeline.study.datasets.registry import REGISTRY, lookup

_CAL_HOUSING_COLUMNS = [
    *("longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms"),
    *("population", "households", "median_income", "median_house_value"),
]


@dataclass(frozen=True)
class Table:
    """A regression problem in a table, rows in the order of the file.

    Attributes:
        features: (rows, d), float64, one named column a feature; meanings are in the card.
        target: (rows,), float64.
        card: JSON-able description: source, files, licence, columns, counts, target.
    """

    features: pd.DataFrame
    target: pd.Series
    card: dict[str, Any]


def table(
    name: str,
    *,
    target: Literal["raw", "benchmark"] = "raw",
    folder: str | Path | None = None,
    entry: Entry | None = None,
) -> Table:
    """Load a table with the columns of the tabular benchmark (Grinsztajn et al. 2022).

    Args:
        name: ``houses``, ``california``, ``house_sales``, ``superconduct`` or ``diamonds``.
        target: ``raw`` as in the file; ``benchmark`` with the natural logarithm for those tables
            whose target the benchmark transforms (houses, house_sales, diamonds).
        folder: A folder that holds ``tabular/``; by default the one that TELESCOPE_DATA names.
        entry: Files, addresses and checksums, if not those of the registry.

    Returns:
        The table; nothing is scaled, standardised or split.

    Raises:
        DataError: There is no such table, its file is missing or damaged, or it lacks columns, rows
            or values.
        MissingDependencyError: A download is needed and pooch is not installed.
    """
    entry = entry or lookup(name)
    facts = entry.table
    if facts is None:
        tables = [known.name for known in REGISTRY.values() if known.table is not None]
        raise DataError(f"{name} is not a table; tables are: {', '.join(tables)}")
    if target not in ("raw", "benchmark"):
        raise DataError(f"target must be 'raw' or 'benchmark', got {target!r}")
    (content,) = read_files(entry, folder=folder).values()
    frame = _select(_LAYOUTS[content.form.layout](content, entry.name), facts, content.form.path)
    values = frame.pop(facts.target)
    logarithm = target == "benchmark" and facts.log_target
    if logarithm:
        if not bool((values > 0).all()):
            raise DataError(f"{content.form.path}: a target is not positive and has no logarithm")
        values = pd.Series(np.log(values.to_numpy()), index=values.index, name=values.name)
    return Table(frame, values, _card(entry, facts, content, frame, values, logarithm))


def _read_text(content: Content, header: int | None, names: list[str] | None) -> pd.DataFrame:
    """Read cells as text, since Python rounds text to the nearest float and the parser may not."""
    try:
        with warnings.catch_warnings():
            # The warning that rows are longer than the header and lose their end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.BytesIO(content.data),
                header=header,
                names=names,
                index_col=False,
                dtype=str,
                keep_default_na=False,
            )
    # ParserError, EmptyDataError and UnicodeDecodeError are ValueErrors.
    except (ValueError, pd.errors.ParserWarning) as error:
        raise DataError(f"{content.form.path} is not a readable CSV file: {error}") from error


def _numbers(frame: pd.DataFrame, path: str) -> pd.DataFrame:
    try:
        return frame.astype(np.float64)
    except ValueError as error:
        raise DataError(f"{path} holds something that is not a number: {error}") from error


def _read_csv(content: Content, name: str) -> pd.DataFrame:
    frame = _read_text(content, header=0, names=None)
    if name == "house_sales" and "date" in frame:
        dates = pd.to_datetime(frame["date"], format="%Y%m%dT%H%M%S", errors="coerce")
        frame["date_month"], frame["date_day"] = dates.dt.month, dates.dt.day
    return frame


def _read_cal_housing(content: Content, name: str) -> pd.DataFrame:
    """The archive that scikit-learn uses, in the columns of ``houses`` or of ``california``."""
    text = _read_text(content, header=None, names=_CAL_HOUSING_COLUMNS)
    raw = _numbers(text, content.form.path)
    return per_household(raw) if name == "california" else raw


def per_household(raw: pd.DataFrame) -> pd.DataFrame:
    """Compute the columns of ``california`` from the raw census values of ``houses``.

    Args:
        raw: (rows, 9), the features and the target of ``houses``.

    Returns:
        (rows, 9), the features and the target of ``california``, by the formulas of scikit-learn's
        ``fetch_california_housing``.
    """
    return pd.DataFrame(
        {
            "MedInc": raw["median_income"],
            "HouseAge": raw["housing_median_age"],
            "AveRooms": raw["total_rooms"] / raw["households"],
            "AveBedrms": raw["total_bedrooms"] / raw["households"],
            "Population": raw["population"],
            "AveOccup": raw["population"] / raw["households"],
            "Latitude": raw["latitude"],
            "Longitude": raw["longitude"],
            "MedHouseVal": raw["median_house_value"] / 100_000.0,
        }
    )


_LAYOUTS: dict[str, Callable[[Content, str], pd.DataFrame]] = {
    "csv": _read_csv,
    "cal_housing": _read_cal_housing,
}


def _select(frame: pd.DataFrame, facts: TableFacts, path: str) -> pd.DataFrame:
    wanted = [*facts.features, facts.target]
    absent = [column for column in wanted if column not in frame]
    unknown = [column for column in frame if column not in {*wanted, *facts.dropped}]
    if absent or unknown:
        raise DataError(
            f"{path} is another table: it lacks the columns {absent} and has the unknown columns "
            f"{unknown}"
        )
    if len(frame) != facts.rows:
        raise DataError(f"{path} has {len(frame)} rows; {facts.rows} expected")
    numbers = _numbers(frame[wanted], path)
    if not np.isfinite(numbers.to_numpy()).all():
        raise DataError(f"{path} has missing or infinite values")
    return numbers


def _card(
    entry: Entry,
    facts: TableFacts,
    content: Content,
    features: pd.DataFrame,
    target: pd.Series,
    logarithm: bool,
) -> dict[str, Any]:
    values = target.to_numpy()
    return entry.card() | {
        "openml": facts.openml,
        "openml_benchmark": facts.openml_benchmark,
        "files": [content.record()],
        "fidelity": content.known.fidelity,
        "task": "regression",
        "rows": len(features),
        "features": dict(facts.features),
        "dropped": dict(facts.dropped),
        "target": {
            "name": facts.target,
            "meaning": facts.target_unit,
            "transform": "natural logarithm" if logarithm else "none",
            "mean": round(float(values.mean()), 6),
            "std": round(float(values.std()), 6),
        },
        "normalisation": "none",
        "label_noise": describe_noise(),
    }
