"""Proteina's transformer in eager PyTorch, written from its description: what ours is timed against.

As the published code has it: one-hot vectors of bins times matrices, conditions computed for every residue, and a norm
and a linear map of the pairs in every block. Without updates of pairs and without folds.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class AdaptiveNorm(nn.Module):
    def __init__(self, width, condition):
        super().__init__()
        self.norm, self.condition = nn.LayerNorm(width, elementwise_affine=False), nn.LayerNorm(condition)
        self.gain, self.offset = nn.Linear(condition, width), nn.Linear(condition, width, bias=False)

    def forward(self, x, c):
        c = self.condition(c)
        return self.norm(x) * torch.sigmoid(self.gain(c)) + self.offset(c)


class SwiGLU(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        a, g = self.inner(x).chunk(2, -1)
        return self.outer(a * F.silu(g))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c.width
        self.heads = c.n_heads
        self.norm, self.of_pairs = nn.LayerNorm(d), nn.LayerNorm(c.pair_width)
        self.query_norm, self.key_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.gate, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, d)
        self.bias = nn.Linear(c.pair_width, c.n_heads, bias=False)

    def forward(self, x, pairs, both):
        x = self.norm(x)
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
        bias = self.bias(self.of_pairs(pairs)).permute(0, 3, 1, 2).masked_fill(~both[:, None], -1e9)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(torch.sigmoid(self.gate(x)) * o.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norms = nn.ModuleList(AdaptiveNorm(c.width, c.condition) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(c.condition, c.width) for _ in range(2))
        self.attention, self.network = Attention(c), SwiGLU(c.width, 4 * c.width)

    def forward(self, x, c, pairs, mask, both):
        x = x + torch.sigmoid(self.gates[0](c)) * self.attention(self.norms[0](x, c), pairs, both)
        x = x + torch.sigmoid(self.gates[1](c)) * self.network(self.norms[1](x, c))
        return x * mask[..., None]


class TorchFlowTransformer(nn.Module):
    """`(positions, index, breaks, time, guess) -> velocity`; `c` is our model, of which only the fields are read."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.condition = nn.Linear(c.time_features, c.condition, bias=False)
        self.transitions = nn.ModuleList(SwiGLU(c.condition, 2 * c.condition) for _ in range(2))
        self.positions = nn.Linear(3, c.width, bias=False)
        self.sequence = nn.Linear(c.index_features + 4, c.width, bias=False)
        self.pair_time = nn.Linear(c.time_features, c.condition, bias=False)
        self.pair_time_norm, self.pair_norm = nn.LayerNorm(c.condition), nn.LayerNorm(c.pair_width)
        self.pairs = nn.Linear(sum(c.bins), c.pair_width, bias=False)
        self.pair_adaptive = AdaptiveNorm(c.pair_width, c.condition)
        self.registers = nn.Parameter(torch.randn(c.n_registers, c.width) / 20)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_blocks))
        self.head_norm, self.head = nn.LayerNorm(c.width), nn.Linear(c.width, 3, bias=False)
        for name, limits in zip(("separations", "of_guess", "of_positions"), c.bins.limits(), strict=True):
            self.register_buffer(name, torch.tensor(limits, dtype=torch.float32), persistent=False)

    def forward(self, positions, index, breaks, time, guess):
        c, mask = self.c, index > 0
        time = self._time(time)[:, None].expand(-1, positions.shape[1], -1)  # of every residue
        condition = self.condition(time) * mask[..., None]
        for transition in self.transitions:
            condition = transition(condition)
        k = torch.arange(c.index_features // 2, device=index.device)
        angle = index[..., None] * math.pi / 2056 ** (2 * k / c.index_features)
        along = torch.cat([angle.sin(), angle.cos(), breaks[..., None].float(), guess], -1)
        x = (self.positions(positions) + self.sequence(along)) * mask[..., None]
        x = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
        separation = (index[:, :, None] - index[:, None]).float()
        kinds = (
            (separation, self.separations), (torch.cdist(guess, guess), self.of_guess),
            (torch.cdist(positions, positions), self.of_positions),
        )  # fmt: skip
        one_hot = [F.one_hot(torch.bucketize(v, limits), len(limits) + 1).float() for v, limits in kinds]
        of_time = self.pair_time_norm(self.pair_time(time[:, :1]))[:, None]
        pairs = self.pair_adaptive(self.pair_norm(self.pairs(torch.cat(one_hot, -1))), of_time)
        more = c.n_registers
        pairs, condition = F.pad(pairs, (0, 0, more, 0, more, 0)), F.pad(condition, (0, 0, more, 0))
        seen = F.pad(mask, (more, 0), value=True)
        both = seen[:, :, None] & seen[:, None]
        for block in self.blocks:
            x = block(x, condition, pairs, seen, both)
        return self.head(self.head_norm(x[:, more:])) * mask[..., None]

    def _time(self, t):
        half = self.c.time_features // 2
        frequency = torch.exp(-torch.arange(half, device=t.device) * math.log(2000) / (half - 1))
        angle = 2000 * t[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], -1)
