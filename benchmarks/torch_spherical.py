"""Tensor-product networks on e3nn in PyTorch, the same as ours in number for number: what ours are timed against.

Of e3nn are the linear maps, the tensor products of messages ("uvu", weights by edge) and of features ("uuu", weights by
atom), and gates. Edges are a flat list without padding. e3nn has no species-wise symmetric contraction of its own; the
products of up to three features that ours takes in its place are two of its tensor products. Irreps are all even, for
rotations without reflections, since ours have the odd paths too.
"""

import numpy as np
import torch
from e3nn import nn as enn
from e3nn import o3
from torch import nn
from torch.nn import functional as F

from equiscale.models.tensor_paths import paths


def irreps(channels: int, degree: int) -> o3.Irreps:
    return o3.Irreps([(channels, (d, 1)) for d in range(degree + 1)])


def by_degree(x: torch.Tensor, degree: int) -> list[torch.Tensor]:
    """Flat features to `[items, channels, 2 d + 1]` for each degree d."""
    channels = x.shape[-1] // (degree + 1) ** 2
    parts = x.split([channels * (2 * d + 1) for d in range(degree + 1)], -1)
    return [part.unflatten(-1, (channels, 2 * d + 1)) for d, part in enumerate(parts)]


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten(-2) for part in parts], -1)


class Linear(o3.Linear):
    """As `DegreeLinear`, from whose parameters it is filled."""

    def __init__(self, c, n_in: int, n_out: int, bias: bool = True):
        super().__init__(irreps(n_in, c.degree), irreps(n_out, c.degree), biases=bias)

    def fill(self, of, scales=None):
        kernel = np.array(of["kernel"]) * of["kernel"].shape[1] ** 0.5  # e3nn divides by the root of the fan-in
        if scales is not None:
            kernel = kernel / np.asarray(scales)[:, None, None]
        put(self.weight, kernel)
        if "bias" in of:
            put(self.bias, of["bias"])


def put(parameter: torch.Tensor, value) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(value)).reshape(parameter.shape))


def put_dense(layer: nn.Linear, of) -> None:
    put(layer.weight, np.asarray(of["kernel"]).T)
    if "bias" in of:
        put(layer.bias, of["bias"])


def put_norm(layer: nn.LayerNorm, of) -> None:
    put(layer.weight, of["scale"])
    put(layer.bias, of["bias"])


class Norm(nn.Module):
    def __init__(self, c, channels: int):
        super().__init__()
        self.degree = c.degree
        self.scalars = nn.LayerNorm(channels, eps=1e-6)
        self.gain = nn.Parameter(torch.ones(c.degree, channels))

    def forward(self, x):
        scalars, *higher = by_degree(x, self.degree)
        square = sum(h.square().sum(-1).mean(-1) / (h.shape[-1] * self.degree) for h in higher)
        scale = torch.rsqrt(square + 1e-6)[:, None, None]
        scaled = [h * scale * gain[:, None] for h, gain in zip(higher, self.gain, strict=True)]
        return joined([self.scalars(scalars[..., 0])[..., None], *scaled])

    def fill(self, of):
        put(self.gain, of["gain"])
        put_norm(self.scalars, of["scalars"])


