"""A latent code goes into a hypernetwork, which generates the weights of a small field.

The names below are imported when they are first used (PEP 562), so `import hyperfields` itself loads neither
torch nor any kernel, and `hyperfields --help` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> the module that defines it. A line here needs one under TYPE_CHECKING; a test compares them.
_EXPORTS = {
    "Camera": "cameras",
    "Family": "families",
    "InputError": "errors",
    "Mesh": "families",
    "Pixels": "families",
    "Points": "families",
    "Rays": "cameras",
    "View": "families",
    "look_at": "cameras",
    "orbit": "cameras",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # what editors and type checkers see
    from hyperfields.cameras import Camera as Camera
    from hyperfields.cameras import Rays as Rays
    from hyperfields.cameras import look_at as look_at
    from hyperfields.cameras import orbit as orbit
    from hyperfields.errors import InputError as InputError
    from hyperfields.families import Family as Family
    from hyperfields.families import Mesh as Mesh
    from hyperfields.families import Pixels as Pixels
    from hyperfields.families import Points as Points
    from hyperfields.families import View as View


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any misspelt name after seeing it

    def __getattr__(name):
        if name not in _EXPORTS:
            raise AttributeError(
                f"module 'hyperfields' has no attribute {name!r}; it has {', '.join(__all__)}"
            )
        value = getattr(importlib.import_module(f"hyperfields.{_EXPORTS[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
