"""Commands of `experiments` as a user starts them, and how tests have programs compiled.

Sets of molecules and compiled programs are shared by all tests of one run, in a folder of that run ($EQUISCALE_CACHE,
set in conftest.py).
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# Most of a test's time is the compiler's. With these it takes a quarter of the time for a U-Net's gradient, and the
# program about twice as long, which at the sizes of tests is nothing.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def devices(n: int) -> str:
    """XLA_FLAGS for n simulated devices."""
    return f"{QUICK_TO_COMPILE} --xla_force_host_platform_device_count={n}"


def command(*arguments, module):
    """The command line and its settings, for subprocess."""
    return [sys.executable, "-m", f"experiments.{module}", *arguments], {
        "cwd": ROOT,
        "env": {**os.environ, "XLA_FLAGS": QUICK_TO_COMPILE},
    }


def start(*arguments, module="quickstart"):
    """Run a command to its end, on one device."""
    line, settings = command(*arguments, module=module)
    return subprocess.run(line, **settings, capture_output=True, text=True)
