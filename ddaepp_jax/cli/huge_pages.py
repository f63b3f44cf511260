"""Huge memory pages for the arrays of XLA's CPU backend.

A CPU step walks through gigabytes of temporary arrays. With pages of 4 KiB it spends a tenth to a
third of its time on the tables of pages (docs/performance.md). glibc asks Linux for pages of 2 MiB
if a variable tells it so when the process starts, so a program starts itself once more with it.
"""

import contextlib
import os
import sys
from pathlib import Path

NAME, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment(environ: dict[str, str], policy: str) -> dict[str, str] | None:
    """Returns the environment with which glibc asks for huge pages; None: it need not be changed.

    Args:
      environ: the environment of this process.
      policy: what Linux says of transparent huge pages, e.g. "always [madvise] never".
    """
    tunables = environ.get(NAME, "")
    if TUNABLE in tunables or "[madvise]" not in policy:
        return None
    return environ | {NAME: ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))}


def restart_with_huge_pages() -> None:
    """Replaces this program by itself with huge pages, where Linux has them on request.

    It does nothing in a process that is no program of this package, such as a test or a notebook.
    GLIBC_TUNABLES=glibc.malloc.hugetlb=0 keeps small pages.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not (sys.platform == "linux" and spec and spec.name.startswith("ddaepp_jax.")):
        return
    # Without huge pages in the kernel, or an interpreter to start, it goes on with small pages.
    with contextlib.suppress(OSError):
        if changed := environment(dict(os.environ), POLICY.read_text()):
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
