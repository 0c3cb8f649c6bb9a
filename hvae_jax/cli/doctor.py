"""`hvae doctor`: versions, devices, an accelerator that lies idle."""

import dataclasses
import sys

from hvae_jax.runtime import doctor


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Versions, backend and devices, and whether an accelerator lies idle."""

    def __call__(self) -> None:
        """Carries it out."""
        print(doctor.table())
        if doctor.idle_accelerator():
            sys.exit(1)
