"""Files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def replace(file: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)


def write_json(file: Path, content: Any) -> None:
    """Writes JSON atomically."""
    replace(file, (json.dumps(content, indent=1) + "\n").encode())
