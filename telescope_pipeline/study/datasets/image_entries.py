"""Registry entries of the image data sets.

MD5 digests and addresses of MNIST and SVHN are those of torchvision; the MD5 of the CIFAR-10
archive is the one on its home page.
"""

from __future__ import annotations

from telescope_pipeline.study.datasets.entry import DataFile, Entry, Form, Known

_DIGITS = tuple("0123456789")
_OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_SVHN_HOME = "http://ufldl.stanford.edu/housenumbers/"
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

JPEG = (
    "JPEG re-encoded, not the original pixels: quality 75, 4:2:0 chroma subsampling; labels and "
    "order as in the original; RMSE 8.1/255 against the first 4000 original images"
)


def _mnist(name: str, size: int, packed_md5: str, plain_sha256: str) -> DataFile:
    packed = Form(
        path=f"mnist/{name}.gz",
        known=(Known("md5", packed_md5),),
        packing="gzip",
        addresses=(f"{_MNIST_MIRROR}{name}.gz",),
    )
    plain = Form(path=f"mnist/{name}", known=(Known("sha256", plain_sha256),))
    return DataFile(name, (packed, plain), size)


def _cifar10(name: str, blob: str, jpeg_sha256: str) -> DataFile:
    path = f"cifar-10-batches-bin/{name}.bin"
    known = (Known("git-blob", blob), Known("sha256", jpeg_sha256, JPEG))
    archive = Form(
        path=_CIFAR_ARCHIVE,
        known=(Known("md5", _CIFAR_MD5),),
        packing="tar",
        member=path,
        addresses=(f"https://www.cs.toronto.edu/~kriz/{_CIFAR_ARCHIVE}",),
    )
    packed = Form(path=f"{path}.xz", known=known, packing="xz", checked="content")
    return DataFile(name, (Form(path=path, known=known), packed, archive), 10_000 * 3_073)


def _svhn(name: str, size: int, md5: str) -> DataFile:
    file = f"{name}_32x32.mat"
    form = Form(path=f"svhn/{file}", known=(Known("md5", md5),), addresses=(f"{_SVHN_HOME}{file}",))
    return DataFile(name, (form,), size)


_CIFAR_FILES = {
    "data_batch_1": (
        "da09f891072747be90e69e4f00ba7cba870dc87e",
        "8da035fc1631e8ce5f25904206b8993b0f3ad02a504c0584d662e806fd76c12b",
    ),
    "data_batch_2": (
        "7e958840b7a55df3353574298ebc9ca0e4bba48e",
        "106eeaad9f1fa7a999292fdafe68ee909080f58aee038a76994035aedf40ba26",
    ),
    "data_batch_3": (
        "5259a3e9674ffdf2d5c33a1067f7192ff06c9e2f",
        "99cb88ba00fca88bf28c517a74307b6b78a346c6ea747a561cb8e660c787d5cb",
    ),
    "data_batch_4": (
        "301e7d16d78428f13262e87a5bc78ed45b8224aa",
        "76b482bc3bb79c0370e48ea71bb6e4f567a3770d224dc09a9ddc8cfa2369f294",
    ),
    "data_batch_5": (
        "51fe428dfbdd065852912743ae8b7b63bb1e9d8d",
        "490f5ead4f04a3eb71d5898eb551e0d8d2c592feb778fb9b109a006b3f231495",
    ),
    "test_batch": (
        "e3f3b4653f18f27ada1558cabc3352a3ed1b25cc",
        "0ce179d0c0a5220739d6223197952896644ceabb648dacfdebd7f06789af543f",
    ),
}

IMAGES = (
    Entry(
        name="mnist",
        title="MNIST handwritten digits",
        source="http://yann.lecun.com/exdb/mnist/, mirrored at " + _MNIST_MIRROR,
        licence="none stated at the source; commonly given as CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio and Haffner 1998, 'Gradient-based learning applied to "
        "document recognition'",
        shape="60000 training and 10000 test images, 28x28 gray; 10 classes",
        files=(
            _mnist(
                "train-images-idx3-ubyte",
                47_040_016,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _mnist(
                "train-labels-idx1-ubyte",
                60_008,
                "d53e105ee54ea40749a09fcbcd1e9432",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            _mnist(
                "t10k-images-idx3-ubyte",
                7_840_016,
                "9fb629c4189551a2d022fa330f9573f3",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _mnist(
                "t10k-labels-idx1-ubyte",
                10_008,
                "ec29112dd5afa0611ce80d1b7f02629c",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        classes=_DIGITS,
    ),
    Entry(
        name="cifar10",
        title="CIFAR-10 (binary version)",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; research use, cite the technical report",
        citation="Krizhevsky 2009, 'Learning Multiple Layers of Features from Tiny Images'",
        shape="50000 training and 10000 test images, 32x32 RGB; 10 classes",
        files=tuple(_cifar10(name, *digests) for name, digests in _CIFAR_FILES.items()),
        classes=_OBJECTS,
    ),
    Entry(
        name="svhn",
        title="Street View House Numbers, cropped digits",
        source=_SVHN_HOME,
        licence="non-commercial use only, as stated at the source",
        citation="Netzer, Wang, Coates, Bissacco, Wu and Ng 2011, 'Reading Digits in Natural "
        "Images with Unsupervised Feature Learning'",
        shape="73257 training and 26032 test images, 32x32 RGB; 10 classes",
        files=(
            _svhn("train", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            _svhn("test", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        ),
        classes=_DIGITS,
    ),
)
