"""Language models behind an address: any server with OpenAI's chat completions."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ingest.language.models import CUT_OFF, MARKUP, MAX_TOKENS, Reply, judged
from warehouse.store import UserError


class _Unanswered(Exception):
    """A prompt that the server would not or could not answer."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key must not travel to an address that the user did not give."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _is_address(url: str) -> bool:
    """Whether a text is a server's address, without a name, key or question in it."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # ValueError where it is none
    except ValueError:
        return False
    printable = url.isascii() and url.isprintable() and " " not in url
    return (
        printable and parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.password or parts.query)
    )


class Endpoint:
    """A server with OpenAI's chat completions: several prompts at once, patient with a server that is busy.

    The key is read from an environment variable when prompts are sent and kept nowhere. `extra` goes into every request; a None or an
    empty text in it takes a field out (for servers that refuse `seed`, say). A server that says it wants `max_completion_tokens` gets
    it. A prompt that stays unanswered (no usable answer, or one that takes longer than `timeout_s`, in all attempts) has a reply with
    an empty `raw`; only when all stay so is it an error.
    """

    device = "cpu"
    """No GPU would help."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = MAX_TOKENS,
        extra: Mapping[str, object] | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        attempts: int = 5,
        pause_s: float = 1.0,
    ) -> None:
        """`url` up to and with /v1; the pause after a failure doubles with every attempt, or is what the server asks for, up to a minute."""
        if not _is_address(url):
            raise UserError(f"{url!r} is no address of a server: give it like http://localhost:8000/v1, a key by key_variable")
        self.url = url.rstrip("/").removesuffix("/chat/completions")
        self.name, self.key_variable = model, key_variable
        self.concurrency, self.timeout_s, self.attempts, self.pause_s = concurrency, timeout_s, attempts, pause_s
        settings = {"model": model, "temperature": temperature, "seed": seed, "max_tokens": max_tokens} | dict(extra or {})
        self.settings = {name: value for name, value in settings.items() if value not in (None, "")}
        try:
            json.dumps(self.settings, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise UserError("extra holds what JSON cannot: give texts, numbers, true or false, and lists and tables of them") from None
        self._newer = False  # the server wants max_completion_tokens for max_tokens

    @property
    def parameters(self) -> dict[str, object]:
        """What identifies the replies."""
        return {"engine": "endpoint", "url": self.url} | self.settings

    def complete(self, prompts: Sequence[str]) -> list[Reply]:
        """One reply per prompt. Raises UserError when the server is not there, refuses the key or the model, or answers no prompt."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._authorization()}
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                replies = list(pool.map(lambda prompt: self._reply(prompt, headers), prompts))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if replies and not any(reply.raw for reply in replies) and (reason := replies[0].reason) and reason.startswith("no answer"):
            raise UserError(f"{self.url}: {reason}")
        return replies

    def _authorization(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UserError(f"the environment variable {self.key_variable} does not hold a key for {self.url}: set it")
        return {"Authorization": f"Bearer {key}"}

    def _reply(self, prompt: str, headers: dict[str, str]) -> Reply:
        while True:
            newer = self._newer
            sent = {("max_completion_tokens" if newer and name == "max_tokens" else name): value for name, value in self.settings.items()}
            body = json.dumps(sent | {"messages": [{"role": "user", "content": prompt}]}).encode()
            try:
                return judged(self._answer(urllib.request.Request(f"{self.url}/chat/completions", body, headers)))
            except _Unanswered as error:
                if newer or "max_tokens" not in self.settings or "max_completion_tokens" not in str(error):
                    return Reply(None, "", f"no answer: {error}")
                self._newer = True

    def _answer(self, request: urllib.request.Request) -> str:
        opener = urllib.request.build_opener(_NoRedirect)
        reason, gone = "", False
        for attempt in range(self.attempts):
            wait_s = self.pause_s * 2**attempt
            try:
                with opener.open(request, timeout=self.timeout_s) as response:
                    return _content(response.read(10_000_000))
            except urllib.error.HTTPError as error:
                reason, gone = f"HTTP {error.code} {_message(error)}".strip(), error.code == 429
                if error.code in (301, 302, 303, 307, 308, 401, 403, 404, 405):
                    raise UserError(f"{self.url} answers {reason}: check the address, the model {self.name!r} and the key") from None
                if error.code < 500 and error.code not in (408, 409, 425, 429):
                    raise _Unanswered(reason) from None
                asked_for = error.headers.get("Retry-After", "")
                wait_s = min(60.0, float(asked_for)) if asked_for.isdecimal() else wait_s
            except TimeoutError:
                reason, gone = f"none within {self.timeout_s:g} s", False
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
                cause = getattr(error, "reason", None) or error
                late = isinstance(cause, TimeoutError)
                reason, gone = (f"none within {self.timeout_s:g} s" if late else f"{cause}" or type(cause).__name__), not late
            except _Unanswered as error:
                reason, gone = str(error), False
            if attempt + 1 < self.attempts:
                time.sleep(wait_s)
        if gone:
            raise UserError(
                f"{self.url} does not answer ({reason}) after {self.attempts} attempts: is the server there and not overloaded?"
            )
        raise _Unanswered(reason)


def _content(body: bytes) -> str:
    """The reply's text in a response; raises _Unanswered for one that is no chat completion."""
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Unanswered(f"not a chat completion: {body[:80]!r}") from None
    if choice.get("finish_reason") == "content_filter":
        raise _Unanswered("withheld by the server's filter")
    if not isinstance(content, str):
        raise _Unanswered("a chat completion without text")
    return content + CUT_OFF if choice.get("finish_reason") == "length" and content.strip() else content


def _message(error: urllib.error.HTTPError) -> str:
    """The first words of what a server says of an error."""
    try:
        body = error.read(10_000).decode("utf-8", "replace")
        found = json.loads(body)["error"]
        text = str(found.get("message") if isinstance(found, dict) else found)
    except (OSError, http.client.HTTPException):
        return ""
    except (ValueError, LookupError, TypeError, RecursionError):
        text = MARKUP.sub(" ", body)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:160]
