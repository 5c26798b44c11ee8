"""What a run holds, and whether anything of it has changed."""

import random

import numpy as np
import torch
from torch import Tensor


def everything(run):
    """All that a run holds, by path: ``(object, its contents)``."""
    held = {}
    for name, module in run.model.named_modules(remove_duplicate=False):
        held[f"<{name}>"] = (module, None)
        for attribute, value in vars(module).items():
            walk(held, f"{name}.{attribute}", value)
    for name, rows in {"train": run.train_inputs, **run.eval_sets}.items():
        walk(held, f"inputs/{name}", rows)
    walk(held, "targets", run.train_targets)
    for number, group in enumerate(run.optimizer.param_groups):
        walk(held, f"optimizer/{number}", group)
    return held


def walk(held, path, value):
    held[path] = (value, contents(value))
    if isinstance(value, Tensor) and value.is_leaf and value.grad is not None:
        held[f"{path}/grad"] = (value.grad, contents(value.grad))
    if isinstance(value, dict):
        for key, entry in value.items():
            walk(held, f"{path}[{key}]", entry)
    elif isinstance(value, list | tuple):
        for key, entry in enumerate(value):
            walk(held, f"{path}[{key}]", entry)


def contents(value):
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        return (value.requires_grad, value._version, dense.clone())
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, dict | set):
        return list(value)
    return len(value) if isinstance(value, list | tuple) else None  # Entries are walked.


def values(held):
    """What two runs have in common if they are the same: no objects, no numbers of hooks."""
    return {
        path: (value, inside)
        for path, (value, inside) in held.items()
        if "_hooks" not in path and not isinstance(inside, list)
    }


def streams():
    _, keys, *rest = np.random.get_state()  # the global stream is what is meant
    return [torch.get_rng_state(), repr(random.getstate()), torch.from_numpy(keys), repr(rest)]


def same(a, b):
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or a is b


def differences(before, after, *, identity=True):
    found = [f"{path} is gone" for path in before if path not in after]
    found += [f"{path} is new" for path in after if path not in before]
    for path in before.keys() & after.keys():
        (a, inside_a), (b, inside_b) = before[path], after[path]
        # Bound methods and small numbers are made anew whenever they are looked at.
        if identity and a is not b and not isinstance(a, int | float | str):
            found.append(f"{path} is another object")
        elif not same(inside_a, inside_b):
            found.append(f"{path} holds something else")
    return sorted(found)


class Watch:
    """Requires after each call that nothing has changed."""

    def __init__(self, run):
        self.run = run
        self.before, self.streams = everything(run), streams()

    def unchanged(self, what, *, but="no path"):
        found = differences(self.before, everything(self.run))
        found = [path for path in found if but not in path]
        assert not found, f"after {what}: {found[:8]}"
        assert same(self.streams, streams()), f"after {what}: a random stream moved"
