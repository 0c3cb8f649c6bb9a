"""Sample quality: closed forms of Gaussians, toys by hand, unbiasedness, blocks, errors, the command."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

import hvae_jax as hv
from hvae_jax.cli.main import main
from hvae_jax.metrics import (
    as_features,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    mmd2,
    neighbours,
    score_features,
)
from hvae_jax.metrics.kernel import KernelDistance

MEANS = np.array([[0.5, -1.0, 0.3], [0.0, 1.0, 0.5]])
ROOTS = np.array([[[1.0, 0, 0], [0.7, 0.5, 0], [-0.3, 0.4, 1.2]], [[0.6, 0, 0], [0.1, 1.5, 0], [0.9, -0.2, 0.4]]])
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1)


def draws(which: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Draws of one of the two Gaussians, `[*shape, 3]`."""
    return MEANS[which] + np.random.default_rng(seed).normal(size=(*shape, 3)) @ ROOTS[which].T


def raw_moment(which: int, order: int) -> np.ndarray:
    """E[x x ... x], the raw moment tensor of a Gaussian, of order 1 to 3."""
    m, c = MEANS[which], COVARIANCES[which]
    if order == 1:
        return m
    if order == 2:
        return c + np.outer(m, m)
    mixed = np.einsum("ij,k->ijk", c, m)
    return mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 1, 0) + np.einsum("i,j,k->ijk", m, m, m)


def exact_mmd2(degree: int) -> float:
    """MMD^2 under (a.b/D + 1)^degree: E (a.b)^r is the product of the moment tensors, of two independent variables."""
    binomial = {1: (1, 1), 2: (1, 2, 1), 3: (1, 3, 3, 1)}[degree]

    def inner(a: int, b: int) -> float:
        powers = [1.0] + [(raw_moment(a, r) * raw_moment(b, r)).sum() / 3**r for r in range(1, degree + 1)]
        return float(np.dot(binomial, powers))

    return inner(0, 0) + inner(1, 1) - 2 * inner(0, 1)


def test_frechet_of_moments_is_scipys_root() -> None:
    """Of covariances that do not commute; symmetric; the distance of points for covariances of 0; 0 of equal ones."""
    first, second = COVARIANCES
    assert np.abs(first @ second - second @ first).max() > 0.1
    root = sqrtm(first @ second)
    expected = np.square(MEANS[0] - MEANS[1]).sum() + np.trace(first + second - 2 * root.real)
    found = frechet_of_moments(MEANS[0], first, MEANS[1], second)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(frechet_of_moments(MEANS[1], second, MEANS[0], first), expected, rtol=1e-12)
    zero = np.zeros((3, 3))
    apart = np.square(MEANS[0] - MEANS[1]).sum()
    np.testing.assert_allclose(frechet_of_moments(MEANS[0], zero, MEANS[1], zero), apart)
    assert frechet_of_moments(MEANS[0], first, MEANS[0], first) < 1e-12
    # singular: a Gaussian on a line and one on another, at right angles
    lines = np.diag([4.0, 0, 0]), np.diag([0, 9.0, 0])
    np.testing.assert_allclose(frechet_of_moments(MEANS[0], lines[0], MEANS[0], lines[1]), 13.0)
    with pytest.raises(ValueError, match=r"do not fit each other: their shapes are \(3,\), \(3, 3\), \(2,\)"):
        frechet_of_moments(MEANS[0], first, MEANS[1][:2], second)


