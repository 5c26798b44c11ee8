"""What is known about every data set: files, addresses, checksums, licence, shape and citation."""

from __future__ import annotations

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.entry import Entry
from telescope_pipeline.study.datasets.image_entries import IMAGES
from telescope_pipeline.study.datasets.table_entries import TABLES

_GENERATED = (
    Entry(
        name="polynomial",
        title="Polynomial regression",
        source="generated: telescope_pipeline.study.datasets.polynomial",
        licence="generated, no licence attached",
        citation="Kumar, Bordelon, Gershman and Pehlevan 2024, 'Grokking as the transition from "
        "lazy to rich training dynamics'",
        shape="any number of rows and features; one real target",
    ),
    Entry(
        name="modular_addition",
        title="Modular addition",
        source="generated: telescope_pipeline.study.datasets.modular",
        licence="generated, no licence attached",
        citation="Power, Burda, Edwards, Babuschkin and Misra 2022, 'Grokking: Generalization "
        "beyond overfitting on small algorithmic datasets'",
        shape="modulus^2 rows of three tokens; modulus classes",
    ),
    Entry(
        name="mnist1d",
        title="MNIST-1D",
        source="generated: telescope_pipeline.study.datasets.mnist1d",
        licence="Apache-2.0",
        citation="Greydanus and Kobak 2024, 'Scaling Down Deep Learning with MNIST-1D'",
        shape="4000 training and 1000 test signals of 40 points; 10 classes",
        classes=tuple("0123456789"),
    ),
    Entry(
        name="digits",
        title="Optical Recognition of Handwritten Digits (test part)",
        source="package scikit-learn: telescope_pipeline.study.datasets.digits",
        licence="CC BY 4.0",
        citation="Alpaydin and Kaynak 1998, UCI Machine Learning Repository",
        shape="1797 images of 8x8 pixels, values 0 to 16; 10 classes",
        classes=tuple("0123456789"),
    ),
)

REGISTRY: dict[str, Entry] = {entry.name: entry for entry in (*IMAGES, *TABLES, *_GENERATED)}


def lookup(name: str) -> Entry:
    """Find a data set.

    Returns:
        How it is described and loaded.

    Raises:
        DataError: There is no such data set.
    """
    if name not in REGISTRY:
        raise DataError(f"no data set is called {name!r}; there are: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
