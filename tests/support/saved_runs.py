"""Short runs with the weights that they had on the way."""

import copy

from safetensors.torch import save_file

from telescope_core.testing import Scenario


def weights_of(model):
    return copy.deepcopy(model.state_dict())


def inputs_of(training):
    return {"train": training.train_inputs, **training.eval_sets}


def saved_run(training, stride, *, lens=None, blocks=3):
    """Train, and keep the weights, the lens's record and its predictions at every block end."""
    weights, records, telescoped = [weights_of(training.model)], [], []
    for block in range(blocks + 1):
        if block:
            training.run(*([lens] if lens else []), steps=stride)
            weights.append(weights_of(training.model))
        if lens:
            records.append(lens.snapshot().to_record())
            telescoped.append({name: lens.telescoped(name) for name in lens.sets})
    return weights, records, telescoped


def on_disk(weights, folder):
    paths = []
    for number, tensors in enumerate(weights):
        paths.append(folder / f"{number}.safetensors")
        save_file({name: t.clone().contiguous() for name, t in tensors.items()}, paths[-1])
    return paths


def small_run():
    """A trained multi-layer perceptron with three outputs, and its weights at four steps."""
    training = Scenario("mlp-outputs", "adamw", "cross-entropy", steps=12).start()
    weights, _, _ = saved_run(training, 4)
    return training, weights
