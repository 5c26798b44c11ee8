"""A module as a function of its parameters that leaves the module as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.errors import ModelError
from telescope_core.network.differentiable import INSTEAD_OF_RENORM, Instead
from telescope_core.network.inputs import Called, Rows, call_arguments, leaves, map_rows
from telescope_core.network.outputs import Output, described, selected
from telescope_core.network.sparse import is_sparse
from telescope_core.network.streams import Streams, own_streams
from telescope_core.network.twins import twins


class Network:
    """The model in the mode it has now, callable at other parameters.

    Every pass of the lens goes through :meth:`at`, which is the one place where the model is
    guarded: afterwards its parameters, flags, gradients, buffers, modes, hooks and attributes, the
    random streams and the inputs are what they were.  The mode is that of the moment this was made,
    whatever the training loop does to it later: one function is followed, not two.

    Args:
        module: The model.
        training: The mode of all its modules, if not the one each of them has now.
        output: Which of the things that it returns are its outputs.

    Attributes:
        module: The model.
    """

    def __init__(
        self, module: nn.Module, training: bool | None = None, output: Output = None
    ) -> None:
        self.module = module
        self._output = output
        self._modes = {
            each: each.training if training is None else training for each in module.modules()
        }
        self._mode_is_own = training is None
        self._renorms = any(getattr(m, "max_norm", None) is not None for m in module.modules())
        self._writes_inputs: bool | None = None

    @contextmanager
    def at(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        raised: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> Iterator[Callable[[Rows], Any]]:
        """The model as a function of its inputs, for passes forward and backward.

        Args:
            parameters: What stands in for parameters, by name; ``None`` for the model's own, whose
                hooks are left out.
            raised: Applied to every tensor the model holds and to its inputs: the precision to
                compute in.

        Yields:
            The function, from rows to the model's outputs.
        """
        own = dict(self.module.named_parameters())
        if parameters is None:
            stand_in = {}
        else:
            stand_in = {id(p): raised(p.detach()) for p in own.values()}
            buffers = dict(self.module.named_buffers())
            stand_in |= {
                id(own[name] if name in own else buffers[name]): tensor
                for name, tensor in parameters.items()
            }
        with (
            own_streams(),
            without_gradient_hooks(self.module),
            twins(self.module, stand_in, self._modes, raised),
            Instead(INSTEAD_OF_RENORM) if self._renorms else nullcontext(),
        ):
            yield lambda rows: self._call(map_rows(rows, raised))

    def draws(self, rows: Rows) -> bool:
        """Whether a pass on these rows draws from a random stream."""
        with torch.no_grad(), self.at() as call:
            held = Streams.now()
            call(rows)
            return held.have_moved()

    def moved_buffers(self, rows: Rows) -> list[str]:
        """Names of the floating buffers that a pass on these rows writes to."""
        before = {n: b.detach().clone() for n, b in self.module.named_buffers()}
        with torch.no_grad(), self.at() as call:
            call(rows)
            after = {n: b for n, b in self.module.named_buffers() if _can_move(b)}
            return [n for n, b in after.items() if n in before and not torch.equal(b, before[n])]

    def suspects(self) -> list[str]:
        """What may make training another function, or its gradients others, than seen here."""
        found = []
        for name, module in self.module.named_modules():
            where = f"{name or 'the model'} ({type(module).__name__})"
            if self._mode_is_own and module.training != self._modes.get(module, module.training):
                mode = "train" if module.training else "eval"
                found.append(f"{where} is in {mode} mode now, as it was not when attached")
            if module._backward_hooks or module._backward_pre_hooks:
                found.append(f"{where} has backward hooks")
        for name, parameter in self.module.named_parameters():
            hooks = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)
            if any(hooks):
                found.append(f"{name} has gradient hooks")
        return found

    def called(self, call: Callable[[nn.Module], Any]) -> Called:
        """All rows that the model gives when it is called so.

        Returns:
            The call, and the positions of its rows.

        Raises:
            ModelError: That gives no tensor with rows.
        """
        with torch.no_grad(), self.at():
            outputs = selected(call(self.module), self._output)
        if not isinstance(outputs, Tensor) or outputs.ndim < 1:
            raise ModelError(
                f"the call of the model gave {described(outputs)}; expected one tensor whose first "
                "dimension is the rows: name it by output="
            )
        return Called(call, torch.arange(len(outputs), device=outputs.device))

    def _call(self, rows: Rows) -> Any:
        if isinstance(rows, Called):
            return selected(rows.call(self.module), self._output)[rows.positions]
        rows = map_rows(rows, lambda leaf: leaf.clone() if self._must_copy(leaf) else leaf)
        before = _versions(rows)
        args, kwargs = call_arguments(self.module, rows)
        outputs = self.module(*args, **kwargs)
        writes = _versions(rows) != before
        if self._writes_inputs is None:
            self._writes_inputs = writes
        elif writes and not self._writes_inputs:
            raise ModelError(
                "the model has begun to write to its inputs in place, which it did not do when the "
                "lens was attached; let its first operation make a new tensor"
            )
        return selected(outputs, self._output)

    def _must_copy(self, leaf: Tensor) -> bool:
        # The first pass finds out.  Tensors made under inference mode cannot be saved for a
        # backward pass.
        return self._writes_inputs is not False or leaf.is_inference()


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Make ordinary tensors even where the caller is under ``torch.inference_mode()``.

    Also a decorator.  What the lens keeps from a reading is used in later training steps, where
    tensors made under inference mode would fail.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def _can_move(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and not is_sparse(buffer)


def _versions(rows: Rows) -> list[int]:
    return [0 if leaf.is_inference() else leaf._version for leaf in leaves(rows)]


@contextmanager
def without_gradient_hooks(module: nn.Module) -> Iterator[None]:
    """Set aside the gradient hooks of parameters, which torch looks up in this very dictionary."""
    held = [hooks for p in module.parameters() if (hooks := p._backward_hooks)]
    copies = [dict(hooks) for hooks in held]
    for hooks in held:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, copy in zip(held, copies, strict=True):
            hooks.update(copy)
