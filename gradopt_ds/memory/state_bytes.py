"""Bytes a live optimizer really holds."""

from torch.optim import Optimizer

from gradopt_ds.memory.live import tensors_in


def optimizer_state_bytes(optimizer: Optimizer) -> int:
    """Count the bytes of the tensors in ``optimizer.state`` on this rank, each storage once.

    Under ZeRO, ``engine.basic_optimizer`` is the optimizer to ask. Master weights are no state.
    """
    return sum(optimizer_state_bytes_by_key(optimizer).values())


def optimizer_state_bytes_by_key(optimizer: Optimizer) -> dict[str, int]:
    """Return the same bytes by state key (``exp_avg``, ``momentum_buffer``, …), largest first.

    A storage that several keys share is counted for the first.
    """
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for state in optimizer.state.values():
        for key, value in state.items():
            for tensor in tensors_in(value):
                storage = tensor.untyped_storage()
                if storage.nbytes() and storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    sizes[str(key)] = sizes.get(str(key), 0) + storage.nbytes()
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
