"""What the parts of scripts/gpu_report.sh say together (scripts/gpu_summary.py)."""
