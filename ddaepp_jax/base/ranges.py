"""Types of config fields with ranges, which pydantic checks; several groups use them.

A ``description`` completes the sentence "it should be ...".
"""

from typing import Annotated

from pydantic import Field

OrOff = Annotated[int, Field(ge=0, description="0 (off) or more")]
FloatOrOff = Annotated[float, Field(ge=0, description="0 (off) or more")]
Probability = Annotated[float, Field(ge=0, le=1, description="a probability, from 0 to 1")]
Share = Annotated[float, Field(ge=0, lt=1, description="at least 0 and below 1")]
