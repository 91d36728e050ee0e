"""What is run, not imported: training, comparisons, benchmarks and reports."""
