"""A small pre-LN transformer that classifies short token sequences, initialised from its seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError, ShapeError


class Transformer(nn.Module):
    r"""Tokens in, logits of the classes at the last position out (pre-LN, learned positions).

    With token and position embeddings :math:`h^0_s = E_{x_s} + P_s`, each block adds

    .. math::
        h &← h + W_O\,\mathrm{attention}(W_Q u, W_K u, W_V u), & u &= \mathrm{LN}(h) \\
        h &← h + W_2\,\mathrm{ReLU}(W_1\,\mathrm{LN}(h) + b_1) + b_2,

    and the logits are :math:`W_U\,\mathrm{LN}(h_L)` at the last position L, with no bias. Attention
    is softmax attention over ``heads`` heads of ``width / heads`` dimensions, scaled by the square
    root of that (Vaswani et al. 2017; layer norms before the branches as in Xiong et al. 2020). The
    one-block form is the network of Nanda et al. (2023), with layer norms.

    Only the last position is read, so the last block computes queries, the output projection and
    the feed-forward layer there alone. That changes no output and no gradient, and it means that a
    single block computes the same with and without a causal mask.

    All parameters belong to embedding, linear and layer-norm modules; their Jacobians have factors.

    Args:
        vocabulary: Number of tokens.
        length: Length of every sequence, at least 1.
        outputs: Number of classes.
        width: Dimension of the residual stream.
        heads: Attention heads; they divide the width.
        blocks: Number of blocks.
        hidden: Width of the feed-forward layers; ``None`` for ``4 * width``.
        causal: Whether a position sees only itself and the positions before it.
        seed: Seed of the initialisation: embeddings normal with variance ``1 / width``, the rest
            torch's default for ``nn.Linear`` and ``nn.LayerNorm``. The global generator is as it
            was afterwards.

    Raises:
        ConfigurationError: A size is smaller than one, or the heads do not divide the width.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        *,
        width: int = 32,
        heads: int = 4,
        blocks: int = 1,
        hidden: int | None = None,
        causal: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        sizes = {
            "vocabulary": vocabulary,
            "length": length,
            "outputs": outputs,
            "width": width,
            "heads": heads,
            "blocks": blocks,
            "hidden": hidden,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {size}")
        if width % heads:
            raise ConfigurationError(f"heads must divide the width {width}, got {heads}")
        self.length = length
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Embedding(length, width)
            self.blocks = nn.ModuleList(
                TransformerBlock(width, heads, hidden, causal=causal) for _ in range(blocks)
            )
            self.norm = nn.LayerNorm(width)
            self.unembedding = nn.Linear(width, outputs, bias=False)
            with torch.no_grad():
                for table in (self.tokens, self.positions):
                    table.weight.div_(math.sqrt(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict what follows the token indices (rows, length), int64.

        Returns:
            Logits (rows, outputs).

        Raises:
            ShapeError: The sequences have another length.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ShapeError(
                f"got tokens of shape {tuple(tokens.shape)}, expected (rows, {self.length})"
            )
        # One index a row, so that the embedding, like every other layer, has rows first.
        positions = torch.arange(self.length, device=tokens.device).expand_as(tokens)
        stream = self.tokens(tokens) + self.positions(positions)
        for number, block in enumerate(self.blocks, start=1):
            stream = block(stream, only_last=number == len(self.blocks))
        logits: Tensor = self.unembedding(self.norm(stream[:, -1]))
        return logits


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer, each added to the residual stream.

    Args:
        width: Dimension of the residual stream.
        heads: Attention heads; they divide the width.
        hidden: Width of the feed-forward layer.
        causal: Whether a position sees only itself and the positions before it.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.hidden_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, stream: Tensor, *, only_last: bool = False) -> Tensor:
        """Add the two branches.

        Args:
            stream: Shape (rows, length, width).
            only_last: Whether to compute the last position alone.

        Returns:
            Shape (rows, length, width), or (rows, 1, width) for the last position.
        """
        normalised = self.attention_norm(stream)
        asking, stream = (normalised[:, -1:], stream[:, -1:]) if only_last else (normalised, stream)
        stream = stream + self.projection(self._attend(asking, normalised))
        hidden = functional.relu(self.expand(self.hidden_norm(stream)))
        result: Tensor = stream + self.contract(hidden)
        return result

    def _attend(self, asking: Tensor, asked: Tensor) -> Tensor:
        """Softmax attention of the last positions to all positions, (rows, asking, width)."""
        query, key, value = (
            self._by_head(layer(x))
            for layer, x in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if self.causal:
            queries, keys = scores.shape[-2:]
            mask = torch.ones(queries, keys, dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(mask.triu(keys - queries + 1), -math.inf)
        mixed = scores.softmax(dim=-1) @ value
        return mixed.transpose(1, 2).flatten(2)

    def _by_head(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        return x.view(rows, length, self.heads, width // self.heads).transpose(1, 2)
