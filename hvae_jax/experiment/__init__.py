"""Experiments: the record, and how it is run, measured, reopened and exchanged."""

from hvae_jax.data.spec import Data as Data
from hvae_jax.experiment.records import Devices as Devices
from hvae_jax.experiment.records import Evaluation as Evaluation
from hvae_jax.experiment.records import Experiment as Experiment
from hvae_jax.experiment.run import abstract_state as abstract_state
from hvae_jax.experiment.run import run as run
from hvae_jax.training.feeds import Feeding as Feeding
from hvae_jax.training.settings import Training as Training
