"""Sets what the parts of scripts/gpu_report.sh have measured beside the goals."""

import sys
from pathlib import Path

from gradopt_ds.experiments.common import extra

with extra.required():
    from gradopt_ds.experiments.common.command_line import make_parser, named_path
    from gradopt_ds.experiments.common.tables import show
    from gradopt_ds.experiments.gpu_report import report

EPILOG = """\
example:
  python scripts/gpu_summary.py runs/gpu
      reads every part below runs/gpu, and writes runs/gpu/gpu_report.json, .csv, .md and .png
"""


def main() -> int:
    """Write the report; the exit status is 2 if there is nothing to report."""
    parser = make_parser(__doc__, EPILOG)
    parser.add_argument("folder", type=named_path, help="what gpu_report.sh has written")
    folder: Path = parser.parse_args().folder
    findings = report.find(folder)
    if not findings:
        print(f"error: no part of a report lies in {folder}", file=sys.stderr)
        return 2
    show(report.write(findings, folder))
    print(f"written: {folder}/gpu_report.json, .csv, .md, .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
