"""Who may ask the server: those who have the token, on its own name, from its own pages; and not for more than a bounded time and size."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import time
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SENDING_S = 60.0
"""Seconds in which a request must have been sent."""
DISCARDING_S = 10.0
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cache-control": "no-cache",
}  # fmt: skip
NO_TOKEN = "this server answers only to the address that `auricle serve` printed, with its token"


@dataclass(frozen=True)
class Guard:
    """An ASGI application behind a token. `names` are the names of this machine that it is asked by (with `port`); `most_bytes` bounds what is sent."""

    app: ASGIApp
    token: str
    names: frozenset[str]
    port: int
    most_bytes: int
    any_address: bool = False

    @property
    def cookie(self) -> str:
        """Its name: cookies do not tell ports apart."""
        return f"auricle_{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await refused(scope, receive, _with_headers(send))
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            await _discard(receive)
            await PlainTextResponse(self._too_large + "\n", 413, {"connection": "close"})(scope, receive, _with_headers(send))
            return
        await self.app(scope, self._counted(receive), _with_headers(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        """What a request is answered with that is not let in."""
        if not self.is_own(headers.get("host", "")):
            return PlainTextResponse("this server has another name: open the address that `auricle serve` printed\n", 403)
        origin = headers.get("origin")
        if origin is not None and not (origin.startswith("http://") and self.is_own(origin.removeprefix("http://"))):
            return PlainTextResponse("asked from a page of another server\n", 403)
        is_elsewhere = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        if is_elsewhere and (headers.get("sec-fetch-mode") != "navigate" or scope["method"] != "GET"):
            return PlainTextResponse("asked from a page of another server\n", 403)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None:
            if not self._is_token(given):
                return PlainTextResponse(f"a wrong token: {NO_TOKEN}\n", 403)
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            answer = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            return answer
        if not self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, "")):
            return PlainTextResponse(f"no token: {NO_TOKEN}\n", 403)
        return None

    def is_own(self, host: str) -> bool:
        """Whether a Host is this server's, and not a name that somebody else made lead here."""
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "80")
        if port != str(self.port):
            return False
        if name.lower() in self.names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self.any_address  # nobody can make an address lead elsewhere

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    @property
    def _too_large(self) -> str:
        return f"more than {self.most_bytes / 1e6:g} MB: give less, or `auricle serve` a higher --upload-mb"

    def _counted(self, receive: Receive) -> Receive:
        """Receives what is sent, up to the bounds."""
        count, end, is_done = 0, time.monotonic() + SENDING_S, False

        async def counted() -> Message:
            nonlocal count, is_done
            if is_done:  # waits for whoever asked to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "sent too slowly", {"connection": "close"}) from None
            count += len(message.get("body", b""))
            is_done = not message.get("more_body", False)
            if count > self.most_bytes:
                if not is_done:
                    await _discard(receive)
                raise HTTPException(413, self._too_large, {"connection": "close"})
            return message

        return counted


async def _discard(receive: Receive) -> None:
    """Take what is still sent, for some seconds: who is sending would not read an answer before the end, and take a closed connection for a fault."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARDING_S):
            while (await receive()).get("more_body", False):
                pass


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
