"""A function as a step: its name, its annotations, and what distinguishes its calls."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from crewbus import serialization
from crewbus._util import external_stacklevel, is_async, is_text, name_of
from crewbus.durability.failures import Raises
from crewbus.durability.nested_runs import digest
from crewbus.exceptions import StepError, StepWarning, text_of

if TYPE_CHECKING:
    from crewbus.durability.retries import AnyStep, Retries

Key = str | Callable[..., str]
"""A step's key: text, or a function that is called with the step's arguments and returns it."""


class CallKey(NamedTuple):
    """What distinguishes a call of a step from others of its name."""

    text: str
    opaque: tuple[str, ...] = ()
    """The arguments that have no fingerprint, each with its type and the reason."""
    given: bool = False
    """Whether it is a key that was given, and no digest of the arguments."""

    @property
    def unique(self) -> str:
        """Its text, which a given key and a digest do not have in common."""
        return f"={self.text}" if self.given else self.text


class StepFunction:
    """A function as a step."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        key: Key | None = None,
        raises: Raises | type[Exception] = (),
        module: str = "",
    ) -> None:
        if not is_text(name):
            raise StepError(f"a step has a name; got {name!r}")
        if not callable(function):
            raise StepError(f"step {name!r} calls a function; {function!r} can't be called")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise StepError(
                f"step {name!r}: {name_of(function)} is a generator function, of which there is no result to record: "
                "call bus.chunk(text) where it yields, and return"
            )
        if not (key is None or is_text(key) or callable(key)):
            raise StepError(f"step {name!r}: a key is a text, or a function of the arguments; got {key!r}")
        self.name = name
        self.unique_name = f"{module}:{name}"
        """What identifies the function: with its module, unless its name was chosen."""
        self.function = function
        self.raises = _checked_raises(name, raises)
        """The exceptions that come back as themselves, besides the registered ones."""
        self.is_async = is_async(function)
        self.retries: Retries | None = None
        """How it is tried again; None: it is called once."""
        self._key = key

    def call(self, step: AnyStep | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, in ``step`` or outside any run; of an async one, a coroutine that does."""
        if self.retries is None:
            return self.function(*args, **kwargs)
        return (self.retries.acall if self.is_async else self.retries.call)(step, args, kwargs)

    @cached_property
    def annotation(self) -> Any:
        """What the function is annotated to return; Any if that is unknown."""
        return return_annotation(self.function)

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.function)
        except (TypeError, ValueError):  # some built-ins have none
            return None

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallKey:
        """What distinguishes this call from others: the key as given, or else a digest of the arguments."""
        if isinstance(self._key, str):
            return CallKey(self._key, given=True)
        if self._key is not None:
            text = self._key(*args, **kwargs)
            if not is_text(text):
                raise StepError(f"step {self.name!r}: its key= returned {text!r}; a key is a text that is not empty")
            return CallKey(text, given=True)
        named = self._named(args, kwargs)
        if not named:
            return CallKey("")
        forms, opaque = list[Any](), list[str]()
        for name, value in sorted(named.items()):
            try:
                forms.append([name, serialization.canonical(value)])
            except Exception as error:  # arguments may raise when they are inspected
                opaque.append(f"{name!r}, a {type(value).__qualname__} ({text_of(error)})")
        return CallKey("" if opaque else digest(forms), tuple(opaque))

    def warn_if_changed(self, key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Warn if the call changed its arguments, of which ``key`` was made before it."""
        if self._key is None and self.key(args, kwargs).text != key:
            warnings.warn(
                f"step {self.name!r} changed its arguments: after a resume they are as before the call, since the "
                "step is not called again. Return what it changes",
                StepWarning,
                stacklevel=external_stacklevel(),
            )

    @cached_property
    def _positional(self) -> tuple[list[str], int]:
        """The names of the parameters, if all may be given by position, and how many of these must be given."""
        parameters = [] if self._signature is None else list(self._signature.parameters.values())
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if not all(one.kind in plain for one in parameters):
            return [], 0
        return [one.name for one in parameters], sum(one.default is inspect.Parameter.empty for one in parameters)

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not args and not kwargs:
            return {}
        names, required = self._positional
        if not kwargs and required <= len(args) <= len(names):  # as `bind`, which takes longer
            return dict(zip(names, args, strict=False))
        try:
            if self._signature is not None:
                return self._signature.bind(*args, **kwargs).arguments
        except TypeError:  # the call itself will raise it
            pass
        return {"*": args, "**": kwargs} if args or kwargs else {}


def return_annotation(function: Callable[..., Any]) -> Any:
    """What a function is annotated to return; Any if that is unknown."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except Exception:  # names that do not exist at run time, or an object without annotations
        return Any


def _checked_raises(name: str, raises: Any) -> Raises:
    classes = raises if isinstance(raises, tuple) else (raises,)
    if not all(isinstance(cls, type) and issubclass(cls, Exception) for cls in classes):
        raise StepError(f"step {name!r}: raises= takes a subclass of Exception, or a tuple of them; got {raises!r}")
    return classes
