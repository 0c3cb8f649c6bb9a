"""`HVAEFeatures`: the latents of a trained model as a scikit-learn transformer."""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data  # pyrefly: ignore[missing-module-attribute]

from hvae_jax.diagnostics.codes import What, check_levels
from hvae_jax.experiment.box import resolved
from hvae_jax.experiment.pretrained import Pretrained, load


class HVAEFeatures(TransformerMixin, BaseEstimator):
    """Codes of chosen levels as features, `[n_samples, n_features_out]`; fitting trains nothing.

        pipeline = make_pipeline(HVAEFeatures("digits_topdown", levels=["z2"]), LogisticRegression())
        GridSearchCV(pipeline, {"hvaefeatures__levels": [["z2"], ["z1"], ["z2", "z1"]]}).fit(X, y)

    X is `[n_samples, n_features]` with examples as the model takes them, flattened: images as `x.reshape(len(x), -1)`,
    of the model's values. Each level is flattened, and they stand side by side, top first, computed in float32 and cast
    to the dtype of X.

    Attributes:
      model: name of a model in the box, path of a run folder or of a file of weights, or a `Pretrained`, which clones
        share with its compiled programs.
      levels: names of levels, in any order; the features are top first. None takes all.
      what: "mean", "sample" or "noise", as `diagnostics.codes` has them.
      posterior_temperature: temperature of the posteriors, as `diagnostics.codes` has it; None takes 0 for means.
      batch_size: number of examples computed at once. Smaller batches are filled up, so that one compilation serves
        all.
      random_state: seed of samples; means depend on none.
      pretrained_: after `fit`, the model.
      levels_: after `fit`, names of the levels of the features.

    Example:
        >>> x = hv.data.digits().splits["test"].x[:2].reshape(2, -1)
        >>> hv.sklearn.HVAEFeatures("digits_topdown", levels=["z2"], batch_size=2).fit_transform(x).shape
        (2, 8)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Pretrained = "digits_topdown",
        levels: Sequence[str] | None = None,
        what: What = "mean",
        posterior_temperature: float | None = None,
        batch_size: int = 256,
        random_state: Any = 0,
    ) -> None:
        self.model = model
        self.levels = levels
        self.what = what
        self.posterior_temperature = posterior_temperature
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "HVAEFeatures":
        """Opens the model and checks settings and X against it.

        Raises ValueError for X of another number of features or with values that the likelihood does not allow, an
        unknown level, another `what`, a batch_size below 1, and a model conditioned on classes; and as `load` does.
        """
        X = validate_data(self, X, dtype=[np.float32, np.float64])
        if not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r}: it has to be a whole number of 1 or more.")
        if self.what not in ("mean", "sample", "noise"):
            raise ValueError(f"what={self.what!r}: it has to be mean, sample or noise.")
        self.pretrained_ = self._opened(X.shape[1])
        if self.pretrained_.model.classes:
            raise ValueError(
                f"{self.pretrained_.card.name} is conditioned on a class, which a transformer does not have: take "
                "`Pretrained.encode` with y."
            )
        self.levels_ = check_levels(self.pretrained_.levels, self.levels)
        self._examples(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of X, `[n_samples, n_features_out]`, in its dtype. Raises ValueError as `fit` does."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        x = self._examples(X)
        rows = np.arange(max(len(x), self.batch_size))
        rows[len(x) :] = 0
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        codes = self.pretrained_.encode(
            x[rows],
            self.levels_,
            self.what,
            key=jax.random.key(seed),
            posterior_temperature=self.posterior_temperature,
            size=self.batch_size,
        )
        flat = [code[: len(x)].reshape(len(x), -1).astype(X.dtype) for code in codes.values()]
        return np.concatenate(flat, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the features: "z2_0", "z2_1", ..."""
        check_is_fitted(self)
        x = np.zeros((1, *self.pretrained_.event), np.float32)
        shapes = jax.eval_shape(
            lambda v, x: self.pretrained_.model.apply(v, x, jax.random.key(0)).unstack(), self.pretrained_.variables, x
        )
        sizes = {level.name: math.prod(level.z.shape[1:]) for level in shapes}
        return np.array([f"{name}_{i}" for name in self.levels_ for i in range(sizes[name])], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags: Any = super().__sklearn_tags__()  # pyrefly: ignore[missing-attribute]
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _opened(self, features: int) -> Pretrained:
        """The model, for X of so many features."""
        if isinstance(self.model, Pretrained):
            return self.model
        path = resolved(Path(self.model).expanduser())
        return _loaded(str(path), _stamp(path))

    def _examples(self, X: np.ndarray) -> np.ndarray:
        """X as the model takes it, `[N, *event]`. Raises ValueError for what does not fit."""
        event, name = self.pretrained_.event, self.pretrained_.card.name
        if X.shape[1] != math.prod(event):
            shape = "x".join(map(str, event))
            raise ValueError(f"X has {X.shape[1]} features, but {name} takes {math.prod(event)} ({shape}).")
        x = X.astype(np.float32).reshape(len(X), *event)
        likelihood = self.pretrained_.model.likelihood
        if likelihood is not None:
            likelihood.check(x, "X")
        return x


@functools.lru_cache(maxsize=4)
def _loaded(path: str, stamp: int) -> Pretrained:
    """A model, opened once for all clones as long as its files have the same stamp."""
    return load(path)


def _stamp(path: Path) -> int:
    """The latest change of a file or of a run's checkpoints, in nanoseconds; 0 if there are none."""
    found = [path, *path.glob("*.safetensors"), *path.glob("checkpoints/*")]
    return max((one.stat().st_mtime_ns for one in found if one.exists()), default=0)
