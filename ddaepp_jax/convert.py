"""Converts released PyTorch weights to a run directory, which every program takes.

    python -m ddaepp_jax.convert --kind=u-vit --checkpoint=cifar10_uvit_small.pth \\
        --workdir=runs/uvit
    python -m ddaepp_jax.convert --kind=ddae-unet --checkpoint=model_1999.pth \\
        --workdir=runs/edm --config=configs/unet_edm_cifar.py
    python -m ddaepp_jax.convert --kind=dit --checkpoint=DiT-XL-2-256x256.pt --workdir=runs/dit_xl
    python -m ddaepp_jax.convert --kind=lightningdit \\
        --checkpoint=lightningdit-xl-imagenet256-800ep.pt --workdir=runs/xl
    python -m ddaepp_jax.convert --kind=autoencoder-kl --checkpoint=sd-vae-ft-ema.safetensors \\
        --name=sd-vae
    python -m ddaepp_jax.convert --kind=va-vae --checkpoint=vavae-imagenet256-f16d32-dinov2.pt \\
        --statistics=latents_stats.pt --name=va-vae
    python -m ddaepp_jax.convert --kind=taesd            # fetches FLUX.2's tiny autoencoder
    python -m ddaepp_jax.convert --kind=inception-fid    # for ddaepp_jax.fid; fetches the weights

The network's shape is read from the tensors; --options gives the arguments that they do not show.
The diffusion process, the data and the rest come from the config, by default from the recipe that
the authors published. If a file holds several networks, the averaged weights are taken. Inception
and autoencoders do not become runs: their weights go where the programs look for them, or to
--workdir. In Python, ``load_reference`` returns the module and its variables.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from ddaepp_jax.base.choice import choose
from ddaepp_jax.base.errors import InputError
from ddaepp_jax.cli.arguments import Parser, add_config, config_arguments, options, path
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.released import AUTOENCODERS, KINDS


def __getattr__(name: str) -> Any:
    if name == "load_reference":  # imported lazily, as it needs JAX
        from ddaepp_jax.released.reference import load_reference

        return load_reference
    raise AttributeError(f"module 'ddaepp_jax.convert' has no attribute {name!r}")


def main(argv: Sequence[str]) -> None:
    """Converts by the arguments of a command line."""
    parser = Parser("ddaepp_jax.convert", __doc__)
    add = parser.add_argument
    add("--kind", required=True, help=f"reference implementation: {', '.join(KINDS)}")
    add(
        "--checkpoint",
        type=path,
        help="file of the weights, of PyTorch or safetensors, or the index of its shards "
        "(inception-fid, taesd: fetched by default)",
    )
    add(
        "--workdir",
        type=path,
        help="run directory to write (inception-fid, autoencoders: their directory)",
    )
    add_config(parser, "the published recipe")
    add("--prefix", help="text before the network's parameter names in the file (default: found)")
    add(
        "--options",
        type=options,
        default={},
        help="arguments of the reference's class, e.g. num_heads=12",
    )
    add("--name", help="autoencoders: name under which the package keeps it (its kind)")
    add(
        "--statistics",
        type=path,
        help="autoencoders: file of the latents' mean and std by channel, as LightningDiT's "
        "latents_stats.pt",
    )
    args, overrides = parser.parse_known_args(argv)
    kind = choose("--kind", args.kind, KINDS)
    if kind == "inception-fid":
        _convert_inception(args, overrides)
    elif kind in AUTOENCODERS:
        _convert_autoencoder(args, overrides)
    else:
        _convert_network(args, overrides)


def _refuse(args: argparse.Namespace, overrides: Sequence[str], *names: str) -> None:
    """Refuses arguments that the kind does not take."""
    unused = [f"--{name}" for name in names if getattr(args, name)]
    if unknown := [*overrides, *unused]:
        raise InputError(f"{unknown[0]}: not an argument of --kind={args.kind}; leave it out")


def _convert_autoencoder(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Converts the weights of an autoencoder to its directory."""
    _refuse(args, overrides, "config")
    if args.name and args.workdir:
        raise InputError("--name: of no use beside --workdir; leave one out")
    from ddaepp_jax.autoencoders import stored
    from ddaepp_jax.released.autoencoder import convert_autoencoder, fetched

    name = args.name or args.kind
    directory = args.workdir or stored.home(name)
    stored.SHELF.check_free(directory)
    file = args.checkpoint or fetched(args.kind, directory)
    digest = convert_autoencoder(
        args.kind, file, directory, args.prefix, args.options, args.statistics
    )
    print(
        f"autoencoder {digest[:8]} is in {directory}; next: python -m ddaepp_jax.cache_latents "
        f"--autoencoder={args.workdir or name}"
    )


def _convert_network(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Converts the weights of a diffusion network to a run directory."""
    _refuse(args, (), "name", "statistics")
    for name in ("checkpoint", "workdir"):
        if getattr(args, name) is None:
            raise InputError(f"--{name}: missing; --kind={args.kind} needs it, see --help")
    from ddaepp_jax.config.overrides import parse_config
    from ddaepp_jax.released.choice import choose_network
    from ddaepp_jax.released.read import read
    from ddaepp_jax.released.recipes import RECIPES
    from ddaepp_jax.released.reference import FAMILIES
    from ddaepp_jax.released.run_directory import check_new, convert

    config = parse_config(config_arguments(args, overrides), RECIPES[args.kind])
    check_new(args.workdir)
    start_backend()
    tensors = read(args.checkpoint)
    try:
        network = choose_network(tensors, FAMILIES[args.kind].MARKS, args.prefix)
    except InputError as error:
        raise InputError(f"--checkpoint: {error}") from None
    print(f"reading {network}")
    if network.unread:
        print(
            f"warning: the file's averages {', '.join(map(repr, network.unread))} were not read, "
            "as their names are not the network's; to take them, save them under its names"
        )
    config = convert(args.kind, network.tensors, args.workdir, config, args.options)
    for part in ("model", "diffusion"):
        fields = ", ".join(f"{name}={value}" for name, value in config[part].items())
        print(f"{part}: {fields}")
    print(f"next: python -m ddaepp_jax.sample --workdir={args.workdir}, and linear_probe")


def _convert_inception(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Converts Inception's released weights to the extractor that ``fid`` loads."""
    _refuse(args, overrides, "config", "prefix", "options", "name", "statistics")
    from ddaepp_jax.released import inception_fid
    from ddaepp_jax.released.extractor import convert_inception
    from ddaepp_jax.released.fetch import fetch
    from ddaepp_jax.scoring import extractors
    from ddaepp_jax.scoring.by_name import extractor_home

    directory = args.workdir or extractor_home("inception")
    extractors.SHELF.check_free(directory)
    file = args.checkpoint or fetch(inception_fid.URL, inception_fid.DIGEST, directory)
    digest = convert_inception(file, directory)
    print(f"Inception {digest[:8]} is in {directory}; next: python -m ddaepp_jax.fid --workdir=RUN")


if __name__ == "__main__":
    launch(main)
