"""The benchmarks measure what they say, on sizes that take no time."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture
def benchmarks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = repository / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("TELESCOPE_DATA", raising=False)
    return folder


@pytest.fixture
def timing(benchmarks: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = importlib.import_module("tangent_kernel")
    monkeypatch.setattr(module, "_WARM_UP", 0)
    monkeypatch.setattr(module, "_ROUNDS", 1)
    return module


def _impostor(folder: Path, code: str) -> str:
    """An interpreter that runs ``code`` whatever it is asked to."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_figures_without_neural_tangents(timing: ModuleType, tmp_path: Path) -> None:
    result = timing.measure(_impostor(tmp_path, "print('null')"), rows=1900, others=3)
    assert json.loads(json.dumps(result)) == result
    assert result["rows"] == 1900
    assert result["one_call"] > 0
    assert result["speed_up"] == result["torch_func"] / result["one_call"]
    assert result["neural_tangents"] is result["over_neural_tangents"] is None
    table = timing.table(result)
    assert "1900 × 3 rows" in table
    assert table.count("–") == 2
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_figures_of_neural_tangents(timing: ModuleType, tmp_path: Path) -> None:
    # Stands in for the package: the kernel, as the script gets it, must be that of the weights.
    code = """
import json, sys
import numpy as np
arrays = dict(np.load(sys.argv[2]))
x, K = arrays["x"], arrays["kernel"]
h, hidden, relus = x, [x], []
for i in range(2):
    z = h @ arrays[f"weight{i}"] + arrays[f"bias{i}"]
    h = np.maximum(z, 0)
    hidden.append(h)
    relus.append(z > 0)
delta, total = np.ones((len(x), 1)), 0.0
for i in (2, 1, 0):
    total = total + (hidden[i] @ hidden[i].T + 1) * (delta @ delta.T)
    delta = (delta @ arrays[f"weight{i}"].T) * (relus[i - 1] if i else 1)
difference = np.abs(total[:, : K.shape[1]] - K).max() / np.abs(K).max()
print(json.dumps({"seconds": 2.0, "difference": float(difference)}))
"""
    result = timing.measure(_impostor(tmp_path, code), rows=20, others=4)
    assert result["neural_tangents"] == 2.0
    assert result["over_neural_tangents"] == 2.0 / result["again"]
    assert "2000.0 ms" in timing.table(result)


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "raise AttributeError('old JAX')"])
def test_a_neural_tangents_that_fails_is_left_out(
    code: str, timing: ModuleType, tmp_path: Path
) -> None:
    result = timing.measure(_impostor(tmp_path, code), rows=20, others=4)
    assert result["neural_tangents"] is None


def test_the_process_of_neural_tangents_says_when_it_is_absent(
    benchmarks: Path, timing: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("neural_tangents"):
        pytest.skip("neural-tangents is installed")
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    x = torch.randn(4, 3)
    assert timing.neural_tangents(sys.executable, model, x, torch.zeros(4, 2)) is None
    assert "neural-tangents is left out" in capfd.readouterr().err


def test_sides_that_disagree_are_no_result(
    timing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = timing.by_torch_func
    monkeypatch.setattr(timing, "by_torch_func", lambda *given: 1.001 * right(*given))
    with pytest.raises(RuntimeError, match=r"torch\.func differ by 1\.0e-03"):
        timing.measure(_impostor(tmp_path, "print('null')"), rows=20, others=4)
    monkeypatch.undo()
    wrong = _impostor(tmp_path, 'print(\'{"seconds": 1.0, "difference": 0.5}\')')
    with pytest.raises(RuntimeError, match="neural-tangents differ by 5"):
        timing.measure(wrong, rows=20, others=4)


@pytest.mark.slow
def test_memory_is_measured_on_data_in_a_relative_folder(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(1001, 28, 28), dtype=np.uint8).tobytes()
    labels = rng.choice(np.array([3, 5], dtype=np.uint8), size=1001).tobytes()
    for name, header, data in (
        ("train-images-idx3-ubyte.gz", struct.pack(">4i", 2051, 1001, 28, 28), pixels),
        ("train-labels-idx1-ubyte.gz", struct.pack(">2i", 2049, 1001), labels),
    ):
        (folder / name).write_bytes(gzip.compress(header + data, 1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TELESCOPE_DATA", "data")
    bench = importlib.import_module("bench")
    assert bench.peak_memory("lens", "mlp-adamw") > 4 * 53_401 * 64, "A alone takes that"
    monkeypatch.setenv("TELESCOPE_DATA", "elsewhere")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        bench.peak_memory("lens", "mlp-adamw")
    assert "elsewhere" in caught.value.stderr
