"""What a config's fields must not be, and that a wrong one ends a program before it reads, compiles
or writes.
"""

from pathlib import Path

import pytest
from helpers.errors import CONFIG, expect_error
from helpers.evaluations import evaluations

from ddaepp_jax import build, main
from ddaepp_jax import config as schema
from ddaepp_jax.config import overrides, validation
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.run import train as training
from ddaepp_jax.sampling.settings import Sampling
from ddaepp_jax.training.program import abstract_state

TINY = f"{CONFIG}:tiny"
DIT = f"{Path(__file__).parents[2] / 'configs' / 'dit_s_cifar.py'}:tiny"
UNET = f"{Path(__file__).parents[2] / 'configs' / 'unet_edm_cifar.py'}:tiny"
DIGITS = (8, 8, 1), 10  # the shape of the images and how many classes they have

# A table holds rows by the config that they override: (override, field that the line begins with,
# words of the line). The tables are in the order in which a program comes upon the mistakes.

OVERRIDES = {
    CONFIG: [
        ("modle.depth=8", "--config.modle.depth", "model.depth"),
        ("model.dpeth=8", "--config.model.dpeth", "model.depth"),
        ("depth=8", "--config.depth", "model.depth"),
        ("model.depth.x=8", "--config.model.depth.x", " model.depth"),
        ("qqq=8", "--config.qqq", "model", "sampling"),
        ("model=8", "--config.model", "group", "depth"),
        ("model.depth", "--config.model.depth", "VALUE"),
        ("model.depth=abc", "--config.model.depth", "'abc'"),
        ("model.depth=None", "--config.model.depth", "'None'"),
        ("train.batch_size=1.5", "--config.train.batch_size", "'1.5'"),
        ("train.epochs=many", "--config.train.epochs", "'many'"),
        ("optimizer.learning_rate=", "--config.optimizer.learning_rate", "''"),
        ("data.flip=maybe", "--config.data.flip", "'maybe'", "True"),
        ("ema.decays=0.9", "--config.ema.decays", "'0.9'", "comma"),
        ("ema.decays=(0.9", "--config.ema.decays", "'(0.9'", "comma"),
        ("ema.sigma_rel=0.1", "--config.ema.sigma_rel", "'0.1'", "comma"),
        (
            "objectives.distillation.wieght=1",
            "--config.objectives.distillation.wieght",
            "distillation.weight",
        ),
        ("evals.features.k=3", "--config.evals.features.k", "field"),
    ],
    UNET: [("model.patch_size=2", "--config.model.patch_size", "field")],
}

