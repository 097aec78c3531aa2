"""What a handler may ask for by a parameter: the parts of the instance, the request's context, the caller."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation

from vectorpool.api.callers import Caller
from vectorpool.api.service import Service
from vectorpool.context import RequestContext

# Where the front keeps what belongs to one request, in the state of the ASGI scope.
CONTEXT_KEY: Final = "context"
CALLER_KEY: Final = "caller"

# The types of a handler's parameters. The framework need not validate what it is given here.
Svc = NamedDependency[SkipValidation[Service]]
Ctx = NamedDependency[SkipValidation[RequestContext]]
By = NamedDependency[SkipValidation[Caller]]


def provide_service(state: State) -> Service:
    """Return the parts of the instance. They are there after startup."""
    service: Service = state.service
    return service


def provide_context(request: Request[Any, Any, Any]) -> RequestContext:
    """Return the context of the request."""
    context: RequestContext = request.scope["state"][CONTEXT_KEY]
    return context


def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """Return the caller of the request."""
    caller: Caller = request.scope["state"][CALLER_KEY]
    return caller


DEPENDENCIES: Final = {
    "service": Provide(provide_service, sync_to_thread=False),
    "context": Provide(provide_context, sync_to_thread=False),
    "caller": Provide(provide_caller, sync_to_thread=False),
}
