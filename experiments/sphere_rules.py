"""Which points on the sphere, and how many? Equivariance error by rule, degree, operation and sharpness of attention.

    python -m experiments.sphere_rules
    python -m experiments.sphere_rules --degrees=2 --points=32,128 --sharpness=1
    python -m experiments.sphere_rules --degrees=6 --points=256,512

For every rule that equiscale has, the relative error by which a SiLU at points and spherical attention, as published
and with norms of coefficients, fail to commute with rotations, untrained and in float64. Writes rules.csv and rules.png
into --output and says which rule needs the fewest points.
"""

import pathlib

from absl import app, flags
from tqdm import tqdm

from equiscale.studies import sphere_rules
from equiscale.studies.report import write_csv
from experiments.config import command, whole_numbers

OUTPUT = flags.DEFINE_string("output", "runs/sphere_rules", "folder to write")
DEGREES = flags.DEFINE_list("degrees", ["2", "4"], "largest degrees L of the features")
POINTS = flags.DEFINE_list("points", ["32", "64", "128", "256"], "numbers of points")
SHARPNESS = flags.DEFINE_list("sharpness", ["1", "1.6", "2.5"], "factors on queries and keys")
CHANNELS = flags.DEFINE_integer("channels", 32, "channels of the features", lower_bound=1)


def main(argv):
    with command(argv):
        settings = {"channels": CHANNELS.value, "progress": lambda todo: tqdm(todo, unit="rule")}
        sharpness = [float(value) for value in SHARPNESS.value]
        degrees, points = whole_numbers("degrees", DEGREES.value), whole_numbers("points", POINTS.value)
        rows = sphere_rules.measure(degrees, points, sharpness, **settings)
    output = pathlib.Path(OUTPUT.value)
    write_csv(output / "rules.csv", rows)
    sphere_rules.figure(rows).savefig(output / "rules.png", dpi=150)
    for operation in sphere_rules.NORMS:
        print(f"\nFewest points with an error below {sphere_rules.WITHIN:g}, {operation}:")
        for (degree, rule), points in sphere_rules.smallest(rows, operation).items():
            print(f"  L = {degree}  {rule:<34} {points or 'none of these'}")
    print(f"\nNumbers: {output / 'rules.csv'}; figure: {output / 'rules.png'}")


if __name__ == "__main__":
    app.run(main)
