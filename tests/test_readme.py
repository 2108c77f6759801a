"""The README does what it says: its snippets run, its commands are those that run."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_python_snippets_run(index):
    """Each on its own after the first, which makes the names the others use."""
    namespace = {}
    for snippet in dict.fromkeys([SNIPPETS[0], SNIPPETS[index]]):
        exec(compile(snippet, f"README.md snippet {index}", "exec"), namespace)
    assert namespace["d"].percent > 0


def test_the_test_command_is_the_one_ci_runs():
    ci = (ROOT / ".ci/run").read_text().splitlines()
    printed = [line for block in COMMANDS for line in block.splitlines() if "pytest" in line]
    assert len(printed) == 1 and printed[0] in ci


def test_every_module_named_in_a_command_exists():
    names = re.findall(r"python -m ((?:experiments|benchmarks)\.\w+)", README)
    assert "experiments.quickstart" in names
    for name in names:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_every_figure_and_page_that_is_linked_exists(page):
    path = ROOT / page
    links = [at for at in re.findall(r"\]\(([^)#\s]+)", path.read_text()) if "://" not in at]
    assert [at for at in links if not (path.parent / at).exists()] == []
