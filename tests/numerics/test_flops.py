"""FLOPs of a step's products, against published counts and closed forms."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.run import config

from ddaepp_jax import build
from ddaepp_jax.models.attention import attention
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import _conv_of_doubled
from ddaepp_jax.training.flops import products, step_flops
from ddaepp_jax.training.step import init_state, teacher_passes


def counted(function, *args) -> float:
    return products(jax.make_jaxpr(function)(*args).jaxpr)


def forward(network, shape: tuple[int, ...]) -> float:
    """Returns the FLOPs of a forward pass on one image of ``shape``."""
    x, t = jnp.zeros((1, *shape)), jnp.zeros((1,))
    variables = jax.eval_shape(network.init, jax.random.key(0), x, t)
    return counted(lambda variables: network.apply(variables, x, t, capture=())[0], variables)


@pytest.mark.parametrize(
    ("width", "depth", "heads", "published"),
    [(384, 12, 6, 6.06), (768, 12, 12, 23.01), (1024, 24, 16, 80.71), (1152, 28, 16, 118.64)],
    ids=["S/2", "B/2", "L/2", "XL/2"],
)
def test_dits_count_is_the_published_one(width, depth, heads, published):
    """Table 4 of arXiv 2212.09748 counts multiply-adds, two FLOPs each, of 32x32x4 latents."""
    network = DiT(width=width, depth=depth, num_heads=heads, learn_sigma=True, bottleneck="block_1")
    assert forward(network, (32, 32, 4)) / 2e9 == pytest.approx(published, rel=1e-3)


def test_scan_recomputation_and_dtype_do_not_change_the_count():
    network = DiT(width=64, depth=3, num_heads=2, rope=True, swiglu=True, bottleneck="block_1")
    forms = [
        {},
        {"scan": False},
        {"remat": "block"},
        {"dtype": jnp.bfloat16},
        {"attention": "blocked"},
    ]
    assert len({forward(network.clone(**form), (8, 8, 3)) for form in forms}) == 1


def test_products_convolutions_and_attention():
    a, b = jnp.zeros((5, 2, 3)), jnp.zeros((5, 3, 7))
    assert counted(lambda a, b: a @ b, a, b) == 2 * 5 * 2 * 3 * 7
    x, kernel = jnp.zeros((2, 8, 8, 6)), jnp.zeros((3, 3, 3, 4))
    conv = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )
    assert counted(conv, x, kernel) == 2 * (2 * 4 * 4 * 4) * 3 * 3 * 3
    q = jnp.zeros((2, 3, 10, 8))
    for name in ("xla", "blocked"):
        assert counted(lambda q, name=name: attention(q, q, q, name), q) == 4 * 2 * 3 * 10 * 10 * 8
    looped = lambda a, b: jax.lax.scan(lambda carry, _: (carry, a @ b), 0, length=4)[1]
    assert counted(jax.checkpoint(looped), a, b) == 4 * 2 * 5 * 2 * 3 * 7


def test_a_doubled_images_convolution_counts_whole():
    """On a CPU it takes 4/9 of the products; the count is that of the definition."""
    x, kernel = jnp.zeros((2, 4, 4, 6)), jnp.zeros((3, 3, 6, 5))
    options = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=None)
    conv = lambda x, kernel: _conv_of_doubled(x, kernel, (1, 1), "SAME", **options)
    assert counted(conv, x, kernel) == 2 * (2 * 8 * 8 * 5) * 3 * 3 * 6


def test_a_teachers_pass_has_no_gradient():
    made = config()
    made.objectives.distillation.weight = 1.0
    learner = build.learner(made, (8, 8, 1), 10, total=100)
    state = jax.eval_shape(lambda: init_state(learner, (8, 8, 1)))
    rows = made.train.batch_size
    image = jax.ShapeDtypeStruct((rows, 8, 8, 1), np.uint8)
    number = jax.ShapeDtypeStruct((rows,), np.int32)
    prepared = jax.eval_shape(build.prepare(made), image, state.step, number)
    batch = {"label": number, **prepared}
    both = step_flops(learner, state, batch)
    on_a_gpu = dataclasses.replace(learner, network=learner.network.clone(attention="cudnn"))
    assert step_flops(on_a_gpu, state, batch) == both
    denoising = dataclasses.replace(
        learner, objectives={"denoising": learner.objectives["denoising"]}
    )
    alone = step_flops(denoising, state, batch)
    teacher = counted(partial(teacher_passes, learner), state, batch)
    # The student's pass counts three times and the teacher's once; heads add a little.
    assert alone > 0 and 4 < (both - alone) / teacher < 4.1
