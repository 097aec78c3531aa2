"""``/schema``: the OpenAPI document as JSON, and as a page that needs neither a network nor a script.

Litestar's pages load their code from a content network; an instance without internet would show nothing.
"""

from __future__ import annotations

import html
import json
from typing import Any, Final

from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from vectorpool.api.documentation import component_schemas

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "pre{background:#f4f4f6;padding:.7rem;overflow:auto;border-radius:4px}summary{cursor:pointer;padding:.25rem 0}"
    "code{font-family:ui-monospace,monospace}.m{display:inline-block;width:4.5rem;font-weight:600}"
    "details{border-bottom:1px solid #e4e4ea}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#17171a;color:#ddd}pre{background:#232328}}"
)
_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schemas of our bodies to litestar's document; doing it twice is harmless."""
    document.setdefault("components", {}).setdefault("schemas", {}).update(component_schemas())
    return document


class SchemaJson(JsonRenderPlugin):
    """The OpenAPI document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the document as JSON."""
        return super().render(request, complete(openapi_schema))


class SchemaPage(OpenAPIRenderPlugin):
    """The OpenAPI document for people."""

    def __init__(self) -> None:
        super().__init__(path="/", favicon="", style="")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page as HTML."""
        document = complete(openapi_schema)
        by_tag: dict[str, list[str]] = {}
        for path, item in document["paths"].items():
            for method in _METHODS:
                if operation := item.get(method):
                    by_tag.setdefault((operation.get("tags") or ["other"])[0], []).append(
                        _operation(method, path, operation)
                    )
        info = document["info"]
        body = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(parts)}" for tag, parts in sorted(by_tag.items()))
        schemas = "".join(
            f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code></summary>"
            f"{_pre(schema)}</details>"
            for name, schema in sorted(document["components"]["schemas"].items())
        )
        return (
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(info['title'])}</title>"
            f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
            f"<h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1>"
            f"<p>{html.escape(info.get('description') or '')}</p><p><a href='/schema/openapi.json'>openapi.json</a></p>"
            f"{body}<h2>Schemas</h2>{schemas}</body></html>"
        ).encode()


def _pre(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=1, ensure_ascii=False))}</pre>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(p['name'])}</code></td><td>{p['in']}</td>"
        f"<td>{html.escape(p.get('description') or '')}</td></tr>"
        for p in operation.get("parameters") or ()
    )
    parts = [f"<p>{html.escape(operation.get('description') or '')}</p>", f"<table>{rows}</table>" if rows else ""]
    for media, content in (operation.get("requestBody") or {}).get("content", {}).items():
        parts.append(f"<h4>Takes {html.escape(media)} {_link(content)}</h4>")
        if "example" in content:
            parts.append(_pre(content["example"]))
    for status, response in operation["responses"].items():
        parts.append(f"<h4>{html.escape(str(status))} {html.escape(response.get('description') or '')}</h4>")
        for content in (response.get("content") or {}).values():
            if "example" in content:
                parts.append(_link(content) + _pre(content["example"]))
    return (
        f"<details><summary><code><span class='m'>{method.upper()}</span>{html.escape(path)}</code> "
        f"{html.escape(operation.get('summary') or '')}</summary>{''.join(parts)}</details>"
    )


def _link(content: dict[str, Any]) -> str:
    name = str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
    return f"<a href='#{html.escape(name)}'><code>{html.escape(name)}</code></a>" if name else ""
