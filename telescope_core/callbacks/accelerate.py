"""The lens in a training loop of one's own that Accelerate prepares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from telescope_core.callbacks._callback import LensCallback
from telescope_core.callbacks._follower import Follower
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.network.inputs import Rows
from telescope_core.network.outputs import Output, check_output
from telescope_core.network.samples import Source, parts_of, spaced_batch
from telescope_core.network.streams import in_own_pass
from telescope_core.update_rules import inner_optimizer

try:
    from telescope_core.callbacks._accelerate import ModelOutputs, model_inputs
except ImportError as error:
    raise MissingDependencyError(
        "telescope_core.callbacks.accelerate needs accelerate; "
        "`pip install 'telescope-lens[transformers]'`"
    ) from error


class TelescopeCallback(LensCallback):
    """Follows predictions of a prepared model; the loop stays as it is.

    Every step that the optimizer takes is one of the lens: micro-batches that
    ``accelerator.accumulate`` only adds up are none, nor is a step that was skipped for an
    overflow.  For a smoother, wrap the steps yourself in :meth:`telescope_core.TelescopeLens.step`;
    the lens takes prepared optimizers.

    Args:
        accelerator: The accelerator.
        model: What it prepared, or the model itself.
        optimizer: What it prepared, or the optimizer itself.
        eval_sets: Inputs by name: tensors, or loaders, of which a sample of ``eval_rows`` (100) is
            followed without its targets.  ``None`` for the first batch of training, as the model
            sees it.
        output: Which of the things that the model returns are its outputs; ``None`` for the tensor
            that it returns, or its ``logits``.
        **options: ``eval_rows``, ``log_to``, ``description``, ``every``, ``alerts``, and arguments
            of :class:`telescope_core.TelescopeLens`.

    Raises:
        ConfigurationError: A smoother is asked for, or an argument is out of range.
        TelescopeError: Whatever the lens refuses.
    """

    def __init__(
        self,
        accelerator: Any,
        model: nn.Module,
        optimizer: Any,
        eval_sets: Mapping[str, Source] | None = None,
        *,
        output: Output = None,
        **options: Any,
    ) -> None:
        check_output(output)
        super().__init__(Follower(**options))
        if self._follower.looks_into_steps:
            raise ConfigurationError(
                "the callback follows predictions; for a smoother wrap every step of the loop: "
                "lens = TelescopeLens(model, optimizer, loss, x, y), with lens.step(index)"
            )
        inside: nn.Module = accelerator.unwrap_model(model)
        self._model = ModelOutputs(inside, _outputs if output is None else output)
        self._optimizer = inner_optimizer(optimizer)
        if eval_sets:
            self._attach({name: self._batch(name, source) for name, source in eval_sets.items()})
        else:
            self._hook = inside.register_forward_pre_hook(self._look, with_kwargs=True)

    def _batch(self, name: str, source: Source) -> Any:
        if isinstance(source, DataLoader):
            source = spaced_batch(source, self._follower.rows_of_a_found_set)
        return source if isinstance(source, Mapping) else parts_of(name, source)[0]

    def _look(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Attach the lens to what the model is about to see in its first pass of training."""
        if in_own_pass() or not model.training:
            return
        self._hook.remove()
        if args and kwargs:
            raise ConfigurationError(
                "the model is called with positional and with named arguments; name the inputs to "
                "follow: TelescopeCallback(accelerator, model, optimizer, {'test': x})"
            )
        self._attach({"first_batch": kwargs or args})

    def _attach(self, batches: Mapping[str, Any]) -> None:
        found: dict[str, Rows] = {
            name: model_inputs(self._model, batch) if isinstance(batch, Mapping) else batch
            for name, batch in batches.items()
        }
        self._follower.attach(self._model, [self._optimizer], found=found)
        self._optimizer.register_step_post_hook(lambda *_: self._follower.end())


def _outputs(returned: Any) -> Any:
    if isinstance(returned, Tensor):
        return returned
    return returned["logits"] if isinstance(returned, Mapping) else returned
