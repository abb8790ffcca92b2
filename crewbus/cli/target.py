"""TARGET: imports the callable that ``module:callable`` or ``path.py:callable`` names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from crewbus.cli.errors import describe
from crewbus.cli.input import Arguments
from crewbus.exceptions import InputError, TargetError

_MAX_LISTED: Final = 8
_FORMS: Final = "module:callable or path.py:callable"


@attrs.frozen
class Target:
    """The callable that runs call."""

    name: str
    """Its dotted name inside the module, which is also the name of its runs."""
    function: Callable[..., Any]
    signature: inspect.Signature | None
    """None if it has no signature, as some builtins."""

    def check(self, arguments: Arguments, origin: str | None = None) -> None:
        """Raise `InputError` if the target does not accept ``arguments``; ``origin`` says where these come from."""
        if self.signature is None:
            return
        try:
            self.signature.bind(*arguments.args, **arguments.kwargs)
        except TypeError as error:
            default = "--arg" if arguments.kwargs else "neither --input nor --arg is given"
            raise InputError(
                f"{origin or arguments.location or default}: {self.name}{self.signature}: {error}"
            ) from None


def load_target(text: str) -> Target:
    """Import the target that ``text`` names. Raises `TargetError`."""
    location, _, path = text.rpartition(":")
    if not location or not all(part.isidentifier() for part in path.split(".")):
        raise TargetError(f"TARGET is {_FORMS}; got {text!r}")
    found = _get_attribute(_load_module(location), path, location)
    if not callable(found):
        raise TargetError(f"{text} is not callable: its type is {type(found).__qualname__}")
    function = _unwrap_instance(found)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TargetError(f"{text} is a generator function: call crewbus.chunk(text) instead of yielding text")
    return Target(path, function, _signature(found))


def load_object(text: str) -> Any:
    """Import what ``module``, ``path.py``, or either with ``:name`` names. Raises `TargetError`."""
    location, colon, path = text.rpartition(":")
    if not colon:
        return _load_module(text)
    return _get_attribute(_load_module(location), path, location)


def _unwrap_instance(found: Callable[..., Any]) -> Callable[..., Any]:
    # Whether an instance with a __call__ is async can only be seen from that method.
    call = getattr(found, "__call__", None)  # noqa: B004 - the method itself is needed
    return call if inspect.ismethod(call) and not inspect.isclass(found) else found


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


# Modules


def _load_module(location: str) -> ModuleType:
    return _load_file(Path(location)) if location.endswith(".py") else _import_module(location)


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is neither a module name nor a file name that ends in .py: TARGET is {_FORMS}")
    _import_first_from(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            here = [module.name for module in pkgutil.iter_modules([os.curdir])]
            raise TargetError(f"there is no module {error.name!r}{_suggest(error.name, here)}") from None
        raise _import_failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _load_file(path: Path) -> ModuleType:
    file = path.absolute()
    if not file.is_file():
        files = [str(path.with_name(other.name)) for other in sorted(file.parent.glob("*.py"))]
        raise TargetError(f"there is no file {str(path)!r}{_suggest(str(path), files)}")
    name = file.stem
    if name in sys.modules:
        return _already_loaded(name, file, path)
    _import_first_from(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickling, dataclasses and string annotations look up a class's module here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, (Exception, SystemExit)):
            raise _import_failed(str(path), error) from error
        raise
    return sys.modules.get(name, module)


def _already_loaded(name: str, file: Path, path: Path) -> ModuleType:
    module = sys.modules[name]
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != file.resolve():
        raise TargetError(
            f"{path}: a module {name!r} is already loaded from {origin or 'the interpreter'}: rename the file"
        )
    return module


def _import_first_from(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


def _import_failed(name: str, error: BaseException) -> TargetError:
    return TargetError(f"{name} cannot be imported: {describe(error)}")


# Attributes


def _get_attribute(module: ModuleType, path: str, location: str) -> Any:
    """The attribute of ``module`` with this dotted path; ``location`` is how messages name the module."""
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [name for name in dir(found) if not name.startswith("_")]
            callables = [name for name in public if _defines_callable(found, name)]
            raise TargetError(f"{location} has no {part!r}{_suggest(part, public, callables)}") from None
        except Exception as error:
            raise TargetError(f"{location}: reading {part!r} failed: {describe(error)}") from error
        location = f"{location}.{part}" if found is not module and not isinstance(found, ModuleType) else location
    return found


def _defines_callable(owner: Any, name: str) -> bool:
    """Whether the attribute is a callable, and defined in ``owner`` if that is a module."""
    value = inspect.getattr_static(owner, name, None)
    module = owner.__name__ if isinstance(owner, ModuleType) else None
    return callable(value) and (module is None or getattr(value, "__module__", None) == module)


def _suggest(name: str, names: Iterable[str], available: Iterable[str] = ()) -> str:
    """The end of a message: the names close to ``name``, or else the available ones."""
    close = difflib.get_close_matches(name, list(names), 3)
    if close:
        return f": did you mean {' or '.join(close)}?"
    listed = list(available)
    more = ", ..." if len(listed) > _MAX_LISTED else ""
    return f"; there are {', '.join(listed[:_MAX_LISTED])}{more}" if listed else ""
