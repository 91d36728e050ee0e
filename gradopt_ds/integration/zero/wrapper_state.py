"""The state dicts of DeepSpeed's wrappers: where each keeps slices and their state.

Stages 1 and 2 and BF16_Optimizer keep one slice per parameter group; stage 3 several, its
sub-groups. Each uses names of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deepspeed.checkpoint.constants import (
    BASE_OPTIMIZER_STATE,
    FP32_FLAT_GROUPS,
    FP32_WEIGHT_KEY,
    OPTIMIZER_STATE_DICT,
    SINGLE_PARTITION_OF_FP32_GROUPS,
)

from gradopt_ds.checkpoint import Slice, State, split


def base_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base optimizer's state dict out of a wrapper's; stage 0 in fp32 has no wrapper."""
    base: dict[str, Any] = state[_base_key(state)] if _base_key(state) else dict(state)
    return base


def slice_states(state: Mapping[str, Any], slices: Sequence[Slice]) -> list[tuple[Slice, State]]:
    """Return every slice's state, its fp32 weights among the elements.

    Args:
        state: of a wrapper of ZeRO stages 1 to 3.
        slices: their layouts, in order.

    Raises:
        ValueError: the fp32 weights are not there.
    """
    base = base_state(state)
    states = []
    ids = _ids(base["param_groups"], slices)
    for layout, id_, weights in zip(slices, ids, state[_fp32_key(state)], strict=True):
        if any(fragment.in_slice.stop > weights.numel() for fragment in layout.fragments):
            raise ValueError(
                f"{weights.numel()} of {layout.size} fp32 weights of a slice are in the "
                "checkpoint: were they on NVMe?"
            )
        own = split(layout, base["state"].get(id_, {}))
        states.append(
            (layout, State({FP32_WEIGHT_KEY: weights.detach(), **own.elements}, own.shared))
        )
    return states


def replace_slices(
    state: Mapping[str, Any],
    slices: Sequence[tuple[Slice, State]],
    param_groups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return a wrapper's state dict with the weights, state and group settings of another.

    Args:
        state: of the wrapper that is to load the result.
        slices: its slices, with other states.
        param_groups: other settings of its groups. Their names stay: those of experts say over how
            many ranks they are spread.
    """
    base = base_state(state)
    groups = [
        {**new, **{key: old[key] for key in ("params", "name") if key in old}}
        for new, old in zip(param_groups, base["param_groups"], strict=True)
    ]
    ids = _ids(base["param_groups"], [layout for layout, _ in slices])
    weights, states = [], {}
    for id_, (_, new) in zip(ids, slices, strict=True):
        own = {**new.elements, **new.shared}
        weights.append(own.pop(FP32_WEIGHT_KEY))
        if own:
            states[id_] = own
    return {
        **state,
        _base_key(state): {"state": states, "param_groups": groups},
        _fp32_key(state): weights,
    }


def _base_key(state: Mapping[str, Any]) -> str:
    # FP16_UnfusedOptimizer uses stage 3's name.
    keys = (BASE_OPTIMIZER_STATE, OPTIMIZER_STATE_DICT)
    return next((key for key in keys if key in state), "")


def _fp32_key(state: Mapping[str, Any]) -> str:
    return next(key for key in (SINGLE_PARTITION_OF_FP32_GROUPS, FP32_FLAT_GROUPS) if key in state)


def _ids(param_groups: Sequence[Mapping[str, Any]], slices: Sequence[Slice]) -> list[int]:
    """Return what torch's state dict calls each slice."""
    seen: Counter[int] = Counter()
    ids = []
    for layout in slices:
        ids.append(param_groups[layout.group]["params"][seen[layout.group]])
        seen[layout.group] += 1
    return ids
