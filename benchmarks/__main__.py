"""Runs every script of this folder, each in a bounded time: python -m benchmarks [--quick] [NAME ...]."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MINUTES = 10  # for one script


def main() -> int:
    scripts = {path.stem: path for path in sorted(HERE.glob("[!_]*.py"))}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the measurements, all or by name.")
    parser.add_argument("name", nargs="*", help=f"any of: {', '.join(scripts)}")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that everything works")
    asked = parser.parse_args()
    if unknown := set(asked.name) - set(scripts):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}; there are {', '.join(scripts)}")
    failed = []
    for name in asked.name or scripts:
        print(f"==== {name}", flush=True)
        command = [sys.executable, "-m", f"{HERE.name}.{name}"]
        if asked.quick:
            if "--quick" not in scripts[name].read_text(encoding="utf-8"):
                print("it has no quick form")
                continue
            command.append("--quick")
        try:
            code = subprocess.run(command, cwd=HERE.parent, timeout=MINUTES * 60, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"{name} was ended after {MINUTES} minutes", file=sys.stderr)
            code = 1
        if code:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
