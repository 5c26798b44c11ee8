"""Registry entries of the tables of case study 2 (Section 4.2), and diamonds.

Columns follow the version of each table with numerical features only in the tabular benchmark
(Grinsztajn, Oyallon and Varoquaux 2022): identifiers, categories and numbers with fewer than ten
distinct values are left out.
"""

from __future__ import annotations

from telescope_pipeline.study.datasets.entry import (
    ORIGINAL,
    DataFile,
    Entry,
    Form,
    Known,
    TableFacts,
)

_FEW = "fewer than ten distinct values, left out by the benchmark"
_CATEGORY = "a category, left out by the benchmark's numerical version"

# The archive and its digest are those of scikit-learn's fetch_california_housing.
_CAL_HOUSING = Form(
    path="tabular/cal_housing.tgz",
    known=(Known("sha256", "aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681"),),
    packing="tar",
    member="CaliforniaHousing/cal_housing.data",
    layout="cal_housing",
    addresses=("https://ndownloader.figshare.com/files/5976036",),
)
_STATLIB = "StatLib, archived at https://doi.org/10.6084/m9.figshare.3829992"
_PACE = "Pace and Barry 1997, 'Sparse spatial autoregressions'"
_STATLIB_LICENCE = "none stated at StatLib; CC BY 4.0 as stated by the Figshare deposit"


def _csv(path: str, sha256: str, *addresses: str, fidelity: str = ORIGINAL) -> Form:
    known = (Known("sha256", sha256, fidelity),)
    return Form(path=f"tabular/{path}", known=known, layout="csv", addresses=addresses)


def _table(
    name: str,
    title: str,
    forms: tuple[Form, ...],
    size: int,
    facts: TableFacts,
    *,
    source: str,
    licence: str,
    citation: str,
) -> Entry:
    shape = f"{facts.rows} rows, {len(facts.features)} features"
    files = (DataFile(name, forms, size),)
    return Entry(name, title, source, licence, citation, shape, files, table=facts)


_HOUSES = _table(
    "houses",
    "California housing, raw census values",
    (
        _csv(
            "houses.csv",
            "786bbed3362cc106a1d879eb9bfc03b7ea6b8218580c9b1dd1f93bd31b04d3dd",
            fidelity="all rows and values of the original, written as CSV",
        ),
        _CAL_HOUSING,
    ),
    8_000_000,
    TableFacts(
        rows=20_640,
        target="median_house_value",
        target_unit="median house value of the block group, US dollars",
        features={
            "median_income": "median household income, 10,000 US dollars",
            "housing_median_age": "median age of the houses, years",
            "total_rooms": "number of rooms in the block group",
            "total_bedrooms": "number of bedrooms in the block group",
            "population": "number of people in the block group",
            "households": "number of households in the block group",
            "latitude": "degrees north",
            "longitude": "degrees east",
        },
        dropped={},
        log_target=True,
        openml=537,
        openml_benchmark=44138,
    ),
    source=_STATLIB,
    licence=_STATLIB_LICENCE,
    citation=_PACE,
)

_CALIFORNIA = _table(
    "california",
    "California housing, values per household",
    (
        _csv(
            "california.csv",
            "94ef369b909f5c725340b512b7c9a05c1550a554b6592d29303990e3ba521a1f",
            fidelity="computed from all rows of the original, written as CSV",
        ),
        _CAL_HOUSING,
    ),
    8_000_000,
    TableFacts(
        rows=20_640,
        target="MedHouseVal",
        target_unit="median house value of the block group, 100,000 US dollars",
        features={
            "MedInc": "median household income, 10,000 US dollars",
            "HouseAge": "median age of the houses, years",
            "AveRooms": "rooms per household",
            "AveBedrms": "bedrooms per household",
            "Population": "number of people in the block group",
            "AveOccup": "people per household",
            "Latitude": "degrees north",
            "Longitude": "degrees east",
        },
        dropped={},
        log_target=False,
        openml=None,
        openml_benchmark=44025,
    ),
    source=_STATLIB + "; columns as computed by scikit-learn's fetch_california_housing",
    licence=_STATLIB_LICENCE,
    citation=_PACE,
)

_HOUSE_SALES = _table(
    "house_sales",
    "House sales in King County, USA, May 2014 to May 2015",
    tuple(
        _csv(
            path,
            "d0875baa0251b21d4bdc9d2ae940a4fe0bb6009824f23dd0e2a5b2bf04557b7e",
            "https://raw.githubusercontent.com/karan-shah/usa-housing-dataset/master/"
            "kc_house_data.csv",
            "https://raw.githubusercontent.com/ChengLi9/kc_house_data/master/kc_house_data.csv",
        )
        for path in ("house_sales.csv", "kc_house_data.csv")
    ),
    2_515_206,
    TableFacts(
        rows=21_613,
        target="price",
        target_unit="sale price, US dollars",
        features={
            "bedrooms": "number of bedrooms",
            "bathrooms": "number of bathrooms; a quarter for each of toilet, sink, bath, shower",
            "sqft_living": "living area, square feet",
            "sqft_lot": "area of the lot, square feet",
            "grade": "construction grade of King County, 1 to 13",
            "sqft_above": "living area above ground, square feet",
            "sqft_basement": "area of the basement, square feet",
            "yr_built": "year built",
            "yr_renovated": "year of renovation, 0 if never",
            "lat": "degrees north",
            "long": "degrees east",
            "sqft_living15": "mean living area of the 15 nearest neighbours, square feet",
            "sqft_lot15": "mean area of the lots of the 15 nearest neighbours, square feet",
            "date_month": "month of the sale, from the date",
            "date_day": "day of the month of the sale, from the date",
        },
        dropped={
            "id": "an identifier",
            "date": "replaced by month and day; the year has two distinct values",
            "floors": _FEW,
            "waterfront": _FEW,
            "view": _FEW,
            "condition": _FEW,
            "zipcode": _CATEGORY,
        },
        log_target=True,
        openml=42731,
        openml_benchmark=44144,
    ),
    source="https://www.kaggle.com/datasets/harlfoxem/housesalesprediction (kc_house_data.csv), "
    "mirrored on GitHub",
    licence="CC0, as stated on Kaggle and OpenML",
    citation="harlfoxem 2016, 'House Sales in King County, USA', Kaggle",
)

