"""The registry is complete and consistent."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.entry import ORIGINAL, Known
from telescope_pipeline.study.datasets.registry import REGISTRY, lookup

HEX_DIGITS = {"md5": 32, "sha256": 64, "git-blob": 40}


def test_all_data_sets_are_listed() -> None:
    assert set(REGISTRY) == {
        "california",
        "cifar10",
        "diamonds",
        "digits",
        "house_sales",
        "houses",
        "mnist",
        "mnist1d",
        "modular_addition",
        "polynomial",
        "superconduct",
        "svhn",
    }
    json.dumps({name: asdict(entry) for name, entry in REGISTRY.items()}, default=dict)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_entry_says_what_a_card_needs(name: str) -> None:
    entry = lookup(name)
    assert entry.name == name
    assert all((entry.title, entry.source, entry.licence, entry.citation, entry.shape))
    names = [file.name for file in entry.files]
    assert len(set(names)) == len(names)
    for file in entry.files:
        assert file.size > 0
        assert any(form.addresses for form in file.forms)
        for form in file.forms:
            assert not Path(form.path).is_absolute()
            assert ".." not in form.path
            assert form.known
            assert bool(form.member) == (form.packing in ("tar", "zip"))
            assert all(re.match(r"https?://\S+$", address) for address in form.addresses)
            for known in form.known:
                assert re.fullmatch(rf"[0-9a-f]{{{HEX_DIGITS[known.algorithm]}}}", known.digest)


def test_only_original_content_is_ever_downloaded() -> None:
    for entry in REGISTRY.values():
        for file in entry.files:
            for form in file.forms:
                if form.addresses:
                    assert {known.fidelity for known in form.known} == {ORIGINAL}


def test_no_two_files_share_a_checksum() -> None:
    digests = [
        {known.digest for form in file.forms if not form.member for known in form.known}
        for entry in REGISTRY.values()
        for file in entry.files
    ]
    assert len(set().union(*digests)) == sum(map(len, digests))


def test_digests_are_those_of_the_usual_tools(tmp_path: Path) -> None:
    data = b"telescope\n"
    path = tmp_path / "file"
    path.write_bytes(data)
    tools = {"md5": ["md5sum"], "sha256": ["sha256sum"], "git-blob": ["git", "hash-object"]}
    for algorithm, command in tools.items():
        printed = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
        digest = printed.stdout.split()[0]
        known = Known(algorithm, digest)  # type: ignore[arg-type]
        assert known.matches(data)
        assert not known.matches(data + b"\n")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no data set is called 'cifar'; .*cifar10"):
        lookup("cifar")
