"""What a checkpoint says about itself: plain data that travels with the optimizer's state."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

KEY = "gradopt_ds"
"""Where the record lies in the base optimizer's state dict, beside ``state``."""

FORMAT = 2
"""Raised whenever an older version would misread what a newer one writes."""

READABLE = (1, FORMAT)
"""Format 1 has no settings of groups: what a group was configured with is not compared."""


@dataclass(frozen=True)
class Group:
    """A parameter group.

    Attributes:
        rule: ``"matrix"``, ``"aux"``, or ``"elementwise"`` where the optimizer has no rules.
        parameters: name → shape, before ZeRO cuts it.
        settings: name → plain value, as when the state was saved; ``lr`` as it was configured,
            before any schedule.
    """

    rule: str
    parameters: dict[str, tuple[int, ...]]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fragment:
    """Consecutive elements of one flattened parameter that one rank holds.

    Attributes:
        name: of the parameter.
        start: first element within the parameter.
        offset: first element within the slice.
        length: number of elements.
    """

    name: str
    start: int
    offset: int
    length: int

    @property
    def in_parameter(self) -> slice:
        """The elements of the flattened parameter."""
        return slice(self.start, self.start + self.length)

    @property
    def in_slice(self) -> slice:
        """The elements of the slice."""
        return slice(self.offset, self.offset + self.length)


@dataclass(frozen=True)
class Slice:
    """One flat tensor that the base optimizer updates.

    Attributes:
        group: index of its parameter group.
        size: elements, padding included.
        parameters: names of all that are in it on one rank or another.
        fragments: what this rank holds; the rest is padding.
    """

    group: int
    size: int
    parameters: tuple[str, ...]
    fragments: tuple[Fragment, ...]


@dataclass(frozen=True)
class Cut:
    """How tensor-parallel ranks have cut one parameter.

    Attributes:
        shape: of the whole parameter.
        axis: the dimension that is cut; None if every rank has a copy.
        widths: for each sub-parameter along the axis what each rank has of it; a shard is its
            rank's parts of all of them.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    widths: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class TensorRanks:
    """Which of the tensor-parallel ranks this is, and what it has.

    Attributes:
        rank: among them.
        size: how many they are.
        cuts: name of a parameter, a frozen one too → how it is cut.
    """

    rank: int
    size: int
    cuts: dict[str, Cut]


@dataclass(frozen=True)
class Record:
    """One rank's account of an optimizer.

    Attributes:
        optimizer: its class, with that of its base.
        stage: of ZeRO.
        ranks: over which slices are cut.
        groups: the parameter groups.
        slices: this rank's slices, in the order in which they are updated; none at stage 0.
        tensor: with tensor parallelism; groups and slices are then of this rank's shards.
        pipeline_stages: into which the model is cut.
        elsewhere: names of the parameters that other pipeline stages have, and this one has not.
    """

    optimizer: str
    stage: int
    ranks: int
    groups: tuple[Group, ...]
    slices: tuple[Slice, ...] = ()
    tensor: TensorRanks | None = None
    pipeline_stages: int = 1
    elsewhere: tuple[str, ...] = ()


def to_state(record: Record) -> dict[str, Any]:
    """Return a record as plain data that any version can read."""
    return {"format": FORMAT, **asdict(record)}


def from_state(state: Mapping[str, Any]) -> Record:
    """Return the record in a base optimizer's state dict.

    Raises:
        ValueError: there is none, or its format is unknown.
    """
    plain = state.get(KEY)
    if plain is None:
        raise ValueError(
            "this checkpoint does not say which parameters it holds: it was saved by another "
            "library's optimizer, or by an earlier version of gradopt_ds"
        )
    if plain.get("format") not in READABLE:
        raise ValueError(
            f"this checkpoint has format {plain.get('format')!r} and this version of gradopt_ds "
            f"reads formats {_listed(READABLE)}: load it with the version that saved it"
        )
    try:
        fields = {key: value for key, value in plain.items() if key != "format"}
        record: Record = TypeAdapter(Record).validate_python(fields)
    except ValidationError as error:
        raise ValueError(
            f"this checkpoint's record of its parameters is damaged: {error}"
        ) from error
    return record


def _listed(formats: tuple[int, ...]) -> str:
    return " and ".join(map(str, formats))
