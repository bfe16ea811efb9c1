"""`setup`: what a worker does before the modules of its initializer and of its calls are imported.

    Pool(setup="django.setup")  -->  worker: main module, setup, initializer, calls

It is a function by its name, so that naming it imports nothing, or one that pickles.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

Setup = str | Callable[[], object] | None


def check(setup: Setup) -> None:
    """Raises ValueError or TypeError for what cannot be a setup, without importing anything."""
    if isinstance(setup, str):
        module, name = _split(setup)
        if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise ValueError(f"setup names a function, such as django.setup or app:prepare, not {setup!r}")
    elif setup is not None and not callable(setup):
        raise TypeError(f"setup must be a function, or name one as django.setup does, not {setup!r}")


def call(setup: Setup) -> None:
    """Do it, here and now."""
    if isinstance(setup, str):
        module, name = _split(setup)
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        setup = found  # type: ignore[assignment]
    if setup is not None:
        setup()  # type: ignore[operator]


def remedy(type_name: str) -> str:
    """What there is to add to the message of an error of this type, if a setup would have prevented it."""
    too_early = type_name.rpartition(".")[2] == "AppRegistryNotReady"
    return ' (set Django up first: setup="django.setup", or --setup django.setup)' if too_early else ""


def _split(setup: str) -> tuple[str, str]:
    """Module and function of "module:function" or "module.function"."""
    module, _, name = setup.partition(":") if ":" in setup else setup.rpartition(".")
    return module, name
