"""The parts of an instance that care for what is stored, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vectorpool.allowances.allowances import Allowances
from vectorpool.audit import Audit
from vectorpool.care.canary import Canary
from vectorpool.care.delivery import Delivery
from vectorpool.care.health import HealthChecks
from vectorpool.care.recovery import Recoveries
from vectorpool.care.users import UsedUsers
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.router import Router
from vectorpool.jobs.client import Jobs
from vectorpool.notifications import Notifications
from vectorpool.operating import CanaryView
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures


@dataclass(frozen=True)
class Care:
    """Health, recovery and notifications of an instance. ``canary`` is None where nothing listens."""

    used: UsedUsers
    notifications: Notifications
    health: HealthChecks
    recoveries: Recoveries
    canary: Canary | None
    delivery: Delivery
    settings: Settings

    def start(self, supervisor: Supervisor) -> None:
        """Begin the background tasks."""
        supervisor.start("webhooks of notifications", self.delivery.watch)
        if self.settings.health_interval_s:
            supervisor.start("health checks", self.health.watch)
            if self.canary is not None:
                supervisor.start("canary", self.canary.watch)


def open_care(
    router: Router,
    library: DocumentLibrary,
    audit: Audit,
    allowances: Allowances,
    settings: Settings,
    sources: Sources,
    figures: Figures,
    jobs: Jobs | None,
) -> Care:
    """Return the parts, not started. Raises Misconfigured for a URL that no webhook may have."""
    notifications = Notifications(library.bucket, settings, sources, figures)
    delivery = Delivery(notifications, settings, sources)
    used = UsedUsers()
    schedule: Callable[[str, str], None] = _nothing if jobs is None else partial(_schedule, jobs)
    recoveries = Recoveries(router, library, audit, notifications, sources, figures, schedule, settings)
    canary = None
    if jobs is not None:
        canary = Canary(jobs.url, jobs.key, notifications, settings, sources, figures)
    health = HealthChecks(
        router,
        library,
        notifications,
        settings,
        sources,
        figures,
        used=used,
        quota_of=lambda user_id: allowances.quota_of(user_id, None),
        on_damage=recoveries.recover_by_itself if settings.recover == "auto" else None,
        canary=(lambda: CanaryView("off")) if canary is None else canary.view,
    )
    figures.add_source(health.samples)
    return Care(used, notifications, health, recoveries, canary, delivery, settings)


def _schedule(jobs: Jobs, user_id: str, avatar_id: str) -> None:
    jobs.schedule(user_id, avatar_id, None)


def _nothing(user_id: str, avatar_id: str) -> None:
    """Leave it to the next sync: an instance without jobs has none to schedule."""
