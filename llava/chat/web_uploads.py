"""The files that visitors of the page send: how much of them may lie on the server, and when they go."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SWEEP_SECONDS = 20.0
UNUSED_SECONDS = 300.0  # that a file stays which no visitor looks at
SILENCE_SECONDS = 30.0  # without a byte, after which an upload ends
MOST_BYTES = 16_000_000  # of any other request, such as a picture of the camera


class Uploads:
    """A folder in which Gradio puts uploads: a file at the top while it comes, a folder with the file afterwards.

    most_bytes, most_files: that may lie there. in_use: paths of the files that visitors look at.
    """

    def __init__(self, folder: Path, *, most_bytes: int, most_files: int, in_use: Callable[[], set[str]]):
        self.folder, self.most_bytes, self.most_files, self.in_use = folder, most_bytes, most_files, in_use
        self.coming = 0  # uploads under way
        self.promised = 0  # their bytes
        threading.Thread(target=self._sweep_always, daemon=True).start()

    def refusal(self, length: int) -> str:
        """Why a file of so many bytes has no room, "" when it has."""
        sizes = []
        for path in self._everything():
            with suppress(OSError):  # it has just gone
                sizes += [path.stat().st_size] if path.is_file() else []
        if sum(sizes) + self.promised + length > self.most_bytes or len(sizes) + self.coming >= self.most_files:
            return "There is no room for more videos at the moment; try again in a few minutes."
        return ""

    def sweep(self) -> None:
        """Removes what broke off, and what no visitor has looked at for long."""
        used, now = self.in_use(), time.time()
        for path in self._everything():
            left = path.parent == self.folder and not self.coming
            with suppress(OSError):  # it has just gone, or a folder is not empty
                age = now - path.lstat().st_mtime
                if path.is_dir() and age > UNUSED_SECONDS:
                    path.rmdir()
                elif path.is_file() and (left or (age > UNUSED_SECONDS and str(path) not in used)):
                    path.unlink()

    def _everything(self) -> list[Path]:
        """All files and folders; what goes meanwhile is left out."""
        walk = os.walk(self.folder)
        return [Path(place) / name for place, folders, names in walk for name in (*folders, *names)]

    def _sweep_always(self) -> None:
        while self.folder.exists():
            time.sleep(SWEEP_SECONDS)
            self.sweep()


class UploadGuard:
    """Refuses uploads that have no room, ends those that do not come, and removes what is left of them.

    Of other requests it refuses those of more than MOST_BYTES.
    """

    def __init__(self, app: ASGIApp, *, uploads: Uploads):
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stated = dict(scope.get("headers", ())).get(b"content-length", b"")
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith("/upload"):
            if stated.isdigit() and int(stated) > MOST_BYTES:
                await PlainTextResponse(f"A request may have {MOST_BYTES} bytes.", 413)(scope, receive, send)
            else:
                await self.app(scope, _at_most(MOST_BYTES, receive), send)
            return
        if not stated.isdigit():
            await PlainTextResponse("State the length of the upload.", 411)(scope, receive, send)
            return
        uploads, length = self.uploads, int(stated)
        if refusal := uploads.refusal(length):
            await PlainTextResponse(refusal, 503, {"Retry-After": "60"})(scope, receive, send)
            return

        async def in_time() -> Message:
            with anyio.move_on_after(SILENCE_SECONDS):
                return await receive()
            return {"type": "http.disconnect"}

        uploads.coming += 1
        uploads.promised += length
        try:
            await self.app(scope, in_time, send)
        finally:
            uploads.coming -= 1
            uploads.promised -= length
            await anyio.to_thread.run_sync(uploads.sweep)


def _at_most(most: int, receive: Receive) -> Receive:
    """receive, for which a client that sends more than so many bytes is gone."""
    came = 0

    async def counted() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        return {"type": "http.disconnect"} if came > most else message

    return counted
