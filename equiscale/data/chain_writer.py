"""Chains of C-alpha atoms as PDB files, one a chain, for viewers and other programs."""

import os
import pathlib

import numpy as np

from equiscale.data.chain_readers import import_gemmi
from equiscale.data.chains import Chains

UNKNOWN = "G"  # residues of chains without a sequence are glycines, as is usual where nothing is known of side chains


def write_pdb(folder: str | os.PathLike, chains: Chains) -> list[pathlib.Path]:
    """`NAME.pdb` of each chain in a folder that is made: C-alpha atoms in angstrom, residues numbered as in `index`.

    Characters of names that files cannot have become underscores. Raises ImportError without gemmi; ValueError for two
    chains of one name, and for coordinates that do not fit the format.
    """
    gemmi = import_gemmi()
    folder = pathlib.Path(folder)
    stems = ["".join(c if c.isalnum() or c in "-_." else "_" for c in name) for name in chains.names]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ValueError(f"two chains are named {twice}: give each a name of its own")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row, stem in enumerate(stems):
        positions = 10 * chains[row].astype(float)
        if not np.abs(positions).max(initial=0) < 999:
            raise ValueError(f"chain {chains.names[row]!r} reaches {np.abs(positions).max():.4g} angstrom: too far")
        letters = chains.sequences[row] or UNKNOWN * len(positions)
        names = gemmi.expand_one_letter_sequence(letters, gemmi.ResidueKind.AA)
        chain = gemmi.Chain("A")
        for name, number, xyz in zip(names, chains.index[row], positions, strict=False):
            residue = gemmi.Residue()
            residue.name, residue.seqid = name, gemmi.SeqId(str(number))
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(*xyz)
            residue.add_atom(atom)
            chain.add_residue(residue)
        model = gemmi.Model(1)
        model.add_chain(chain)
        structure = gemmi.Structure()
        structure.add_model(model)
        structure.setup_entities()
        paths.append(folder / f"{stem}.pdb")
        structure.write_pdb(str(paths[-1]))
    return paths
