"""TARGET: ``module:callable`` or ``path.py:callable``, found, loaded and looked at."""

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
from typing import Any

import attrs

from crewbus.cli.errors import describe
from crewbus.cli.input import Call
from crewbus.exceptions import InputError, TargetError

_SHOWN = 8  # how many names an error message lists


@attrs.frozen
class Target:
    """What a run calls."""

    name: str
    """Its name, dotted where it is an attribute of one; the name of its runs too."""
    function: Callable[..., Any]
    signature: inspect.Signature | None
    """None where it can't be told, as of some builtins."""

    def check(self, call: Call, given: str | None = None) -> None:
        """Raise `InputError` if the target can't be called so; ``given`` says where the arguments come from."""
        if self.signature is None:
            return
        try:
            self.signature.bind(*call.args, **call.kwargs)
        except TypeError as error:
            place = given or call.place or ("--arg" if call.kwargs else "neither --input nor --arg is given")
            raise InputError(f"{place}: {self.name}{self.signature}: {error}") from None


def resolve(text: str) -> Target:
    """The target that ``text`` names, its module loaded; raises `TargetError` naming what is wrong."""
    location, _, path = text.rpartition(":")
    if not location or not all(part.isidentifier() for part in path.split(".")):
        raise TargetError(f"TARGET is module:callable or path.py:callable; got {text!r}")
    found = _walk(_module(location), path, location)
    if not callable(found):
        raise TargetError(f"{text} can't be called: it is of the type {type(found).__qualname__}")
    function = _plain(found)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TargetError(f"{text} is a generator function: call crewbus.chunk(text) where it yields, and return")
    return Target(path, function, _signature(found))


def load(text: str) -> Any:
    """The module, or what it holds, that ``module``, ``path.py`` or either with ``:name`` means; see `resolve`."""
    location, colon, path = text.rpartition(":")
    if not colon:
        return _module(text)
    return _walk(_module(location), path, location)


def _plain(found: Callable[..., Any]) -> Callable[..., Any]:
    # Of an object with a __call__ only that method shows whether it is async.
    call = getattr(found, "__call__", None)  # noqa: B004 - the method itself is wanted
    return call if inspect.ismethod(call) and not inspect.isclass(found) else found


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


# Modules


def _module(location: str) -> ModuleType:
    return _load_file(Path(location)) if location.endswith(".py") else _import(location)


def _import(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(
            f"{name!r} is no module's name, and a file's ends in .py: TARGET is module:callable or path.py:callable"
        )
    _prefer(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            here = [module.name for module in pkgutil.iter_modules([os.curdir])]
            raise TargetError(f"there is no module {error.name!r}{_hint(error.name, here)}") from None
        raise _unloadable(name, error) from error
    except (Exception, SystemExit) as error:
        raise _unloadable(name, error) from error


def _load_file(path: Path) -> ModuleType:
    file = path.absolute()
    if not file.is_file():
        there = [str(path.with_name(other.name)) for other in sorted(file.parent.glob("*.py"))]
        raise TargetError(f"there is no file {str(path)!r}{_hint(str(path), there)}")
    name = file.stem
    if name in sys.modules:
        return _loaded(name, file, path)
    _prefer(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Pickling, dataclasses and string annotations look a class's module up here.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, (Exception, SystemExit)):
            raise _unloadable(str(path), error) from error
        raise
    return sys.modules.get(name, module)


def _loaded(name: str, file: Path, path: Path) -> ModuleType:
    module = sys.modules[name]
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != file.resolve():
        raise TargetError(
            f"{path}: the module {name!r} is loaded already, from {origin or 'the interpreter'}: rename the file"
        )
    return module


def _prefer(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


def _unloadable(name: str, error: BaseException) -> TargetError:
    return TargetError(f"{name} can't be imported: {describe(error)}")


# Attributes


def _walk(module: ModuleType, path: str, location: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = [name for name in dir(found) if not name.startswith("_")]
            callables = [name for name in public if _is_own(found, name)]
            raise TargetError(f"{location} has no {part!r}{_hint(part, public, callables)}") from None
        except Exception as error:
            raise TargetError(f"{location}: {part!r} can't be had: {describe(error)}") from error
        location = f"{location}.{part}" if found is not module and not isinstance(found, ModuleType) else location
    return found


def _is_own(owner: Any, name: str) -> bool:
    value = inspect.getattr_static(owner, name, None)
    home = owner.__name__ if isinstance(owner, ModuleType) else None
    return callable(value) and (home is None or getattr(value, "__module__", None) == home)


def _hint(name: str, names: Iterable[str], otherwise: Iterable[str] = ()) -> str:
    near = difflib.get_close_matches(name, list(names), 3)
    if near:
        return f": did you mean {' or '.join(near)}?"
    there = list(otherwise)
    more = ", ..." if len(there) > _SHOWN else ""
    return f"; there are {', '.join(there[:_SHOWN])}{more}" if there else ""
