"""Released PyTorch weights as a run directory, which every program takes.

    python -m ddaepp_jax.convert --kind=u-vit --checkpoint=cifar10_uvit_small.pth --workdir=runs/uvit
    python -m ddaepp_jax.convert --kind=ddae-unet --checkpoint=model_1999.pth --workdir=runs/edm \\
        --config=configs/unet_edm_cifar.py
    python -m ddaepp_jax.convert --kind=lightningdit --checkpoint=lightningdit-xl-imagenet256-800ep.pt --workdir=runs/xl
    python -m ddaepp_jax.convert --kind=dit --checkpoint=DiT-XL-2-256x256.pt --workdir=runs/dit_xl
    python -m ddaepp_jax.convert --kind=inception-fid                       # for ddaepp_jax.fid; fetches the weights

The network's shape is read off the tensors (--options says what they don't tell); process, data and
the rest come from the config, and by default from the recipe that the authors published. Averaged
weights are taken where a file holds several. Inception is no run: its weights go where ``fid``
finds them, or to --workdir. In Python, ``load_reference`` gives the module and its variables.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict
from tqdm import tqdm

from ddaepp_jax import __version__, build, evaluators
from ddaepp_jax import config as schema
from ddaepp_jax.base.errors import InputError, first_line
from ddaepp_jax.cli.arguments import Parser, option, several
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config import recipes, validation
from ddaepp_jax.config import saved as run_config
from ddaepp_jax.config.overrides import parse_config
from ddaepp_jax.models.dit import DiT
from ddaepp_jax.models.unet import UNet
from ddaepp_jax.models.uvit import UViT
from ddaepp_jax.released import ddae_unet, dit, inception_fid, lightningdit, u_vit, weights
from ddaepp_jax.scoring import by_name, extractors
from ddaepp_jax.training import graft
from ddaepp_jax.training.checkpoint import Checkpoints
from ddaepp_jax.training.step import init_state

# Networks that denoise, whose weights make a run directory; and beside them what only
# ``load_reference`` takes.
NETWORKS: dict[str, ModuleType] = {
    "u-vit": u_vit,
    "ddae-unet": ddae_unet,
    "dit": dit,
    "lightningdit": lightningdit,
}
FAMILIES = NETWORKS | {"inception-fid": inception_fid}


def _ddae() -> ConfigDict:
    config = recipes.long_run(name="cifar10")
    config.diffusion = schema.ddpm(time_input="t/T")
    config.sampling.ddim.table = "ddae"
    return recipes.ddae(config, epochs=2000, batch_size=512, learning_rate=4e-4)


RECIPES: dict[str, Callable[[], ConfigDict]] = {
    "u-vit": lambda: recipes.uvit(recipes.long_run(name="cifar10")),
    "ddae-unet": _ddae,
    "dit": lambda: recipes.dit(recipes.long_run(name=build.LATENTS)),
    "lightningdit": lambda: recipes.lightningdit(
        recipes.long_run(name=build.LATENTS), epochs=800, class_conditional=True
    ),
}


def load_reference(
    kind: str, state_dict: Mapping[str, Any], **arguments: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Our module and its variables for a reference implementation's weights; the same outputs to
    float32 rounding.

    Args:
      kind: a key of ``FAMILIES``.
      state_dict: the reference's, of numpy arrays or CPU tensors, without prefixes.
      arguments: of the reference's class, under its own names; its defaults otherwise.

    Raises:
      InputError: no such kind or argument, or a tensor that is missing, not used, or misshapen.
    """
    family = build.choose("kind", kind, FAMILIES)
    try:
        module, shape = family.module(**arguments), family.image_shape(**arguments)
    except TypeError as error:
        raise InputError(f"{kind}: {first_line(error)}") from None
    return module, weights.variables(family, module, state_dict, shape, timed=kind in NETWORKS)


