"""What all workload settings share: frozen, strict, no unknown keys, no NaN or infinity."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Rate = Annotated[float, Field(ge=1e-9, le=1e9)]
Count = Annotated[int, Field(ge=1, le=2**40)]
# An hour is 3.6e3 s; 1e8 s is three years: beyond it the engine's clock of microseconds is of no use to anybody.
Seconds = Annotated[float, Field(gt=0, le=1e8)]
SecondsOrZero = Annotated[float, Field(ge=0, le=1e8)]


class Settings(BaseModel):
    """Hold validated settings; equal settings are equal and hashable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