VALUES = {
    CONFIG: [
        ("seed=-1", "seed", "-1", "2**32"),
        ("model.dtype=float16", "model.dtype", "'float16'", "bfloat16"),
        ("train.steps=None", "train.steps", "train.epochs", "train.images", "one"),
        ("train.epochs=3", "train.steps", "train.epochs", "train.images", "one"),
        ("train.steps=0", "train.steps", "0", "greater than 0"),
        ("train.log_every=0", "train.log_every", "0", "greater than 0"),
        ("ema.decays=('a',)", "ema.decays", "('a',)"),
        ("ema.decays=(1.0,)", "ema.decays", "(1.0,)"),
        ("ema.decays=()", "ema.decays", "()", "one"),
        ("ema.sigma_rel=(0.3,)", "ema.sigma_rel", "(0.3,)", "0.2887"),
        ("ema.sigma_rel=(0.0,)", "ema.sigma_rel", "(0.0,)", "0.001"),
        ("ema.sigma_rel=(0.1, 0.1)", "ema.sigma_rel", "(0.1, 0.1)", "different"),
        ("ema.snapshot_every=-1", "ema.snapshot_every", "-1", "0 (off)"),
        ("ema.snapshot_every=10", "ema.snapshot_every", "10", "ema.sigma_rel=(0.05, 0.1)"),
        ("objectives.denoising.weight=0", "objectives.<name>.weight", "0", "train"),
        ("objectives.denoising.label_dropout=2", "objectives.denoising.label_dropout", "2.0"),
        (
            "objectives.denoising.schedule=((5, 1), (5, 0))",
            "objectives.denoising.schedule",
            "(5, 0)",
            "rising",
        ),
        (
            "objectives.denoising.schedule=((0, None),)",
            "objectives.denoising.schedule",
            "((0, None),)",
        ),
        (
            "objectives.distillation.schedule=(0, 1)",
            "objectives.distillation.schedule",
            "(0, 1)",
            "(step, factor)",
        ),
        ("objectives.distillation.weight=-1", "objectives.distillation.weight", "-1.0", "0 (off)"),
        (
            "objectives.distillation.geometric=1.5",
            "objectives.distillation.geometric",
            "1.5",
            "probability",
        ),
        ("objectives.distillation.teacher_decay=2", "objectives.distillation.teacher_decay", "2.0"),
        (
            "objectives.distillation.temperature=0",
            "objectives.distillation.temperature",
            "greater than 0",
        ),
        (
            "objectives.distillation.projector_depth=-1",
            "objectives.distillation.projector_depth",
            "-1",
            "0 (off)",
        ),
        ("objectives.distillation.hidden=0", "objectives.distillation.hidden", "greater than 0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate", "nan", "finite"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate", "inf", "finite"),
        ("model.mlp_ratio=1e999", "model.mlp_ratio", "inf", "finite"),
        ("diffusion.beta_end=nan", "diffusion.beta_end", "nan", "finite"),
        ("train.epochs=inf", "train.epochs", "inf", "finite"),
        ("sampling.guidance=nan", "sampling.guidance", "nan", "finite"),
        ("evals.features.level=nan", "evals.features.level", "nan", "finite"),
        ("ema.decays=(0.9, 0.9)", "ema.decays", "(0.9, 0.9)", "different"),
        ("profile.start=-5", "profile.start", "-5"),
        ("data.device_bytes=-1", "data.device_bytes", "-1"),
        ("sampling.ddim.table=foo", "sampling.ddim.table", "'foo'", "standard"),
        (
            "sampling.dpmpp_2m.grid=logsnr",
            "sampling.dpmpp_2m.grid",
            "'logsnr'",
            "did you mean log-snr?",
        ),
        ("sampling.heun.s_churn=-1", "sampling.heun.s_churn", "-1.0", "negative"),
        ("sampling.sampler=dimm", "sampling.sampler", "'dimm'", "did you mean ddim?"),
        ("optimizer.b2=1.0", "optimizer.b2", "1.0"),
        ("optimizer.warmup_steps=-1", "optimizer.warmup_steps", "-1", "0 (off)"),
        ("data.size=(8,)", "data.size", "(8,)", "height"),
        ("data.augment=1.5", "data.augment", "1.5", "probability"),
        ("data.augment=0.12", "data.augment", "model.augment_dim", "9"),
        ("mesh.rules=(('(', ('fsdp',)),)", "mesh.rules", "('(', ('fsdp',))", "regex"),
        ("mesh.rules=('.*',)", "mesh.rules", "'.*'", "regex"),
        ("evals.heldout_loss.every=-1", "evals.heldout_loss.every", "-1", "0 (off)"),
        ("evals.samples.n=0", "evals.samples.n", "greater than 0"),
        ("evals.fid.every=-1", "evals.fid.every", "-1", "0 (off)"),
        ("evals.fid.n=9", "evals.fid.n", "9", "10"),
        ("evals.probe.images=0", "evals.probe.images", "greater than 0"),
        ("evals.features.images=9", "evals.features.images", "9", "10"),
        ("evals.knn.k=0", "evals.knn.k", "greater than 0"),
        ("probe.protocol=ofline", "probe.protocol", "'ofline'", "online"),
        ("probe.epochs=0", "probe.epochs", "greater than 0"),
        ("probe.held_out=1", "probe.held_out", "1.0"),
        ("probe.knn=-1", "probe.knn", "-1", "0 (off)"),
        ("sampling.guidance=2", "sampling.guidance", "2.0", "model.class_conditional"),
        ("sampling.guidance_interval=(5,)", "sampling.guidance_interval", "(5,)", "rising", "()"),
        (
            "sampling.guidance_interval=(800,100)",
            "sampling.guidance_interval",
            "(800, 100)",
            "rising",
        ),
        (
            "sampling.guidance_interval=('a','b')",
            "sampling.guidance_interval",
            "('a', 'b')",
            "rising",
        ),
        ("sampling.guidance_interval=(0, 1e999)", "sampling.guidance_interval", "inf", "rising"),
        ("sampling.guidance_channels=-1", "sampling.guidance_channels", "-1", "negative"),
    ]
}

PHOTOMETRIC = [  # of objectives.distillation.photometric
    ("crop_min=0", "0.0", "share"),
    ("hue=0.7", "0.7", "0.5"),
    ("jitter=2", "2.0", "probability"),
    ("blur=(2., 0.)", "(2.0, 0.0)", "probability"),
    ("blur=(0.5,)", "(0.5,)", "tuple[float, float]"),
    ("blur_sigma=(2., 1.)", "(2.0, 1.0)", "range"),
    ("blur_sigma=('a', 2.)", "('a', 2.0)", "tuple[float, float]"),
    ("solarise=()", "()", "tuple[float, float]"),
]

NETWORKS = {  # what a network checks itself
    CONFIG: [
        ("model.name=uvti", "model.name", "'uvti'", "uvit"),
        ("model.num_heads=3", "model.width", "64", "num_heads"),
        ("model.depth=5", "model.depth", "5", "even"),
        ("model.mlp_ratio=0", "model.mlp_ratio", "positive"),
        ("model.bottleneck=in_9", "model.bottleneck", "'in_9'", "mid"),
        ("model.bottleneck=out_2", "model.bottleneck", "'out_2'", "earlier"),
        ("model.pool=max", "model.pool", "'max'", "cls"),
        ("model.attention=flash", "model.attention", "'flash'", "cudnn"),
        ("model.augment_dim=-1", "model.augment_dim", "-1", "negative"),
    ],
    UNET: [
        ("model.channels=48", "model.channels", "48", "32"),
        ("model.mults=()", "model.attend", "mults", "(False, True), ()"),
        ("model.mults=(1, 0)", "model.attend", "mults", "(False, True), (1, 0)"),
        ("model.attend=(True,)", "model.attend", "mults", "(True,), (1, 2)"),
        ("model.blocks=0", "model.blocks", "positive"),
        ("model.dropout=1", "model.dropout", "1.0"),
        ("model.head_channels=48", "model.head_channels", "48", "128", "divide"),
        ("model.bottleneck=mid_1", "model.bottleneck", "'mid_1'", "in_1"),
        ("model.bottleneck=out_4", "model.bottleneck", "'out_4'", "earlier"),
    ],
    DIT: [
        ("model.width=30", "model.width", "30", "multiple"),
        ("model.width=36", "model.width", "36", "num_heads"),
        ("model.depth=0", "model.depth", "0", "positive"),
        ("model.mlp_ratio=0", "model.mlp_ratio", "positive"),
        ("model.bottleneck=mid", "model.bottleneck", "'mid'", "block_1"),
    ],
}

PROCESSES = {  # what a process checks itself, and the optimizer's names
    CONFIG: [
        ("diffusion.name=edm2", "diffusion.name", "'edm2'", "ddpm"),
        ("diffusion.time_input=t2", "diffusion.time_input", "'t2'", "999t/T"),
        ("diffusion.num_steps=0", "diffusion.num_steps", "positive"),
        ("diffusion.beta_end=2.0", "diffusion.beta_start", "beta_end", "2.0"),
        ("optimizer.name=lion", "optimizer.name", "'lion'", "adamw"),
        ("optimizer.schedule=step", "optimizer.schedule", "'step'", "cosine"),
        ("optimizer.decay_mask=none", "optimizer.decay_mask", "'none'", "matrices"),
    ],
    UNET: [
        ("diffusion.sigma_min=100", "diffusion.sigma_min", "sigma_max", "100.0", "80.0"),
        ("diffusion.sigma_data=0", "diffusion.sigma_data", "positive"),
        ("diffusion.time_input=t", "diffusion.time_input", "'t'", "ln(sigma)/4"),
    ],
    DIT: [
        ("optimizer.weight_decay=0.1", "optimizer.decay_mask", "'all'", "matrices"),
        (
            "diffusion.time_sampling=lognormal",
            "diffusion.time_sampling",
            "'lognormal'",
            "logit-normal",
        ),
        ("diffusion.p_std=0", "diffusion.p_std", "positive"),
        ("diffusion.time_input=999t", "diffusion.time_input", "'999t'"),
    ],
}

MESHES = {
    TINY: [
        ("mesh.data=3", "mesh.data=3", "1 device"),
        ("mesh.fsdp=0", "mesh.data", "mesh.fsdp=0", "1 device"),
    ]
}

DATA = {
    CONFIG: [
        ("data.split=validation", "data.split", "'validation'", "train", "test"),
        ("data.name=folder", "data.data_dir", "empty"),
    ],
    DIT: [("data.name=latents", "data.data_dir", "empty", "cache_latents")],
}

NETWORKS_AND_DATA = {
    CONFIG: [("model.patch_size=3", "model.patch_size", "3", "8x8")],
    DIT: [("model.patch_size=3", "model.patch_size", "3", "8x8")],
}

SAMPLERS = {
    CONFIG: [
        ("sampling.sampler=euler", "sampling.sampler", "'euler'", "ddim"),
        ("sampling.sampler=heun", "sampling.sampler", "'heun'", "dpmpp_2m"),
        ("sampling.steps=1001", "sampling.steps", "1001", "1000", "diffusion.num_steps"),
        ("sampling.guidance_channels=2", "sampling.guidance_channels", "2", "1"),
    ],
    UNET: [
        ("sampling.sampler=ddim", "sampling.sampler", "'ddim'", "heun"),
        ("sampling.steps=0", "sampling.steps", "positive"),
        ("sampling.heun.s_churn=-1", "sampling.heun.s_churn", "-1.0", "negative"),
    ],
    DIT: [
        ("sampling.sampler=heun", "sampling.sampler", "'heun'", "heun_flow"),
        ("sampling.steps=0", "sampling.steps", "positive"),
        ("sampling.heun_flow.shift=0", "sampling.heun_flow.shift", "0.0", "positive"),
        ("sampling.heun_flow.shift=inf", "sampling.heun_flow.shift", "inf", "finite"),
    ],
}

EVALUATIONS = {
    CONFIG: [
        ("evals.probe.layer=out_9", "evals.probe.layer", "'out_9'", "bottleneck"),
        ("evals.features.layer=out_9", "evals.features.layer", "'out_9'", "in_1"),
        ("evals.features.level=0.5", "evals.features.level", "0.5", "whole", "1000"),
        ("evals.knn.level=1001", "evals.knn.level", "1001.0", "1000"),
    ],
    UNET: [
        ("evals.features.level=0", "evals.features.level", "0.0", "positive"),
        ("evals.probe.level=0", "evals.probe.level", "0.0", "positive"),
    ],
    DIT: [("evals.probe.level=1.5", "evals.probe.level", "1.5")],
}

RULES = {
    TINY: [
        ("mesh.rules=(('nothing', ('fsdp',)),)", "mesh.rules", "'nothing'", "parameter"),
        ("mesh.rules=(('.*', ('fsdq',)),)", "mesh.rules", "'fsdq'", "tensor"),
    ]
}

PROGRAM = {  # one of each table, and what the program alone looks at
    TINY: [
        ("modle.depth=8", "--config.modle.depth", "model.depth"),
        ("seed=-1", "seed", "-1", "2**32"),
        ("mesh.data=3", "mesh.data=3", "1 device"),
        ("data.split=validation", "data.split", "'validation'", "train", "test"),
        ("train.steps=999999999", "train.steps", "999999999", "2**32"),
        ("model.pool=max", "model.pool", "'max'", "cls"),
        ("diffusion.num_steps=0", "diffusion.num_steps", "positive"),
        ("optimizer.name=lion", "optimizer.name", "'lion'", "adamw"),
        ("sampling.sampler=euler", "sampling.sampler", "'euler'", "ddim"),
        ("data.eval_split=validation", "data.eval_split", "'validation'", "train", "test"),
        ("evals.probe.layer=out_9", "evals.probe.layer", "'out_9'", "bottleneck"),
        ("mesh.rules=(('nothing', ('fsdp',)),)", "mesh.rules", "'nothing'", "parameter"),
        ("init_from=/nowhere", "init_from", "/nowhere", "config.json"),
    ],
    DIT: [("model.learn_sigma=True", "model.learn_sigma", "False")],
}


NAMES = ["file", "given", "field", "words"]


def rows(table, *first):
    """The rows of a table as a test's parameters, each after ``first``."""
    flat = [(file, row) for file, rows in table.items() for row in rows]
    return [
        pytest.param(*first, file, given, field, words, id=given)
        for file, (given, field, *words) in flat
    ]


def overridden(file, given):
    """The config of a file with one override; its values are checked, each by itself."""
    config = overrides.parse_config([f"--config={file}", f"--config.{given}"])
    validation.validate(config)
    return config


@pytest.mark.parametrize(NAMES, rows(PROGRAM))
def test_a_program_ends_before_it_begins(file, given, field, words, tmp_path, monkeypatch):
    """It reads no data, compiles nothing and makes no directory."""
    monkeypatch.setattr(training, "compile_fitting", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(Dataset, "arrays", lambda _: pytest.fail("read the data"))
    with expect_error(field, *words):
        main.main([f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.{given}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(NAMES, rows(OVERRIDES))
def test_override(file, given, field, words):
    with expect_error(field, *words):
        overrides.parse_config([f"--config={file}", f"--config.{given}"])


@pytest.mark.parametrize(NAMES, [*rows(VALUES), *rows(NETWORKS), *rows(PROCESSES)])
def test_value(file, given, field, words):
    with expect_error(field, *words):
        overridden(file, given)


@pytest.mark.parametrize(("given", "words"), [(given, words) for given, *words in PHOTOMETRIC])
def test_value_of_the_photometric_augmentation(given, words):
    group = "objectives.distillation.photometric"
    with expect_error(f"{group}.{given.partition('=')[0]}", *words):
        overridden(CONFIG, f"{group}.{given}")


def learner(config):
    return build.learner(config, *DIGITS, 100)


def sampler(config):
    sampling = Sampling.from_config(config.sampling)
    return sampling.make(build.process(config), DIGITS[0], "sampling.")


def evaluate(config):
    return evaluations(config, build.mesh(config))


BUILT = [
    *rows(MESHES, build.mesh),
    *rows(DATA, lambda config: build.dataset(config, config.data.split)),
    *rows(NETWORKS_AND_DATA, lambda config: build.network(config, *DIGITS)),
    *rows(SAMPLERS, sampler),
    *rows(EVALUATIONS, evaluate),
    *rows(
        RULES,
        lambda config: abstract_state(
            learner(config), build.mesh(config), DIGITS[0], config.mesh.rules
        ),
    ),
]


@pytest.mark.parametrize(["build_it", *NAMES], BUILT)
def test_what_is_built(build_it, file, given, field, words):
    with expect_error(field, *words):
        build_it(overridden(file, given))


def test_an_evaluation_by_an_extractor_that_is_not_there():
    config = overridden(TINY, "evals.fid.every=2")
    config.evals.fid.extractor = "vgg"
    with expect_error("extractor", "'vgg'", "classifier"):
        evaluate(config)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (dict(student_level=2000.0), "student_level", ("2000.0", "1000")),
        (dict(teacher_level=0.5), "teacher_level", ("0.5", "whole", "1000")),
    ],
)
def test_distillation_that_is_on(fields, field, words):
    config = schema.get_config()
    config.objectives.distillation.update(weight=1.0, **fields)
    with expect_error(f"objectives.distillation.{field}", *words):
        learner(config)


@pytest.mark.parametrize(
    ("fields", "others", "field", "words"),
    [
        (dict(norm="layer"), {}, "norm", ("'layer'", "batch")),
        (dict(teacher_schedule="linear"), {}, "teacher_schedule", ("'linear'", "cosine")),
        # The student of a shared pass has no level of its own.
        (
            dict(student_level=5.0, share_denoising=True),
            {},
            "student_level",
            ("5.0", "share_denoising", "None"),
        ),
        # An image alone in its batch has no other to be told from.
        (dict(weight=1.0), {"train.batch_size": 1}, "weight", ("train.batch_size",)),
        # The network has no words for how a view is transformed.
        (dict(weight=1.0), {"model.augment_dim": 3}, "geometric", ("3", "model.augment_dim")),
    ],
)
def test_distillation_among_other_fields(fields, others, field, words):
    config = schema.get_config()
    config.objectives.distillation.update(fields)
    config.update_from_flattened_dict(others)
    with expect_error(f"objectives.distillation.{field}", *words):
        validation.validate(config)


@pytest.mark.parametrize(
    ("sampler", "options", "field", "words"),
    [
        ("euler", dict(shift=0), "sampling.euler.shift", ("0", "positive")),
        ("euler", dict(diffusion=1.0), "options", ("'diffusion'", "shift")),
        (
            "euler_maruyama",
            dict(diffusion=-1),
            "sampling.euler_maruyama.diffusion",
            ("-1", "negative"),
        ),
        ("euler_maruyama", dict(shift="even"), "options", ("shift", "'even'")),
    ],
)
def test_option_of_a_flows_sampler(sampler, options, field, words):
    config = schema.get_config()
    config.diffusion = schema.flow()
    with expect_error(field, *words):
        made = Sampling.from_config(config.sampling, options, sampler=sampler, steps=10)
        made.make(build.process(config), DIGITS[0])


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        (dict(mults=(1, 2, 2, 2, 2), attend=(False,) * 5), "model.mults", ("5", "4 times", "8x8")),
        (dict(class_conditional=True), "model.class_conditional", ("labels",)),
    ],
)
def test_a_unet_that_does_not_fit_the_data(fields, field, words):
    config = schema.get_config()
    config.model = schema.unet(**fields)
    with expect_error(field, *words):
        build.network(config, DIGITS[0], 0)