def test_frechet_of_samples() -> None:
    """Sample moments are NumPy's, the value comes near that of the Gaussians; images of one set are exact."""
    x, y = draws(0, 20_000), draws(1, 20_000, seed=1)
    found = frechet_distance(x, y)
    exact = frechet_of_moments(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    np.testing.assert_allclose(found, exact, rtol=1e-10)
    np.testing.assert_allclose(found, frechet_of_moments(MEANS[0], COVARIANCES[0], MEANS[1], COVARIANCES[1]), rtol=0.05)
    np.testing.assert_allclose(frechet_distance(x, x + 2.0), 12.0)  # moved by 2 along three axes
    one = x[:, :1]  # a single feature
    np.testing.assert_allclose(frechet_distance(one, 3 * one), 4 * (one.mean() ** 2 + one.var(ddof=1)))


@pytest.mark.parametrize("degree", [1, 3])
def test_mmd2_is_unbiased(degree: int) -> None:
    """Its mean over 2,000 draws of 4 and 5 points is the closed form of the Gaussians, to 4 standard errors."""
    x, y = draws(0, 2000, 4), draws(1, 2000, 5, seed=1)
    found = np.array([mmd2(a, b, degree) for a, b in zip(x, y, strict=True)])
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - exact_mmd2(degree)) < 4 * error
    assert 4 * error < 0.25 * exact_mmd2(degree)  # the biased estimate, with i = j, is further away
    same = np.array([mmd2(a, b, degree) for a, b in zip(draws(0, 1000, 4), draws(0, 1000, 4, seed=2), strict=True)])
    assert abs(same.mean()) < 4 * same.std(ddof=1) / np.sqrt(len(same)) and (same < 0).any()


def test_mmd2_by_hand() -> None:
    """The three sums, term by term."""
    x, y = draws(0, 3), draws(1, 4, seed=1)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / 3 + 1) ** 3

    expected = sum(k(x[i], x[j]) for i in range(3) for j in range(3) if i != j) / 6
    expected += sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 12
    np.testing.assert_allclose(mmd2(x, y), expected, rtol=1e-12)


def test_kernel_distance_over_subsets() -> None:
    """Mean and deviation over subsets; a subset of everything is one estimate; the seed decides."""
    x, y = draws(0, 400), draws(1, 300, seed=1)
    found = kernel_distance(x, y, subsets=50, size=100)
    assert (found.subsets, found.size) == (50, 100) and found.spread is not None
    assert abs(found.value - exact_mmd2(3)) < 4 * found.spread
    assert found == kernel_distance(x, y, subsets=50, size=100) != kernel_distance(x, y, subsets=50, size=100, seed=1)
    whole = kernel_distance(x[:300], y)
    assert whole == KernelDistance(whole.value, None, 1, 300)
    np.testing.assert_allclose(whole.value, mmd2(x[:300], y), rtol=1e-9)
    assert kernel_distance(x, y).size == 300 and kernel_distance(x, y).subsets == 100  # of 400 there are several


def test_neighbours_by_hand() -> None:
    """On a line, k = 1: real 0, 1, 2, 10 have radii 1, 1, 1, 8; generated 0.5, 2, 5, 30 radii 1.5, 1.5, 3, 25."""
    real, generated = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [2], [5], [30]])
    found = neighbours(real, generated, k=1)
    # in closed real balls: 0.5, 2 (of 1, on its edge, of 2, and of 10, on its edge), 5 (of 10)
    assert found.precision == 3 / 4
    # in closed generated balls: 0, 1, 2 (of 0.5: -1 to 2) and 10 (of 30: 5 to 55)
    assert found.recall == 1.0
    # open real balls: 0.5 in those of 0 and 1; 2 in that of 2, since 1 and 10 have it on their edge; 5 in that of 10
    assert found.density == 4 / 4
    assert found.coverage == 4 / 4
    # k = 2: real radii 2, 1, 2, 9, in whose open balls are 0.5; 0.5; 0.5 and 2; 2 and 5. Generated radii 4.5, 3, 4.5
    two = neighbours(real, generated[:3], k=2)
    assert (two.precision, two.recall, two.density, two.coverage) == (1.0, 3 / 4, 6 / (2 * 3), 1.0)


def test_neighbours_of_equal_and_of_distant_sets() -> None:
    """Copies score 1 in all four; sets far apart 0; one mode repeated has precision and density, no recall."""
    x = draws(0, 500)
    same = neighbours(x, x.copy(), k=5)
    assert (same.precision, same.recall, same.density, same.coverage) == (1.0, 1.0, 1.0, 1.0)
    far = neighbours(x, x + 1e3, k=5)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    mode = np.repeat(x[:1], 50, axis=0)
    collapsed = neighbours(x, mode, k=5)
    assert collapsed.precision == 1.0 and collapsed.recall == 1 / 500 and collapsed.coverage < 0.05
    other = neighbours(x, draws(0, 500, seed=1), k=5)
    assert all(abs(value - 1) < 0.15 for value in (other.precision, other.recall, other.density, other.coverage))


