"""Dispatch: an event is stamped, recorded, streamed and delivered."""

from crewbus.dispatch.async_handlers import AsyncHandlers, inside_async_handler
from crewbus.dispatch.callback_delivery import CallbackRegistration
from crewbus.dispatch.delivery import Deliverer
from crewbus.dispatch.dispatcher import Dispatcher
from crewbus.dispatch.faults import FaultReporter, recursed_too_deep
from crewbus.dispatch.hook_table import HookTable
from crewbus.dispatch.lane import UNRECORDED, OrderedLane, now
from crewbus.dispatch.plan import Plan
from crewbus.dispatch.redaction import withheld
from crewbus.dispatch.subscriptions import ABSENT, Subscription, Subscriptions
from crewbus.dispatch.unscoped import Unscoped

__all__ = [
    "ABSENT",
    "UNRECORDED",
    "AsyncHandlers",
    "CallbackRegistration",
    "Deliverer",
    "Dispatcher",
    "FaultReporter",
    "HookTable",
    "OrderedLane",
    "Plan",
    "Subscription",
    "Subscriptions",
    "Unscoped",
    "inside_async_handler",
    "now",
    "recursed_too_deep",
    "withheld",
]
