"""Pipeline stages: what all of them together know of the model.

A process has the layers of its own stage. Which rule a parameter gets depends on the others too: a
head on the last stage is known by the shape of the embedding on the first, and a pattern of the
JSON may mean a parameter on any stage.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch.distributed as dist
from deepspeed.runtime.pipe.module import LayerSpec, PipelineModule
from torch import nn

from gradopt_ds.integration.parallel.pipeline_ties import problems_of_ties
from gradopt_ds.optim.facts import ParameterFacts, in_numbered_layer, read_facts

T = TypeVar("T")


def of_all_stages(module: nn.Module, mine: T) -> list[T]:
    """Return what every pipeline stage says, in their order. Collective over a pipeline.

    Args:
        module: a model; one without stages is asked alone.
        mine: what this stage says; can be pickled.
    """
    if not isinstance(module, PipelineModule):
        return [mine]
    stages: list[T | None] = [None] * module.num_stages
    dist.all_gather_object(stages, mine, group=module.mpu().get_pipe_parallel_group())
    return [stage for stage in stages if stage is not None]


def facts_of_all_stages(module: PipelineModule) -> list[ParameterFacts]:
    """Gather the facts about all trainable parameters of the model. Collective over a pipeline.

    Raises:
        ValueError: the stages cannot be trained as one model, see :func:`stage_problems`; on all
            ranks alike.
    """
    mine = _facts_of_stage(module)
    stages = of_all_stages(module, (mine, stage_problems(module, mine)))
    if problems := list(dict.fromkeys(p for _, found in stages for p in found)):
        raise ValueError("; ".join(problems))
    return joined([fact for facts, _ in stages for fact in facts])


def stage_problems(module: PipelineModule, facts: Sequence[ParameterFacts]) -> list[str]:
    """Say why a stage cannot be trained as a part of one model.

    Args:
        module: the stage.
        facts: about its trainable parameters.
    """
    problems = problems_of_ties(module)
    if not facts:
        problems.append(
            f"pipeline stage {module.stage_id} of {module.num_stages} has no trainable parameter, "
            "and no optimizer can be made for it: use fewer stages, or another partition_method"
        )
    if names := [fact.name for fact in facts if fact.name.startswith("loss_fn.")]:
        problems.append(
            f"loss_fn has trainable parameters ({', '.join(names)}), which every stage has and the "
            "last alone trains: make them a layer of the PipelineModule"
        )
    return problems


def joined(facts: Iterable[ParameterFacts]) -> list[ParameterFacts]:
    """Join what several stages say of one parameter: it belongs to the modules of all of them.

    Raises:
        ValueError: they say different things of its shape.
    """
    by_name: dict[str, ParameterFacts] = {}
    for fact in facts:
        known = by_name.setdefault(fact.name, fact)
        if (known.shape, known.inside) != (fact.shape, fact.inside):
            raise ValueError(
                f"{fact.name!r} has shape {known.shape} on one pipeline stage and {fact.shape} on "
                "another: the layers of one TiedLayerSpec key must be alike"
            )
        by_name[fact.name] = replace(known, owners=known.owners | fact.owners)
    return list(by_name.values())


def _facts_of_stage(module: PipelineModule) -> list[ParameterFacts]:
    """Read the facts about this stage; every layer of it has a number, and not all are blocks."""
    kinds = [s.typename if isinstance(s, LayerSpec) else type(s) for s in module._layer_specs]
    counts = Counter(kinds)
    repeated = {str(index) for index, kind in enumerate(kinds) if counts[kind] > 1}
    facts = []
    for fact in read_facts(module).values():
        layer, _, inside = fact.name.partition(".")
        facts.append(replace(fact, in_block=layer in repeated or in_numbered_layer(inside)))
    return facts