def test_neighbours_far_from_the_origin() -> None:
    """Whole numbers moved by 2^30 have the distances that they had."""
    x, y = (np.random.default_rng(seed).integers(0, 100, (60, 2)).astype(np.float64) for seed in (0, 1))
    assert neighbours(x + 2.0**30, y + 2.0**30, k=3) == neighbours(x, y, k=3)


def test_blocks_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances in blocks of three rows give what one block does; offsets of a million keep their digits."""
    module = sys.modules["hvae_jax.metrics.neighbours"]  # the room has a function of that name
    x, y = draws(0, 50), draws(1, 40, seed=1)
    whole = neighbours(x, y, k=3)
    monkeypatch.setattr(module, "_BYTES", 3 * 8 * 50)
    assert max(rows.stop - rows.start for rows, _ in module._blocks(y, x)) == 3
    assert neighbours(x, y, k=3) == whole
    squares = np.concatenate([block for _, block in module._blocks(y, x)])
    np.testing.assert_allclose(squares, np.square(y[:, None] - x).sum(-1), rtol=1e-9)


def test_an_extractor_in_batches() -> None:
    """Features of examples, a batch at a time, are those of all at once; what it makes has to be one row an example."""
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 4, 1)).astype(np.uint8)
    sizes = []

    def extractor(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return x.astype(np.float32).mean((1, 2))

    found = score_features(images, images[::-1], extractor=extractor, batch_size=8)
    assert sizes == [8, 8, 4] * 2 and found.features == 1 and found.frechet < 1e-9
    np.testing.assert_allclose(as_features(images)[0], images[0].ravel())
    with pytest.raises(ValueError, match=r"an array of shape \(\) of 20 examples of x: it has to be \[n, D\]"):
        as_features(images, lambda x: x.mean())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generated": np.zeros((9, 2))}, "3 features each and the generated ones 2"),
        ({"generated": np.zeros((5, 3))}, "There are 5 generated examples, but 6 or more are needed"),
        ({"real": np.zeros((0, 3))}, r"real has shape \(0, 3\)"),
        ({"real": np.zeros(9)}, r"give one number for each as x\[:, None\]"),
        ({"real": np.full((9, 3), np.nan)}, r"real holds nan as feature 0 of example 0 \(27 such values\)"),
        ({"real": np.full((9, 3), "a")}, "features are real numbers"),
        ({"k": 0}, "k is 0"),
        ({"subsets": 0}, "subsets is 0"),
        ({"subset_size": 1}, "subset_size is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_input(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        score_features(**{"real": draws(0, 9), "generated": draws(1, 9)} | change)
    assert "\n" not in str(raised.value)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`hvae metrics` prints the table and writes the numbers; files that do not serve end in one line."""
    monkeypatch.chdir(tmp_path)
    x, y = draws(0, 60), draws(1, 50, seed=1)
    np.savez("real.npz", x)
    np.savez("generated.npz", x=y, y=np.zeros(50))
    main(["metrics", "real.npz", "generated.npz", "--k", "3", "--subset-size", "30", "--out", "scores.json"])
    said = capsys.readouterr().out
    expected = hv.metrics.score_features(x, y, k=3, subset_size=30)
    assert said.rstrip() == expected.table() and "60 real and 50 generated examples of 3 features" in said
    assert "100 subsets of 30" in said and "too high" not in said
    assert json.loads(Path("scores.json").read_text())["neighbours"] == vars(expected.neighbours)
    wide = np.random.default_rng(0).normal(size=(8, 8))
    assert "With 8 examples of 8 features the Frechet distance is too high" in score_features(wide, wide, k=1).table()
    np.savez("several.npz", a=x, b=y)
    for arguments, error in (
        (("real.npz", "several.npz"), "several.npz holds a, b: name the one with the features by --generated-name"),
        (("several.npz", "real.npz", "--real-name", "c"), "several.npz has no array 'c'; it holds a, b"),
        (("none.npz", "real.npz"), "There is no file none.npz"),
        (("real.npz", "real.npz", "--k", "60"), "There are 60 real examples, but 61 or more are needed"),
        (("real.npz", "real.npz", "--out", "none/a.json"), "there is no folder none"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["metrics", *arguments])
        assert left.value.code == 1 and error in capsys.readouterr().err
