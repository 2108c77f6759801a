"""What is measured, each `python -m benchmarks.NAME`, with memory as commands have it."""

from experiments.huge_pages import restart

restart()
