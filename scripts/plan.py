"""What every rank sends, computes and holds in a step: ``gradopt-ds plan`` from a checkout."""

import sys

from gradopt_ds.experiments.exchange_plan.command import main

if __name__ == "__main__":
    sys.exit(main())
