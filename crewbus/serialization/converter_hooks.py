"""What cattrs does not know by itself: decimals, UUIDs, pydantic models, types with functions of their own."""

from __future__ import annotations

import decimal
import uuid
from typing import TYPE_CHECKING, Any

from crewbus.events import type_of_value

if TYPE_CHECKING:
    import cattrs


def add_hooks(converter: cattrs.Converter) -> None:
    """Have ``converter`` write and read these types at any depth, wherever an annotation names them."""
    for textual in (decimal.Decimal, uuid.UUID):
        converter.register_unstructure_hook(textual, str)
        converter.register_structure_hook(textual, lambda text, cls: cls(text))
    converter.register_unstructure_hook_func(is_model, lambda model: model.model_dump(mode="json"))
    converter.register_structure_hook_func(is_model, lambda data, cls: cls.model_validate(data))
    converter.register_unstructure_hook_func(_has_functions, _unstructure)
    converter.register_structure_hook_func(_has_functions, _structure)


def is_model(cls: Any) -> bool:
    """Whether a class is a model of pydantic's, version 2, which is not imported to find out."""
    return isinstance(cls, type) and hasattr(cls, "model_validate") and hasattr(cls, "model_dump")


def _has_functions(cls: Any) -> bool:
    """Whether a class is registered with ``structure=`` and ``unstructure=``."""
    registered = type_of_value(cls) if isinstance(cls, type) else None
    return registered is not None and registered.structure is not None


def _unstructure(value: Any) -> Any:
    registered = type_of_value(type(value))
    assert registered is not None
    assert registered.unstructure is not None
    return registered.unstructure(value)


def _structure(data: Any, cls: type) -> Any:
    registered = type_of_value(cls)
    assert registered is not None
    assert registered.structure is not None
    return registered.structure(data)
