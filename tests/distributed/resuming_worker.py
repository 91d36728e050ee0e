"""What ``test_resuming.py`` launches: damaged checkpoints and changed settings."""

from gradopt_ds.experiments.common.process_end import end_process
from tests.distributed import changed_settings, checkpoint_worker, damaged_checkpoints

GROUPS = {"settings": changed_settings.TESTS, "damage": damaged_checkpoints.TESTS}

if __name__ == "__main__":
    checkpoint_worker.GROUPS.update(GROUPS)
    checkpoint_worker.main()
    end_process()
