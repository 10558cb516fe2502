"""Validations: labelled, written, read again, and refused where something does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from batchcube.results.storage import write_dataset
from batchcube.results.validation import (
    COURSES,
    QUANTITIES,
    SIDES,
    build_validation,
    read_validation,
)

ERRORS = json.dumps(
    [
        {
            "quantity": "ttft_s",
            "statistic": "mean",
            "measured": 1.0,
            "simulated": 1.1,
            "error": 0.1,
            "low": -0.05,
            "high": 0.2,
            "fitted": False,
        }
    ]
)


def make(requests: int = 4, instants: int = 6) -> xr.Dataset:
    times = {f"{side}_{q}": np.arange(requests) + k for k, side in enumerate(SIDES) for q in QUANTITIES}
    courses = {f"{side}_{c}": np.arange(instants) * 2.0 for side in SIDES for c in COURSES}
    return build_validation(
        np.arange(requests) * 0.5,
        np.arange(requests) > 1,
        {name: values.astype(float) for name, values in times.items()},
        np.linspace(0, 5, instants),
        courses,
        {"name": "law", "judged": "all but the first 2", "errors": ERRORS},
    )


def test_a_validation_survives_a_file(tmp_path: Path) -> None:
    built = make()
    xr.testing.assert_identical(read_validation(write_dataset(built, tmp_path / "v.nc")), built)
    assert built["simulated_tpot_s"].attrs == {"units": "s", "long_name": f"{QUANTITIES['tpot_s']}, simulated"}
    assert built["judged"].values.tolist() == [0, 0, 1, 1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"measured_admitted: is missing or not of shape \(3,\)"):
        build_validation(
            np.zeros(2),
            np.ones(2, bool),
            {f"{side}_{q}": np.zeros(2) for side in SIDES for q in QUANTITIES},
            np.zeros(3),
            {f"{side}_{c}": np.zeros(2) for side in SIDES for c in COURSES},
            {},
        )
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=r"other\.nc: is no validation; batchcube validate makes them"):
        read_validation(tmp_path / "other.nc")


def test_a_foreign_validation_is_checked(tmp_path: Path) -> None:
    built = make()
    path = tmp_path / "v.nc"
    for wrong, message in (
        (built.drop_vars("measured_e2e_s"), "measured_e2e_s is missing or holds no numbers over request"),
        (built.assign(judged=("request", list("abcd"))), "judged is missing or holds no numbers over request"),
        (built.drop_vars("time_s"), "the coordinate time_s or the attribute judged is missing"),
        (built.assign_attrs(judged=1), "the coordinate time_s or the attribute judged is missing"),
    ):
        path.unlink(missing_ok=True)
        wrong.to_netcdf(path)
        with pytest.raises(ValueError, match=message):
            read_validation(path)


@pytest.mark.parametrize("errors", ["", "[1]", '[{"quantity": "ttft_s"}]', ERRORS.replace("1.1", '"much"')])
def test_errors_that_are_none_are_refused(tmp_path: Path, errors: str) -> None:
    path = write_dataset(make().assign_attrs(errors=errors), tmp_path / "v.nc")
    with pytest.raises(ValueError, match=r"v\.nc: attribute errors: "):
        read_validation(path)
