"""Transformers and what is made of attention: masks, positions, pooling, two streams."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real, several, tokens
from telescope_core.testing.models.perceptrons import zeroed


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, indices: Tensor) -> Tensor:
        h = self.embedding(indices)
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        return self.head(h.mean(1))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 5, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


class _CausalBlock(nn.Module):
    def __init__(self, width: int, heads: int, positions: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, width))
        self.heads, self.positions = heads, positions

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = (
            part.reshape(rows, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        if self.positions == "rotary":
            q, k = _rotated(q), _rotated(k)
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
        if self.positions == "alibi":
            steps = torch.arange(length, dtype=x.dtype)
            slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=x.dtype)
            mask = mask + slopes[:, None, None] * (steps[None, :] - steps[:, None])
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.project(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.mlp(self.norm2(x))


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions: pairs of features turned by an angle that grows with the step."""
    half = x.shape[-1] // 2
    frequency = 10.0 ** -torch.arange(half, dtype=x.dtype)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class _GPT(nn.Module):
    # Causal, with an untied head that starts at zero; outputs are the last token's logits.
    def __init__(self, positions: str = "learned", *, zero_head: bool = False) -> None:
        super().__init__()
        self.token = nn.Embedding(5, 4)
        self.position = nn.Embedding(3, 4) if positions == "learned" else None
        self.blocks = nn.ModuleList(_CausalBlock(4, 2, positions) for _ in range(1))
        self.norm = nn.LayerNorm(4)
        head = nn.Linear(4, 3, bias=False)
        self.head = zeroed(head) if zero_head else head

    def forward(self, indices: Tensor) -> Tensor:
        h = self.token(indices)
        if self.position is not None:
            h = h + self.position(torch.arange(indices.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h)[:, -1])


class _NextTokens(nn.Module):
    # Logits of every position: outputs (rows, steps, classes).
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(4, 4)
        self.block = _CausalBlock(4, 1, "none")
        self.head = nn.Linear(4, 2)

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(self.block(self.token(indices)))


class _CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.head((x + self.attention(x, memory, memory)[0]).mean(1))


class _AttentionPooling(nn.Module):
    # A learned token that starts at zero looks at the others; the head starts at zero, too.
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.query = nn.Parameter(torch.zeros(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = zeroed(nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return self.head(self.attention(self.query.expand(len(x), -1, -1), h, h)[0][:, 0])


class _Latents(nn.Module):
    # Perceiver: a few learned vectors, the same for every row, look at the row.
    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(2, 4))
        self.attention = nn.MultiheadAttention(4, 1, kdim=3, vdim=3, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        query = self.latents.expand(len(x), -1, -1)
        return self.head((query + self.attention(query, x, x)[0]).flatten(1))


class _VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position = nn.Parameter(torch.randn(1, 5, 4) / 5)
        self.layer = nn.TransformerEncoderLayer(
            4, 2, 5, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], dim=1) + self.position
        return self.head(self.layer(h)[:, 0])


class _MaskedTokens(nn.Module):
    # Called by keywords, as models of transformers are.
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        padding = attention_mask == 0
        h = self.layer(self.embedding(input_ids), src_key_padding_mask=padding)
        weights = attention_mask.to(h.dtype)[..., None]
        return self.head((h * weights).sum(1) / weights.sum(1))


def _padded(rows: int, generator: Generator) -> dict[str, Tensor]:
    lengths = torch.randint(1, 5, (rows, 1), generator=generator)
    mask = (torch.arange(4) < lengths).long()
    return {
        "input_ids": torch.randint(1, 6, (rows, 4), generator=generator) * mask,
        "attention_mask": mask,
    }


_tokens = tokens(5, 3)
MODELS = (
    ZooModel("multihead-attention", _SelfAttention, _tokens, (2,)),
    ZooModel("encoder-eval", lambda: _Encoder().eval(), real(3, 4), (2,)),
    ZooModel("gpt-zero-head", lambda: _GPT(zero_head=True), _tokens, (3,)),
    ZooModel("gpt-rotary", lambda: _GPT("rotary"), _tokens, (3,)),
    ZooModel("gpt-alibi", lambda: _GPT("alibi"), _tokens, (3,)),
    ZooModel("next-tokens", _NextTokens, tokens(4, 3), (3, 2)),
    ZooModel("cross-attention", _CrossAttention, several(real(2, 4), real(3, 3)), (2,)),
    ZooModel("attention-pooling", _AttentionPooling, real(4, 3), (2,)),
    ZooModel("latents", _Latents, real(3, 3), (2,)),
    ZooModel("vision-transformer", _VisionTransformer, real(1, 4, 4), (2,)),
    ZooModel("masked-tokens", _MaskedTokens, _padded, (2,)),
)