class Radial(nn.Module):
    def __init__(self, c, n_out: int):
        super().__init__()
        width = c.radial_width
        self.hidden = nn.ModuleList(nn.Linear(n, width) for n in (c.n_rbf, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.out = nn.Linear(width, n_out)

    def forward(self, rbf):
        for dense, norm in zip(self.hidden, self.norms, strict=True):
            rbf = F.silu(norm(dense(rbf)))
        return self.out(rbf)

    def fill(self, of):
        for i in range(2):
            put_dense(self.hidden[i], of[f"hidden_{i}"])
            put_norm(self.norms[i], of[f"norm_{i}"])
        put_dense(self.out, of["out"])


class Gate(enn.Gate):
    """e3nn's, which divides the activations by the second moment of theirs; the next layer takes that up."""

    def __init__(self, c, channels: int):
        higher = irreps(channels, c.degree)[1:]
        gates = o3.Irreps([(channels * c.degree, (0, 1))])
        super().__init__(o3.Irreps([(channels, (0, 1))]), [F.silu], gates, [torch.sigmoid], higher)
        self.channels, self.degree = channels, c.degree
        moments = [float(act.acts[0].cst) for act in (self.act_scalars, self.act_gates)]
        self.scales = [moments[0], *[moments[1]] * c.degree]

    def forward(self, x, gates):
        scalars, higher = x.split([self.channels, x.shape[-1] - self.channels], -1)
        return super().forward(torch.cat([scalars, *[gates] * self.degree, higher], -1))


def tensor_product(c, mode: str, shared: bool) -> o3.TensorProduct:
    """Of features with harmonics ("uvu"), or of two features ("uuu")."""
    features = irreps(c.channels, c.degree)
    other = irreps(1, c.degree) if mode == "uvu" else features
    told = [(a, b, d, mode, True) for a, b, d in paths(c.degree)]
    return o3.TensorProduct(features, other, features, told, shared_weights=shared, internal_weights=False)


class TensorMessage(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, n = c, c.channels
        self.source, self.mix = Linear(c, n, n), Linear(c, n, n)
        self.radial = Radial(c, n * len(paths(c.degree)))
        self.product = tensor_product(c, "uvu", False)

    def forward(self, x, e):
        m = self.product(self.source(x)[e["sender"]], e["harmonics"], self.radial(e["rbf"])) * e["envelope"][:, None]
        return self.mix(torch.zeros_like(x).index_add(0, e["receiver"], m) / self.c.neighbours**0.5)

    def fill(self, of):
        for name in ("source", "mix", "radial"):
            getattr(self, name).fill(of[name])


class AttentionMessage(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, n = c, c.channels
        self.source, self.target = Linear(c, n, n), Linear(c, n, n, bias=False)
        self.value_in, self.value_out, self.mix = (Linear(c, n, n) for _ in range(3))
        self.radial = Radial(c, n * len(paths(c.degree)))
        self.first, self.second = tensor_product(c, "uvu", False), tensor_product(c, "uvu", True)
        self.second_weights = nn.Parameter(torch.empty(len(paths(c.degree)) * n))
        self.logit_in, self.value_gate, self.gate = nn.Linear(n, n), nn.Linear(n, n), Gate(c, n)
        self.logit_out = nn.Parameter(torch.empty(c.n_heads, n // c.n_heads))

    def forward(self, x, e):
        n, heads = self.c.channels, self.c.n_heads
        h = self.source(x)[e["sender"]] + self.target(x)[e["receiver"]]
        h = self.first(h, e["harmonics"], self.radial(e["rbf"]))
        logits = self.logit_in(h[:, :n])
        logits = 0.6 * logits + 0.4 * logits * (2 * torch.sigmoid(logits) - 1)
        logits = (logits.unflatten(-1, (heads, -1)) * self.logit_out).sum(-1)
        index, envelope = e["receiver"][:, None].expand(-1, heads), e["envelope"][:, None]
        none = logits.new_zeros(len(x), heads)
        top = none.scatter_reduce(0, index, logits.detach(), "amax", include_self=False)
        weight = envelope * torch.exp(logits - top[e["receiver"]])
        total = none.index_add(0, e["receiver"], weight)
        share = weight / (total[e["receiver"]] + 1e-9) * envelope
        v = self.second(self.gate(self.value_in(h), self.value_gate(h[:, :n])), e["harmonics"], self.second_weights)
        v = by_degree(self.value_out(v), self.c.degree)
        share = share.repeat_interleave(n // heads, -1)[..., None]
        return self.mix(torch.zeros_like(x).index_add(0, e["receiver"], joined([part * share for part in v])))

    def fill(self, of):
        for name in ("source", "target", "value_in", "value_out", "mix", "radial"):
            getattr(self, name).fill(of[name])
        put_dense(self.logit_in, of["logit_in"])
        put_dense(self.value_gate, of["value_gate"])
        put(self.logit_out, of["logit_out"])
        scales = np.array([self.gate.scales[a] for a, _, _ in paths(self.c.degree)])
        put(self.second_weights, np.asarray(of["second_product"]) / scales[:, None])


class Gated(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, width = c, c.hidden
        self.inner, self.outer = Linear(c, c.channels, width), Linear(c, width, c.channels)
        self.gates, self.gate = nn.Linear(c.channels, width), Gate(c, width)

    def forward(self, x, species):
        return self.outer(self.gate(self.inner(x), self.gates(x[:, : self.c.channels])))

    def fill(self, of):
        self.inner.fill(of["in"])
        self.outer.fill(of["out"], self.gate.scales)
        put_dense(self.gates, of["gate"])


class Products(nn.Module):
    def __init__(self, c, rank: int = 16):
        super().__init__()
        self.c, n = c, c.channels * len(paths(c.degree))
        self.species = nn.Embedding(c.n_species, rank)
        self.weights = nn.ModuleList(nn.Linear(rank, n, bias=False) for _ in range(2))
        self.product = tensor_product(c, "uuu", False)
        self.norm, self.mix = Norm(c, 3 * c.channels), Linear(c, 3 * c.channels, c.channels)

    def forward(self, x, species):
        rows = self.species(species)
        twice = self.product(x, x, self.weights[0](rows))
        thrice = self.product(twice, x, self.weights[1](rows))
        parts = zip(*(by_degree(a, self.c.degree) for a in (x, twice, thrice)), strict=True)
        return self.mix(self.norm(joined([torch.cat(part, -2) for part in parts])))

    def fill(self, of):
        put(self.species.weight, of["species"]["embedding"])
        for layer, name in zip(self.weights, ("second", "third"), strict=True):
            put_dense(layer, of[name])
        self.norm.fill(of["norm"])
        self.mix.fill(of["mix"])


class TorchTensorNetwork(nn.Module):
    """`(positions [atoms, 3], species, receiver and sender [edges], molecule of each atom) -> energies, forces`.

    `c` is our model, of which the fields are read, and `params` its parameters, which are copied.
    """

    def __init__(self, c, params):
        super().__init__()
        self.c, n = c, c.channels
        messages = {"tensor": TensorMessage, "attention": AttentionMessage}
        updates = {"gate": Gated, "product": Products}
        self.own, self.sent = nn.Embedding(c.n_species, n), nn.Embedding(c.n_species, n)
        self.edge = Radial(c, n * (c.degree + 1))
        self.message_norms, self.update_norms = (nn.ModuleList(Norm(c, n) for _ in range(c.n_layers)) for _ in range(2))
        self.messages = nn.ModuleList(messages[c.message](c) for _ in range(c.n_layers))
        self.updates = nn.ModuleList(updates[c.update](c) for _ in range(c.n_layers))
        self.last_norm = Norm(c, n)
        self.heads = nn.ModuleDict({name: nn.Linear(n, n) for name in ("energy_in", "force_in")})
        self.heads.update({"energy_out": nn.Linear(n, 1, bias=False), "force_out": nn.Linear(n, n, bias=False)})
        self.fill(params)

    def fill(self, of):
        put(self.own.weight, of["embedding"]["own"]["embedding"])
        put(self.sent.weight, of["embedding"]["sent"]["embedding"])
        self.edge.fill(of["embedding"]["edge"])
        for i in range(self.c.n_layers):
            for layers, name in (
                (self.message_norms, "message_norm"), (self.messages, "message"),
                (self.update_norms, "update_norm"), (self.updates, "update"),
            ):  # fmt: skip
                layers[i].fill(of[f"layers_{i}"][name])
        self.last_norm.fill(of["last_norm"])
        for name, layer in self.heads.items():
            put_dense(layer, of[name])

    def edges(self, positions, receiver, sender):
        c = self.c
        vectors = positions[sender] - positions[receiver]
        distance = vectors.norm(dim=-1)
        harmonics = o3.spherical_harmonics(list(range(c.degree + 1)), vectors, True, normalization="component")
        centres = torch.linspace(0, c.cutoff, c.n_rbf, device=positions.device)
        width = 2 * c.cutoff / (c.n_rbf - 1)
        x = distance / c.cutoff
        envelope = torch.where(x < 1, 1 - x**3 * (10 - 15 * x + 6 * x**2), 0)
        rbf = torch.exp(-0.5 * ((distance[:, None] - centres) / width).square())
        return {
            "receiver": receiver, "sender": sender, "harmonics": harmonics, "rbf": rbf, "envelope": envelope,
        }  # fmt: skip

    def embedding(self, species, e):
        c = self.c
        weights = self.edge(e["rbf"]).unflatten(-1, (c.degree + 1, c.channels)) * self.sent(species)[e["sender"], None]
        harmonics = by_degree(e["harmonics"] / (4 * torch.pi) ** 0.5 * e["envelope"][:, None], c.degree)
        functions = joined([weights[:, d, :, None] * harmonics[d] for d in range(c.degree + 1)])
        h = functions.new_zeros(len(species), functions.shape[-1]).index_add(0, e["receiver"], functions)
        h = h / c.neighbours**0.5
        return torch.cat([h[:, : c.channels] + self.own(species), h[:, c.channels :]], -1)

    def forward(self, positions, species, receiver, sender, molecule, n_molecules: int):
        e = self.edges(positions, receiver, sender)
        h = self.embedding(species, e)
        for i in range(self.c.n_layers):
            h = h + self.messages[i](self.message_norms[i](h), e)
            h = h + self.updates[i](self.update_norms[i](h), species)
        scalars, vectors, *_ = by_degree(self.last_norm(h), self.c.degree)
        scalars = scalars[..., 0]
        gates = self.heads["force_out"](F.silu(self.heads["force_in"](scalars)))
        of_atoms = self.heads["energy_out"](F.silu(self.heads["energy_in"](scalars)))[:, 0]
        energy = torch.zeros(n_molecules, device=h.device).index_add(0, molecule, of_atoms)
        return energy, (vectors * gates[..., None]).sum(1)
