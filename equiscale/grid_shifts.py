"""Shifts of a voxel grid by whole voxels, round its faces: the cyclic group Z_L^3, which acts by `actions.roll`."""

import dataclasses
import functools

import jax
import numpy as np

from equiscale.groups import MAX_ENUMERATED, Group
from equiscale.measures import Measure, check_count, listed


@dataclasses.dataclass(frozen=True)
class GridShifts(Group):
    """Shifts of grids of side `length`, as integers `[3]` along x, y, z, counted modulo that side."""

    length: int = 1

    def within(self, reach: int) -> Measure:
        """Every shift by at most `reach` voxels along each axis, once: (2 reach + 1)^3 elements of equal weight.

        For contents that must not cross a face. Not a group: the decomposition still adds up, but the average over it
        is not exactly equivariant.

        Raises ValueError for a reach at which shifts to both sides would meet.
        """
        if not 0 <= reach < (self.length + 1) // 2:
            raise ValueError(f"reach {reach} must be 0 or more and less than half of the grid's side {self.length}")
        elements = np.stack([i.ravel() for i in np.indices((2 * reach + 1,) * 3)], axis=-1) - reach
        return listed(self, f"{self.name}.within({reach})", elements % self.length)


@functools.cache
def grid_shifts(length: int) -> GridShifts:
    """All shifts of a grid of side `length`: `haar(n)` samples them, `within(reach)` lists the small ones."""
    check_count(length, "length")

    def elements():
        if length**3 > MAX_ENUMERATED:
            raise ValueError(
                f"grid_shifts({length}) has more than {MAX_ENUMERATED:,} elements; use haar(n) or within(reach)"
            )
        return np.stack([i.ravel() for i in np.indices((length,) * 3)], axis=-1)

    return GridShifts(
        f"grid_shifts({length})",
        multiply=lambda a, b: (a + b) % length,
        inverse=lambda a: -a % length,
        random=lambda key: jax.random.randint(key, (3,), 0, length),
        elements=elements,
        length=length,
    )
