"""How much memory a training run needs per rank: ``gradopt-ds memory`` from a checkout."""

import sys

from gradopt_ds.experiments.memory_report.command import main

if __name__ == "__main__":
    sys.exit(main())
