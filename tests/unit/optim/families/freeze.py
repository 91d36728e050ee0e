"""The frozen table of the families, and the page of the documentation that is made from it.

``python -m tests.unit.optim.families.freeze`` writes both anew; read the difference before it is
committed: the table has been reviewed by hand against the models' ``forward``.
"""

import json
from pathlib import Path

from tests.unit.optim.families.models import FAMILIES, build
from tests.unit.optim.families.table import Row, rows

TABLE = Path(__file__).with_name("table.json")
PAGE = Path(__file__).parents[4] / "docs" / "models.md"
BEGIN, END = "<!-- table of tests/unit/optim/families -->", "<!-- end of the table -->"
USUAL = (
    *("weight of a hidden linear layer", "norm, bias or scalar", "output head", "embedding"),
    *("convolution", "router", "2-D, but", "a single row"),
)


def frozen() -> dict[str, list[Row]]:
    """Read the table."""
    table: dict[str, list[Row]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


def page_table(table: dict[str, list[Row]]) -> str:
    """Make the table of the page: what is not one matrix per linear layer."""
    lines = [
        "| family | weight | stored as | matrices, outputs x inputs | why |",
        "|---|---|---|---|---|",
    ]
    plain = []
    for family, own in table.items():
        special = [row for row in own if not row["reason"].startswith(USUAL)]
        for row in special:
            name = ".".join(row["parameter"].split(".")[-3:])
            cells = (family, f"`{name}`", row["shape"], row["matrices"], row["reason"])
            lines.append(f"| {' | '.join(cells)} |")
        if not special:
            plain.append(family)
    return "\n".join([*lines, "", f"One matrix per linear layer: {', '.join(plain)}."])


def page(text: str, table: dict[str, list[Row]]) -> str:
    """Put the table into the page."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{page_table(table)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the table and the page anew."""
    table = {family: rows(build(family)) for family in FAMILIES}
    text = ",\n".join(
        f" {json.dumps(family)}: [\n  " + ",\n  ".join(json.dumps(row) for row in own) + "\n ]"
        for family, own in table.items()
    )
    TABLE.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
