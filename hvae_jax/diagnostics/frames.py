"""How near predicted images are to the true ones: PSNR and SSIM."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

Images = Num[Array, "batch rows columns channels"]


def psnr(x: Images, y: Images, value_range: float) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio, 10 log10(R^2 / mean (x - y)^2), dB, of each pair; infinite for equal images.

    Args:
      value_range: R, difference of the largest and the smallest value that a pixel may have.

    Example:
        >>> x = jnp.zeros((1, 8, 8, 1))
        >>> print(hv.diagnostics.psnr(x, x + 0.1, value_range=1.0).round(2))  # 10 log10(1/0.1^2)
        [20.]
    """
    error = jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)).mean((1, 2, 3))
    return 20.0 * jnp.log10(value_range) - 10.0 * jnp.log10(error)


def ssim(x: Images, y: Images, value_range: float, window: int = 7) -> Float[Array, " batch"]:
    """Structural similarity of each pair, at most 1, which equal images have.

    The mean over channels and over all squares of window x window pixels inside the image of

        (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2)),   c_i = (k_i R)^2

    with means m, sample variances s^2 and the sample covariance s_xy within the square, k = 0.01 and 0.03.

    Args:
      value_range: R, as in `psnr`.
      window: side of the squares, at most that of the images.
    Source: Wang et al. (2004), equation 13, with uniform weights, as in scikit-image.
    Raises ValueError for a window larger than the images or below 2.

    Example:
        >>> x = jnp.arange(64.0).reshape(1, 8, 8, 1)
        >>> print(hv.diagnostics.ssim(x, x, value_range=63.0).round(3))
        [1.]
    """
    if not 2 <= window <= min(x.shape[1:3]):
        raise ValueError(
            f"ssim(window={window}): for images of {x.shape[1]}x{x.shape[2]} it is from 2 to the lower side."
        )
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)

    def means(a: Array) -> Array:
        # cumulative sums would lose digits; a window is small
        rows = jnp.stack([a[:, i : a.shape[1] - window + 1 + i] for i in range(window)]).sum(0)
        sums = jnp.stack([rows[:, :, i : a.shape[2] - window + 1 + i] for i in range(window)]).sum(0)
        return sums / window**2

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = means(x), means(y)
    var_x, var_y = (unbiased * (means(a * a) - m * m) for a, m in ((x, mean_x), (y, mean_y)))
    covariance = unbiased * (means(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    above = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (above / below).mean((1, 2, 3))
