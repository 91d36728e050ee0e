"""One rank's endless stream of training documents, and the finite one of validation."""

from collections.abc import Iterator
from typing import Any

from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from gradopt_ds.experiments.common.errors import PretrainError
from gradopt_ds.experiments.pretrain.data import sources
from gradopt_ds.experiments.pretrain.settings import RunSettings


class TrainingDocuments:
    """The texts of one rank, epoch after epoch, with a position that can be saved.

    Args:
        settings: source, column and validation share.
        rank: data-parallel rank.
        ranks: data-parallel ranks; each document goes to exactly one of them.
    """

    def __init__(self, settings: RunSettings, rank: int, ranks: int) -> None:
        self._settings = settings
        self._dataset: IterableDataset = split_dataset_by_node(
            sources.documents(settings, validation=False), rank=rank, world_size=ranks
        )
        self._by_hash = sources.splits_by_hash(settings)
        self._start = self._dataset.state_dict()
        # `datasets` tells its start, not the position that it was given, until it reads a row.
        self._unread: dict[str, Any] | None = None
        self._texts = self._from_here()
        self.epoch = 0
        self._seen_this_epoch = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next text; the data set starts again when it ends.

        Raises:
            PretrainError: a whole epoch holds no training text, or a row cannot be read.
        """
        while True:
            text = next(self._texts, None)
            self._unread = None
            if text is None:
                if not self._seen_this_epoch:
                    raise PretrainError(
                        f"--data {self._settings.data} leaves this rank no training document: give "
                        "more text, fewer ranks or a smaller --validation-share"
                    )
                # The dataset's own position stands at its end: a fresh epoch needs a fresh one.
                self._dataset.load_state_dict(self._start)
                self._texts = self._from_here()
                self.epoch += 1
                self._seen_this_epoch = 0
                continue
            if not (self._by_hash and sources.held_out(text, self._settings.validation_share)):
                self._seen_this_epoch += 1
                return text

    def _from_here(self) -> Iterator[str]:
        return sources.texts(iter(self._dataset), self._settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last text returned."""
        return {
            "epoch": self.epoch,
            "seen_this_epoch": self._seen_this_epoch,
            "dataset": self._unread or self._dataset.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the text at which ``state`` was taken."""
        self.epoch = state["epoch"]
        self._seen_this_epoch = state["seen_this_epoch"]
        self._unread = state["dataset"]
        self._dataset.load_state_dict(state["dataset"])
        self._texts = self._from_here()


def validation_texts(settings: RunSettings) -> Iterator[str]:
    """Yield the texts no rank trains on, in the source's order, once."""
    by_hash = sources.splits_by_hash(settings)
    for text in sources.texts(iter(sources.documents(settings, validation=True)), settings):
        if not by_hash or sources.held_out(text, settings.validation_share):
            yield text
