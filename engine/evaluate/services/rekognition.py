"""Amazon Rekognition through boto3: face vectors of one collection, the nearest one names a photo.

The API is that of the service model 2016-06-27 in botocore 1.44 (2026). It is called for CreateCollection, IndexFaces
with MaxFaces=1 (the best, then the largest face), SearchFacesByImage (the largest face) and DeleteCollection. The
nearest face names a photo, not user vectors (CreateUser, AssociateFaces). AssociateFaces drops faces that do not match
the others of their user, and would so throw out the cloaked ones before they are learnt.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from engine.evaluate.protocol import NOBODY
from engine.evaluate.services import web
from engine.evaluate.services.service import UNKNOWN, Load, Provider, ServiceError, hide
from engine.evaluate.services.upload import Limits

ATTEMPTS = 8
"""Attempts of a call: the SDK tries again after throttling and server errors, with exponential backoff."""
NO_FACE = "no faces in the image"
"""Words in the message of the InvalidParameterException that SearchFacesByImage answers if it finds no face. The same
code stands for any other wrong argument.
"""


class Rekognition:
    """One collection. client: of boto3 for "rekognition"."""

    name = "Amazon Rekognition"

    def __init__(self, client: Any) -> None:
        """Sends nothing."""
        self.client = client
        self.collection = f"fawkes-engine-{uuid.uuid4()}"
        self.where = f"Collection {self.collection} of {self.name} in {client.meta.region_name}"

    def open(self) -> None:
        """Create the collection."""
        self._call("create_collection")

    def enrol(self, label: int, photo: bytes) -> bool:
        """Index the largest face with the label as its ExternalImageId; faces of any quality."""
        answer = self._call(
            "index_faces", Image={"Bytes": photo}, ExternalImageId=str(label), MaxFaces=1, QualityFilter="NONE"
        )
        return bool(answer["FaceRecords"])

    def ready(self) -> None:
        """Indexed faces can be searched at once."""

    def identify(self, photo: bytes) -> int:
        """The label of the most similar indexed face, however low the similarity (FaceMatchThreshold=0, not the 80 %
        of the service's default).
        """
        try:
            answer = self._call("search_faces_by_image", Image={"Bytes": photo}, MaxFaces=1, FaceMatchThreshold=0)
        except ServiceError as error:
            if NO_FACE in str(error):
                return NOBODY
            raise
        matches = answer["FaceMatches"]
        return int(matches[0]["Face"]["ExternalImageId"]) if matches else UNKNOWN

    def close(self) -> None:
        """Delete the collection with its faces."""
        try:
            self._call("delete_collection")
        except ServiceError as error:
            if "ResourceNotFoundException" not in str(error):
                raise
        finally:
            self.client.close()

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        call = partial(getattr(self.client, operation), CollectionId=self.collection, **arguments)
        try:
            return web.within(ATTEMPTS * web.TOTAL, call)
        except TimeoutError:
            raise ServiceError(f"{self.name} has not answered within {ATTEMPTS * web.TOTAL:g} s") from None
        except (BotoCoreError, ClientError) as error:
            raise ServiceError(f"{self.name}: {error}") from error


def calls(load: Load) -> int:
    """One for each photo, and two for the collection (not charged)."""
    return load.scraped + load.tests + 2


def missing() -> str | None:
    """Settings that boto3's own chain (environment, profile, role) does not find. On a machine of AWS it may ask the
    local metadata service.
    """
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        if session.get_credentials() is None:
            return "there are no AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        if session.region_name is None:
            return "there is no AWS region (AWS_DEFAULT_REGION)"
    except BotoCoreError as error:
        return f"the AWS configuration cannot be used: {error}"
    return None


def connect() -> Rekognition:
    """An adapter with the environment's credentials, region and (AWS_ENDPOINT_URL_REKOGNITION) endpoint."""
    import boto3
    from botocore.config import Config

    credentials = boto3.Session().get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        hide(frozen.access_key, frozen.secret_key, frozen.token)
    config = Config(retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60)
    return Rekognition(boto3.client("rekognition", config=config))


PROVIDER = Provider(
    key="rekognition",
    name=Rekognition.name,
    terms=(
        "The photo files are sent to Amazon Web Services in the region of your configuration. Vectors of the faces to "
        "learn from are kept in a collection until it is deleted at the end; the service says that it keeps no image "
        "of these calls, but AWS may store what is sent to it to improve its services unless your organisation has "
        "opted out (AI services opt-out policy)."
    ),
    usd=0.001,
    source="group 1, first million images a month in us-east-1, as of December 2025: check aws.amazon.com/rekognition/"
    "pricing",
    pace=0.4,
    limits=Limits(size=5 * 1024 * 1024, side=10_000),
    package="boto3",
    calls=calls,
    missing=missing,
    connect=connect,
)
"""Limits: 5 MB as bytes (docs.aws.amazon.com/rekognition, "Guidelines and quotas"), JPEG and PNG. The side is ours."""
