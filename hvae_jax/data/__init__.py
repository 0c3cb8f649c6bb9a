"""Data sets as records, by name, from TFDS, from an .npz or from a folder of images."""

from hvae_jax.data.augment import Augment as Augment
from hvae_jax.data.catalogue import NAMES as NAMES
from hvae_jax.data.catalogue import check_name as check_name
from hvae_jax.data.catalogue import load as load
from hvae_jax.data.cifar import cifar10 as cifar10
from hvae_jax.data.dataset import BINARY as BINARY
from hvae_jax.data.dataset import REAL as REAL
from hvae_jax.data.dataset import Dataset as Dataset
from hvae_jax.data.dataset import Kind as Kind
from hvae_jax.data.dataset import Rows as Rows
from hvae_jax.data.dataset import Split as Split
from hvae_jax.data.dataset import integer as integer
from hvae_jax.data.folder import from_folder as from_folder
from hvae_jax.data.mnist_family import binarized_mnist as binarized_mnist
from hvae_jax.data.mnist_family import fashion_mnist as fashion_mnist
from hvae_jax.data.mnist_family import mnist as mnist
from hvae_jax.data.natural import celeb_a64 as celeb_a64
from hvae_jax.data.natural import downsampled_imagenet as downsampled_imagenet
from hvae_jax.data.natural import imagenet_resized as imagenet_resized
from hvae_jax.data.natural import svhn_cropped as svhn_cropped
from hvae_jax.data.npz import from_npz as from_npz
from hvae_jax.data.omniglot28 import omniglot as omniglot
from hvae_jax.data.omniglot28 import omniglot_resized as omniglot_resized
from hvae_jax.data.prepare import prepare as prepare
from hvae_jax.data.sklearn_digits import digits as digits
from hvae_jax.data.tfds import from_tfds as from_tfds
