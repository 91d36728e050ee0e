"""The exchange on paper: plans for models and rank counts that no process has to run."""
