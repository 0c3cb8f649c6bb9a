"""Devices as a sharding: a mesh with one axis, the batch split over it, everything else on every device."""

import jax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, all if it is None, with the one axis "data"."""
    some = jax.devices()[:devices]
    return jax.make_mesh((len(some),), (AXIS,), axis_types=(AxisType.Auto,), devices=some)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(x: Array, mesh: Mesh) -> Array:
    """Inside jit: the first axis of x over the devices where it divides, x on every device otherwise.

    A batch that does not divide, such as the last one of an epoch, is computed by all devices alike rather than
    padded, so that no padding reaches a mean or a batch statistic.
    """
    spec = PartitionSpec(AXIS) if x.shape[0] % mesh.size == 0 else PartitionSpec()
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError if a full batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        fits = [size for size in (lower, lower + mesh.size) if size]
        raise ValueError(
            f"A batch of {batch_size} cannot be split evenly over {mesh.size} devices; "
            f"{' or '.join(map(str, fits))} would do."
        )
