"""EScAIP's graph transformer in eager PyTorch, written from its description: what ours is timed against.

In the layout of the published code: a flat list of atoms with a table of neighbours and a mask, dense layers on
concatenated features of edge, sender and receiver.
"""

import torch
from torch import nn
from torch.nn import functional as F


class FeedForward(nn.Sequential):
    def __init__(self, width: int, multiplier: int):
        super().__init__(nn.Linear(width, multiplier * width), nn.GELU(), nn.Linear(multiplier * width, width))


class EdgeAttributes(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.radial = nn.Linear(c.n_rbf, c.radial_features)
        self.orders = nn.ModuleList(nn.Linear(c.n_degrees, c.order_features) for _ in range(2))
        self.tables = nn.ModuleList(nn.Embedding(c.n_species, c.species_features) for _ in range(2))
        self.mix = nn.Linear(c.radial_features + 2 * (c.order_features + c.species_features), c.hidden)

    def forward(self, x):
        ends = [
            (F.gelu(order(x["order"])), table(x["species"]))
            for order, table in zip(self.orders, self.tables, strict=True)
        ]
        k = x["neighbours"].shape[1]
        sender = [a[x["neighbours"]] for a in ends[0]]
        receiver = [a[:, None].expand(-1, k, -1) for a in ends[1]]
        return F.gelu(self.mix(torch.cat([F.gelu(self.radial(x["radial"])), *sender, *receiver], -1)))


def masked_mean(x, mask):
    return (x * mask[..., None]).sum(1) / (mask.sum(1, keepdim=True) + 1e-5)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        h = c.hidden
        self.heads = c.n_heads
        self.attributes = EdgeAttributes(c)
        self.attention_norm, self.atoms_norm, self.edges_norm = (nn.RMSNorm(h) for _ in range(3))
        self.pairs, self.messages = nn.Linear(2 * h, h), nn.Linear(2 * h, h)
        self.qkv, self.out = nn.Linear(h, 3 * h), nn.Linear(h, h)
        self.angle = nn.Parameter(torch.ones(()))
        self.atoms, self.edges = FeedForward(h, c.ffn_multiplier), FeedForward(h, c.ffn_multiplier)

    def forward(self, atoms, edges, x):
        attributes, n = self.attributes(x), self.attention_norm(atoms)
        k = x["neighbours"].shape[1]
        pairs = F.gelu(self.pairs(torch.cat([n[x["neighbours"]], n[:, None].expand(-1, k, -1)], -1)))
        m = F.gelu(self.messages(torch.cat([attributes, pairs], -1)))
        q, key, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in self.qkv(m).chunk(3, -1))
        bias = self.angle * x["cosines"] + torch.where(x["mask"], 0.0, -1e9)[:, None, :]
        o = F.scaled_dot_product_attention(q, key, v, attn_mask=bias[:, None].expand(-1, self.heads, -1, -1))
        o = self.out(o.transpose(1, 2).flatten(2))
        atoms, edges = atoms + masked_mean(o, x["mask"]), edges + o
        return atoms + self.atoms(self.atoms_norm(atoms)), edges + self.edges(self.edges_norm(edges))


class Readout(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(c.hidden) for _ in range(2))
        self.networks = nn.ModuleList(FeedForward(c.hidden, c.readout_multiplier) for _ in range(2))

    def forward(self, *features):
        return [a + network(norm(a)) for a, norm, network in zip(features, self.norms, self.networks, strict=True)]


class TorchGraphTransformer(nn.Module):
    """`(positions [atoms, 3], species, neighbours [atoms, k], mask, molecule of each atom) -> energies, forces`.

    `c` is our model, of which only the fields are read.
    """

    def __init__(self, c):
        super().__init__()
        self.c, h = c, c.hidden
        self.first, self.first_norm, self.first_network = EdgeAttributes(c), nn.RMSNorm(h), FeedForward(h, 1)
        self.norms = nn.ModuleList(nn.RMSNorm(h) for _ in range(2))
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.readouts = nn.ModuleList(Readout(c) for _ in range(c.n_layers + 1))
        width = (c.n_layers + 1) * h
        self.projections = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width), nn.Linear(width, h), nn.GELU(), nn.RMSNorm(h)) for _ in range(2)
        )
        self.heads = nn.ModuleList(FeedForward(h, c.output_multiplier) for _ in range(3))  # energy, size, direction
        self.scalars = nn.ModuleList(nn.Linear(h, 1, bias=False) for _ in range(2))
        self.rows = nn.Linear(h, 3, bias=False)

    def features(self, positions, species, neighbours, mask):
        c = self.c
        apart = positions[:, None] - positions[neighbours]
        distance = torch.where(mask, apart.square().sum(-1), 1.0).sqrt()
        unit = apart / distance[..., None] * mask[..., None]
        cosines = unit @ unit.transpose(1, 2)
        centres = torch.linspace(0, c.cutoff, c.n_rbf, device=positions.device)
        spread = (distance[..., None] - centres) / (2 * c.cutoff / (c.n_rbf - 1))
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)
        order, lower, upper = [], torch.ones_like(cosines), cosines
        for degree in range(c.n_degrees):
            mean = torch.einsum("aj,ajk,ak->a", share, lower, share)
            order.append(((2 * degree + 1) * mean.clamp(min=1e-6)).sqrt())
            lower, upper = upper, ((2 * degree + 3) * cosines * upper - (degree + 1) * lower) / (degree + 2)
        return {
            "species": species, "neighbours": neighbours, "mask": mask, "unit": unit, "cosines": cosines,
            "radial": torch.exp(-0.5 * spread.square()) * mask[..., None], "order": torch.stack(order, -1),
        }  # fmt: skip

    def forward(self, positions, species, neighbours, mask, molecule, n_molecules: int):
        x = self.features(positions, species, neighbours, mask)
        edges = self.first(x)
        edges = edges + self.first_network(self.first_norm(edges))
        atoms, edges = self.norms[0](masked_mean(edges, mask)), self.norms[1](edges)
        read = [self.readouts[0](atoms, edges)]
        for block, readout in zip(self.blocks, self.readouts[1:], strict=True):
            atoms, edges = block(atoms, edges, x)
            read.append(readout(atoms, edges))
        atoms, edges = (p(torch.cat(r, -1)) for p, r in zip(self.projections, zip(*read, strict=True), strict=True))
        energy = self.scalars[0](atoms + self.heads[0](atoms))[:, 0]
        size = self.scalars[1](atoms + self.heads[1](atoms))
        forces = size * (self.rows(edges + self.heads[2](edges)) * x["unit"]).sum(1)
        return torch.zeros(n_molecules, device=energy.device).index_add(0, molecule, energy), forces
