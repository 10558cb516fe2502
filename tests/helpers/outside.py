"""Policies as a stranger has them: in a file of her own, outside the package."""

import sys
from importlib.util import cache_from_source, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
NAMES = {"aimd": "AIMD", "who_waits": "WHO_WAITS", "weighted_shortest": "WEIGHTED_SHORTEST"}
"""Files of the examples, and what each calls its policy."""


def load(file: Path, text: str | None = None) -> ModuleType:
    """Import a file by its path, written with `text` before where it is given."""
    if text is not None:
        # Python tells the bytecode of what was written before from that of this by size and whole seconds alone.
        Path(cache_from_source(str(file))).unlink(missing_ok=True)
        file.write_text(text)
    spec = spec_from_file_location(f"outside_{file.stem}", file)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def example(name: str, folder: Path):
    """Return the policy of an example, from a copy in a folder."""
    module = load(folder / f"{name}.py", (EXAMPLES / f"{name}.py").read_text())
    return getattr(module, NAMES[name])
