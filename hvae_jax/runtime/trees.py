"""Names of the leaves of a tree: paths such as "down4/prior/kernel"."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """A key path as text, "a/b/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
