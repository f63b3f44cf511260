"""Measures the input path of latents: reading, shuffling and drawing them.

    python benchmarks/latent_input.py --images=50000 --minutes=10

It writes made latents of ImageNet's shape at 256 pixels (16x16x32 with variances), by which time
and memory do not differ from real ones. Then it streams batches as a training does, with the draw
of the latents in place of a step, and prints images a second and the memory of the process. Beside
it stands what a chip needs whose step runs at 45 % of its peak rate. A row is appended to
``--out``.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from machine import machine

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base import parallel
from ddaepp_jax.cli.arguments import Parser, number, path
from ddaepp_jax.cli.start import launch, start_backend
from ddaepp_jax.config import recipes
from ddaepp_jax.data import caching
from ddaepp_jax.data.datasets import Dataset
from ddaepp_jax.data.encoding import Encoding
from ddaepp_jax.data.latents import latents
from ddaepp_jax.data.normalisation import Normalisation
from ddaepp_jax.training.clock import peak_flops
from ddaepp_jax.training.source import streamed

SHAPE = (16, 16, 32)
MFU = 0.45
# FLOPs of a training step an image, by --dry_run of the configs.
NETWORKS = {"LightningDiT-B/1": 138.1e9, "LightningDiT-L/1": 484.4e9, "LightningDiT-XL/1": 712.2e9}
CHIP = "TPU v5 lite"


def write(directory: Path, count: int) -> None:
    """Writes latents of made images, which are their numbers."""
    names = tuple(map(str, range(1000)))

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.repeat(rows.astype(np.uint32)[:, None], 3, axis=1).view(np.uint8)
        return images.reshape(-1, 1, 4, 3), (rows % 1000).astype(np.int32)

    def encode(images: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(int(images[0, 0, 0, 0]))
        return rng.standard_normal((len(images), *SHAPE[:2], 2 * SHAPE[2]), np.float32)

    job = caching.Job(
        data=Dataset("made", "train", (1, 4, 3), 1000, names, count, read),
        encode=encode,
        encoding=Encoding(SHAPE, True, Normalisation((0.0,), (1.0,))),
        normalisation=None,
        batch_size=256,
        autoencoder={"name": "made", "kind": "made", "hash": ""},
        source={"name": "made", "image_shape": [1, 4, 3]},
    )
    caching.cache(job, directory / "train")


def measure(data: Dataset, batch_size: int, threads: int, seconds: float) -> dict[str, Any]:
    """Streams batches for a time, and returns the rate and the memory at tenths of the time."""
    config = recipes.lightningdit(schema.get_config(), epochs=1, class_conditional=True)
    draw = jax.jit(build.prepare(config, data.encoding))
    mesh = parallel.make_mesh((-1, 1, 1))
    batches = streamed(data, 0, batch_size, mesh, threads).open(0, 10**9)
    process = psutil.Process()
    memory, done, start = [], 0, None
    for step, batch in enumerate(batches):
        jax.block_until_ready(draw(batch["image"], np.int32(step), batch["index"]))
        if start is None:
            start = time.perf_counter()  # after the compilation and the first reads
            continue
        done += batch_size
        elapsed = time.perf_counter() - start
        if elapsed > len(memory) * seconds / 10:
            memory.append(round(process.memory_info().rss / 2**20))
        if elapsed > seconds:
            return {"images_per_second": done / elapsed, "memory_mib": memory}
    raise AssertionError("the batches never end")


def main(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.latent_input", __doc__)
    add = parser.add_argument
    add("--images", type=int, default=50_000, help="number of latents (50,000, 3.1 GiB)")
    add("--minutes", type=number, default=10.0, help="length of the measurement (10)")
    add("--batch_size", type=int, default=256, help="latents of a batch (256)")
    add("--threads", type=int, default=4, help="reading threads (4)")
    add("--directory", type=path, help="where the latents are kept (default: not kept)")
    results = Path(__file__).parent / "results" / "latent_input.jsonl"
    add("--out", type=path, default=results, help="file of the row")
    args = parser.parse_args(argv)
    start_backend()
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.directory or Path(temporary)
        write(directory, args.images)
        data = latents(directory, "train")
        row = measure(data, args.batch_size, args.threads, 60 * args.minutes)
    needs = {name: MFU * peak_flops(CHIP) / flops for name, flops in NETWORKS.items()}
    row |= vars(args) | {"chip": CHIP, "needed_per_chip": needs} | machine()
    row = {name: str(value) if isinstance(value, Path) else value for name, value in row.items()}
    row.pop("out")
    row.pop("directory")
    with args.out.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    launch(main)
