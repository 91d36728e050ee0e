"""Oracles by name: what is made, and what the errors say."""

from collections.abc import Mapping

import pytest
import torch

from gradopt_ds.ops import (
    ORACLES,
    QDWH,
    SVD,
    CoupledNewtonSchulz,
    GramNewtonSchulz,
    NewtonSchulz,
    PolarExpress,
    make_oracle,
    oracle_spec,
)


@pytest.mark.parametrize("name", list(ORACLES))
def test_by_name(name: str) -> None:
    """A name alone gives the defaults; a mapping with only the type gives the same."""
    assert make_oracle(name) == make_oracle({"type": name}) == ORACLES[name]()


def test_names() -> None:
    """Configs in the field use these."""
    assert set(ORACLES) == {
        "svd",
        "eigh",
        "adaptive",
        "qdwh",
        "zolo_pd",
        "nsds",
        "gram_polar_express",
        "newton_schulz",
        "polar_express",
        "gram_newton_schulz",
        "coupled_newton_schulz",
    }


def test_options_from_json() -> None:
    """Dtypes by name, lists for tuples; the mapping is left as it was."""
    spec = {"type": "polar_express", "steps": 8, "dtype": "bfloat16"}
    assert make_oracle(spec) == PolarExpress(steps=8, dtype=torch.bfloat16)
    assert spec["type"] == "polar_express"
    gram = make_oracle({"type": "gram_newton_schulz", "restarts": [2, 5], "steps": 9})
    assert gram == GramNewtonSchulz(restarts=(2, 5), steps=9)
    quintic = make_oracle({"type": "newton_schulz", "coefficients": [2, -1.5, 0.5]})
    assert quintic == NewtonSchulz(coefficients=(2, -1.5, 0.5))
    damped = make_oracle({"type": "polar_express", "safety": 1.05})
    assert damped == PolarExpress(safety=1.05)
    assert make_oracle({"type": "qdwh", "lower_bound": 1e-3}) == QDWH(lower_bound=1e-3)
    assert make_oracle({"type": "coupled_newton_schulz", "beta": 0.5}) == CoupledNewtonSchulz(
        beta=0.5
    )


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        ("qdwh", {"type": "qdwh", "dtype": None, "steps": None, "lower_bound": None}),
        (
            {"type": "newton_schulz", "dtype": "bfloat16", "coefficients": [3.0, -4.0, 2.0]},
            {
                "type": "newton_schulz",
                "dtype": "bfloat16",
                "steps": 5,
                "coefficients": [3.0, -4.0, 2.0],
            },
        ),
    ],
)
def test_an_oracle_is_written_down_in_full(spec: str | dict, written: dict) -> None:
    assert oracle_spec(make_oracle(spec)) == written


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_is_made_again_from_what_is_written(name: str) -> None:
    oracle = make_oracle(name)
    assert make_oracle(oracle_spec(oracle)) == oracle


def test_an_oracle_passes_through() -> None:
    """So that code may give an instance where JSON gives a name."""
    oracle = SVD(dtype=torch.float32)
    assert make_oracle(oracle) is oracle


@pytest.mark.parametrize("spec", ["polar_expres", {}, {"type": 3}, {"type": ["svd"]}, {"steps": 5}])
def test_unknown_names_list_the_valid_ones(spec: str | Mapping[str, object]) -> None:
    """And repeat the name that was given."""
    with pytest.raises(ValueError, match="oracle type must be one of") as error:
        make_oracle(spec)
    assert all(name in str(error.value) for name in ORACLES)


def test_not_a_spec() -> None:
    """Neither name nor mapping."""
    with pytest.raises(ValueError, match="a name or a mapping"):
        make_oracle(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(ORACLES))
def test_unknown_options_list_the_valid_ones(name: str) -> None:
    """A misspelt option never passes silently."""
    with pytest.raises(ValueError, match="'stepz'") as error:
        make_oracle({"type": name, "stepz": 5})
    assert "'dtype'" in str(error.value)
    assert ("'steps'" in str(error.value)) == (name not in ("svd", "eigh", "adaptive"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"type": "polar_express", "steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"type": "polar_express", "steps": 5.0}, "steps must be an integer >= 1, got 5.0"),
        ({"type": "polar_express", "steps": True}, "steps must be .* got True"),
        ({"type": "newton_schulz", "steps": "5"}, "steps must be .* got '5'"),
        ({"type": "newton_schulz", "coefficients": [1, 2]}, r"coefficients must be .*\(1, 2\)"),
        ({"type": "newton_schulz", "coefficients": [1, 2, "3"]}, "three finite numbers"),
        ({"type": "newton_schulz", "coefficients": [1, 2, float("nan")]}, "three finite numbers"),
        ({"type": "newton_schulz", "coefficients": 3.4}, "three finite numbers"),
        ({"type": "gram_newton_schulz", "restarts": [0]}, "restarts must be .* >= 1"),
        ({"type": "gram_newton_schulz", "restarts": [3, 2]}, "increasing"),
        ({"type": "gram_newton_schulz", "restarts": 2}, "increasing .* got 2"),
        ({"type": "gram_polar_express", "restarts": [2, 2]}, "increasing"),
        ({"type": "polar_express", "safety": 0.9}, "safety must be .*1 and 2, got 0.9"),
        ({"type": "qdwh", "lower_bound": 0}, "lower_bound must be .* got 0"),
        ({"type": "qdwh", "steps": 0}, "None or an integer >= 1, got 0"),
        ({"type": "qdwh", "dtype": "bfloat16"}, "float64, float32, got"),
        ({"type": "zolo_pd", "degree": 17}, "1 to 16, got 17"),
        ({"type": "zolo_pd", "dtype": "float32"}, "None or one of float64, got"),
        ({"type": "adaptive", "dtype": "float32"}, "None or one of float64, got"),
        ({"type": "nsds", "beta": 0.2}, "between 1/3 and 0.866, got 0.2"),
        ({"type": "coupled_newton_schulz", "beta": 1.0}, "between 1/3 and 0.866, got 1.0"),
        ({"type": "coupled_newton_schulz", "beta": 0.3}, "between 1/3 and 0.866, got 0.3"),
        ({"type": "coupled_newton_schulz", "beta": "0.8"}, "beta must be .* got '0.8'"),
        ({"type": "coupled_newton_schulz", "steps": -1}, "integer >= 1, got -1"),
        ({"type": "coupled_newton_schulz", "dtype": "float16"}, "float64, float32, got"),
        ({"type": "svd", "dtype": "bfloat16"}, "None or one of float64, float32, got"),
        ({"type": "polar_express", "dtype": "fp8"}, "bfloat16, float16, got 'fp8'"),
        ({"type": "polar_express", "dtype": 16}, "dtype must be .* got 16"),
    ],
)
def test_bad_values_name_the_range_and_the_value(spec: Mapping[str, object], says: str) -> None:
    """With the oracle's name in front."""
    with pytest.raises(ValueError, match=f"oracle {spec['type']}: .*{says}"):
        make_oracle(spec)


def test_oracles_are_values() -> None:
    """Frozen and comparable: a plan or a log may keep one."""
    assert len({PolarExpress(), PolarExpress(steps=5), PolarExpress(steps=6)}) == 2
    with pytest.raises(AttributeError):
        PolarExpress().steps = 6  # type: ignore[misc]
