"""Training without the library's loop, on 8x8 digits.

python docs/guide/own_training_loop.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

import hvae_jax as hv
from hvae_jax.training import data_mesh, init_state, initial_state, make_step

STEPS, BATCH = 50, 64
train, test = (jnp.asarray(hv.data.digits().splits[name].x) for name in ("train", "test"))
batches = train[np.random.default_rng(0).integers(0, len(train), (STEPS, BATCH))]  # [STEPS, BATCH, 8, 8, 1]
model = hv.models.TopDownVAE(latents=(4, 8), hidden=32)
optimiser = optax.adam(1e-3)
key = jax.random.key(0)
bound = jax.jit(partial(hv.iwae, model, k=20, chunk=20))

# [by hand] batch norm needs train=True and mutable=; apply then returns the trace and the new statistics
statistics = jax.jit(model.init)(key, train[:BATCH], key)
params = statistics.pop("params")
ema, moments = params, optimiser.init(params)


@jax.jit
def update(params, statistics, ema, moments, x, key):
    def loss_of(params):
        trace, updates = model.apply({"params": params, **statistics}, x, key, train=True, mutable=["batch_stats"])
        return -hv.elbo(trace).mean(), updates

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    changes, moments = optimiser.update(gradient, moments, params)
    params = optax.apply_updates(params, changes)
    return params, statistics, optax.incremental_update(params, ema, 0.1), moments, loss


for i, x in enumerate(batches):
    params, statistics, ema, moments, loss = update(params, statistics, ema, moments, x, jax.random.fold_in(key, i))
print(f"by hand: loss {loss:.1f}, test IW-20 {bound({'params': ema, **statistics}, test, key).mean():.1f}")

# [make_step] any objective, averages, skipped steps; under jit a sharded batch is all it takes for several devices
objective = hv.Regularised(beta=0.5)
step = make_step(model, objective, optimiser, ema_decay=0.9)
mesh = data_mesh()
whole, split = (jax.NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
state = jax.device_put(init_state(model, objective, optimiser, key, train[:BATCH], ema=True), whole)
for x in batches:  # the state counts the steps; the key of a step is folded by the caller
    state, metrics = jax.jit(step)(state, hv.Batch(jax.device_put(x, split)), jax.random.fold_in(key, state.step))
print(f"make_step: loss {metrics['loss']:.1f}, test IW-20 {bound(state.variables, test, key).mean():.1f}")

# [ensemble] four seeds as one program: every leaf of the state gets a leading axis
keys = jax.random.split(key, 4)
begin = partial(initial_state, model, objective, optimiser, x=train[:BATCH], ema=True)
states = jax.jit(jax.vmap(lambda key: begin(key=key)))(keys)
states, metrics = jax.jit(jax.vmap(step, (0, None, 0)))(states, hv.Batch(batches[0]), keys)
print("ensemble: losses", np.round(metrics["loss"], 1))

# [per device] axis_name averages gradients, metrics and statistics over the axis
one = make_step(model, objective, optimiser, ema_decay=0.9, axis_name="data")
same, parts = PartitionSpec(), PartitionSpec("data")
mapped = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(same, parts, same), out_specs=same))
state, metrics = mapped(state, hv.Batch(jax.device_put(batches[0], split)), key)
print(f"shard_map over {mesh.size} devices: loss {metrics['loss']:.1f}")
pieces = hv.Batch(batches[0].reshape(mesh.size, -1, *train.shape[1:]))  # [devices, batch of each, ...]
states, metrics = jax.pmap(one, axis_name="data", in_axes=(None, 0, None))(jax.device_get(state), pieces, key)
print(f"pmap over {mesh.size} devices: loss {metrics['loss'][0]:.1f}")
