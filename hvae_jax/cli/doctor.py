"""`hvae doctor`: versions, devices, and an accelerator that is idle."""

import dataclasses
import sys

from hvae_jax.runtime import doctor


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Prints versions, backend and devices; exit code 1 if an accelerator is idle, or there is no device at all."""

    def __call__(self) -> None:
        """Runs the command."""
        print(doctor.table())
        if doctor.platform_problem() or doctor.idle_accelerator():
            sys.exit(1)
