"""What a lens is asked to do, and which of it is out of range or contradicts itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from telescope_core.arguments import check_choice, check_integer
from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import Form, check_representation
from telescope_core.lens.refusals import OnRefusal
from telescope_core.losses import ResponseSetting
from telescope_core.smoother import Curvature, quadrature_of

Probes = int | Literal["exact"] | None
"""All label directions, a number to estimate with, or none."""

DEFAULT_PROBES = 64

Strategy = Literal["auto", "parameter-space", "midpoint", "function-space", "replayed"]
"""How the smoother is carried, see :class:`telescope_core.TelescopeLens`."""


@dataclass(frozen=True)
class Settings:
    """The settings of a lens, as :class:`telescope_core.TelescopeLens` describes them.

    Raises:
        ConfigurationError: One is of the wrong type, out of range or contradicts another.
    """

    order: int
    stride: int
    probes: Probes
    follow_train: bool
    deflate: int
    seed: int
    chunk_size: int | None
    kernel_norms: bool
    layer_shares: bool
    response: ResponseSetting
    strategy: Strategy
    curvature: Curvature
    form: Form
    on_refusal: OnRefusal

    def __post_init__(self) -> None:
        quadrature_of(self.order)
        check_integer("stride", self.stride, 1, "steps between evaluations of all rows")
        check_integer("deflate", self.deflate, 0, "label directions taken exactly")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ConfigurationError(f"seed must be an integer, got {self.seed!r}")
        check_representation(self.form, self.chunk_size)
        if isinstance(self.probes, str) and self.probes != "exact":
            raise ConfigurationError(
                f'probes must be "exact", an integer or None, got {self.probes!r}'
            )
        if self.probes is not None and self.probes != "exact":
            check_integer(
                "probes", self.probes, 1, 'label directions; "exact" for all, None for none'
            )
        check_choice("response", self.response, get_args(ResponseSetting))
        check_choice("strategy", self.strategy, get_args(Strategy))
        check_choice("curvature", self.curvature, get_args(Curvature))
        if self.curvature == "full" and self.strategy not in ("auto", "replayed"):
            raise ConfigurationError(
                f"curvature='full' is followed by strategy='replayed', not {self.strategy!r}; "
                "leave strategy at 'auto'"
            )
        check_choice("on_refusal", self.on_refusal, get_args(OnRefusal))
        if self.probes is not None and self.strategy == "midpoint" and self.order != 2:
            raise ConfigurationError(
                f"strategy='midpoint' is second order, but order={self.order}; use order=2, or "
                "strategy='auto' or 'parameter-space'"
            )
        if not isinstance(self.follow_train, bool):
            raise ConfigurationError(
                f"follow_train must be True or False, got {self.follow_train!r}"
            )

    def check_sets(
        self, eval_sets: Collection[str], missing: Collection[str], *, is_streamed: bool
    ) -> None:
        """Refuse to leave out the training set where it is needed, or where nothing would be left.

        Args:
            eval_sets: Names of the other sets.
            missing: Which of the optimizer, the loss, the training inputs and targets were not
                given.
            is_streamed: Whether the training set is known by a sample.

        Raises:
            ConfigurationError: Naming the setting that needs it.
        """
        if missing and self.looks_into_steps:
            setting = "kernel_norms=True" if self.probes is None else f"probes={self.probes!r}"
            raise ConfigurationError(
                f"{setting} needs {', '.join(missing)}, which were not given; pass them, or leave "
                "probes and kernel_norms at their defaults for predictions only"
            )
        if not self.follow_train and not eval_sets:
            raise ConfigurationError(
                "follow_train=False, or no train_inputs, without eval_sets leaves no set to "
                "follow; name the inputs that predictions are wanted for in eval_sets"
            )
        if is_streamed:
            self._check_streamed()
            return
        needs = {"probes=None": self.probes is not None, "kernel_norms=False": self.kernel_norms}
        for instead, needed in needs.items():
            if needed and not self.follow_train:
                raise ConfigurationError(
                    f"{instead.partition('=')[0]} needs the training set at every step, but "
                    f"follow_train=False; use {instead} for predictions only, or follow_train=True"
                )

    def _check_streamed(self) -> None:
        """Refuse what needs all training rows at hand."""
        asked = {
            'probes="exact"': self.probes == "exact",
            "kernel_norms=True": self.kernel_norms,
            f"strategy={self.strategy!r}": self.strategy not in ("auto", "replayed"),
        }
        for setting, is_asked in asked.items():
            if is_asked:
                raise ConfigurationError(
                    f"{setting} needs all training rows in memory, but train_inputs is a loader or "
                    "a sample; use a number of probes and strategy='auto', or pass the rows and "
                    "train_targets"
                )

    @property
    def looks_into_steps(self) -> bool:
        """Whether single steps are looked into, rather than counted."""
        return self.probes is not None or self.kernel_norms
