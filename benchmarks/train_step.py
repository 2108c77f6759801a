"""Speed of the training loop at the quickstart's size: steps a second, compile time, and what the loop itself costs.

    python -m benchmarks.train_step             # about four minutes on 2 cores
    python -m benchmarks.train_step --steps=400 --preset=tiny

Overhead is the share of the loop's time that the compiled step alone, called as often on the same data, does not take;
evaluations and saves are counted apart. Both are timed in turn within one run.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax

from configs import denoise_voxels as config_module
from equiscale.tasks import denoise_voxels
from equiscale.training import loop
from equiscale.training.devices import make_mesh
from equiscale.training.evaluate import make_evaluate
from equiscale.training.run_folder import read_metrics
from equiscale.training.settings import Settings
from experiments.config import use_cache


def bare_steps(task, settings, n: int) -> tuple[float, float]:
    """Seconds a step of the compiled update alone, and seconds to compile it (or to find it in the cache)."""
    began = time.perf_counter()
    program = loop.compile_program(task, settings, make_mesh())
    state, (update,), given = program.state, program.updates, program.feed.example(0)
    compile_seconds = time.perf_counter() - began
    make_evaluate(task, make_mesh())(state.params)  # as in the loop: what memory it leaves behind slows later steps
    state, _ = update(state, given)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(n):
        state, _ = update(state, given)
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / n, compile_seconds


def loop_steps(task, settings) -> float:
    """Seconds a step inside the loop, without its evaluations and saves."""
    with tempfile.TemporaryDirectory() as folder:
        loop.train(task, settings, pathlib.Path(folder), title="loop")
        first, *_, last = read_metrics(pathlib.Path(folder))
    spent = {kind: last["spent"][kind] - first["spent"][kind] for kind in ("compile", "evaluate", "save")}
    return (last["seconds"] - first["seconds"] - spent["compile"] - spent["evaluate"] - spent["save"]) / settings.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--preset", default="cpu", choices=config_module.PRESETS)
    parser.add_argument("--repeats", type=int, default=3)
    wanted = parser.parse_args()
    config = config_module.get_config(wanted.preset)
    experiment = denoise_voxels.from_config(config, config.augmentation, cache_dir=str(use_cache()))
    settings = Settings(**config.training)._replace(steps=wanted.steps, evaluations=1, save_every=0)
    task = experiment.task._replace(validation=experiment.task.validation[:1])
    bare, looped, compiling = [], [], []
    for _ in range(wanted.repeats):
        seconds, compile_seconds = bare_steps(task, settings, wanted.steps)
        bare.append(seconds)
        compiling.append(compile_seconds)
        looped.append(loop_steps(task, settings))
    step, whole = statistics.median(bare), statistics.median(looped)
    print(
        f"\njax {jax.__version__}, {jax.devices()[0].device_kind}, preset {wanted.preset}, batch {settings.batch_size}"
    )
    print("\n| steps/s, compiled step alone | steps/s in the loop | overhead | compile, first / cached |")
    print("|---|---|---|---|")
    overhead = statistics.median(1 - b / w for b, w in zip(bare, looped, strict=True))
    print(
        f"| {1 / step:.2f} | {1 / whole:.2f} | {100 * overhead:.1f} % | {compiling[0]:.1f} / {min(compiling):.1f} s |"
    )


if __name__ == "__main__":
    main()
