"""Tables: documented columns with the values of the file, and a target that says what it is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.entry import Known
from telescope_pipeline.study.datasets.registry import lookup
from telescope_pipeline.study.datasets.tabular import table

HOUSES = """\
median_house_value,median_income,housing_median_age,total_rooms,total_bedrooms,population,\
households,latitude,longitude
452600,8.3252,41,880,129,322,126,37.88,-122.23
358500,8.3014,21,7099,1106,2401,1138,37.86,-122.22
"""
SALES = """\
id,date,price,bedrooms,bathrooms,sqft_living,sqft_lot,floors,waterfront,view,condition,grade,\
sqft_above,sqft_basement,yr_built,yr_renovated,zipcode,lat,long,sqft_living15,sqft_lot15
"7129300520","20141013T000000",221900,3,1,1180,5650,"1",0,0,3,7,1180,0,1955,0,"98178",47.5112,\
-122.257,1340,5650
"6414100192","20150209T000000",538000,3,2.25,2570,7242,"2",0,0,3,7,2170,400,1951,1991,"98125",\
47.721,-122.319,1690,7639
"""
# As in the archive: longitude, latitude, age, rooms, bedrooms, people, households, income, value.
CAL_HOUSING = """\
-122.230000,37.880000,41.000000,880.000000,129.000000,322.000000,126.000000,8.325200,452600.000000
-122.220000,37.860000,21.000000,7099.000000,1106.000000,2401.000000,1138.000000,8.301400,358500.0
"""


def _with_rows(made: Any, rows: int = 2) -> Any:
    made.entry = replace(made.entry, table=replace(made.entry.table, rows=rows))
    return made


def _put(tiny: Callable[[str], Any], name: str, text: str) -> Any:
    made = _with_rows(tiny(name))
    made.put(name, text.encode())
    return made


def test_houses_has_the_values_of_the_file(tiny: Callable[[str], Any]) -> None:
    made = _put(tiny, "houses", HOUSES)
    houses = table("houses", folder=made.folder, entry=made.entry)
    assert list(houses.features) == list(made.entry.table.features)
    assert houses.features.iloc[1].tolist() == [8.3014, 21, 7099, 1106, 2401, 1138, 37.86, -122.22]
    assert houses.target.tolist() == [452600.0, 358500.0]
    assert houses.target.name == "median_house_value"
    assert set(map(str, houses.features.dtypes)) == {"float64"}


def test_the_logarithm_is_taken_where_the_benchmark_takes_it(tiny: Callable[[str], Any]) -> None:
    made = _put(tiny, "houses", HOUSES)
    houses = table("houses", target="benchmark", folder=made.folder, entry=made.entry)
    assert houses.target.tolist() == pytest.approx([math.log(452600), math.log(358500)])
    assert houses.card["target"]["transform"] == "natural logarithm"
    made.entry = replace(made.entry, table=replace(made.entry.table, log_target=False))
    houses = table("houses", target="benchmark", folder=made.folder, entry=made.entry)
    assert houses.target.tolist() == [452600.0, 358500.0]
    assert houses.card["target"]["transform"] == "none"
    assert {name: lookup(name).table.log_target for name in TABLES} == {  # type: ignore[union-attr]
        "houses": True,
        "california": False,
        "house_sales": True,
        "superconduct": False,
        "diamonds": True,
    }


TABLES = ("houses", "california", "house_sales", "superconduct", "diamonds")


def test_house_sales_drops_identifiers_and_keeps_month_and_day(tiny: Callable[[str], Any]) -> None:
    made = _put(tiny, "house_sales", SALES)
    sales = table("house_sales", folder=made.folder, entry=made.entry)
    assert sales.features.shape == (2, 15)
    assert not {"id", "date", "price", "zipcode"} & set(sales.features)
    assert sales.features["date_month"].tolist() == [10, 2]
    assert sales.features["date_day"].tolist() == [13, 9]
    assert sales.features["bathrooms"].tolist() == [1, 2.25]
    assert sales.target.tolist() == [221900, 538000]
    assert set(sales.card["dropped"]) == {
        "id", "date", "floors", "waterfront", "view", "condition", "zipcode"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["houses", "california"])
def test_both_housing_tables_come_from_the_official_archive(
    tiny: Callable[[str], Any], tar_gz_of: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    made = _with_rows(tiny(name))
    form = made.file(name).forms[1]
    path = made.folder / form.path
    path.parent.mkdir()
    path.write_bytes(tar_gz_of({"CaliforniaHousing/cal_housing.data": CAL_HOUSING.encode()}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made.replace(name, (replace(form, known=(Known("sha256", digest),)),))
    loaded = table(name, folder=made.folder, entry=made.entry)
    expected = {
        "houses": [8.3252, 41, 880, 129, 322, 126, 37.88, -122.23],
        "california": [8.3252, 41, 880 / 126, 129 / 126, 322, 322 / 126, 37.88, -122.23],
    }[name]
    assert loaded.features.iloc[0].tolist() == expected
    assert (
        loaded.target.tolist()
        == {
            "houses": [452600.0, 358500.0],
            "california": [4.526, 3.585],
        }[name]
    )


def test_superconduct_has_the_79_numerical_features_of_the_benchmark(
    tiny: Callable[[str], Any],
) -> None:
    facts = lookup("superconduct").table
    assert facts is not None
    assert len(facts.features) == 79
    columns = ["number_of_elements", *facts.features, "range_Valence", "critical_temp"]
    rows = [[float(i * 100 + j) for j in range(len(columns))] for i in range(2)]
    text = "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    made = _put(tiny, "superconduct", text)
    loaded = table("superconduct", folder=made.folder, entry=made.entry)
    assert loaded.features.iloc[1].tolist() == rows[1][1:80]
    assert loaded.target.tolist() == [81.0, 181.0]


def test_the_card_is_json_and_documents_every_column(tiny: Callable[[str], Any]) -> None:
    made = _put(tiny, "houses", HOUSES)
    houses = table("houses", folder=made.folder, entry=made.entry)
    card = json.loads(json.dumps(houses.card))
    assert list(card["features"]) == list(houses.features)
    assert all(card["features"].values())
    assert card["target"]["mean"] == pytest.approx(405550)
    assert card["target"]["std"] == pytest.approx(47050)
    assert card["rows"] == 2
    assert card["openml"] == 537
    assert card["files"][0]["path"] == "tabular/houses.csv"
    assert str(made.folder) not in json.dumps(card)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HOUSES.replace("population", "people"), r"lacks the columns \['population'\].*'people'"),
        (HOUSES + HOUSES.splitlines()[1] + "\n", "has 3 rows; 2 expected"),
        (HOUSES.replace("8.3252", "high"), "not a number"),
        (HOUSES.replace("8.3252", ""), "not a number"),
        (HOUSES.replace("8.3252", "inf"), "missing or infinite"),
        (HOUSES.replace("8.3252", "nan"), "missing or infinite"),
        (HOUSES.replace("8.3252", "8.3,252"), "not a readable CSV file"),
        ("", "not a readable CSV file"),
        ("\x00\x01<html>", "another table"),
    ],
)
def test_refuses_other_tables(tiny: Callable[[str], Any], text: str, message: str) -> None:
    made = _put(tiny, "houses", text)
    with pytest.raises(DataError, match=message):
        table("houses", folder=made.folder, entry=made.entry)


def test_refuses_bytes_that_are_not_text(tiny: Callable[[str], Any]) -> None:
    made = _with_rows(tiny("houses"))
    made.put("houses", HOUSES.encode() + b"\xff\xfe,1\n")
    with pytest.raises(DataError, match="not a readable CSV file"):
        table("houses", folder=made.folder, entry=made.entry)


def test_refuses_the_logarithm_of_what_is_not_positive(tiny: Callable[[str], Any]) -> None:
    made = _put(tiny, "houses", HOUSES.replace("452600", "0"))
    with pytest.raises(DataError, match="has no logarithm"):
        table("houses", target="benchmark", folder=made.folder, entry=made.entry)


def test_refuses_names_that_are_not_tables(tiny: Callable[[str], Any]) -> None:
    with pytest.raises(DataError, match="mnist is not a table; tables are: houses, california"):
        table("mnist")
    with pytest.raises(DataError, match="no data set is called 'house'"):
        table("house")
    made = _put(tiny, "houses", HOUSES)
    with pytest.raises(DataError, match="'raw' or 'benchmark', got 'log'"):
        table("houses", target="log", folder=made.folder, entry=made.entry)  # type: ignore[arg-type]
