"""Registry entries of data sets that are generated or ship inside an installed package."""

from __future__ import annotations

from telescope_pipeline.study.datasets.registry import Entry

ENTRIES = (
    Entry(
        name="polynomial",
        title="Polynomial regression",
        source="generated: telescope_pipeline.study.datasets.draw_polynomial",
        licence="generated, no licence attached",
        citation="Kumar, Bordelon, Gershman and Pehlevan 2024, 'Grokking as the transition from "
        "lazy to rich training dynamics'",
        shape="any number of rows and features; one real target",
    ),
    Entry(
        name="modular_addition",
        title="Modular addition",
        source="generated: telescope_pipeline.study.datasets.modular_addition",
        licence="generated, no licence attached",
        citation="Power, Burda, Edwards, Babuschkin and Misra 2022, 'Grokking: Generalization "
        "beyond overfitting on small algorithmic datasets'",
        shape="modulus^2 rows of three tokens; modulus classes",
    ),
    Entry(
        name="mnist1d",
        title="MNIST-1D",
        source="package mnist1d: telescope_pipeline.study.datasets.generate_mnist1d",
        licence="Apache-2.0",
        citation="Greydanus and Kobak 2024, 'Scaling Down Deep Learning with MNIST-1D'",
        shape="4000 training and 1000 test signals of 40 points; 10 classes",
        classes=tuple("0123456789"),
    ),
    Entry(
        name="digits",
        title="Optical Recognition of Handwritten Digits (test part)",
        source="package scikit-learn: telescope_pipeline.study.datasets.load_digits",
        licence="CC BY 4.0",
        citation="Alpaydin and Kaynak 1998, UCI Machine Learning Repository",
        shape="1797 images of 8x8 pixels, values 0 to 16; 10 classes",
        classes=tuple("0123456789"),
    ),
)
