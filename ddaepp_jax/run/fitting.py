"""The train program of a run, in a form that fits into the memory of its devices."""

import dataclasses
from collections.abc import Iterator

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddaepp_jax import build
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.run.describe import gigabytes
from ddaepp_jax.training import memory
from ddaepp_jax.training.memory import DoesNotFitError, Form
from ddaepp_jax.training.program import Program, compile_program
from ddaepp_jax.training.step import Learner


def compile_fitting(
    config: ConfigDict, learner: Learner, data: Dataset, mesh: Mesh, capacity: int | None = None
) -> tuple[Program, Form]:
    """Compiles the train program.

    Where ``model.remat`` is "auto" or ``train.accumulate`` 0, it takes the first form that fits: it
    computes as little again as it can, and then takes a batch in as few parts.

    Args:
      config: the run's config; the batches are those of ``data``, by its fields.
      learner: the parts of a step.
      mesh: the devices.
      capacity: bytes that a program may use on a device; None: those that it has.

    Raises:
      InputError: the step does not fit; the line says which batch does.
    """

    prepare = build.prepare(config, data.encoding)

    def compile(form: Form) -> Program:
        network = learner.network.clone(remat=form.remat)
        chosen = dataclasses.replace(learner, network=network, parts=form.parts)
        sized = config.copy_and_resolve_references()
        sized.train.batch_size = form.batch_size
        source = build.source(sized, data, mesh)
        return compile_program(chosen, mesh, config.mesh.rules, source, prepare)

    sharing = mesh.shape["data"] * mesh.shape["fsdp"]
    forms = list(_forms(config, learner, sharing))
    try:
        return memory.fit(compile, forms, capacity or memory.capacity(mesh), sharing)
    except DoesNotFitError as error:
        raise InputError(_refusal(error, learner, mesh)) from None


def _forms(config: ConfigDict, learner: Learner, sharing: int) -> Iterator[Form]:
    """Yields the forms that the config allows, the preferred one first."""
    remats, batch_size = build.remats(config), config.train.batch_size
    for remat in remats:
        yield Form(remat, learner.parts, batch_size)
    parts = 2
    while not config.train.accumulate and _separable(learner) and parts * sharing <= batch_size:
        if batch_size % (parts * sharing) == 0:
            yield Form(remats[-1], parts, batch_size)
        parts *= 2


def _separable(learner: Learner) -> bool:
    """Whether a batch can be taken in parts."""
    return all(objective.per_example for objective, _ in learner.objectives.values())


def _refusal(error: DoesNotFitError, learner: Learner, mesh: Mesh) -> str:
    """Returns the line on a step that does not fit, with the mends that are left."""
    form, kind = error.form, mesh.devices.flat[0].device_kind
    least = f"at most {error.largest} fit" if error.largest else "no smaller batch was found to fit"
    mends = []
    if form.remat != "block":
        mends.append("model.remat=block")
    if _separable(learner):
        mends.append(f"train.accumulate={2 * form.parts} or more")
    if mesh.shape["fsdp"] < mesh.size:
        mends.append("a larger mesh.fsdp")
    either = f"lower it, or set {', or '.join(mends)}" if mends else "lower it"
    return (
        f"train.batch_size: {form.batch_size} images need {gigabytes(error.needed)} on each "
        f"device, and {kind} has {gigabytes(error.capacity)}; {least} (model.remat="
        f"{form.remat}, train.accumulate={form.parts}); {either}"
    )
