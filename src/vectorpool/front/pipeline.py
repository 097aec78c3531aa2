"""The order of the stages around the application.

1. ``RequestIdStage``: the context with the request's id; the id and safe headers in every response.
   ``TracingStage`` comes behind it if traces are on: a span of the request.
2. ``MeteringStage``: the request log and the counts, so that 401, 429 and 503 are logged and counted too.
3. ``BrowsersStage``: without tokens, foreign hosts and pages of other sites; pages that may call.
4. ``DrainingStage``: 503 while the instance shuts down.
5. ``BoundsStage``: ambiguous paths and wrong headers; the read options.
6. ``IdentityStage``: the caller, 401 and 403.
7. ``LimitsStage``: the number of requests under way, and the limits of users and tokens, 429 and 413.
8. ``LifetimeStage``: the deadline, and callers that are gone.
9. ``BodiesStage``: the bytes of bodies that are not answered yet, 429.
10. ``ShortPathStage``: queries, gets, counts and small writes of records, without the framework's router.
11. ``HeadStage``: HEAD below ``/api``, which the application has no routes for.
12. The application.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

from litestar import Litestar
from litestar.types import HTTPScope, LifeSpanScope, Receive, Scope, Send

from vectorpool.allowances.allowances import Allowances
from vectorpool.api.callers import Callers
from vectorpool.api.metrics import Scrape
from vectorpool.api.refusals import to_response
from vectorpool.api.service import Service
from vectorpool.front.bodies import BodiesStage
from vectorpool.front.bounds import BoundsStage
from vectorpool.front.browsers import BrowsersStage
from vectorpool.front.draining import DrainingStage
from vectorpool.front.head import HeadStage
from vectorpool.front.identity import IdentityStage
from vectorpool.front.lifetime import LifetimeStage
from vectorpool.front.limits import LimitsStage
from vectorpool.front.metering import MeteringStage
from vectorpool.front.request_id import RequestIdStage
from vectorpool.front.short_path import ShortPathStage
from vectorpool.front.stages import Stage
from vectorpool.front.tokens_file import TokensFile
from vectorpool.front.tracing import TracingStage
from vectorpool.identity.authority import Authority
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.spans import Tracer


class Pipeline:
    """The stages around an application, itself an ASGI application.

    What is no HTTP request (the start and the end of the application) goes to the application at once.
    """

    def __init__(
        self,
        app: Litestar,
        settings: Settings,
        callers: Callers,
        sources: Sources = SYSTEM,
        *,
        authority: Authority | None = None,
        figures: Figures | None = None,
        tracer: Tracer | None = None,
        allowances: Allowances | None = None,
    ) -> None:
        self.app = app
        self.figures = Figures() if figures is None else figures
        self.scrape = Scrape(lambda: app.state.get("service"), self.figures, sources)
        app.state.scrape = self.scrape
        service: Callable[[], Service] = lambda: app.state.service  # noqa: E731 - it may be opened later
        short_path = ShortPathStage(HeadStage(app), service, to_response, settings.max_body_bytes)
        self.bodies = BodiesStage(short_path, settings)
        self.allowances = allowances or Allowances(settings, sources)
        limits = LimitsStage(LifetimeStage(self.bodies), settings.max_requests, self.allowances)
        self.figures.add_source(limits.samples)
        self.identity = IdentityStage(limits, callers, authority)
        self.tokens = TokensFile(settings.tokens_file, self.identity, sources)
        self.draining = DrainingStage(BoundsStage(self.identity))
        browsers = BrowsersStage(self.draining, settings, lambda: self.identity.needs_token)
        self.metering = MeteringStage(
            browsers, sources, self.figures, slow_s=settings.slow_request_s, log_key=settings.log_key
        )
        traced: Stage = self.metering if tracer is None else TracingStage(self.metering, tracer, sources)
        self._first = RequestIdStage(traced, settings.request_timeout_s, sources)

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if _is_http(scope):
            await self._first(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _is_http(scope: Scope | LifeSpanScope) -> TypeGuard[HTTPScope]:
    kind: str = scope["type"]
    return kind == "http"
