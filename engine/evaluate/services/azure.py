"""Azure AI Face over REST v1.2: a large person group that is trained and identifies faces.

The API as in Azure/azure-rest-api-specs, specification/ai/data-plane/Face/stable/v1.2, and Microsoft's page "Azure AI
Face API error codes" (May 2024). Identification is a Limited Access feature: Microsoft gives it to customers it has
approved, and answers everybody else 403 with the inner code UnsupportedFeature.
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

ENDPOINT, KEY = "AZURE_FACE_ENDPOINT", "AZURE_FACE_KEY"
RECOGNITION = "recognition_04"
"""The newest recognition model (February 2021); the service's default is the oldest."""
DETECTION = "detection_03"
KEPT = 60
"""Seconds for which the service keeps the features of a test face: the shortest that it allows."""
TRAINING = 600
"""Seconds after which training that has not ended is given up."""
SECRET = "Ocp-Apim-Subscription-Key"
BYTES = {"Content-Type": "application/octet-stream"}


class AzureFace:
    """One large person group. endpoint: https://RESOURCE.cognitiveservices.azure.com. http: see `web.open_session`.

    wait: sleeps that many seconds.
    """

    name = "Azure AI Face"

    def __init__(
        self, endpoint: str, key: str, *, http: web.Session, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Sends nothing."""
        hide(key)
        self.http = http
        self.http.headers[SECRET] = key
        self.root = f"{endpoint.rstrip('/')}/face/v1.2"
        self.group = f"fawkes-engine-{uuid.uuid4()}"
        self.where = f"Large person group {self.group} of {self.name} at {endpoint}"
        self.wait = wait
        self.persons: dict[int, str] = {}

    def open(self) -> None:
        """Create the group."""
        self._call("PUT", self._path(), json={"name": self.group, "recognitionModel": RECOGNITION})

    def enrol(self, label: int, photo: bytes) -> bool:
        """Add a face to the label's person, who is created with the first.

        If there are several faces, the largest is meant.
        """
        if label not in self.persons:
            self.persons[label] = self._call("POST", self._path("/persons"), json={"name": str(label)})["personId"]
        add = self._path(f"/persons/{self.persons[label]}/persistedfaces")
        options = {"detectionModel": DETECTION}
        try:
            self._call("POST", add, params=options, data=photo, headers=BYTES)
        except ServiceError as error:
            if "No face detected" in str(error):
                return False
            if "more than 1 face" not in str(error):
                raise
            box = self._detect(photo)[0]["faceRectangle"]
            options["targetFace"] = ",".join(str(box[side]) for side in ("left", "top", "width", "height"))
            self._call("POST", add, params=options, data=photo, headers=BYTES)
        return True

    def ready(self) -> None:
        """Train, and wait until that has ended."""
        self._call("POST", self._path("/train"))
        begun = time.monotonic()
        for _ in range(TRAINING):
            if time.monotonic() - begun > TRAINING:
                break
            progress = self._call("GET", self._path("/training"))
            if progress["status"] == "succeeded":
                return
            if progress["status"] == "failed":
                raise ServiceError(f"{self.name}: training failed: {progress.get('message')}")
            self.wait(1.0)
        raise ServiceError(f"{self.name}: training has not ended after {TRAINING} s")

    def identify(self, photo: bytes) -> int:
        """The label of the best candidate, however low its confidence (confidenceThreshold=0, not the service's)."""
        faces = self._detect(photo)
        if not faces:
            return NOBODY
        asked = {
            "faceIds": [faces[0]["faceId"]],
            "largePersonGroupId": self.group,
            "maxNumOfCandidatesReturned": 1,
            "confidenceThreshold": 0,
        }
        candidates = self._call("POST", f"{self.root}/identify", json=asked)[0]["candidates"]
        labels = {person: label for label, person in self.persons.items()}
        return labels[candidates[0]["personId"]] if candidates else UNKNOWN

    def close(self) -> None:
        """Delete the group with its persons and faces."""
        try:
            self._call("DELETE", self._path())
        except ServiceError as error:
            if "LargePersonGroupNotFound" not in str(error):
                raise
        finally:
            self.http.close()

    def _path(self, rest: str = "") -> str:
        return f"{self.root}/largepersongroups/{self.group}{rest}"

    def _detect(self, photo: bytes) -> list[dict[str, Any]]:
        """The faces, the largest first."""
        options = {
            "detectionModel": DETECTION,
            "recognitionModel": RECOGNITION,
            "returnFaceId": "true",
            "faceIdTimeToLive": str(KEPT),
        }
        return self._call("POST", f"{self.root}/detect", params=options, data=photo, headers=BYTES)

    def _call(self, method: str, url: str, **arguments: Any) -> Any:
        answer = web.send(self.http, self.name, method, url, **arguments)
        body = web.content(answer)
        if answer.status_code < 300:
            return body
        error = body.get("error", {}) if isinstance(body, dict) else {}
        inner = error.get("innererror") or {}
        said = [error.get("code"), error.get("message"), inner.get("code"), inner.get("message")]
        told = ", ".join(str(part) for part in said if part) or answer.text[:200]
        hint = ""
        if "UnsupportedFeature" in (error.get("code"), inner.get("code")):
            hint = " (identification needs Microsoft's approval: https://aka.ms/facerecognition)"
        raise ServiceError(f"{self.name} answered {answer.status_code}: {told}{hint}")


def calls(load: Load) -> int:
    """One for each photo to learn from, two for a test (detect, identify), one for a person.

    The group takes four (create, train, ask whether that has ended, delete). A photo with several faces takes two more.
    """
    return load.scraped + 2 * load.tests + load.people + 4


def missing() -> str | None:
    """Fault of the settings in the environment, in words; None if they can be used."""
    return web.unset((ENDPOINT, KEY)) or web.insecure(os.environ[ENDPOINT])


def connect() -> AzureFace:
    """An adapter with the environment's endpoint and key."""
    return AzureFace(os.environ[ENDPOINT], os.environ[KEY], http=web.open_session())


PROVIDER = Provider(
    key="azure",
    name=AzureFace.name,
    terms=(
        "The photo files are sent to your Azure resource in its region. Features of the faces to learn from are kept "
        "in a large person group until it is deleted at the end, those of test photos for a minute; the service says "
        "that it keeps no image. Your subscription must be approved for identification (Limited Access)."
    ),
    usd=0.001,
    source="tier S0, first million calls a month, as of June 2019: check azure.microsoft.com/pricing",
    pace=0.4,
    limits=Limits(size=6 * 1024 * 1024, side=4096),
    package="requests",
    calls=calls,
    missing=missing,
    connect=connect,
)
"""Limits: 6 MB; the largest face that is found has 4096 pixels."""
