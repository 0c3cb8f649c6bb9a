"""`hvae doctor`: versions, devices, and an accelerator that is idle."""

import dataclasses
import sys

from hvae_jax.runtime import doctor


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Prints versions, backend and devices, and whether an accelerator is idle (then the exit code is 1)."""

    def __call__(self) -> None:
        """Runs the command."""
        print(doctor.table())
        if doctor.idle_accelerator():
            sys.exit(1)
