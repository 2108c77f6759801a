"""The commands, each `python -m experiments.NAME`."""

from experiments.huge_pages import restart

restart()
