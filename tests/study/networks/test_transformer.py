"""The transformer computes its formula, and its Jacobian has factors throughout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from telescope_core.errors import ConfigurationError, ShapeError
from telescope_core.jacobians import Linearizer
from telescope_core.network.layout import ParameterLayout
from telescope_pipeline.study.networks.transformer import Transformer


def _model(**options: Any) -> Transformer:
    sizes = {"width": 6, "heads": 2, "hidden": 5, "blocks": 2, "seed": 3} | options
    model = Transformer(7, 4, 5, **sizes).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Scales and shifts of the norms away from 1 and 0, so that they are seen.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).double())
    return model


def _tokens(rows: int = 8, length: int = 4) -> Tensor:
    return torch.randint(7, (rows, length), generator=torch.Generator().manual_seed(0))


def _by_hand(model: Transformer, tokens: Tensor) -> Tensor:
    """The documented formulas, one row, one head and one position at a time."""
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def norm(h: Tensor, name: str) -> Tensor:
        centred = h - h.mean()
        scaled = centred / (centred.square().mean() + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    logits = []
    for row in tokens:
        places = range(len(row))
        stream = [weights["tokens.weight"][row[s]] + weights["positions.weight"][s] for s in places]
        for number, block in enumerate(model.blocks):
            name, size = f"blocks.{number}", len(stream[0]) // block.heads
            u = [norm(h, f"{name}.attention_norm") for h in stream]
            for s in places:
                mixed = []
                for head in range(block.heads):
                    part = slice(head * size, (head + 1) * size)
                    query, key, value = (
                        weights[f"{name}.{kind}.weight"][part] for kind in ("query", "key", "value")
                    )
                    seen = range(s + 1) if block.causal else places
                    scores = [(query @ u[s]) @ (key @ u[t]) / math.sqrt(size) for t in seen]
                    total = sum(math.exp(score) for score in scores)
                    mixed.append(
                        sum(
                            math.exp(score) / total * (value @ u[t])
                            for score, t in zip(scores, seen, strict=True)
                        )
                    )
                stream[s] = stream[s] + weights[f"{name}.projection.weight"] @ torch.cat(mixed)
            for s in places:
                h = norm(stream[s], f"{name}.hidden_norm")
                h = weights[f"{name}.expand.weight"] @ h + weights[f"{name}.expand.bias"]
                h = weights[f"{name}.contract.weight"] @ h.clamp(min=0)
                stream[s] = stream[s] + h + weights[f"{name}.contract.bias"]
        logits.append(weights["unembedding.weight"] @ norm(stream[-1], "norm"))
    return torch.stack(logits)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_output_is_the_formula(blocks: int, causal: bool, heads: int) -> None:
    model = _model(blocks=blocks, causal=causal, heads=heads)
    tokens = _tokens()
    torch.testing.assert_close(model(tokens), _by_hand(model, tokens))


def test_a_mask_changes_two_blocks_and_not_one() -> None:
    for blocks, same in ((1, True), (2, False)):
        plain, masked = (_model(blocks=blocks, causal=causal) for causal in (False, True))
        assert torch.allclose(plain(_tokens()), masked(_tokens()), atol=1e-12) == same


def test_rows_do_not_influence_each_other() -> None:
    model, tokens = _model(), _tokens()
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), alone)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_jacobian_by_factors_is_that_of_autograd(blocks: int) -> None:
    model, tokens = _model(blocks=blocks), _tokens()
    parameters = dict(model.named_parameters())
    layout = ParameterLayout(parameters, torch.float64)
    linearizer = Linearizer(model, layout, tokens[:3])
    assert linearizer.form == "factors"
    made = linearizer.linearize(linearizer.function.theta(), tokens)
    identity = torch.eye(8 * 5, dtype=torch.float64).reshape(8, 5, 40)
    rows = []
    for output in model(tokens).flatten():
        pulled = torch.autograd.grad(output, list(parameters.values()), retain_graph=True)
        rows.append(layout.flatten(dict(zip(parameters, pulled, strict=True))))
    expected = torch.stack(rows)
    torch.testing.assert_close(made.vjp(identity), expected.T)
    torch.testing.assert_close(
        made.jvp(torch.eye(layout.size, dtype=torch.float64)).flatten(0, 1), expected
    )


def test_initialisation_follows_the_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (Transformer(400, 3, 5, width=64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.tokens.weight, other.tokens.weight)
    # 25,600 entries of variance 1/64: within 5 standard errors of their variance.
    variance = float(first.tokens.weight.detach().var())
    assert variance == pytest.approx(1 / 64, rel=5 * math.sqrt(2 / 25_600))
    assert first.blocks[0].expand.out_features == 256


def test_the_loss_depends_on_every_parameter() -> None:
    model, tokens = _model(), _tokens()
    functional.cross_entropy(model(tokens), tokens[:, 0] % 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("name", ["vocabulary", "length", "outputs", "width", "blocks", "hidden"])
def test_refuses_impossible_sizes(name: str) -> None:
    sizes: dict[str, Any] = {"vocabulary": 4, "length": 3, "outputs": 2, "width": 8, "heads": 1}
    with pytest.raises(ConfigurationError, match=f"{name} must be at least 1, got 0"):
        Transformer(**(sizes | {name: 0}))


def test_refuses_heads_that_do_not_divide_the_width() -> None:
    with pytest.raises(ConfigurationError, match="divide the width 8, got 3"):
        Transformer(4, 3, 2, width=8, heads=3)


@pytest.mark.parametrize("shape", [(5, 3), (5, 5), (4,)])
def test_refuses_sequences_of_another_length(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(rows, 4\)"):
        _model()(torch.zeros(shape, dtype=torch.int64))
