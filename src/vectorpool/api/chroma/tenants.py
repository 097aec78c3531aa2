"""Tenants and databases: users, and the namespaces of their collections."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from litestar import Controller, Response, delete, get, patch, post

from vectorpool import commands
from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.chroma.documentation import operation
from vectorpool.api.chroma.requests import (
    DATABASE_PATH,
    Database,
    Tenant,
    ask,
    check_database_name,
    creates_database,
    has_tenant,
    number_of,
    reply,
    small_body,
)
from vectorpool.api.refusals import chroma_status
from vectorpool.api.responses import pass_on
from vectorpool.errors import ChromaRefusal, InvalidId, UserNotFound
from vectorpool.names import DEFAULT_DATABASE, DEFAULT_TENANT, avatar_of_database, check_user_id

_MIN_TENANT_CHARS = 3


class NameBody(msgspec.Struct):
    """What a new tenant or database is called."""

    name: str


class UpdateTenantBody(msgspec.Struct):
    """A tenant's resource name, which a single-node server does not keep."""

    resource_name: str


class Tenants(Controller):
    """Tenants and databases."""

    tags = ("chroma",)

    @post("/tenants", status_code=200, summary="Create a tenant", operation_class=operation(takes=NameBody))
    async def chroma_create_tenant(
        self,
        request: Call,
    ) -> Response[Any]:
        """Create a user's vectorstore, with nothing in it."""
        name = (await small_body(request, NameBody)).name
        if len(name) < _MIN_TENANT_CHARS:
            shown = name.replace('"', "'")
            raise ChromaRefusal(
                f'Validation error: name: Validation error: length [{{"value": String("{shown}"), "min": Number(3)}}]',
                status=400,
            )
        if name == DEFAULT_TENANT:
            raise ChromaRefusal(f"Tenant [{name}] already exists", status=409)
        request.caller.check(check_user_id(name))
        command = commands.ChromaCreateTenant(bare=not request.service.settings.auto_create)
        return pass_on(await ask(request, name, command))

    @get("/tenants/{tenant:str}", summary="Get a tenant", operation_class=operation())
    async def chroma_get_tenant(self, request: Call, tenant: Tenant) -> Response[Any]:
        """Get a tenant; with auto_create every user is one."""
        check_user_id(tenant)
        if not await has_tenant(request, tenant):
            raise ChromaRefusal(f"Tenant [{tenant}] not found", status=404)
        return reply({"name": tenant, "resource_name": None})

    @patch("/tenants/{tenant:str}", summary="Update a tenant", operation_class=operation(takes=UpdateTenantBody))
    async def chroma_update_tenant(self, request: Call, tenant: Tenant) -> Response[Any]:
        """Take a resource name, and keep none, like Chroma's single-node server."""
        await small_body(request, UpdateTenantBody)
        check_user_id(tenant)
        return reply({})

    @post(
        "/tenants/{tenant:str}/databases",
        status_code=200,
        summary="Create a database",
        operation_class=operation(takes=NameBody),
    )
    async def chroma_create_database(self, request: Call, tenant: Tenant) -> Response[Any]:
        """Create a database."""
        name = check_database_name((await small_body(request, NameBody)).name)
        check_user_id(tenant)
        if not await has_tenant(request, tenant):
            raise ChromaRefusal(f"Tenant [{tenant}] not found", status=404)
        return pass_on(await ask(request, tenant, commands.ChromaCreateDatabase(database=name)))

    @get("/tenants/{tenant:str}/databases", summary="List databases", operation_class=operation())
    async def chroma_list_databases(self, request: Call, tenant: Tenant) -> Response[Any]:
        """List databases in the order of their creation; ``limit`` and ``offset`` page."""
        command = commands.ChromaListDatabases(
            limit=number_of(request, "limit"), offset=number_of(request, "offset") or 0
        )
        check_user_id(tenant)
        try:
            return pass_on(await ask(request, tenant, command))
        except UserNotFound:
            # A token that may only read creates nothing.
            if not request.caller.may_write or not await has_tenant(request, tenant):
                return reply([])
        await ask(
            request,
            tenant,
            commands.ChromaCreateDatabase(database=DEFAULT_DATABASE, exist_ok=True),
        )
        return pass_on(await ask(request, tenant, command))

    @get(DATABASE_PATH, summary="Get a database", operation_class=operation())
    async def chroma_get_database(self, request: Call, tenant: Tenant, database: Database) -> Response[Any]:
        """Get a database; with auto_create the first touch creates the user's own, and an avatar's."""
        command = commands.ChromaGetDatabase(database=database)
        try:
            missing = f"Database [{database}] not found. Are you sure it exists?"
            return pass_on(await ask(request, tenant, command, missing))
        except ChromaRefusal as error:
            if chroma_status(error) != 404:
                raise
            # Chroma's own tenant has its database from the beginning, though nothing of it is stored yet.
            is_untouched = isinstance(error.__cause__, UserNotFound) and tenant == DEFAULT_TENANT
            # A token that may only read creates nothing.
            if not request.caller.may_write:
                raise
            if not creates_database(request.service, database) and not (is_untouched and database == DEFAULT_DATABASE):
                raise
        made = await ask(request, tenant, commands.ChromaCreateDatabase(database=database, exist_ok=True))
        return pass_on(made)

    @delete(DATABASE_PATH, status_code=200, summary="Delete a database", operation_class=operation())
    async def chroma_delete_database(self, request: Call, tenant: Tenant, database: Database) -> Response[Any]:
        """Delete a database with its collections; with an avatar's, what is kept of its documents goes too."""
        missing = f"Database [{database}] not found"
        await ask(request, tenant, commands.ChromaGetTenant(), missing)
        async with audited(request, "delete-database", tenant, database=database):
            answer = await ask(request, tenant, commands.ChromaDeleteDatabase(database=database))
        if (avatar_id := avatar_of_database(database)) is not None:
            # A database may have a name that no avatar can have.
            with contextlib.suppress(InvalidId):
                await request.context.within(request.service.library.discard_kept(tenant, avatar_id), changes=True)
        return pass_on(answer)
