"""The masks that a command is given: by name, as a picture, or as an array in an .npz."""

from pathlib import Path

import numpy as np

from hvae_jax.data.images import BadImageError, read_image
from hvae_jax.data.layout import SUFFIXES
from hvae_jax.filling import as_seen, box, half
from hvae_jax.runtime.errors import shown
from hvae_jax.runtime.npz import array_headers, check_sizes, read_arrays


def read_mask(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of a name or a file, bool `[B, *event]`.

    Raises ValueError, with what would do, for another name, a file that holds no mask and a mask of another shape;
    FileNotFoundError.
    """
    if name in ("box", "half"):
        return as_seen((box if name == "box" else half)(shape[1:]), shape)
    path = Path(name).expanduser()
    if not path.exists() and not path.suffix:
        raise ValueError(f"--mask {name} is neither box, half nor missing, nor a file (a picture or an .npz).")
    if not path.is_file():
        raise FileNotFoundError(f"--mask: there is no file {shown(path)}.")
    if path.suffix == ".npz":
        return as_seen(_of_arrays(path), shape)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--mask {shown(path)}: a mask is a picture, or an .npz with an array seen or missing.")
    if len(shape) != 4:
        raise ValueError(f"--mask {shown(path)}: a picture masks images [H, W, C], but one x has shape {shape[1:]}.")
    try:
        picture = read_image(str(path), 1)
    except (BadImageError, OSError) as error:
        raise ValueError(f"--mask {shown(path)}: {error}.") from error
    return as_seen(picture < 128, shape)


def _of_arrays(path: Path) -> np.ndarray:
    """The mask of an .npz: `seen`, or what `missing` leaves. Raises ValueError without one, or with both."""
    headers = array_headers(path)
    names = [name for name in ("seen", "missing") if name in headers]
    if len(names) != 1:
        raise ValueError(
            f"--mask {shown(path)} holds {', '.join(headers) or 'nothing'}, but needs one array: seen, 1 where x is "
            "seen, or missing, 1 where it is not."
        )
    chosen = {names[0]: headers[names[0]]}
    check_sizes(path, chosen)
    array = next(array for _, array in read_arrays(path, chosen))
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"--mask {shown(path)}: {names[0]} holds other values than 0 and 1.")
    return array.astype(bool) if names[0] == "seen" else ~array.astype(bool)
