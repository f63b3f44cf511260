"""Writes a data set's images at another size, as a folder of PNG files.

    python benchmarks/resized_images.py --data_dir=TFDS_DIR --out=DIR --size=16

Pixels of a smaller image are means over the pixels that they cover. The folder is DIR/train and
DIR/test with a folder for each class.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ddaepp_jax import build
from ddaepp_jax import config as schema
from ddaepp_jax.base.dispatch import progress_bar
from ddaepp_jax.cli.arguments import Parser, path
from ddaepp_jax.cli.start import launch


def write(name: str, data_dir: Path, out: Path, size: int) -> None:
    """Writes the splits "train" and "test" of a data set.

    Args:
      name: name of the data set (``data.name``).
      data_dir: its TFDS directory.
      out: the new folder.
      size: height and width of the new images in pixels.
    """
    for split in ("train", "test"):
        config = schema.get_config()
        config.data.update(name=name, data_dir=str(data_dir))
        data = build.dataset(config, split).resident()
        images, labels = data.arrays()
        for folder in data.class_names:
            (out / split / folder).mkdir(parents=True, exist_ok=True)
        bar = progress_bar(len(data), "image", split)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            bar.update()
            small = Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BOX)
            small.save(out / split / data.class_names[label] / f"{number:05}.png")


def main(argv: Sequence[str]) -> None:
    parser = Parser("benchmarks.resized_images", __doc__)
    add = parser.add_argument
    add("--name", default="cifar10", help="name of the data set (cifar10)")
    add("--data_dir", type=path, required=True, help="its TFDS directory")
    add("--out", type=path, required=True, help="folder of the new images")
    add("--size", type=int, default=16, help="height and width of the new images in pixels (16)")
    args = parser.parse_args(argv)
    write(args.name, args.data_dir, args.out, args.size)


if __name__ == "__main__":
    launch(main)
