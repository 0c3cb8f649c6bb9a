"""The devices of a run, and the data's way to them."""

import dataclasses

from jax.sharding import Mesh

from hvae_jax.trace import Model
from hvae_jax.training.feeds import Examples, Feed, Feeding, Resident, Streamed
from hvae_jax.training.plan import Plan
from hvae_jax.training.validate import Validate, make_validate


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices, and how data and state are laid out on them; changes a run's numbers by rounding alone.

    Attributes:
      mesh: all devices.
      feeding: how the data gets to them.
      memory: bytes of one device, the unit of `feeding.share`.
      fsdp: whether the state is split over the devices, see `state_sharding`.
    """

    mesh: Mesh
    feeding: Feeding = Feeding()
    memory: int = 2**30
    fsdp: bool = False

    def feed(self, data: Examples, plan: Plan) -> Feed:
        """Batches of the train split."""
        if self.feeding.streams(data.nbytes, self.memory):
            return Streamed(data.x, data.y, plan, self.mesh, self.feeding)
        return Resident(data.x, data.y, plan, self.mesh)

    def validate(self, model: Model, data: Examples, size: int) -> Validate:
        """Validation of a model on a split, `size` examples at a time or as many as fit into the memory."""
        streams = self.feeding.streams(data.nbytes, self.memory)
        return make_validate(model, data.x, data.y, size, self.mesh, self.feeding if streams else None, self.memory)
