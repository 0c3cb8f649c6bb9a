"""The training step, the dispatch, the loop and what they need; no model is known here."""

from hvae_jax.training.dispatch import make_dispatch as make_dispatch
from hvae_jax.training.feeds import Feeding as Feeding
from hvae_jax.training.gradients import Gradients as Gradients
from hvae_jax.training.loop import DivergedError as DivergedError
from hvae_jax.training.loop import Watching as Watching
from hvae_jax.training.loop import train as train
from hvae_jax.training.machine import Machine as Machine
from hvae_jax.training.mesh import data_mesh as data_mesh
from hvae_jax.training.optimisers import Adamax as Adamax
from hvae_jax.training.optimisers import AdamW as AdamW
from hvae_jax.training.plan import Plan as Plan
from hvae_jax.training.settings import Training as Training
from hvae_jax.training.stages import Stage as Stage
from hvae_jax.training.state import TrainState as TrainState
from hvae_jax.training.state import init_state as init_state
from hvae_jax.training.state import initial_state as initial_state
from hvae_jax.training.step import make_step as make_step
from hvae_jax.training.task import Provenance as Provenance
from hvae_jax.training.task import Task as Task
