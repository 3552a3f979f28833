"""Functions of the user's own, named in a setting as `package.module:function`.

The module is looked for where Python looks (installed packages, PYTHONPATH) and in the folder the run was started
from, so `my_rewards.py` beside the corpus needs no installation.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names. Raises ValueError that says what is wrong and what to do."""
    module_name, _, attribute = name.partition(":")
    _look_here_too()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r} in {Path.cwd()} nor elsewhere on Python's path; start from the "
                f"folder that holds {str(error.name).replace('.', '/')}.py, or add that folder to PYTHONPATH"
            ) from None
        raise ValueError(f"importing {module_name} failed: {described(error)}") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, [known for known in vars(module) if not known.startswith("_")], n=1)
        hint = f"; did you mean {module_name}:{near[0]}?" if near else ""
        raise ValueError(f"{module.__file__ or module_name} has no {attribute!r}{hint}")
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{attribute} in {module.__file__ or module_name} is a {type(function).__name__}, no function")
    return function


def source_file(name: str) -> Path | None:
    """The file of the module that `package.module:function` names; None for one without a file, or not to be found."""
    _look_here_too()
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def described(error: BaseException) -> str:
    """An error in the user's code as one line: its kind, its message, and the line it came from."""
    kind = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # its message names the line already
        return f"{kind}, in {error.filename}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    theirs = [frame for frame in frames if frame.filename not in _OURS]
    return f"{kind} ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else kind


_OURS = {__file__, importlib.__file__}


def _look_here_too() -> None:
    """The working directory is on the path of `python -m`, but not of a Prefect worker or a console script."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the file may be younger than this process
