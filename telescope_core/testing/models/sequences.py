"""Recurrent networks, layouts with the steps first, and rows that run in small groups."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from telescope_core.testing.models.entry import ZooModel, real


class LastState(nn.Module):
    """(rows, steps, features) through a recurrent module of either layout to the last state."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        width = recurrent.proj_size or recurrent.hidden_size
        self.head = nn.Linear(width * (2 if recurrent.bidirectional else 1), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, steps, features) to (rows, outputs)."""
        if self.recurrent.batch_first:
            last = self.recurrent(x)[0][:, -1]
        else:
            last = self.recurrent(x.transpose(0, 1))[0][-1]
        return self.head(last)


class _Packed(nn.Module):
    # Sequences of several lengths, packed; longest first is not required.
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, sequence: Tensor, length: Tensor) -> Tensor:
        packed = pack_padded_sequence(sequence, length, batch_first=True, enforce_sorted=False)
        return self.head(self.gru(packed)[1][-1])


class _Cells(nn.Module):
    def __init__(self, cell: type[nn.RNNCell] | type[nn.GRUCell]) -> None:
        super().__init__()
        self.cell = cell(2, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 3)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.head(h)


class _LSTMCells(nn.Module):
    # The initial state is learned.
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, 3)
        self.start = nn.Parameter(torch.zeros(2, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.start.expand(2, len(x), 3)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return h[:, :2] * c[:, 1:]


class _StepsFirst(nn.Module):
    # Linear layers on (steps, rows, features).
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(2, 3), nn.Linear(3, 2)
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.first(x.transpose(0, 1).contiguous())))
        return self.head(h.cumsum(0)).mean(0)


class _EncoderStepsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.transpose(0, 1)))[0])


class _TwoRowsAtATime(nn.Module):
    # Evaluated in groups of two rows, to save memory.
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(rows) for rows in torch.split(x, 2)])


class _TwoStepsAtATime(nn.Module):
    # One layer called once for each pair of steps, with rows and steps flattened together.
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.layer(pair.reshape(-1, 2)).relu() for pair in torch.split(x, 2, dim=1)]
        h = torch.cat([part.reshape(len(x), -1, 3) for part in parts], dim=1)
        return self.head(h.mean(1))


class _EveryStep(nn.Module):
    # One prediction a step: outputs (rows, steps, k).
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def _sequences_with_lengths(rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 4, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(1, 5, (rows,), generator=generator)


_x = real(4, 2)
MODELS = (
    ZooModel("lstm", lambda: LastState(nn.LSTM(2, 3, 2, batch_first=True), 2), _x, (2,)),
    ZooModel("lstm-steps-first", lambda: LastState(nn.LSTM(2, 3), 1), _x, (1,)),
    ZooModel(
        "lstm-projected",
        lambda: LastState(nn.LSTM(2, 4, proj_size=2, batch_first=True), 2),
        _x,
        (2,),
    ),
    ZooModel("gru-bidirectional", lambda: LastState(nn.GRU(2, 2, bidirectional=True), 2), _x, (2,)),
    ZooModel(
        "rnn-relu",
        lambda: LastState(nn.RNN(2, 3, nonlinearity="relu", batch_first=True), 2),
        _x,
        (2,),
    ),
    ZooModel("gru-packed", _Packed, _sequences_with_lengths, (2,)),
    ZooModel("rnn-cells", lambda: _Cells(nn.RNNCell), _x, (2,)),
    ZooModel("gru-cells", lambda: _Cells(nn.GRUCell), _x, (2,)),
    ZooModel("lstm-cells", _LSTMCells, _x, (2,)),
    ZooModel("linear-steps-first", _StepsFirst, _x, (2,)),
    ZooModel("encoder-steps-first", _EncoderStepsFirst, _x, (2,)),
    ZooModel("two-rows-at-a-time", _TwoRowsAtATime, real(3), (2,)),
    ZooModel("two-steps-at-a-time", _TwoStepsAtATime, _x, (2,)),
    ZooModel("every-step", _EveryStep, real(3, 2), (3, 2)),
)
