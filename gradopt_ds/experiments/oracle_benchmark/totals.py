"""All matrices of a model together: what a step of its optimizer costs."""

from collections.abc import Sequence

from gradopt_ds.experiments.oracle_benchmark.candidates import BASELINE
from gradopt_ds.experiments.oracle_benchmark.measure import Row


def totals(parts: Sequence[Row], model: str) -> list[Row]:
    """Sum the times of each oracle over the shapes; of the errors, keep the worst.

    Oracles that were left out for a shape are left out here.
    """
    shapes = {row.size for row in parts}
    by_oracle: dict[str, list[Row]] = {}
    for row in parts:
        by_oracle.setdefault(row.oracle, []).append(row)
    unit = sum(row.seconds for row in by_oracle[BASELINE])
    sums = []
    for oracle, rows in by_oracle.items():
        if {row.size for row in rows} != shapes:
            continue
        seconds = sum(row.seconds for row in rows)
        sums.append(
            Row(
                f"{model}, all matrices",
                " + ".join(row.size for row in rows),
                "gradients",
                oracle,
                orthogonality=max(row.orthogonality for row in rows),
                direction=max(row.direction for row in rows),
                nuclear=max((row.nuclear for row in rows), key=abs),
                seconds=seconds,
                relative=seconds / unit,
                flops=sum(row.flops for row in rows),
            )
        )
    return sums
