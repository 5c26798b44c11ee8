"""Which layer has learned it: the split of effective parameters over modules."""

import pytest
import torch

from telescope_core.errors import ConfigurationError
from telescope_core.testing import Scenario, assert_agrees
from telescope_core.testing.dense import dense_jacobian

STRATEGIES = [("parameter-space", 1), ("parameter-space", 2), ("midpoint", 2)]


@pytest.mark.parametrize(("strategy", "order"), STRATEGIES)
@pytest.mark.parametrize("specimen", ["mlp-vector", "mlp-outputs", "convolution", "attention"])
def test_shares_add_up_at_block_ends_and_inside_blocks(specimen, strategy, order, lens_of):
    training = Scenario(specimen, "adamw", "mse", steps=7).start()
    options = {"stride": 3, "strategy": strategy, "order": order}
    plain, lens = lens_of(training, **options), lens_of(training, layer_shares=True, **options)
    for steps in (5, 1, 1):
        training.run(plain, lens, steps=steps)
        record = lens.snapshot().to_record()
        for name in ("train", "test"):
            shares = lens.effective_parameters_by_layer(name)
            key = f"{name}/effective_parameters"
            assert sum(shares.values()) == pytest.approx(record[key], rel=1e-10)
            assert {record[f"{key}/{layer}"] for layer in shares} == set(shares.values())
            assert len(shares) > 1
            # Following layers changes nothing else.
            assert_agrees(lens.smoother(name), plain.smoother(name), tolerance=1e-12, what="S")


def test_one_step_of_gradient_descent_in_closed_form(lens_of):
    """S = γ/n Σ_l J_l J_lᵀ after one step, so the share of a layer is that of its kernel."""
    training = Scenario("mlp-vector", "sgd", "half-squared", batch_size=None, steps=1).start()
    J = dense_jacobian(training.model, training.train_inputs)
    lens = lens_of(training, order=1, stride=1, layer_shares=True, strategy="parameter-space")
    training.run(lens)
    kernels = {}
    for parameter, block in J.items():
        layer = parameter.rpartition(".")[0]
        kernels[layer] = kernels.get(layer, 0) + 0.1 / 8 * block @ block.T
    S = sum(kernels.values())
    shares = lens.effective_parameters_by_layer("train")
    assert list(shares) == list(kernels)
    for layer, kernel in kernels.items():
        assert shares[layer] == pytest.approx(float((kernel * S).sum()), rel=1e-10)


def test_frozen_layers_have_no_share(lens_of):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    training.model.second.requires_grad_(False)
    lens = lens_of(training, layer_shares=True)
    training.run(lens)
    assert "second" not in lens.effective_parameters_by_layer("test")


@pytest.mark.parametrize("strategy", ["parameter-space", "midpoint"])
def test_a_resumed_lens_has_the_same_shares(strategy, lens_of):
    options = {"stride": 4, "layer_shares": True, "strategy": strategy}
    training = Scenario("mlp-outputs", "adamw", "mse").start()
    whole = lens_of(training, **options)
    training.run(whole)
    again = Scenario("mlp-outputs", "adamw", "mse").start()
    first = lens_of(again, **options)
    again.run(first, steps=6)
    second = lens_of(again, **options)
    second.load_state_dict(first.state_dict())
    again.run(second)
    assert second.snapshot().to_record() == whole.snapshot().to_record()


def test_full_batch_descent_takes_an_engine_that_knows_layers(lens_of):
    training = Scenario("mlp-vector", "sgd", "mse", batch_size=None, steps=2).start()
    lens = lens_of(training, layer_shares=True)
    training.run(lens)
    assert lens.strategy == "parameter-space"
    with pytest.raises(ConfigurationError, match="layer_shares"):
        lens_of(training, layer_shares=True, strategy="function-space")


def test_asking_for_shares_that_are_not_followed_is_refused(lens_of):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    with pytest.raises(ConfigurationError, match="layer_shares=True"):
        lens_of(training).effective_parameters_by_layer("train")
    with pytest.raises(ConfigurationError, match="probes"):
        lens_of(training, probes=None).effective_parameters_by_layer("train")


def test_probed_shares_estimate_the_exact_ones(lens_of):
    """Over seeds the mean fraction of each layer comes close to the exact one."""
    scenario = Scenario("mlp-vector", "sgd", "mse", rows=12, batch_size=4, steps=4)
    training = scenario.start()
    exact = lens_of(training, layer_shares=True)
    lenses = [lens_of(training, probes=10, seed=s, layer_shares=True) for s in range(40)]
    training.run(exact, *lenses)
    truth = exact.effective_parameters_by_layer("test")
    total = sum(truth.values())
    estimates = [lens.effective_parameters_by_layer("test") for lens in lenses]
    for layer, share in truth.items():
        fractions = torch.tensor([e[layer] / sum(e.values()) for e in estimates])
        error = float(fractions.std()) / len(lenses) ** 0.5
        assert abs(float(fractions.mean()) - share / total) < 3 * error + 0.01
        assert error < 0.02
