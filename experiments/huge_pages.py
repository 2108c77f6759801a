"""Memory of computations on CPU in pages of 2 MB: training steps take 0.4 to 0.8 times as long.

XLA asks for the memory of a program's temporary arrays anew in each call. Linux hands it out, and clears it, 4 kB at a
time: forty thousand page faults a step for a graph transformer of 0.4M parameters, and half of all processor time. From
version 2.35 on glibc asks for large pages where it is told to before a process starts, so commands start once more.
"""

import os
import pathlib
import sys

TUNABLE = "glibc.malloc.hugetlb"
KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")  # the mode that is set stands in brackets


def environment(given: dict[str, str]) -> dict[str, str]:
    """`given` with large pages asked for, unless it says itself whether to."""
    tunables = given.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables:
        return given
    return given | {"GLIBC_TUNABLES": ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))}


def restart() -> None:
    """Start this `python -m` once more, the same process, where the kernel gives large pages to those who ask.

    For packages to call when they are imported: only then is a module that runs by its name known by "-m".
    """
    wanted = environment(dict(os.environ))
    if sys.argv[:1] == ["-m"] and wanted != os.environ and KERNEL.exists() and "[madvise]" in KERNEL.read_text():
        os.execve(sys.executable, sys.orig_argv, wanted)
