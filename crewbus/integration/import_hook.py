"""Import hooks: wrapt calls a function after a module is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import wrapt


class ImportHook:
    """Calls ``call()`` after the next import of ``module``, in the thread that imports it.

    If ``call`` raises, the import fails with its error, and the next import calls it again.
    wrapt cannot unregister a hook, so ``call`` must do nothing once it is no longer wanted.
    """

    def __init__(self, module: str, call: Callable[[], None]) -> None:
        self._module = module
        self._call = call
        self._registered = False

    def module_imported(self) -> bool:
        """Whether the module is imported; waits if another thread is importing it."""
        if sys.modules.get(self._module) is None:
            return False
        importlib.import_module(self._module)
        return True

    def register(self) -> None:
        """Ask for the call, which comes at once if the module was imported meanwhile. Do not hold a lock.

        Registering again before the import has no effect.
        """
        if not self._registered:
            wrapt.register_post_import_hook(self._imported, self._module)
            # False if a thread began the import meanwhile; a second registration then does no harm.
            self._registered = sys.modules.get(self._module) is None

    def _imported(self, module: object) -> None:
        self._registered = False
        self.module_imported()  # wrapt also calls for a module that another thread is still importing
        try:
            self._call()
        except BaseException:
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                self._register_again()
            raise

    def _register_again(self) -> None:
        """Ask for the call after the next import, because this one fails."""
        sys.modules.pop(self._module, None)  # as importlib does next; wrapt calls at once for a module that is there
        self.register()
