"""Derivatives of one forward pass of training, random state and batch statistics included.

A pass maps ``z = (θ, b)``, the parameters and the buffers that training moves, to the outputs of a
whole batch and to the buffers afterwards (docs/mathematics.md, section 13).  Rows may depend on
each other, so the batch is differentiated as one.

It is run once as training ran it, in the same precision and kernels, which makes its random draws
anew and shows that nothing is missing.  Derivatives are then taken with these draws in the
precision of the layout: the rounding of half precision is noise of training and no part of the
function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from telescope_core.errors import ModelError, TelescopeError
from telescope_core.jacobians.linearization import without_autocast
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.pass_graph import PassGraph, Trust
from telescope_core.jacobians.recurrent import recurrent_modules, unrolled
from telescope_core.network.autograd import without_checkpoints
from telescope_core.network.function import without_gradient_hooks
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
        function: The model as a function of z, trained parameters and then buffers.
        trained: How many rows of z are parameters.
        trust: Whether derivatives may be had by backpropagation alone; looked at and written to.

    Attributes:
        outputs: Outputs as they come out again, ``(rows, k)``.
        buffers: What it has left in the buffers of z, by name.

    Raises:
        ModelError: They come out otherwise than in training.
    """

    def __init__(
        self,
        model: nn.Module,
        output: Output,
        record: Pass,
        function: ModelFunction,
        trained: int,
        trust: Trust,
    ) -> None:
        self._model = model
        self._output = output
        self._record = record
        self._function = function
        self._layout = layout = function.layout
        self._trained = trained
        self._tape = Tape()
        own = dict(model.named_parameters())
        held = {name: own[name] if name in own else record.buffers[name] for name in layout.by_name}
        self._held = {name: tensor.detach() for name, tensor in held.items()}
        self._z = {name: tensor.to(layout.dtype) for name, tensor in self._held.items()}
        self._trust = trust
        is_half = record.autocast is not None or function.is_raised
        buffers = None
        if is_half:
            # Nothing in there requires a gradient, but models may ask whether gradients are on.
            with torch.enable_grad():
                outputs, buffers = self._run(self._held, as_trained=True)
            self._require_same(outputs)
        self._graph = self._either(self._recorded, lambda: None)
        if self._graph is None:
            self._tape = self._tape if is_half else Tape()
            with torch.enable_grad():
                self.outputs, self.buffers = self._run(self._z)
        if buffers is None:
            self._require_same(self.outputs)
        else:
            self.buffers = buffers

    def _recorded(self) -> PassGraph:
        """The pass with its history."""
        z = {name: value.detach().requires_grad_() for name, value in self._z.items()}
        with torch.enable_grad():
            outputs, after = self._run(z)
        self.outputs = outputs.detach()
        self.buffers = {name: buffer.detach() for name, buffer in after.items()}
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
        seen = [then.dtype, outputs.dtype, self._record.autocast or then.dtype]
        coarse = max(torch.finfo(dtype).eps for dtype in seen)
        gap = float((outputs - then.to(outputs)).abs().max())
        if not gap <= min(8 * coarse**0.5, 16 * coarse + 1e-2) * (1 + float(then.abs().max())):
            raise ModelError(
                f"a pass of training gave outputs that differ by {gap:.3g} when it is run again at "
                "the same parameters, buffers and random streams: the model draws from a stream of "
                "its own, or depends on something that changes; draw from torch's, random's or "
                "numpy's global streams (torch.compile with inductor does so with "
                "torch._inductor.config.fallback_random = True), or use probes=None"
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
        is not the derivative.  Where it cannot be had, :meth:`unfollowed` judges alone.

        Raises:
            RuntimeError: The device is out of memory.
        """
        self._trust.is_due = False
        generator = torch.Generator().manual_seed(_SEED)
        z = torch.randn(self._layout.size, 1, generator=generator, dtype=self._layout.dtype)
        z = z.to(self.outputs.device)
        try:
            forward = self._push_forward(z)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, TelescopeError | torch.OutOfMemoryError):
                raise
            return
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

    def unfollowed(self, seed: int) -> list[str]:
        """Buffers that do not move with θ as :meth:`push` says: what is done by value only.

        Differences along a random direction tell.  Where those to either side disagree there is a
        kink or a jump, as between the nearest entries of a code book, and no derivative to miss.

        Args:
            seed: Of the direction.

        Returns:
            Their names.

        Raises:
            ModelError: So do the outputs.
        """
        theta, rest = self._split(self._z)
        generator = torch.Generator().manual_seed(seed)
        along = {}
        for name, value in theta.items():
            drawn = torch.randn(value.shape, generator=generator).to(value)
            along[name] = drawn * value.square().mean().sqrt().clamp(min=1e-2)
        still = {name: torch.zeros_like(value) for name, value in rest.items()}
        flat = self._layout.flatten({**along, **still})[:, None]
        do, dD = self.push(flat)
        # Buffers are the rows after those of θ.
        pushed = self._layout.unflatten(torch.cat([flat[: self._trained], dD]))
        step = torch.finfo(self.outputs.dtype).eps ** (1 / 3)
        with torch.enable_grad():  # as models may ask
            behind, here, ahead = (
                self._run({**rest, **{n: v + s * step * along[n] for n, v in theta.items()}})
                for s in (-1, 0, 1)
            )

        def wrong(expected: Tensor, *values: Tensor) -> bool:
            left, value, right = (each.detach() for each in values)
            sides = (right - value) / step, (value - left) / step
            noise = 10 * torch.finfo(value.dtype).eps * float(value.abs().max()) / step
            noise *= value.numel() ** 0.5
            mean, gap = (sides[0] + sides[1]) / 2, (sides[0] - sides[1]).norm()
            allowed = 2 * gap + 0.01 * mean.norm() + noise
            return bool((mean - expected).norm() > allowed)

        named = [
            name
            for name, value in here[1].items()
            if wrong(pushed[name][..., 0], behind[1][name], value, ahead[1][name])
        ]
        if not named and wrong(do[..., 0], behind[0], here[0], ahead[0]):
            raise ModelError(
                "the outputs of a pass of training depend on the parameters by value (.item(), "
                "numpy?), where no derivative follows; compute with tensors, or use "
                "probes=None"
            )
        return named

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
        theta, rest = self._split(self._held)
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        with torch.enable_grad():
            outputs, _ = self._run({**rest, **leaves}, as_trained=True, by_tape=False)
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
        self, z: Mapping[str, Tensor], *, as_trained: bool = False, by_tape: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pass at z, in the precision of training or the layout's, with the draws of the tape.

        Returns:
            Outputs ``(rows, k)``, and the buffers of z afterwards.
        """
        record, model = self._record, self._model
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        raised = _as_it_is if as_trained else self._function.raised
        cast = {name: self._function.cast(name, value) for name, value in z.items()}
        buffers = [name for name in z if name in record.buffers]
        stand_in = {id(own[n]): raised(copied(saved)) for n, saved in record.buffers.items()}
        stand_in |= {id(p): raised(p.detach()) for p in model.parameters()}
        stand_in |= {id(own[n]): v.clone() if n in record.buffers else v for n, v in cast.items()}
        device = next(iter(z.values())).device
        half = record.autocast if as_trained else None
        with (
            own_streams(),
            torch.autocast(device.type, half) if half else without_autocast(device),
            without_gradient_hooks(model),
            without_checkpoints(self._tape.repeated if by_tape else None),
            twins(model, stand_in, record.modes, raised),
            self._taped(as_trained) if by_tape else nullcontext(),
        ):
            record.streams.put_back()
            args, kwargs = tree_map(_on_tensors(raised), (record.args, record.kwargs))
            returned = model(*args, **kwargs)
            outputs = selected(returned, self._output)
            after = {name: model.get_buffer(name) for name in buffers}
        return outputs.reshape(len(outputs), -1).to(self._layout.dtype), after

    @contextmanager
    def _taped(self, as_trained: bool) -> Iterator[None]:
        """With the draws of training, in operations that have every derivative or in its own."""
        with self._tape.running(natively=as_trained), unrolled(recurrent_modules(self._model)):
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
            try:
                made = every(tree_unflatten(part, form))
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                # A value decides (.item(), a branch): slow, but as well.
                each_one = [
                    one(tree_unflatten([leaf[..., j] for leaf in part], form))
                    for j in range(part[0].shape[-1])
                ]
                made = tree_map(lambda *leaves: torch.stack(leaves), *each_one)
            parts.append(tree_flatten(made))
        pieces = zip(*(part for part, _ in parts), strict=True)
        joined = [torch.cat(piece).movedim(0, -1) for piece in pieces]
        return tree_unflatten(joined, parts[0][1])

    def _flat(self, columns: Mapping[str, Tensor], m: int) -> Tensor:
        flat = self.outputs.new_zeros(self._layout.size, m)
        views = self._layout.unflatten(flat)
        for name, column in columns.items():
            views[name].copy_(column.detach().reshape(views[name].shape))
        return flat


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _on_tensors(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf
