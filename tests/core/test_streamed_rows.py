"""Training sets that are loaders, streams or samples: rows known by who they are, none kept."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from telescope_core.callbacks import IndexedDataset
from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.lens import TelescopeLens
from telescope_core.probes import LabelDirections, StreamedDirections

ROWS, WIDTH, OUTPUTS = 40, 5, 2


def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.rand(ROWS, OUTPUTS, generator=generator, dtype=torch.float64)


def squared(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def training():
    torch.manual_seed(1)
    layers = nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2)
    model = nn.Sequential(*layers, nn.Linear(8, OUTPUTS)).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


class Named(Dataset):
    """Rows in dictionaries, with numbers of their own."""

    def __init__(self, keep=range(ROWS)):
        self.x, self.y = data()
        self.keep = list(keep)

    def __len__(self):
        return len(self.keep)

    def __getitem__(self, position):
        row = self.keep[position]
        return {"features": self.x[row], "target": self.y[row], "number": 7000 + row}


class Stream(IterableDataset):
    def __iter__(self):
        yield from (Named()[i] for i in torch.randperm(ROWS).tolist())


def followed(loader, lens, model, optimizer, *, noise=0.05, epochs=2):
    """A loop as people write it, with augmentation; the rows are told by the loader."""
    torch.manual_seed(5)
    for _ in range(epochs):
        for batch in loader if lens is None else lens.batches(loader):
            x, y = batch if isinstance(batch, list) else (batch["features"], batch["target"])
            optimizer.zero_grad()
            loss = squared(model(x + noise * torch.randn_like(x)), y)
            loss.backward()
            if lens is None:
                optimizer.step()
            else:
                with lens.step():
                    optimizer.step()


def loader_of(dataset, workers=0):
    return DataLoader(
        dataset,
        batch_size=8,
        shuffle=not isinstance(dataset, IterableDataset),
        num_workers=workers,
    )


def lens_of(model, optimizer, source, **options):
    options = {"probes": 6, "stride": 1, "eval_rows": ROWS, "seed": 3, **options}
    test = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return TelescopeLens(model, optimizer, squared, source, eval_sets={"test": test}, **options)


def columns(lens, name="test", reading="end-to-end"):
    return lens._readings._columns(name, reading)


def signs(ids, seed=3, probes=6):
    directions = StreamedDirections(ROWS, OUTPUTS, torch.ones(probes).double() / probes, seed)
    return directions.rows(ids)


def stored_columns(V, **options):
    """The same run by a lens that holds all rows and is given these columns."""
    model, optimizer = training()
    x, y = data()
    test = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    sets = {"test": test}
    lens = TelescopeLens(
        model, optimizer, squared, x, y, sets, probes=V.shape[-1], stride=1, **options
    )
    engines = lens._run.engines
    engines._choose_directions = lambda _: LabelDirections(V, torch.ones(V.shape[-1]).double(), 0)
    engines._before_training = None
    lens._run.carry_smoother(engines)
    followed(loader_of(TensorDataset(x, y)), lens, model, optimizer)
    return columns(lens)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrap", [lambda d: d, IndexedDataset])
def test_a_plain_loader_gives_the_columns_of_stored_rows(wrap, workers):
    model, optimizer = training()
    loader = loader_of(wrap(TensorDataset(*data())), workers)
    lens = lens_of(model, optimizer, loader)
    followed(loader, lens, model, optimizer)
    expected = stored_columns(signs(torch.arange(ROWS)))
    torch.testing.assert_close(columns(lens), expected, rtol=1e-10, atol=1e-12)


def test_rows_are_known_by_the_numbers_that_the_dataset_gives():
    """Also where the loader draws from a part of it in another order."""
    results = []
    for keep in (range(ROWS), reversed(range(ROWS))):
        model, optimizer = training()
        loader = DataLoader(Named(keep), batch_size=ROWS)
        lens = lens_of(model, optimizer, loader, sample_id="number")
        followed(loader, lens, model, optimizer, noise=0.0, epochs=0)
        for batch in lens.batches(loader):
            model.eval()  # Order matters to masks.
            squared(model(batch["features"]), batch["target"]).backward()
            with lens.step():
                optimizer.step()
        results.append(columns(lens))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("at", [0, 2, -1])
def test_rows_whose_numbers_stand_in_a_tuple(at):
    x, y = data()
    number = torch.arange(ROWS) + 7000
    parts = [x, y]
    parts.insert(2 if at == -1 else at, number)
    model, optimizer = training()
    loader = DataLoader(TensorDataset(*parts), batch_size=8)
    lens = lens_of(model, optimizer, loader, sample_id=at)
    for batch in lens.batches(loader):
        rest = [part for part in batch if part.is_floating_point()]
        squared(model(rest[0]), rest[1]).backward()
        with lens.step():
            optimizer.step()
        optimizer.zero_grad()
    assert lens.steps == ROWS // 8
    assert len(lens.predictions("train")) == ROWS


def test_a_stream_whose_rows_have_numbers():
    model, optimizer = training()
    loader = loader_of(Stream())
    lens = lens_of(model, optimizer, loader, sample_id="number", train_rows=ROWS)
    followed(loader, lens, model, optimizer)
    ids = []
    torch.manual_seed(5)
    for _ in range(2):
        for batch in loader:
            torch.randn_like(batch["features"])
            ids.append(batch["number"])
    assert len(torch.cat(ids).unique()) == ROWS
    assert lens.steps == len(ids)
    record = lens.snapshot().to_record()
    assert 0 < record["train/degrees_of_freedom"] < ROWS * OUTPUTS


def test_training_on_a_loader_is_the_same_to_the_bit():
    ends = []
    for is_followed in (False, True):
        model, optimizer = training()
        loader = loader_of(TensorDataset(*data()))
        lens = lens_of(model, optimizer, loader) if is_followed else None
        followed(loader, lens, model, optimizer)
        state = [v for s in optimizer.state.values() for v in s.values() if v is not None]
        ends.append([*model.state_dict().values(), *state, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_batches_cut_into_parts_and_parts_gathered():
    expected = None
    for parts in (1, 2):
        model, optimizer = training()
        model.eval()
        loader = DataLoader(TensorDataset(*data()), batch_size=8 // parts)
        lens = lens_of(model, optimizer, loader)
        for number, (x, y) in enumerate(lens.batches(loader)):
            (squared(model(x), y) / parts).backward()
            if (number + 1) % parts == 0:
                with lens.step():
                    optimizer.step()
                optimizer.zero_grad()
        if expected is None:
            expected = columns(lens)
    torch.testing.assert_close(columns(lens), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_batches_left_out_and_batches_drawn_ahead(ahead, augmented):
    """The rows of a step are those that its gradient shows, whatever else was drawn."""
    results = []
    for by_hand in (True, False):
        model, optimizer = training()
        loader = loader_of(IndexedDataset(TensorDataset(*data())))
        lens = lens_of(model, optimizer, loader)
        torch.manual_seed(5)
        drawn = iter(lens.batches(loader)) if not by_hand else map(separated, loader)
        following = next(drawn)
        for number in range(4):
            batch, following = following, next(drawn) if ahead else None
            (x, y), index = batch if by_hand else (batch, None)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).double()
            optimizer.zero_grad()
            squared(model(x + 0.1 * noise if augmented else x), y).backward()
            if number != 1:  # As where a loss was not finite.
                with lens.step(index, targets=y if by_hand else None):
                    optimizer.step()
            following = following if ahead else next(drawn)
        assert lens.steps == 3
        results.append(columns(lens))
    assert torch.equal(*results)


def separated(batch):
    x, y, index = batch
    return (x, y), index["telescope_index"]


def test_a_step_whose_batch_cannot_be_told_from_another_is_refused():
    x, y = data()
    model, optimizer = training()
    loader = DataLoader(TensorDataset(x, torch.ones_like(y)), batch_size=8)
    lens = lens_of(model, optimizer, loader)
    batches = iter(lens.batches(loader))
    first, _ = next(batches), next(batches)
    squared(model(first[0] + 0.1), first[1]).backward()
    with pytest.raises(ConfigurationError, match="2 of them fit what it did"), lens.step():
        optimizer.step()


def test_a_collate_function_that_sorts_is_refused_by_name():
    def longest_first(items):
        x, y = zip(*sorted(items, key=lambda item: -float(item[0][0])), strict=True)
        return [torch.stack(x), torch.stack(y)]

    def as_drawn(items):
        return [torch.stack(part) for part in zip(*items, strict=True)]

    rows = TensorDataset(*data())
    for collate, refused in ((longest_first, True), (as_drawn, False)):
        model, optimizer = training()
        loader = DataLoader(rows, batch_size=8, collate_fn=collate)
        lens = lens_of(model, optimizer, loader)
        if refused:
            with pytest.raises(ConfigurationError, match="longest_first puts the rows"):
                followed(loader, lens, model, optimizer)
        else:
            followed(loader, lens, model, optimizer)


def test_rows_and_targets_by_hand():
    x, y = data()
    results = []
    for by_hand in (False, True):
        model, optimizer = training()
        loader = DataLoader(TensorDataset(x, y), batch_size=10)
        lens = lens_of(model, optimizer, loader)
        for at, batch in zip(torch.arange(ROWS).split(10), lens.batches(loader), strict=True):
            squared(model(batch[0]), batch[1]).backward()
            named = {"index": at, "targets": y[at]} if by_hand else {}
            with lens.step(**named):
                optimizer.step()
            optimizer.zero_grad()
        results.append(columns(lens))
    assert torch.equal(*results)


def test_measures_are_unbiased_and_their_errors_honest():
    """Over many seeds of the signs the estimates surround what exact directions give."""
    S = torch.randn(9, OUTPUTS, ROWS * OUTPUTS, generator=torch.Generator().manual_seed(0)).double()
    truth = ROWS / (9 * OUTPUTS) * float(S.square().sum())
    from telescope_core.complexity import effective_parameters

    inside = total = 0.0
    for seed in range(200):
        V = StreamedDirections(ROWS, OUTPUTS, torch.full((16,), 1 / 16).double(), seed)
        SV = S @ V.rows(torch.arange(ROWS)).reshape(-1, 16)
        value, error = effective_parameters(SV, V)
        total += value / 200
        inside += abs(value - truth) < 2 * error
    assert abs(total - truth) < 3 * truth / math.sqrt(200 * 16)
    assert 0.88 < inside / 200 <= 1


def test_signs_depend_on_the_row_alone_and_look_random():
    ids = torch.cat([torch.arange(5000), 10**12 + torch.arange(5000), -torch.arange(1, 5001)])
    V = StreamedDirections(10**9, 3, torch.ones(8).double(), 0)
    all_at_once = V.rows(ids)
    assert all_at_once.abs().eq(1).all()
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))
    assert torch.equal(V.rows(ids[order]), all_at_once[order])
    flat = all_at_once.flatten(1)
    spread = 1 / math.sqrt(len(ids))
    assert flat.mean(dim=0).abs().max() < 5 * spread
    correlation = flat.T @ flat / len(ids) - torch.eye(24, dtype=torch.float64)
    assert correlation.abs().max() < 5 * spread
    neighbours = (flat[1:5000] * flat[: 5000 - 1]).mean(dim=0)
    assert neighbours.abs().max() < 5 / math.sqrt(5000)
    other = StreamedDirections(10**9, 3, torch.ones(8).double(), 1).rows(ids).flatten(1)
    assert (flat * other).mean(dim=0).abs().max() < 5 * spread


def test_a_checkpoint_of_a_streamed_run():
    whole, half, again = (training() for _ in range(3))
    loader = DataLoader(TensorDataset(*data()), batch_size=8)
    lenses = [lens_of(*pair, loader, stride=4) for pair in (whole, half)]
    for lens, pair in zip(lenses, (whole, half), strict=True):
        followed(loader, lens, *pair, epochs=1)
    again[0].load_state_dict(half[0].state_dict())
    again[1].load_state_dict(half[1].state_dict())
    lens = lens_of(*again, loader, stride=4)
    lens.load_state_dict(lenses[1].state_dict())
    assert not any("basis" in name for name in lens.state_dict()["tensors"])
    for follower, pair in ((lenses[0], whole), (lens, again)):
        followed(loader, follower, *pair, epochs=1)
    assert lens.snapshot().to_record() == lenses[0].snapshot().to_record()


def test_what_needs_all_rows_is_refused_by_name():
    loader = loader_of(TensorDataset(*data()))
    for options in ({"probes": "exact"}, {"kernel_norms": True}, {"strategy": "midpoint"}):
        with pytest.raises(ConfigurationError, match="needs all training rows in memory"):
            lens_of(*training(), loader, **options)
    with pytest.raises(ConfigurationError, match="beside a loader"):
        TelescopeLens(*training(), squared, loader, data()[1])
    with pytest.raises(ConfigurationError, match="does not say how many rows"):
        lens_of(*training(), loader_of(Pairs()))
    with pytest.raises(ConfigurationError, match="train_rows=7, but train_inputs alone has"):
        lens_of(*training(), loader, train_rows=7)
    with pytest.raises(ConfigurationError, match="names no whole numbers"):
        lens_of(*training(), loader_of(Named()), sample_id="nowhere")


class Pairs(IterableDataset):
    def __iter__(self):
        yield from zip(*data(), strict=True)


def test_rows_that_nothing_tells_are_refused_with_probes_only():
    loader = loader_of(Pairs())
    model, optimizer = training()
    lens = lens_of(model, optimizer, loader, train_rows=ROWS)
    with pytest.raises(ConfigurationError, match="nothing tells which training rows"):
        followed(loader, lens, model, optimizer)
    lens = lens_of(model, optimizer, loader, train_rows=ROWS, probes=None)
    followed(loader, lens, model, optimizer)
    assert lens.steps == 2 * ROWS // 8


def test_rows_that_training_has_not_seen_are_refused():
    model, optimizer = training()
    loader = loader_of(TensorDataset(*data()))
    lens = lens_of(model, optimizer, loader)
    for x, y in lens.batches(loader):
        squared(model(x[:-1]), y[:-1]).backward()
        with pytest.raises(ConfigurationError, match="as many as the model saw"), lens.step():
            optimizer.step()
        squared(model(x[:-1]), y[:-1]).backward()
        by_hand = lens.step(torch.arange(8), targets=y)
        with pytest.raises(TrainingMismatchError, match="8 positions"), by_hand:
            optimizer.step()
        break
