"""Commands ask for large pages: once, where there are some to be had, and not against the user's word."""

import os
import subprocess
import sys

import pytest

from experiments import huge_pages
from tests.commands import command

ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ASKED),
        (ASKED, ASKED),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3", "HOME": "/"},
            {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.hugetlb=1", "HOME": "/"},
        ),
    ],
)
def test_what_the_user_has_set_stays(given, expected):
    assert huge_pages.environment(given) == expected


@pytest.mark.parametrize(
    "mode, name, before, restarts",
    [
        ("always [madvise] never", "-m", {}, True),
        ("always [madvise] never", "-m", ASKED, False),  # it has started again
        ("[always] madvise never", "-m", {}, False),  # nobody has to ask
        ("always madvise [never]", "-m", {}, False),
        (None, "-m", {}, False),  # another system
        ("always [madvise] never", "/bin/pytest", {}, False),  # imported by another program
    ],
)
def test_a_command_starts_again_where_that_brings_large_pages(tmp_path, monkeypatch, mode, name, before, restarts):
    kernel = tmp_path / "enabled"
    if mode is not None:
        kernel.write_text(mode)
    started = []
    monkeypatch.setattr(huge_pages, "KERNEL", kernel)
    monkeypatch.setattr(os, "environ", before)
    monkeypatch.setattr(os, "execve", lambda *how: started.append(how))
    monkeypatch.setattr(sys, "argv", [name, "--flag=1"])
    huge_pages.restart()
    assert started == [(sys.executable, sys.orig_argv, ASKED)] * restarts


def test_a_command_that_starts_again_does_its_work_with_its_arguments():
    line, settings = command("--list", module="study")
    settings["env"].pop("GLIBC_TUNABLES", None)
    done = subprocess.run(line, **settings, capture_output=True, text=True)
    assert done.returncode == 0 and "voxmol_percent" in done.stdout, done.stderr
