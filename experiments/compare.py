"""Is one run's loss lower than another's, and by how much? Two runs, validation example by validation example.

    python -m experiments.compare runs/plain runs/steerable
    python -m experiments.compare studies/percent/runs/model=cpu_0.1M,fraction=0.1,seed=0 studies/percent/runs/...

Which examples are hard is much the same for both runs, so that the ratio of their losses is known better than either.
Prints the fields in which their configs differ, and the ratio with its 95 % interval at every step that both have
measured; writes comparison.csv and comparison.png into --output. Runs of earlier versions kept no losses by example:
their errors are drawn independently, and intervals are too wide.
"""

import pathlib

from absl import app, flags

from equiscale.studies.comparison import Comparison, compare, ratio_figure
from equiscale.studies.report import write_csv
from experiments.config import command

OUTPUT = flags.DEFINE_string("output", "runs/comparison", "folder to write")


def main(argv):
    if len(argv) != 3:
        raise app.UsageError(f"name two folders of runs, got {argv[1:]}; see --help")
    with command(argv[:1]):
        run(*map(pathlib.Path, argv[1:]), pathlib.Path(OUTPUT.value))


def run(a: pathlib.Path, b: pathlib.Path, output: pathlib.Path) -> None:
    found = compare(a, b)
    write_csv(output / "comparison.csv", found.rows)
    ratio_figure(found.rows, f"a: {a}\nb: {b}\n{_how(found)}").savefig(output / "comparison.png", dpi=150)
    print(f"a: {a}\nb: {b}\n{_how(found)}\n\nDifferent in:")
    for name, (of_a, of_b) in found.differences.items():
        print(f"  {name}: {of_a!r} | {of_b!r}")
    if found.doubtful:
        print(f"By {', '.join(found.doubtful)} their validation examples may not be the same.")
    print(f"\n{'step':>8}  {'loss of a':>10}  {'loss of b':>10}  {'b over a':<24}  {'% of a':>7}  {'% of b':>7}")
    for row in found.rows:
        ratio = f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
        losses = f"{row['loss_a']:>10.4g}  {row['loss_b']:>10.4g}"
        print(f"{row['step']:>8}  {losses}  {ratio:<24}  {row['percent_a']:>7.3g}  {row['percent_b']:>7.3g}")
    print(f"\n%: of the loss, from equivariance error. Numbers: {output / 'comparison.csv'}; figure: comparison.png")


def _how(found: Comparison) -> str:
    if found.n_examples is None:
        return "no losses by example: errors of both drawn independently, intervals too wide"
    return f"{found.n_examples} validation examples, drawn together"


if __name__ == "__main__":
    app.run(main)