# Columns of the UCI file: these statistics of these properties of the elements in the material.
_STATISTICS = {
    "mean": "mean",
    "wtd_mean": "mean weighted by proportion",
    "gmean": "geometric mean",
    "wtd_gmean": "geometric mean weighted by proportion",
    "entropy": "entropy",
    "wtd_entropy": "entropy weighted by proportion",
    "range": "range",
    "wtd_range": "range weighted by proportion",
    "std": "standard deviation",
    "wtd_std": "standard deviation weighted by proportion",
}
_PROPERTIES = {
    "atomic_mass": "atomic mass, atomic mass units",
    "fie": "first ionisation energy, kJ/mol",
    "atomic_radius": "atomic radius, pm",
    "Density": "density, kg/m^3",
    "ElectronAffinity": "electron affinity, kJ/mol",
    "FusionHeat": "heat of fusion, kJ/mol",
    "ThermalConductivity": "thermal conductivity, W/(m K)",
    "Valence": "number of valence bonds",
}
_SUPERCONDUCT_FEATURES = {
    f"{statistic}_{element_property}": f"{words} over the elements of: {meaning}"
    for element_property, meaning in _PROPERTIES.items()
    for statistic, words in _STATISTICS.items()
    if (statistic, element_property) != ("range", "Valence")
}
_SUPERCONDUCT_SHA256 = "4dfb6e3a1f6ffd969e5a5e42f093c4800d1e2a6c8b1e309f8fcd9f23d86952f3"

_SUPERCONDUCT = _table(
    "superconduct",
    "Superconductivity data (train.csv)",
    (
        _csv("superconduct.csv", _SUPERCONDUCT_SHA256),
        # The member is checked, not the archive: the repository may pack it anew.
        Form(
            path="tabular/superconduct.zip",
            known=(Known("sha256", _SUPERCONDUCT_SHA256),),
            packing="zip",
            member="train.csv",
            checked="content",
            layout="csv",
            addresses=("https://archive.ics.uci.edu/static/public/464/superconductivty+data.zip",),
        ),
    ),
    23_859_780,
    TableFacts(
        rows=21_263,
        target="critical_temp",
        target_unit="critical temperature, K",
        features=_SUPERCONDUCT_FEATURES,
        dropped={"number_of_elements": _FEW, "range_Valence": _FEW},
        log_target=False,
        openml=43174,
        openml_benchmark=44148,
    ),
    source="https://archive.ics.uci.edu/dataset/464/superconductivty+data",
    licence="CC BY 4.0",
    citation="Hamidieh 2018, 'A data-driven statistical model for predicting the critical "
    "temperature of a superconductor'",
)

_DIAMONDS_SHA256 = "9574730b03aba241d899c4a97511c5061b19358fab89510774fb6c24168345c4"

_DIAMONDS = _table(
    "diamonds",
    "Prices of round-cut diamonds",
    (
        _csv(
            "diamonds.csv",
            _DIAMONDS_SHA256,
            "https://raw.githubusercontent.com/mwaskom/seaborn-data/master/diamonds.csv",
        ),
        # Comes with the package.
        Form(
            path="tabular/diamonds.csv.xz",
            known=(Known("sha256", _DIAMONDS_SHA256),),
            packing="xz",
            checked="content",
            layout="csv",
        ),
    ),
    2_772_143,
    TableFacts(
        rows=53_940,
        target="price",
        target_unit="price, US dollars",
        features={
            "carat": "weight, carat",
            "depth": "total depth, percent of the mean diameter",
            "table": "width of the top, percent of the widest point",
            "x": "length, mm",
            "y": "width, mm",
            "z": "depth, mm",
        },
        dropped={"cut": _CATEGORY, "color": _CATEGORY, "clarity": _CATEGORY},
        log_target=True,
        openml=42225,
        openml_benchmark=44140,
    ),
    source="ggplot2, as CSV at https://github.com/mwaskom/seaborn-data",
    licence="none stated for the table; ggplot2, which ships it, is under MIT",
    citation="Wickham 2016, 'ggplot2: Elegant Graphics for Data Analysis'",
)

TABLES = (_HOUSES, _CALIFORNIA, _HOUSE_SALES, _SUPERCONDUCT, _DIAMONDS)