def read(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a .pt, .pth or .safetensors file by their dotted names; nothing in it is
    executed.

    Raises:
      InputError: no such file, not of these formats, or the library that reads it is not installed.
    """
    if not file.is_file():
        raise InputError(f"--checkpoint: no file {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.flax import load_file

            return {name: np.asarray(tensor) for name, tensor in load_file(file).items()}
        import torch

        found = weights.flattened(torch.load(file, map_location="cpu", weights_only=True))
        return {name: tensor.detach().float().numpy() for name, tensor in found.items()}
    except ImportError as error:
        raise InputError(
            f"--checkpoint: reading {file.suffix or 'this'} needs {error.name}: pip install 'ddaepp_jax[convert]'"
        ) from None
    except Exception as error:  # whatever a file of another format makes of itself
        raise InputError(
            f"--checkpoint: {file} is not a file of tensors ({first_line(error)})"
        ) from None


def convert(
    kind: str,
    tensors: Mapping[str, np.ndarray],
    workdir: Path,
    config: ConfigDict,
    prefix: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Write a run directory with these weights at step 0, as the network's and as every average of
    it.

    Args:
      config: of the run, but for its model, which the tensors tell.
      prefix: what stands before the network's names; found by default.
      options: arguments of the reference's class that its tensors don't tell.

    Returns:
      The config that was written.

    Raises:
      InputError: as ``load_reference``; or the directory is not empty, or the data are not the
        network's.
    """
    family = build.choose("kind", kind, NETWORKS)
    try:
        prefix = weights.prefix_of(list(tensors), family.MARKS) if prefix is None else prefix
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if missing := [mark for mark in family.MARKS if mark not in own]:
            raise InputError(f"no tensor {prefix}{missing[0]}")
        arguments = {**family.arguments(own), **(options or {})}
        module, variables = load_reference(kind, own, **arguments)
    except InputError as error:
        raise InputError(f"--checkpoint: {error}") from None
    config = config.copy_and_resolve_references()
    config.model = _fields(module)
    validation.validate(config)
    if config.data.name == build.LATENTS:
        shape, class_names = (
            family.image_shape(**arguments),
            tuple(map(str, range(module.num_classes))),
        )
    else:
        shape, class_names = build.described(config)
    _check_data(config, module, arguments, shape, len(class_names))
    _write(config, variables["params"], shape, class_names, workdir)
    return config


def _fields(module: nn.Module) -> ConfigDict:
    """``config.model`` of a module."""
    name = {UViT: "uvit", UNet: "unet", DiT: "dit"}[type(module)]
    fields = schema.MODELS[name]()
    own = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name in fields
    }
    own |= dict(
        name=name, class_conditional=module.num_classes > 0, attention="auto", dtype="float32"
    )
    fields.update(own)
    return fields


def _check_data(
    config: ConfigDict,
    module: nn.Module,
    arguments: Mapping[str, Any],
    shape: tuple[int, int, int],
    classes: int,
) -> None:
    """Refuse data whose images or labels the network does not take."""
    name = f"data.name: {config.data.name}"
    taken = {UViT: u_vit, DiT: dit}  # whose shape is fixed by their positions
    if type(module) in taken and shape != (wanted := taken[type(module)].image_shape(**arguments)):
        raise InputError(f"{name} has images of {shape}, the network takes {wanted}")
    if isinstance(module, UNet) and shape[2] != arguments["image_shape"][0]:
        raise InputError(
            f"{name} has images of {shape[2]} channels, the network takes {arguments['image_shape'][0]}"
        )
    if module.num_classes not in (0, classes):
        raise InputError(
            f"{name} has {classes} classes, the network's table has {module.num_classes} and the null"
        )


def _write(
    config: ConfigDict,
    params: Any,
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    workdir: Path,
) -> None:
    """A run directory at step 0, as training would save it."""
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"--workdir: {workdir} is there already; use another")
    learner = build.learner(config, shape, len(class_names), total=1)
    state, lines = graft.graft(jax.jit(lambda: init_state(learner, shape))(), params)
    assert not lines, lines
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(run_config.to_json(config))
        (workdir / "version.txt").write_text(f"ddaepp_jax {__version__}, jax {jax.__version__}\n")
    except OSError as error:
        raise InputError(
            f"--workdir: cannot write {workdir} ({error.strerror}); use another"
        ) from None
    checkpoints = Checkpoints(
        workdir / "checkpoints", config.train.keep_checkpoints, evaluators.better()
    )
    meta = {"image_shape": shape, "num_classes": len(class_names), "class_names": class_names}
    with contextlib.closing(checkpoints):
        checkpoints.save(state, meta | {"step": 0, "measured": {}})


