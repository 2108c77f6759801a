"""`experiments.prepare_forces` as a user starts it."""

import pytest

from equiscale.data.stored_forces import open_forces
from tests.commands import start
from tests.data.test_force_readers import write_extxyz
from tests.data.test_force_units import RECORDS, Units, written_in


def prepare(*arguments):
    return start(*arguments, module="prepare_forces")


def test_a_file_in_other_units_is_refused_with_the_flags_that_read_it(tmp_path):
    kcal = Units("angstrom", "kcal/mol", "kcal/mol/angstrom", gradients=True)
    write_extxyz(tmp_path / "md.xyz", [*written_in(kcal), RECORDS[0]._replace(forces=None)])
    line = (f"--output={tmp_path / 'set'}", "--compounds=frame", str(tmp_path / "md.xyz"))
    refused = prepare(*line)
    assert refused.returncode != 0 and not (tmp_path / "set").exists()
    flags = ("--energy_unit=kcal/mol", "--force_unit=kcal/mol/angstrom", "--gradients")
    assert all(flag in refused.stderr for flag in flags), refused.stderr[-1500:]
    made = prepare(*flags, *line)
    assert made.returncode == 0, made.stderr[-3000:]
    assert "kept 60 of 61: 1 without forces" in made.stdout and "60 frames of up to 5 atoms" in made.stdout
    frames = open_forces(tmp_path / "set").frames(slice(None))
    assert abs(frames.energies[3] - RECORDS[3].energy) < 1e-4
    assert "exists: delete it" in prepare(*flags, *line).stderr


@pytest.mark.parametrize("arguments, words", [((), "name the files"), (("nowhere.xyz",), "nowhere.xyz does not exist")])
def test_what_is_missing_is_said(arguments, words, tmp_path):
    result = prepare(f"--output={tmp_path / 'set'}", *arguments)
    assert result.returncode != 0 and words in result.stderr
