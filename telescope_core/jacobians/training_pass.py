"""Derivatives of one forward pass of training, random state and batch statistics included.

A pass maps ``z = (θ, b)``, the parameters and the buffers that training moves, to the outputs of a
whole batch and to the buffers afterwards (docs/mathematics.md, section 13).  Rows may depend on
each other, so the batch is differentiated as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from telescope_core.errors import ModelError, TelescopeError
from telescope_core.jacobians.linearization import without_autocast
from telescope_core.jacobians.pass_graph import PassGraph, Trust
from telescope_core.jacobians.recurrent import recurrent_modules, unrolled
from telescope_core.network.function import without_gradient_hooks
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.outputs import Output, selected
from telescope_core.network.passes import Pass
from telescope_core.network.sparse import copied
from telescope_core.network.streams import own_streams
from telescope_core.network.tape import Tape
from telescope_core.network.twins import twins

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

_COLUMN_BUDGET_BYTES = 256 * 2**20
_SEED = 20241100247


class TrainingPass:
    """A pass that is run again at the same z, with its products.

    Args:
        model: The model; its parameters are still those of the pass.
        output: Which of the things that it returns are its outputs.
        record: The pass as it was taken down.
        layout: Order of z: trained parameters, then buffers.
        trained: How many rows of the layout are parameters.
        trust: Whether derivatives may be had by backpropagation alone; looked at and written to.

    Attributes:
        outputs: Outputs as they come out again, ``(rows, k)``.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Output,
        record: Pass,
        layout: ParameterLayout,
        trained: int,
        trust: Trust,
    ) -> None:
        self._model = model
        self._output = output
        self._record = record
        self._layout = layout
        self._trained = trained
        self._tape = Tape()
        own = dict(model.named_parameters())
        held = {name: own[name] if name in own else record.buffers[name] for name in layout.by_name}
        self._z = {name: tensor.detach().to(layout.dtype) for name, tensor in held.items()}
        self._trust = trust
        self._graph = self._either(self._recorded, lambda: None)
        if self._graph is None:
            self._tape = Tape()
            with torch.no_grad():
                self.outputs, _ = self._run(self._z)
        self._require_same(self.outputs)

    def _recorded(self) -> PassGraph:
        """The pass with its history."""
        z = {name: value.detach().requires_grad_() for name, value in self._z.items()}
        with torch.enable_grad():
            outputs, after = self._run(z)
        self.outputs = outputs.detach()
        return PassGraph(outputs, after, z, self._layout, self._trained)

    def _either(self, by_graph: Callable[[], _T], otherwise: Callable[[], _T]) -> _T:
        """What backpropagation alone gives, or else what ``torch.func`` does.

        Returns:
            The former where it can be had and is trusted.

        Raises:
            RuntimeError: The device is out of memory.
        """
        if self._trust.is_in_use:
            try:
                return by_graph()
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, TelescopeError | torch.OutOfMemoryError):
                    raise
                _log.info("passes are differentiated in forward mode, too, since: %s", error)
                self._trust.is_in_use = False
        return otherwise()

    def _require_same(self, outputs: Tensor) -> None:
        """Refuse a pass that comes out otherwise when it is run again."""
        then = self._record.outputs
        assert then is not None
        coarse = max(torch.finfo(t.dtype).eps for t in (then, outputs))
        gap = float((outputs - then.to(outputs)).abs().max())
        if not gap <= 8 * coarse**0.5 * (1 + float(then.abs().max())):
            raise ModelError(
                f"a pass of training gave outputs that differ by {gap:.3g} when it is run again at "
                "the same parameters, buffers and random streams: the model draws from a stream of "
                "its own, or depends on something that changes; draw from torch's, random's or "
                "numpy's global streams, or use probes=None"
            )

    def push(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """``∂(outputs, buffers afterwards)/∂z · Z`` for columns ``(p + q, m)``.

        Returns:
            Shapes ``(rows, k, m)`` and ``(q, m)``.
        """
        graph = self._graph
        if graph is None:
            return self._push_forward(Z)
        if self._trust.is_due:
            self._compare(graph)
        return self._either(lambda: graph.push(Z), lambda: self._push_forward(Z))

    def _compare(self, graph: PassGraph) -> None:
        """Whether forward mode agrees along a random direction.

        It does not behind a ``detach``, which stops backpropagation only, or where a backward pass
        is not the derivative.
        """
        self._trust.is_due = False
        generator = torch.Generator().manual_seed(_SEED)
        z = torch.randn(self._layout.size, 1, generator=generator, dtype=self._layout.dtype)
        z = z.to(self.outputs.device)
        forward = self._push_forward(z)
        found = self._either(lambda: graph.push(z), lambda: forward)
        coarse = torch.finfo(self._layout.dtype).eps ** 0.5
        for ours, theirs in zip(found, forward, strict=True):
            if not torch.linalg.vector_norm(ours - theirs) <= coarse * (
                torch.linalg.vector_norm(theirs)
            ):
                self._trust.is_in_use = False

    def _push_forward(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        def one(tangents: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            pushed: tuple[Tensor, dict[str, Tensor]]
            pushed = torch.func.jvp(self._run, (self._z,), (tangents,))[1]
            return pushed

        outputs, after = self._over_columns(one, self._layout.unflatten(Z))
        return outputs, self._flat(after, Z.shape[1])[self._trained :]

    def pull(self, cotangents: Tensor) -> Tensor:
        """``(∂outputs/∂θ)ᵀ · cotangents`` for columns ``(rows, k, m)``, shape ``(p, m)``."""
        graph = self._graph
        if graph is None:
            return self._pull_functional(cotangents)
        return self._either(
            lambda: graph.pull(cotangents), lambda: self._pull_functional(cotangents)
        )

    def _pull_functional(self, cotangents: Tensor) -> Tensor:
        theta, rest = self._split(self._z)
        pull = torch.func.vjp(lambda moving: self._run({**rest, **moving})[0], theta)[1]
        pulled = self._over_columns(lambda u: pull(u)[0], cotangents)
        return self._flat(pulled, cotangents.shape[-1])[: self._trained]

    def backpropagated(self) -> Tensor:
        """The gradient that training saw in this pass, in its own kernels, shape ``(p,)``."""
        theta, rest = self._split(self._z)
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        with torch.enable_grad():
            outputs, _ = self._run({**rest, **leaves}, nullcontext())
            assert self._record.cotangent is not None
            gradients = torch.autograd.grad(
                outputs,
                list(leaves.values()),
                self._record.cotangent.to(outputs),
                allow_unused=True,
            )
        named = zip(leaves, gradients, strict=True)
        return self._flat({n: g for n, g in named if g is not None}, 1)[: self._trained, 0]

    def bend(self, g: Tensor, Z: Tensor) -> Tensor:
        """``∂[(∂outputs/∂θ)ᵀ g]/∂z · Z`` with ``g`` of shape ``(rows, k)`` held, ``(p, m)``."""
        graph = self._graph
        if graph is None:
            return self._bend_forward(g, Z)
        return self._either(lambda: graph.bend(g, Z), lambda: self._bend_forward(g, Z))

    def _bend_forward(self, g: Tensor, Z: Tensor) -> Tensor:
        def gradient(z: dict[str, Tensor]) -> dict[str, Tensor]:
            theta, rest = self._split(z)
            pull = torch.func.vjp(lambda moving: self._run({**rest, **moving})[0], theta)[1]
            pulled: dict[str, Tensor] = pull(g)[0]
            return pulled

        def one(tangents: dict[str, Tensor]) -> dict[str, Tensor]:
            pushed: dict[str, Tensor] = torch.func.jvp(gradient, (self._z,), (tangents,))[1]
            return pushed

        bent = self._over_columns(one, self._layout.unflatten(Z))
        return self._flat(bent, Z.shape[1])[: self._trained]

    def _run(
        self, z: Mapping[str, Tensor], kernels: AbstractContextManager[Any] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pass at z: outputs ``(rows, k)``, and the buffers of z afterwards."""
        record, model = self._record, self._model
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        buffers = [name for name in z if name in record.buffers]
        stand_in = {id(own[name]): copied(saved) for name, saved in record.buffers.items()}
        stand_in |= {id(p): p.detach() for p in model.parameters()}
        stand_in |= {id(own[n]): v.clone() if n in record.buffers else v for n, v in z.items()}
        device = next(iter(z.values())).device
        with (
            own_streams(),
            without_autocast(device),
            without_gradient_hooks(model),
            twins(model, stand_in, record.modes, lambda tensor: tensor),
            kernels or self._differentiable(),
        ):
            record.streams.put_back()
            returned = model(*record.args, **record.kwargs)
            outputs = selected(returned, self._output)
            after = {name: model.get_buffer(name) for name in buffers}
        return outputs.reshape(len(outputs), -1).to(self._layout.dtype), after

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        """In operations that have every derivative, with the draws of training."""
        with self._tape.running(), unrolled(recurrent_modules(self._model)):
            yield

    def _split(self, z: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        buffers = self._record.buffers
        return (
            {name: value for name, value in z.items() if name not in buffers},
            {name: value for name, value in z.items() if name in buffers},
        )

    def _over_columns(self, one: Callable[[Any], Any], columns: Any) -> Any:
        """A product for every column, the last dimension, so many at once as memory allows."""
        each = 4 * max(self._layout.size, self.outputs.numel()) * self._layout.dtype.itemsize
        at_once = max(1, _COLUMN_BUDGET_BYTES // each)
        # Columns come out first: where none of them moves a result, torch 2.13 gives it a wrong
        # shape if they are to come out last.
        every = torch.func.vmap(one, in_dims=-1, randomness="same")
        leaves, form = tree_flatten(columns)
        count = leaves[0].shape[-1]
        parts = []
        for start in range(0, count, at_once):
            part = [leaf[..., start : start + at_once] for leaf in leaves]
            parts.append(tree_flatten(every(tree_unflatten(part, form))))
        pieces = zip(*(part for part, _ in parts), strict=True)
        joined = [torch.cat(piece).movedim(0, -1) for piece in pieces]
        return tree_unflatten(joined, parts[0][1])

    def _flat(self, columns: Mapping[str, Tensor], m: int) -> Tensor:
        flat = self.outputs.new_zeros(self._layout.size, m)
        views = self._layout.unflatten(flat)
        for name, column in columns.items():
            views[name].copy_(column.detach().reshape(views[name].shape))
        return flat
