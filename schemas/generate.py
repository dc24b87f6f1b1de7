"""Generate ``schemas/gen`` from the .proto: ``python -m enchanted.schemas.generate [--check]``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent / "proto"
GENERATED = Path(__file__).resolve().parent / "gen"
SOURCE = "enchanted/events/v1/events.proto"
OUTPUTS = ("events_pb2.py", "events_pb2.pyi")


def generate(into: Path) -> None:
    """Write the Python module and its stub for the event contract into ``into``."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTO_ROOT}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            SOURCE,
        ],
        check=True,
    )
    for name in OUTPUTS:
        (into / "enchanted/events/v1" / name).replace(into / name)
    for folder in ("enchanted/events/v1", "enchanted/events", "enchanted"):
        (into / folder).rmdir()


def stale() -> list[str]:
    """Names of generated files that differ from what the .proto gives now."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        return [name for name in OUTPUTS if (Path(folder) / name).read_bytes() != (GENERATED / name).read_bytes()]


def main() -> int:
    """Regenerate, or with ``--check`` lint the .proto and fail when the committed code is stale."""
    if "--check" not in sys.argv[1:]:
        generate(GENERATED)
        return 0
    subprocess.run([Path(sys.executable).parent / "buf", "lint", PROTO_ROOT], check=True)
    if names := stale():
        print(f"stale generated code: {', '.join(names)}\nrun: make proto", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
