"""Measures programs: what they need of time and memory, under limits, into a data set in the schema.

    from code_rlm_data.measure import Limits, Program, measure_programs

    table = measure_programs([Program("print(2**100)", "python")], "measured", limits=Limits(wall_s=2), repeats=5)

or `code-rlm measure FOLDER --out measured`. Not a sandbox for hostile code; see SECURITY.md.
"""

from code_rlm_data.measure.programs import BUILD_LIMITS, Limits, MeasureError, Program, read_programs
from code_rlm_data.measure.session import measure_programs
from code_rlm_data.measure.toolchains import TOOLCHAINS, Toolchain

__all__ = [
    "BUILD_LIMITS",
    "TOOLCHAINS",
    "Limits",
    "MeasureError",
    "Program",
    "Toolchain",
    "measure_programs",
    "read_programs",
]