def convert_inception(file: Path, directory: Path) -> str:
    """Write pytorch-fid's Inception as an extractor; its hash."""
    if extractors.exists(directory):
        raise InputError(
            f"--workdir: {directory} holds an extractor already; use another, or remove it"
        )
    tensors = read(file)
    try:
        module, variables = load_reference(
            "inception-fid", tensors, **inception_fid.arguments(tensors)
        )
    except (InputError, KeyError) as error:
        raise InputError(
            f"--checkpoint: {file} is not the Inception of FID ({first_line(error)})"
        ) from None
    extractors.save(directory, module, variables["params"], {"from": file.name})
    return extractors.hashed(variables["params"])


def fetch(url: str, digest: str, directory: Path) -> Path:
    """Download a file, unless it is there; one whose SHA-256 does not begin with ``digest`` is
    refused.

    Raises:
      InputError: there is no network, the file is another, or the directory cannot be written.
    """
    file = directory / url.rpartition("/")[2]
    partial = file.with_name(f"{file.name}.partial")
    try:
        if not file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(url, timeout=60) as source, partial.open("wb") as target:
                size = int(source.headers.get("Content-Length") or 0) or None
                with tqdm.wrapattr(source, "read", total=size, desc=file.name) as read:
                    shutil.copyfileobj(read, target)
            partial.rename(file)
        with file.open("rb") as held:
            found = hashlib.file_digest(held, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"--checkpoint: {url} cannot be fetched ({first_line(error)}); give a copy of it"
        ) from None
    if not found.startswith(digest):
        file.unlink()
        raise InputError(
            f"--checkpoint: {url} gave another file (SHA-256 {found[:16]}.., not {digest}..); removed"
        )
    return file


def main(argv: Sequence[str]) -> None:
    parser = Parser("ddaepp_jax.convert", __doc__)
    add = parser.add_argument
    add("--kind", required=True, help=f"the reference implementation: {', '.join(FAMILIES)}")
    add(
        "--checkpoint",
        type=Path,
        help="its .pt, .pth or .safetensors file (inception-fid: is fetched)",
    )
    add(
        "--workdir",
        type=Path,
        help="run directory to be made (inception-fid: the extractor's directory)",
    )
    add(
        "--config",
        metavar="FILE[:VARIANT]",
        help="process, data, training (default: the published recipe)",
    )
    add("--prefix", help="what stands before the network's names in the file (default: found)")
    add(
        "--options",
        type=several(option),
        default=(),
        help="of the reference's class, e.g. num_heads=12",
    )
    args, rest = parser.parse_known_args(argv)
    if build.choose("--kind", args.kind, FAMILIES) is inception_fid:
        _inception(args, rest)
        return
    for name in ("checkpoint", "workdir"):
        if getattr(args, name) is None:
            parser.error(f"the following arguments are required: --{name}")
    config = parse_config(
        [f"--config={args.config}"] * bool(args.config) + rest, RECIPES[args.kind]
    )
    start_backend()
    made = convert(
        args.kind, read(args.checkpoint), args.workdir, config, args.prefix, dict(args.options)
    )
    parts = {"model": made.model, "diffusion": made.diffusion}
    for part, fields in parts.items():
        print(f"{part}: {', '.join(f'{name}={value}' for name, value in fields.items())}")
    print(f"next: python -m ddaepp_jax.sample --workdir={args.workdir}, and linear_probe")


def _inception(args: argparse.Namespace, rest: Sequence[str]) -> None:
    given = [name for name in ("config", "prefix", "options") if getattr(args, name)]
    if rest or given:
        raise InputError(
            f"{rest[0] if rest else f'--{given[0]}'}: not an argument of --kind=inception-fid; leave it out"
        )
    directory = args.workdir or by_name.extractor_home("inception")
    file = args.checkpoint or fetch(inception_fid.URL, inception_fid.DIGEST, directory)
    digest = convert_inception(file, directory)
    print(f"Inception {digest[:8]} is in {directory}; next: python -m ddaepp_jax.fid --workdir=RUN")


if __name__ == "__main__":
    launch(main)
