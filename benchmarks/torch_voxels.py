"""The VoxMol U-Net and voxeliser in eager PyTorch, written from their description: what ours are timed against."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from equiscale.data.voxels import WIDTH, Grid


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, groups: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, c_in), nn.GroupNorm(groups, c_out)
        self.conv1, self.conv2 = nn.Conv3d(c_in, c_out, 3, padding=1), nn.Conv3d(c_out, c_out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv3d(c_in, c_out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class Attention(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.projection, self.output = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.projection(tokens).chunk(3, dim=-1)
        y = self.output(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])
        return x + y.transpose(1, 2).reshape(x.shape)


class TorchUNet(nn.Module):
    """`[batch, n_elements, l, l, l]` to the same; fields as `equiscale.models.voxel_unet.VoxelUNet`."""

    def __init__(
        self,
        n_elements,
        n_channels,
        n_groups,
        channel_multipliers,
        attention_levels,
        n_blocks=2,
        dropout=0.0,
        head_gain=1.0,
    ):
        super().__init__()
        widths = [n_channels * m for m in itertools.accumulate(channel_multipliers, lambda a, b: a * b)]

        def block(c_in, c_out, attention):
            res = ResBlock(c_in, c_out, n_groups, dropout)
            return nn.Sequential(res, Attention(c_out)) if attention else res

        self.stem = nn.Conv3d(n_elements, widths[0], 3, padding=1)
        skips, c = [widths[0]], widths[0]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(n_blocks):
                self.down.append(block(c, width, attention_levels[level]))
                skips.append(c := width)
            if level < len(widths) - 1:
                self.down.append(nn.Conv3d(c, c, 3, stride=2, padding=1))
                skips.append(c)
        self.middle = nn.Sequential(block(c, c, True), block(c, c, False))
        self.resample = []  # which of `up` double the grid, and so take no skip
        for level in reversed(range(len(widths))):
            above = widths[max(level - 1, 0)]
            for width in (widths[level],) * n_blocks + (above,):
                self.up.append(block(c + skips.pop(), width, attention_levels[level]))
                self.resample.append(False)
                c = width
            if level:
                self.up.append(nn.ConvTranspose3d(c, c, 4, stride=2, padding=1))
                self.resample.append(True)
        self.norm, self.head = nn.GroupNorm(n_groups, c), nn.Conv3d(c, n_elements, 3, padding=1)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter *= head_gain

    def forward(self, x):
        h = self.stem(x)
        skips = [h]
        for layer in self.down:
            h = layer(h)
            skips.append(h)
        h = self.middle(h)
        for layer, resample in zip(self.up, self.resample, strict=True):
            h = layer(h) if resample else layer(torch.cat([h, skips.pop()], dim=1))
        return self.head(F.silu(self.norm(h)))


def torch_voxelise(positions, channel, grid: Grid):
    """1 - prod (1 - p_a) of `[n, atoms, 3]` positions, as a sum of logarithms into each atom's channel."""
    axis = torch.as_tensor(grid.axis, dtype=positions.dtype, device=positions.device)
    one = torch.exp(-(((axis - positions[..., None]) / (WIDTH * grid.radius)) ** 2))  # [n, atoms, 3, l]
    p = one[:, :, 0, :, None, None] * one[:, :, 1, None, :, None] * one[:, :, 2, None, None, :]
    vacancy = torch.log1p(-p.clamp(max=1 - 1e-6))
    n, _, length = len(positions), positions.shape[1], grid.length
    total = torch.zeros((n * len(grid.elements), length, length, length), dtype=p.dtype, device=p.device)
    row = (torch.arange(n, device=p.device)[:, None] * len(grid.elements) + channel).flatten()
    total = total.index_add(0, row, vacancy.flatten(0, 1))
    return 1 - torch.exp(total).reshape(n, -1, length, length, length)
