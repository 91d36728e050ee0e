"""Resuming with another JSON on real engines: what is refused, what goes on, what is said."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import gradopt_ds
from gradopt_ds.checkpoint import KEY
from gradopt_ds.integration.checkpoints.universal import convert
from gradopt_ds.integration.zero.wrapper_state import base_state
from tests.distributed import checkpoint_engines as worker
from tests.distributed.checkpoint_cases import STAGE_2, STAGE_3, Case
from tests.distributed.harness import distributed

ALL = (Case("PolarGrad", 0), Case("PolarGrad", 0, "bf16"), STAGE_2, STAGE_3)


@contextmanager
def said() -> Iterator[list[str]]:
    """What this rank logs."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("gradopt_ds")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def with_params(case: Case, **params: Any) -> Case:
    """The case with other optimizer params."""
    return replace(case, params={**case.params, **params})


@distributed(2)
def test_another_meaning_of_the_state_is_refused() -> None:
    """Before anything is overwritten, at every stage."""
    for case in ALL:
        path = worker.saved_once(case)
        for params, message in (
            ({"momentum_order": "polar_first"}, "momentum_order 'momentum_first' in parameter g"),
            ({"nesterov": True}, "nesterov False in parameter group 0"),
            ({"momentum": 0.0}, "momentum 0.8 in parameter group 0"),
        ):
            engine = worker.start(with_params(case, **params), seed=7)
            worker.assert_refused(engine, path, message)
            engine.destroy()


@distributed(2)
def test_saved_settings_go_on_bit_by_bit() -> None:
    """With other numbers in the JSON the run goes on as one never broken, and says so once."""
    for case in ALL:
        path = worker.saved_once(case)
        same, other = (
            worker.start(case, seed=7),
            worker.start(
                with_params(case, lr=0.7, momentum=0.5, scale="rms", weight_decay=0.3), seed=8
            ),
        )
        same.load_checkpoint(path)
        with said() as messages:
            other.load_checkpoint(path)
        text = "\n".join(messages)
        for line in (
            "lr goes on as 0.1 (saved; configured: 0.7)",
            "momentum goes on as 0.8 (saved; configured: 0.5)",
            "scale goes on as 'nuclear' (saved; configured: 'rms')",
            "weight_decay goes on as 0.0 (saved; configured: 0.3)",
        ):
            assert (line in text) == (dist.get_rank() == 0), (case.name, line, text)
        for engine in (same, other):
            worker.train(engine, range(worker.HALF, worker.END))
        worker.assert_equal(worker.weights(same), worker.weights(other), case.name)
        same.destroy()
        other.destroy()


@distributed(2)
def test_the_same_settings_are_not_worth_a_word() -> None:
    """Neither with a schedule, which has moved lr."""
    scheduler = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.2, "warmup_num_steps": 5}}
    for case in ALL:
        path = worker.own_folder(f"scheduled {case.name}")
        worker.save(case, path, scheduler=scheduler)
        engine = worker.start(case, seed=7, scheduler=scheduler)
        with said() as messages:
            engine.load_checkpoint(path)
        assert not messages, messages
        engine.destroy()


@distributed(2)
def test_lr_that_a_missing_schedule_has_left_is_said_and_can_be_put_back() -> None:
    """The configured lr is the saved one; the schedule had moved it when the run was saved."""
    scheduler = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.2, "warmup_num_steps": 5}}
    for case in ALL:
        path = worker.own_folder(f"schedule gone {case.name}")
        worker.save(case, path, scheduler=scheduler)
        engine = worker.start(case, seed=7)
        with said() as messages:
            engine.load_checkpoint(path)
        groups = engine.basic_optimizer.param_groups
        assert groups[0]["lr"] != 0.1
        assert ("no scheduler is configured" in "\n".join(messages)) == (dist.get_rank() == 0)
        gradopt_ds.take_settings_from_config(engine)
        assert [group["lr"] for group in groups] == [0.1] * len(groups), case.name
        engine.destroy()


@distributed(2)
def test_rounding_and_oracle_come_from_the_config() -> None:
    """Stochastic rounding, which the log advises to weights without masters, takes effect."""
    for case in ALL:
        changed = with_params(case, oracle="adaptive", stochastic_rounding=True)
        engine = worker.start(changed, seed=7)
        with said() as messages:
            engine.load_checkpoint(worker.saved_once(case))
        for group in engine.basic_optimizer.param_groups:
            assert group["stochastic_rounding"] is True
        text = "\n".join(messages)
        assert ("stochastic_rounding is True as configured" in text) == (dist.get_rank() == 0)
        assert engine.basic_optimizer.param_groups[0]["oracle"]["type"] == "adaptive"
        engine.destroy()


@distributed(2)
def test_the_settings_of_the_config_can_be_taken() -> None:
    """After loading: the next step is that of a run that had them from the beginning."""
    for case in ALL:
        path = worker.saved_once(case)
        changed = with_params(case, lr=0.3, momentum=0.6, scale="rms")
        taking, by_hand = worker.start(changed, seed=7), worker.start(case, seed=7)
        taking.load_checkpoint(path)
        gradopt_ds.take_settings_from_config(taking)
        by_hand.load_checkpoint(path)
        for group in by_hand.basic_optimizer.param_groups:
            group["lr"] = 0.3
            # The auxiliary lr of the JSON is the same; it steps with lr * lr_scale.
            group |= (
                {"lr_scale": group["lr_scale"] * 0.1 / 0.3}
                if group["rule"] == "aux"
                else {"momentum": 0.6, "scale": "rms"}
            )
        for engine in (taking, by_hand):
            worker.train(engine, range(worker.HALF, worker.END))
        for name, weight in worker.weights(by_hand).items():
            tolerance = 1e-2 if case.precision == "bf16" else 1e-5
            torch.testing.assert_close(
                worker.weights(taking)[name], weight, rtol=tolerance, atol=1e-5
            )
        taking.destroy()
        by_hand.destroy()


@distributed(2)
def test_settings_travel_through_a_conversion() -> None:
    """The rules of a plain checkpoint hold for a universal one."""
    for case in (STAGE_2, STAGE_3):
        path = worker.own_folder(f"converted settings {case.name}")
        worker.save(case, path)
        if dist.get_rank() == 0:
            convert(Path(path, "half"), Path(path, "universal"))
        dist.barrier()
        engine = worker.start(with_params(case, momentum_order="polar_first"), universal=True)
        worker.assert_refused(engine, path, "momentum_order 'momentum_first' in parameter group")
        engine.destroy()
        engine = worker.start(with_params(case, momentum=0.5), universal=True)
        with said() as messages:
            engine.load_checkpoint(path)
        line = "momentum goes on as 0.8 (saved; configured: 0.5)"
        assert (line in "\n".join(messages)) == (dist.get_rank() == 0)
        assert engine.basic_optimizer.param_groups[0]["momentum"] == 0.8
        engine.destroy()


@distributed(2)
def test_the_record_says_what_holds() -> None:
    """Also after a change in the middle of a run, for whoever reads the file."""
    for case in ALL:
        engine = worker.start(case)
        engine.basic_optimizer.param_groups[0]["momentum"] = 0.75
        record = base_state(engine.optimizer.state_dict())[KEY]
        settings = record["groups"][0]["settings"]
        expected = {"momentum": 0.75, "momentum_order": "momentum_first", "scale": "nuclear",
                    "nesterov": False, "lr": 0.1, "stochastic_rounding": False}  # fmt: skip
        assert {key: settings[key] for key in expected} == expected
        assert settings["oracle"]["type"] == "svd"
        engine.destroy()
