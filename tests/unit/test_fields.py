"""A bad field of a config is refused before data are read, anything is compiled or a directory is made."""

from pathlib import Path

import pytest
from helpers.errors import CONFIG, check_refused

from ddaepp_jax import build, main, validation
from ddaepp_jax import config as schema
from ddaepp_jax.data.datasets import Dataset

DIT = f"{Path(__file__).parents[2] / 'configs' / 'dit_s_cifar.py'}:tiny"
UNET = f"{Path(__file__).parents[2] / 'configs' / 'unet_edm_cifar.py'}:tiny"

FIELDS = [  # --config.<what is given> -> parts of the line
    ("modle.depth=8", "--config.modle.depth: no such field; did you mean model.depth?"),
    ("model.dpeth=8", "--config.model.dpeth: no such field; did you mean model.depth?"),
    ("depth=8", "--config.depth: no such field; did you mean model.depth?"),
    ("model.depth.x=8", "--config.model.depth.x: no such field; did you mean model.depth?"),
    ("qqq=8", "--config.qqq: no such field; the groups of fields are", "model"),
    ("model=8", "--config.model: a group of fields; give one of", "depth"),
    ("model.depth", "--config.model.depth: needs a value; write --config.model.depth=VALUE"),
    ("model.depth=abc", "--config.model.depth: 'abc' is not an int"),
    ("model.depth=None", "--config.model.depth: 'None' is not an int"),
    ("train.batch_size=1.5", "--config.train.batch_size: '1.5' is not an int"),
    ("train.epochs=many", "--config.train.epochs: 'many' is not a float"),
    ("optimizer.learning_rate=", "--config.optimizer.learning_rate: '' is not a float"),
    ("data.flip=maybe", "--config.data.flip: 'maybe' is not a bool; write True or False"),
    ("ema.decays=0.9", "--config.ema.decays: '0.9' is not a tuple; write it with a comma"),
    ("ema.decays=(0.9", "--config.ema.decays: '(0.9' is not a tuple"),
    ("ema.decays=('a',)", "ema.decays: ('a',)", "between 0 and 1"),
    ("ema.decays=(1.0,)", "ema.decays: (1.0,)", "between 0 and 1"),
    ("ema.decays=()", "ema.decays: ()", "at least one"),
    ("ema.sigma_rel=(0.3,)", "ema.sigma_rel: (0.3,): give different numbers, from 0.001 to below 0.2887"),
    ("ema.sigma_rel=(0.0,)", "ema.sigma_rel: (0.0,): give different numbers"),
    ("ema.sigma_rel=(0.1, 0.1)", "ema.sigma_rel: (0.1, 0.1): give different numbers"),
    ("ema.sigma_rel=0.1", "--config.ema.sigma_rel: '0.1' is not a tuple; write it with a comma"),
    ("ema.snapshot_every=-1", "ema.snapshot_every: -1 is negative; 0 turns it off"),
    ("ema.snapshot_every=10", "ema.snapshot_every: 10, but ema.sigma_rel=()", "set ema.sigma_rel=(0.05, 0.1)"),
    ("train.steps=None", "train.steps, train.epochs, train.images: none given; give exactly one"),
    ("train.epochs=3", "train.steps, train.epochs, train.images: steps and epochs given; give exactly one"),
    ("train.steps=0", "train.steps: 0 is not positive"),
    ("train.log_every=0", "train.log_every: 0 is not positive"),
    ("train.batch_size=12", "train.batch_size: 12 is not a multiple of 8, the devices that share it"),
    ("train.steps=999999999", "train.steps: 999999999", "more than 2**32 images"),
    ("seed=-1", "seed: -1 is not in 0..2**32-1"),
    ("model.name=uvti", "model.name: no 'uvti'; there is uvit"),
    ("model.patch_size=3", "model.patch_size: 3 does not divide images of 8x8"),
    ("model.num_heads=3", "model.width: 64 is not a multiple of 2 * model.num_heads (3)"),
    ("model.depth=5", "model.depth: 5 is not a positive even number"),
    ("model.mlp_ratio=0", "model.mlp_ratio: 0.0 is not positive"),
    ("model.dtype=float16", "model.dtype: 'float16' is neither 'float32' nor 'bfloat16'"),
    ("model.bottleneck=in_9", "model.bottleneck: no 'in_9'; there is in_1, in_2, mid, out_1, out_2"),
    ("model.bottleneck=out_2", "model.bottleneck: no block follows 'out_2' to be conditioned; choose an earlier one"),
    ("model.pool=max", "model.pool: no 'max'; there is mean, cls"),
    ("model.attention=flash", "model.attention: no 'flash'; there is auto, xla, cudnn"),
    ("diffusion.name=edm2", "diffusion.name: no 'edm2'; there is ddpm"),
    ("diffusion.time_input=t2", "diffusion.time_input: no 't2'; there is t, t/T, 999t/T, t-1"),
    ("diffusion.num_steps=0", "diffusion.num_steps: 0 is not positive"),
    ("diffusion.beta_end=2.0", "diffusion.beta_start, beta_end: 0.0001, 2.0"),
    ("optimizer.name=lion", "optimizer.name: no optimizer 'lion'; there are adamw, adam, sgd"),
    ("optimizer.schedule=step", "optimizer.schedule: no 'step'; there is constant, cosine"),
    ("optimizer.decay_mask=none", "optimizer.decay_mask: no mask 'none'"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate: nan is not positive"),
    ("optimizer.b2=1.0", "optimizer.b2: 1.0 is not in [0, 1)"),
    ("optimizer.warmup_steps=-1", "optimizer.warmup_steps: -1 is negative"),
    ("objectives.denoising.weight=0", "objectives.<name>.weight: all are 0; there is nothing to train on"),
    ("objectives.denoising.label_dropout=2", "objectives.denoising.label_dropout: 2.0 is not in 0..1"),
    ("objectives.distillation.weight=-1", "objectives.distillation.weight: -1.0 is negative; 0 turns it off"),
    ("objectives.distillation.wieght=1", "no such field; did you mean objectives.distillation.weight?"),
    ("objectives.distillation.schedule=(0, 1)", "objectives.distillation.schedule: (0, 1): give ((step, factor), ..)"),
    ("objectives.denoising.schedule=((5, 1), (5, 0))", "objectives.denoising.schedule", "with rising steps"),
    ("objectives.denoising.schedule=((0, None),)", "objectives.denoising.schedule: ((0, None),): give"),
    ("objectives.distillation.geometric=1.5", "objectives.distillation.geometric: 1.5 is not a probability"),
    ("objectives.distillation.teacher_decay=2", "objectives.distillation.teacher_decay: 2.0 is not in 0..1"),
    ("objectives.distillation.temperature=0", "objectives.distillation.temperature: 0.0 is not positive"),
    ("objectives.distillation.projector_depth=-1", "objectives.distillation.projector_depth: -1 is negative"),
    ("objectives.distillation.hidden=0", "objectives.distillation.hidden: 0 is not positive"),
    (
        "objectives.distillation.photometric.crop_min=0",
        "objectives.distillation.photometric.crop_min: 0.0 is not a share",
    ),
    ("objectives.distillation.photometric.hue=0.7", "objectives.distillation.photometric.hue: 0.7 is not in 0..0.5"),
    ("objectives.distillation.photometric.jitter=2", "objectives.distillation.photometric.jitter: 2.0 is not a prob"),
    ("objectives.distillation.photometric.blur=(2., 0.)", "photometric.blur: (2.0, 0.0) is not a probability"),
    ("objectives.distillation.photometric.blur_sigma=(2., 1.)", "photometric.blur_sigma: (2.0, 1.0) is not a range"),
    ("objectives.distillation.photometric.blur=(0.5,)", "photometric.blur: (0.5,) is not two numbers"),
    ("objectives.distillation.photometric.solarise=()", "photometric.solarise: () is not two numbers"),
    ("objectives.distillation.photometric.blur_sigma=('a', 2.)", "photometric.blur_sigma: ('a', 2.0) is not two num"),
    ("sampling.sampler=euler", "sampling.sampler: no 'euler'; there is ddim, ddpm, dpmpp_2m"),
    ("sampling.steps=1001", "sampling.steps: 1001 is not in 1..1000 (diffusion.num_steps)"),
    ("sampling.guidance=2", "sampling.guidance: 2.0 without labels", "model.class_conditional"),
    ("sampling.sampler=heun", "sampling.sampler: no 'heun'; there is ddim, ddpm, dpmpp_2m"),
    ("sampling.guidance_interval=(5,)", "sampling.guidance_interval: (5,) is not two rising levels", "nor ()"),
    ("sampling.guidance_interval=(800,100)", "sampling.guidance_interval: (800, 100) is not two rising levels"),
    ("sampling.guidance_interval=('a','b')", "sampling.guidance_interval: ('a', 'b') is not two rising levels"),
    ("sampling.guidance_channels=-1", "sampling.guidance_channels: -1 is negative; 0 guides all"),
    ("sampling.guidance_channels=2", "sampling.guidance_channels: 2, but images have 1; 0 guides all"),
    ("data.augment=1.5", "data.augment: 1.5 is not a probability"),
    ("data.augment=0.12", "data.augment: the network has to know the transformation", "set model.augment_dim to 9"),
    ("model.augment_dim=-1", "model.augment_dim: -1 is negative; 0 is none"),
    ("evals.samples.n=0", "evals.samples.n: 0 is not positive"),
    ("evals.probe.layer=out_9", "evals.probe.layer: no 'out_9'; there is in_1, in_2, mid, out_1, out_2, bottleneck"),
    ("evals.probe.images=0", "evals.probe.images: 0 is not positive"),
    ("evals.knn.level=1001", "evals.knn.level: 1001.0 is not a whole number in 0..1000"),
    ("evals.features.images=9", "evals.features.images: 9 images are too few; give 10 or more"),
    ("evals.features.layer=out_9", "evals.features.layer: no 'out_9'; there is in_1"),
    ("evals.features.level=0.5", "evals.features.level: 0.5 is not a whole number in 0..1000"),
    ("evals.features.k=3", "--config.evals.features.k: no such field"),
    ("evals.knn.k=0", "evals.knn.k: 0 is not positive"),
    ("probe.protocol=ofline", "probe.protocol: no 'ofline'; there is online, cached, imagenet"),
    ("probe.epochs=0", "probe.epochs: 0 is not positive; None is the protocol's own"),
    ("probe.held_out=1", "probe.held_out: 1.0 is not in [0, 1)"),
    ("probe.knn=-1", "probe.knn: -1 is negative; 0 asks no neighbours"),
    ("evals.heldout_loss.every=-1", "evals.heldout_loss.every: -1 is negative; 0 turns it off"),
    ("data.split=validation", "data.split: digits has no split 'validation'; use train or test"),
    ("data.eval_split=validation", "data.eval_split: digits has no split 'validation'; use train or test"),
    ("data.size=(8,)", "data.size: (8,) is not (height, width)"),
    ("data.name=folder", "data.data_dir: empty; give the image folder"),
    ("mesh.data=3", "mesh.data=3, mesh.fsdp=1, mesh.tensor=1: does not make 8 devices"),
    ("mesh.fsdp=0", "mesh.fsdp=0", "does not make 8 devices"),
    ("mesh.rules=(('nothing', ('fsdp',)),)", "mesh.rules: 'nothing' matches no parameter"),
    ("mesh.rules=(('.*', ('fsdq',)),)", "mesh.rules: no axis 'fsdq'; axes are data, fsdp, tensor"),
    ("mesh.rules=(('(', ('fsdp',)),)", "mesh.rules: ('(', ('fsdp',)) is not (regex, axes)"),
    ("mesh.rules=('.*',)", "mesh.rules: '.*' is not (regex, axes)"),
    ("init_from=/nowhere", "init_from: /nowhere: not a run directory (no config.json)"),
]


EDM_UNET = [  # the same, of a run of a UNet with EDM
    ("model.channels=48", "model.channels: 48 is not a multiple of 32, the groups of its norms"),
    ("model.mults=()", "model.attend, mults: (False, True), (): give one value each a resolution"),
    ("model.mults=(1, 0)", "model.attend, mults: (False, True), (1, 0): give one value each a resolution"),
    ("model.attend=(True,)", "model.attend, mults: (True,), (1, 2): give one value each a resolution"),
    ("model.blocks=0", "model.blocks: 0 is not positive"),
    ("model.dropout=1", "model.dropout: 1.0 is not in [0, 1)"),
    ("model.head_channels=48", "model.head_channels: 48 does not divide [128]"),
    ("model.bottleneck=mid_1", "model.bottleneck: no 'mid_1'; there is in_1, in_2, mid, out_1"),
    ("model.bottleneck=out_4", "model.bottleneck: no block follows 'out_4' to be conditioned; choose an earlier one"),
    ("model.patch_size=2", "--config.model.patch_size: no such field"),
    ("diffusion.sigma_min=100", "diffusion.sigma_min, sigma_max: 100.0, 80.0 do not rise above 0"),
    ("diffusion.sigma_data=0", "diffusion.sigma_data: 0.0 is not positive"),
    ("diffusion.time_input=t", "diffusion.time_input: no 't'; there is ln(sigma)/4"),
    ("sampling.sampler=ddim", "sampling.sampler: no 'ddim'; there is heun"),
    ("sampling.steps=0", "sampling.steps: 0 is not positive"),
    ("sampling.heun.s_churn=-1", "sampling.heun.s_churn: -1.0 is negative"),
    ("evals.features.level=0", "evals.features.level: 0.0 is not a positive sigma"),
    ("evals.probe.level=0", "evals.probe.level: 0.0 is not a positive sigma"),
]


DIT_FLOW = [  # the same, of a run of a DiT with flow matching
    ("model.width=30", "model.width: 30 is not a multiple of 4, or not of 4 * model.num_heads (2)"),
    ("model.width=36", "model.width: 36 is not a multiple of 4, or not of 4 * model.num_heads (2)"),
    ("model.depth=0", "model.depth: 0 is not positive"),
    ("model.patch_size=3", "model.patch_size: 3 does not divide images of 8x8"),
    ("model.mlp_ratio=0", "model.mlp_ratio: 0.0 is not positive"),
    ("model.bottleneck=mid", "model.bottleneck: no 'mid'; there is block_1, block_2"),
    ("model.learn_sigma=True", "model.learn_sigma: a variance is learned by the variational term, which is not here"),
    ("optimizer.weight_decay=0.1", "optimizer.decay_mask: 'all' decays DiT's fixed positions too"),
    ("diffusion.time_sampling=lognormal", "diffusion.time_sampling: 'lognormal' is neither 'logit-normal' nor 'uni"),
    ("diffusion.p_std=0", "diffusion.p_std: 0.0 is not positive"),
    ("diffusion.time_input=999t", "diffusion.time_input: no '999t'; there is t"),
    ("sampling.sampler=heun", "sampling.sampler: no 'heun'; there is euler, heun_flow, euler_maruyama"),
    ("sampling.steps=0", "sampling.steps: 0 is not positive"),
    ("sampling.heun_flow.shift=0", "sampling.heun_flow.shift: 0.0 is not a positive number; 1 makes even steps"),
    ("sampling.heun_flow.shift=inf", "sampling.heun_flow.shift: inf is not a positive number"),
    ("evals.probe.level=1.5", "evals.probe.level: 1.5 is not in 0..1"),
    ("data.name=latents", "data.name: latents are an autoencoder's, and this version has none yet"),
]

ROWS = ((CONFIG, FIELDS), (UNET, EDM_UNET), (DIT, DIT_FLOW))


@pytest.mark.parametrize(
    ("config", "given", "parts"),
    [(config, given, parts) for config, rows in ROWS for given, *parts in rows],
    ids=[given for _, rows in ROWS for given, *_ in rows],
)
def test_bad_field(config, given, parts, tmp_path, monkeypatch):
    """Refused before data are read, anything is compiled or a directory is made."""
    monkeypatch.setattr(main, "compile_program", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(Dataset, "arrays", lambda _: pytest.fail("read the data"))
    workdir = tmp_path / "run"
    check_refused(main.main, [f"--config={config}", f"--workdir={workdir}", f"--config.{given}"], *parts)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        (dict(norm="layer"), "objectives.distillation.norm: no 'layer'; there is batch, none"),
        (
            dict(teacher_schedule="linear"),
            "objectives.distillation.teacher_schedule: no 'linear'; there is constant, cos",
        ),
        (dict(student_level=2000.0), "objectives.distillation.student_level: 2000.0 is not a whole number in 0..1000"),
        (dict(teacher_level=0.5), "objectives.distillation.teacher_level: 0.5 is not a whole number in 0..1000"),
    ],
)
def test_distillation_that_is_on(fields, part):
    config = schema.get_config()
    config.objectives.distillation.update(weight=1.0, **fields)
    check_refused(lambda _: build.learner(config, (8, 8, 1), 10, 100), [], part)


