"""Events for TensorBoard, written in the calling thread.

The writer of tensorboardX hands events to a thread by a queue. When a full disk ends that thread,
the caller waits for the queue forever.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

FLUSH = 30.0  # seconds after which events are on the disk


class Events:
    """A file of events; TensorBoard hides earlier events from step ``start`` + 1 on.

    Methods raise an OSError if the file cannot be written.
    """

    def __init__(self, directory: Path, start: int) -> None:
        """Makes a new file in a directory.

        Args:
          directory: directory of the run's events; it is made.
          start: step at which training starts or resumes.
        """
        directory.mkdir(parents=True, exist_ok=True)
        prefix = str(directory.absolute() / "events")
        # The file's name holds the second; the process keeps two starts in one second apart.
        self._file = EventsWriter(prefix, f".{os.getpid()}")
        self._flushed = time.monotonic()
        self._write(start + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name."""
        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Writes a picture."""
        layout = "HW" if picture.mode == "L" else "HWC"
        image = summary.image(name, np.asarray(picture), dataformats=layout)
        self._write(step, summary=image)

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, **content))
        if time.monotonic() - self._flushed > FLUSH:
            self._file.flush()
            self._flushed = time.monotonic()
