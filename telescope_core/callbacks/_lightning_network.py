"""What a LightningModule predicts from a batch, as a function that the lens can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from telescope_core.errors import ConfigurationError
from telescope_core.network import Network
from telescope_core.network.inputs import call_arguments
from telescope_core.network.outputs import Output, selected
from telescope_core.network.samples import parts_of

_Call = Callable[[Any, Any], Any]


class BatchOutputs(nn.Module):
    """A module as a function from the tensors of a batch to its predictions.

    Args:
        module: The module; its parameters are shared.
        call: What gives the predictions of the module for inputs.
        form: How the inputs are made of their tensors.
    """

    def __init__(self, module: nn.Module, call: _Call, form: TreeSpec) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._call = call
        self._form = form

    def forward(self, *leaves: Tensor) -> Any:
        """The predictions, rows first."""
        return self._call(self.module, tree_unflatten(list(leaves), self._form))


def outputs_for(
    module: Any, batch: Any, step: str, output: Output
) -> tuple[BatchOutputs, tuple[Tensor, ...]]:
    """The predictions that a module makes of a batch.

    They are what ``predict_step`` returns where a module has its own, otherwise what ``forward``
    does with the inputs, otherwise the last thing that a submodule with parameters gives in the
    module's own step.

    Args:
        module: A LightningModule, or a network.
        batch: A batch as the module gets it.
        step: The step that the batch is for, ``"validation_step"`` or ``"training_step"``.
        output: Which of the things that it returns are its outputs.

    Returns:
        The function and its inputs.

    Raises:
        ConfigurationError: Nothing of this gives a tensor with a row for every row of the batch.
    """
    failures = []
    for name, call, of in _ways(module, batch, step, output):
        try:
            leaves, form = tree_flatten(of())
            _require_rows(leaves)
            network = BatchOutputs(module, call, form)
            with torch.enable_grad(), Network(network, training=False).at() as at:
                _require_outputs(at(tuple(leaves)), len(leaves[0]))
            return network, tuple(leaves)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
    raise ConfigurationError(
        f"{type(module).__name__} does not show what it predicts from a batch of "
        f"{type(batch).__name__} ({'; '.join(failures)}); give it a forward() or predict_step() "
        "that returns a tensor with one row for every row of the batch, or name the submodule to "
        "follow and its inputs: TelescopeCallback(eval_sets={'test': x}, network='net')"
    )


def _ways(
    module: Any, batch: Any, step: str, output: Output
) -> Iterator[tuple[str, _Call, Callable[[], Any]]]:
    def picked(call: _Call) -> _Call:
        return lambda own, inputs: selected(call(own, inputs), output)

    def forward(own: Any, inputs: Any) -> Any:
        args, kwargs = call_arguments(own, inputs)
        return own(*args, **kwargs)

    if "predict_step" in _written_by_user(module):
        yield "predict_step", picked(lambda own, it: own.predict_step(it, 0)), lambda: batch
    yield "forward", picked(forward), lambda: parts_of("the Trainer", batch)[0]
    if getattr(module, "automatic_optimization", False):
        yield step, lambda own, it: _last_of_step(own, step, it), lambda: batch


def _written_by_user(module: Any) -> set[str]:
    """Methods that are not the framework's own."""
    kinds = (kind for kind in type(module).__mro__ if "lightning" not in kind.__module__)
    return {name for kind in kinds for name in vars(kind)}


def _last_of_step(module: Any, step: str, batch: Any) -> Tensor:
    """What the module's own step makes of a batch on its way to the loss.

    Returns:
        The last tensor that a child with parameters gives for every row of the batch; positions
        that are flattened into rows are taken apart again.

    Raises:
        ConfigurationError: There is none.
    """
    found: list[Tensor] = []
    rows = len(next(leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)))

    def look(_: nn.Module, __: Any, returned: Any) -> None:
        is_output = isinstance(returned, Tensor) and returned.is_floating_point()
        if is_output and returned.ndim and len(returned) and len(returned) % rows == 0:
            flattened = len(returned) > rows
            found.append(returned.unflatten(0, (rows, -1)) if flattened else returned)

    children = [c for c in (module, *module.children()) if any(True for _ in c.parameters())]
    handles = [child.register_forward_hook(look) for child in children]
    try:
        with _without_logging(module):
            getattr(module, step)(batch, 0)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ConfigurationError("no submodule with parameters gives a row for every row")
    return found[-1]


@contextmanager
def _without_logging(module: Any) -> Iterator[None]:
    """Let ``self.log`` do nothing."""
    own = vars(module)
    own |= {name: lambda *_, **__: None for name in ("log", "log_dict")}
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del own[name]


def _require_rows(leaves: list[Any]) -> None:
    lengths = [len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in leaves]
    if not lengths or lengths[0] is None or set(lengths) != {lengths[0]}:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise ConfigurationError(f"the batch holds {kinds}, not tensors with the same rows")


def _require_outputs(outputs: Any, rows: int) -> None:
    if not isinstance(outputs, Tensor) or not outputs.requires_grad:
        given = type(outputs).__name__
        raise ConfigurationError(f"gives {given}, which depends on no trained parameter")
    if not outputs.ndim or len(outputs) != rows:
        raise ConfigurationError(f"gives {tuple(outputs.shape)} for {rows} rows")