def test_the_student_of_a_shared_pass_has_no_level_of_its_own():
    config = schema.get_config()
    config.objectives.distillation.update(student_level=5.0, share_denoising=True)
    check_refused(
        lambda _: validation.validate(config), [], "student_level: 5.0, but with share_denoising", "set it to None"
    )


def test_distillation_without_others_or_words_for_a_view():
    config = schema.get_config()
    config.objectives.distillation.weight, config.train.batch_size = 1.0, 1
    check_refused(lambda _: validation.validate(config), [], "objectives.distillation.weight: in batches of one image")
    config.train.batch_size, config.model.augment_dim = 8, 3
    check_refused(
        lambda _: validation.validate(config), [], "objectives.distillation.geometric: 9 numbers", "the network takes 3"
    )


@pytest.mark.parametrize(
    ("sampler", "options", "part"),
    [
        ("euler", dict(shift=0), "sampling.euler.shift: 0 is not a positive number; 1 makes even steps"),
        ("euler", dict(diffusion=1.0), "options: no 'diffusion'; there is clip, shift"),
        ("euler_maruyama", dict(diffusion=-1), "sampling.euler_maruyama.diffusion: -1 is negative"),
        ("euler_maruyama", dict(shift="even"), "options: shift='even' is not a float"),
    ],
)
def test_options_of_a_flows_samplers(sampler, options, part):
    config = schema.get_config()
    config.diffusion = schema.flow()
    check_refused(lambda _: build.sampler(config, sampler, 10, options), [], part)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        (dict(mults=(1, 2, 2, 2, 2), attend=(False,) * 5), "model.mults: 5 resolutions halve images of 8x8"),
        (dict(class_conditional=True), "model.class_conditional: the data have no labels"),
    ],
)
def test_a_unet_that_does_not_fit_the_data(fields, part):
    config = schema.get_config()
    config.model = schema.unet(**fields)
    check_refused(lambda _: build.network(config, (8, 8, 1), 0), [], part)
