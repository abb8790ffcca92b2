"""How views become answers: HTML from templates, or JSON, with the headers that keep a page to itself."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from crewbus_http.json_response import json_response
from crewbus_http.page import text
from crewbus_http.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TOKEN: Final = "csrf_token"
"""The name of the form field that has the token."""
COOKIE: Final = "crewbus_csrf"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline, and nothing from another host."""
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without one, a browser does not say where a form comes from
    "cache-control": "no-store",
    "vary": "accept, cookie",
}


def _finalize(value: Any) -> Any:
    """What an expression of a template becomes. Markup of our own is no plain `str`."""
    return text.visible(value) if type(value) is str else value


def environment() -> Environment:
    """The templates. All that they show is escaped, and what a browser would reorder or hide is spelled out."""
    templates = Environment(
        loader=PackageLoader("crewbus_http.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    templates.filters |= {
        "one_line": text.one_line,
        "duration": text.duration,
        "moment": text.moment,
        "money": text.money,
        "count": text.count,
        "pretty": pretty,
    }
    templates.globals["parts"] = templates.get_template("parts.html").module
    return templates


def pretty(value: Any) -> str:
    """JSON to read and to edit. It has no character that would be hidden or reorder others."""
    try:
        shown = json.dumps(value, indent=2, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return "".join(one if one.isprintable() or one == "\n" else f"\\u{ord(one):04x}" for one in shown)


def wants_json(request: Request) -> bool:
    """Whether the client asks for the page as JSON."""
    if request.url.path.endswith(".json"):
        return True
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


class Renderer:
    """Renders the templates of the page."""

    def __init__(self, *, write: bool) -> None:
        self._templates = environment()
        self._write = write

    def fragment(self, template: str, block: str, view: Mapping[str, Any], base: str, token: str) -> str:
        """One block of a template."""
        chosen = self._templates.get_template(template)
        context = chosen.new_context({**self._common(base, token), **view})
        return "".join(chosen.blocks[block](context))

    def answer(self, request: Request, template: str, view: Mapping[str, Any], as_json: Any) -> Response:
        """A page, in the form that the client asks for."""
        if wants_json(request):
            return json_response(as_json, headers=HEADERS)
        token = token_of(request) or secrets.token_urlsafe(24)
        base = base_of(request)
        content = self._templates.get_template(template).render({**self._common(base, token), **view})
        response = HTMLResponse(content, headers=HEADERS)
        if token != token_of(request):
            response.set_cookie(
                COOKIE, token, path=base, httponly=True, samesite="strict", secure=request.url.scheme == "https"
            )
        return response

    def _common(self, base: str, token: str) -> dict[str, Any]:
        return {"base": base, "write": self._write, "token": token, "token_name": TOKEN}


def base_of(request: Request) -> str:
    """The path of the page, wherever the application is mounted."""
    return f"{request.scope.get('root_path', '')}/ui"


def token_of(request: Request) -> str:
    """The token of the client; empty: it has none."""
    return request.cookies.get(COOKIE, "")


async def checked_form(request: Request) -> dict[str, str]:
    """The fields of a form; raises `Problem` unless a page of ours sent it."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Problem("unsupported-media-type")
    try:
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise Problem("malformed") from None
    token = token_of(request)
    if not token or not secrets.compare_digest(form.get(TOKEN, "").encode(), token.encode()):
        raise Problem("cross-site", "the form is not of this page, or too old: load the page again")
    return form
