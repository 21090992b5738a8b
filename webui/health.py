"""Is it well: for a load balancer, for a monitor, for a person."""

from __future__ import annotations

import ipaddress
import json
from importlib.metadata import PackageNotFoundError, version

from flask import Blueprint, g, request
from werkzeug.wrappers import Response

from gateway import queries, store
from webui.context import now, page, site

pages = Blueprint("health", __name__)


@pages.get("/healthz")
def alive() -> Response:
    """The process answers; nothing is looked at and nothing told."""
    return Response("ok\n", content_type="text/plain; charset=utf-8")


@pages.get("/readyz")
def ready() -> Response:
    """200 when everything does its work, else 503. Only one of us, or this machine, is told what is wrong."""
    issues = _issues()
    blocked = any(issue.blocks for issue in issues)
    said: dict[str, object] = {"ok": not blocked}
    if "account" in g or _from_here():
        said["issues"] = [{"name": issue.name, "words": issue.words, "blocks": issue.blocks} for issue in issues]
    return Response(json.dumps(said) + "\n", 503 if blocked else 200, content_type="application/json")


def _issues() -> tuple[queries.Issue, ...]:
    issues = queries.health(now())
    if not store.is_writable(now()):
        return (queries.Issue("database", "The database cannot be written."), *issues)
    return issues


def _from_here() -> bool:
    """Straight from this machine; what a proxy passes on comes from elsewhere."""
    passed_on = {"X-Forwarded-For", "Forwarded", "Via"} & {name.title() for name, _ in request.headers}
    try:
        return ipaddress.ip_address(request.remote_addr or "").is_loopback and not passed_on
    except ValueError:
        return False


@pages.get("/about")
def about() -> Response:
    """What runs here, and whether it is well."""
    try:
        release = version("ringback")
    except PackageNotFoundError:
        release = "not installed"
    return page("health/about.html", release=release, issues=_issues(), config=site().config)
