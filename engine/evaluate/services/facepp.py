"""Face++ over its API v3: a FaceSet, the nearest face of which names a photo.

The API is as in the references of Detect, Search, FaceSet Create, AddFace and Delete
(console.faceplusplus.com/documents). Every call is a POST with the key in its body; an error has `error_message`. A
label stays here, by the face's token: no call sends a name or number for a person. A free key may make about one call a
second, shared with all other users of free keys. Beyond that it gets CONCURRENCY_LIMIT_EXCEEDED.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from engine.evaluate.protocol import NOBODY
from engine.evaluate.services import web
from engine.evaluate.services.service import UNKNOWN, Load, Provider, ServiceError, hide
from engine.evaluate.services.upload import Limits

KEY, SECRET, ENDPOINT = "FACEPP_KEY", "FACEPP_SECRET", "FACEPP_ENDPOINT"
HOME = "https://api-us.faceplusplus.com"
"""Keys of the Chinese console are only known at https://api-cn.faceplusplus.com: set FACEPP_ENDPOINT."""
AT_ONCE = 5
"""Faces that one AddFace takes."""
PAUSES = (0.5, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32)
"""Seconds to wait before each further attempt of a call that came too soon."""
BUSY = "CONCURRENCY_LIMIT_EXCEEDED"


class FacePlusPlus:
    """One FaceSet. http: see `web.open_session`. wait: sleeps that many seconds."""

    name = "Face++"

    def __init__(
        self,
        key: str,
        secret: str,
        *,
        http: web.Session,
        endpoint: str = HOME,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Sends nothing."""
        hide(key, secret)
        self.http = http
        self.credentials = {"api_key": key, "api_secret": secret}
        self.root = f"{endpoint.rstrip('/')}/facepp/v3"
        self.faceset = f"fawkes-engine-{uuid.uuid4()}"
        self.where = f"FaceSet with outer_id {self.faceset} of {self.name} at {endpoint}"
        self.wait = wait
        self.labels: dict[str, int] = {}
        self.waiting: list[str] = []

    def open(self) -> None:
        """Create the FaceSet."""
        self._call("/faceset/create", outer_id=self.faceset)

    def enrol(self, label: int, photo: bytes) -> bool:
        """Detect, and put the largest face aside for the FaceSet, which takes five at once."""
        faces = self._call("/detect", photo)["faces"]
        if not faces:
            return False
        boxes = {face["face_token"]: face["face_rectangle"] for face in faces}
        token = max(boxes, key=lambda face_token: boxes[face_token]["width"] * boxes[face_token]["height"])
        self.labels[token] = label
        self.waiting.append(token)
        if len(self.waiting) == AT_ONCE:
            self._add()
        return True

    def ready(self) -> None:
        """Add what was put aside; faces of a FaceSet can be searched at once."""
        if self.waiting:
            self._add()

    def identify(self, photo: bytes) -> int:
        """The label of the most similar face, however low the confidence."""
        answer = self._call("/search", photo, outer_id=self.faceset, return_result_count="1")
        if not answer["faces"]:
            return NOBODY
        results = answer.get("results")
        return self.labels[results[0]["face_token"]] if results else UNKNOWN

    def close(self) -> None:
        """Delete the FaceSet with its faces."""
        try:
            self._call("/faceset/delete", outer_id=self.faceset, check_empty="0")
        except ServiceError as error:
            if "INVALID_OUTER_ID" not in str(error):
                raise
        finally:
            self.http.close()

    def _add(self) -> None:
        answer = self._call("/faceset/addface", outer_id=self.faceset, face_tokens=",".join(self.waiting))
        refused = answer.get("failure_detail")
        if refused:
            raise ServiceError(f"{self.name} did not add {len(refused)} faces to the FaceSet: {refused[0]['reason']}")
        self.waiting.clear()

    def _call(self, path: str, photo: bytes | None = None, **fields: str) -> dict[str, Any]:
        for pause in (*PAUSES, None):
            answer = web.send(
                self.http,
                self.name,
                "POST",
                self.root + path,
                data=self.credentials | fields,
                files=None if photo is None else {"image_file": ("photo", photo)},
            )
            body = web.content(answer)
            body = body if isinstance(body, dict) else {}
            if answer.status_code < 300 and "error_message" not in body:
                return body
            said = body.get("error_message") or answer.text[:200]
            # A status of 403 also stands for denied keys and empty accounts, so urllib3's Retry cannot do this.
            if said != BUSY or pause is None:
                break
            self.wait(pause)
        raise ServiceError(f"{self.name} answered {answer.status_code} to {path}: {said}")


def calls(load: Load) -> int:
    """Detect for each photo to learn from, AddFace for five of them, Search for each test, and the FaceSet's life."""
    return load.scraped + -(-load.scraped // AT_ONCE) + load.tests + 2


def missing() -> str | None:
    """Fault of the settings in the environment, in words; None if they can be used."""
    return web.unset((KEY, SECRET)) or web.insecure(_endpoint())


def connect() -> FacePlusPlus:
    """An adapter with the environment's key, secret and (FACEPP_ENDPOINT) endpoint."""
    return FacePlusPlus(os.environ[KEY], os.environ[SECRET], http=web.open_session(), endpoint=_endpoint())


def _endpoint() -> str:
    return os.environ.get(ENDPOINT) or HOME


PROVIDER = Provider(
    key="facepp",
    name=FacePlusPlus.name,
    terms=(
        "The photo files are sent to Megvii's Face++. Faces to learn from are kept in a FaceSet until it is deleted at "
        "the end; tokens of all faces that were looked at, test photos included, cannot be deleted and expire after 72 "
        "hours, says the service."
    ),
    usd=None,
    source="a free key costs nothing; for others see www.faceplusplus.com/v2/pricing-details",
    pace=1.0,
    limits=Limits(size=1_990_000, side=4096),
    package="requests",
    calls=calls,
    missing=missing,
    connect=connect,
)
"""Limits: 2 MB for the whole request, fields included; 4096 pixels a side; JPEG and PNG."""
