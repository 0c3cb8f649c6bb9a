"""Devices as a sharding: a mesh with one axis that batches are split over; parameters on every device, or split too."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
SMALLEST = 2**14
"""Elements from which an array of the state is split: gathering a smaller one would cost more than keeping it whole."""


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices of all processes, or of all if None, with the one axis "data".

    Raises ValueError for more devices than there are, and if the processes would have different numbers of them.

    Example:
        >>> from hvae_jax import training
        >>> training.data_mesh(1).axis_names
        ('data',)
    """
    found = jax.devices()
    if devices is not None and not 1 <= devices <= len(found):
        raise ValueError(f"A mesh of {devices} devices was asked for, but there are {len(found)}: 1 to {len(found)}.")
    some = found[:devices]
    counts = [sum(d.process_index == process for d in some) for process in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise ValueError(
            f"A mesh of {len(some)} devices gives the {len(counts)} processes {counts} of them. Each needs the same "
            f"number: leave the number of devices out for all {len(found)}, or start every process with as many."
        )
    # By process, so that each process reads consecutive rows of a batch.
    some = sorted(some, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(some), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(rows: int, mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of a batch of `rows` examples: split along `axis` if the devices divide it, else whole on each.

    A batch that does not divide, such as the last one of an epoch, is computed by all devices alike rather than
    padded, so that no padding reaches a mean or a batch statistic.
    """
    split = (None,) * axis + (AXIS,) if rows % mesh.size == 0 else ()
    return NamedSharding(mesh, PartitionSpec(*split))


def local_rows(rows: int, mesh: Mesh) -> slice:
    """The rows of a batch that this process holds, and so has to read."""
    # One run of rows, since `data_mesh` sorts devices by process.
    places = rows_sharding(rows, mesh).addressable_devices_indices_map((rows,)).values()
    bounds = [place[0].indices(rows)[:2] for place in places if place is not None]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))


def split_rows(x: Array, mesh: Mesh) -> Array:
    """Lays x out as `rows_sharding` says, inside jit."""
    return jax.lax.with_sharding_constraint(x, rows_sharding(x.shape[0], mesh))


def state_sharding(tree: Any, mesh: Mesh, fsdp: bool = False) -> Any:
    """The sharding of each leaf of a state: whole on every device or, with `fsdp`, split over them.

    Fully sharded data parallelism (Rajbhandari et al. 2020, ZeRO stage 3): parameters, averages and the optimiser's
    moments of `SMALLEST` elements or more are split along their longest axis that the devices divide. XLA gathers a
    parameter where it is used and scatters its gradient; the numbers are those of the replicated state to rounding.

    Args:
      tree: arrays or their shapes.
    """

    def sharding_of(leaf: Any) -> NamedSharding:
        fits = [(size, -axis) for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not fsdp or leaf.size < SMALLEST or not fits:
            return replicated(mesh)
        longest = -max(fits)[1]  # of equal axes the first, hence the minus
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, AXIS))

    return jax.tree.map(sharding_of, tree)


def place_rows(array: np.ndarray | None, mesh: Mesh) -> Array | None:
    """A batch that every process holds whole, laid out as `rows_sharding` says; None stays None."""
    if array is None:
        return None
    local = array[local_rows(len(array), mesh)]
    return jax.make_array_from_process_local_data(rows_sharding(len(array), mesh), local, array.shape)


def agree(*numbers: int) -> list[int]:
    """The maximum of each number over all processes, so that all of them decide alike. Waits for every process."""
    if jax.process_count() == 1:
        return list(numbers)
    from jax.experimental import multihost_utils

    # [processes, numbers]; int32, which JAX takes with and without 64 bits.
    return multihost_utils.process_allgather(np.asarray(numbers, np.int32)).max(0).tolist()


def host_copy(tree: Any) -> Any:
    """A tree of global arrays as NumPy arrays on every process; all processes have to call it."""

    def gathered(leaf: Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gathered, tree)


def check_divides(batch_size: int, mesh: Mesh, microbatch: int | None = None) -> None:
    """Raises ValueError if a full batch, or a microbatch of it, cannot be split evenly over the devices."""
    processes = jax.process_count()
    devices = f"{mesh.size} devices" + (f" of {processes} processes" if processes > 1 else "")
    check_devices_divide(batch_size, mesh.size, microbatch, devices)


def check_devices_divide(batch_size: int, count: int, microbatch: int | None = None, devices: str = "") -> None:
    """`check_divides` of so many devices, which need not be here; no device is touched.

    Args:
      devices: the devices in words.
    """
    devices = devices or f"{count} devices"
    for what, size in (("batch", batch_size), ("microbatch", microbatch)):
        if size is not None and size % count:
            raise ValueError(
                f"A {what} of {size} cannot be split evenly over {devices}; {_multiples(size, count)} would do."
            )
    # Parts of unequal size are no trouble on one device, so they are refused on several alone.
    if count > 1 and microbatch is not None and batch_size > microbatch and batch_size % microbatch:
        raise ValueError(
            f"A batch of {batch_size} is no whole number of microbatches of {microbatch}, so that they would not split "
            f"evenly over {devices}; a batch of {_multiples(batch_size, microbatch)} would do."
        )


def _multiples(size: int, unit: int) -> str:
    """The multiples of `unit` next to `size`, in words."""
    lower = size // unit * unit
    return " or ".join(str(fits) for fits in (lower, lower + unit) if fits)
