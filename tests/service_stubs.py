"""Cloud services that run here: HTTP on 127.0.0.1 in the documented wire formats, scripted by what photos look like."""

from __future__ import annotations

import base64
import email
import email.policy
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

Answer = tuple[int, Any]


class Request(NamedTuple):
    """What came. path: without the query. fields: of the query, or of the form."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> dict[str, bytes]:
        kind = self.headers["content-type"]
        if kind.startswith("application/x-www-form-urlencoded"):
            return {key: value.encode() for key, value in parse_qsl(self.body.decode())}
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + self.body, policy=email.policy.HTTP).iter_parts()
        fields: dict[str, bytes] = {}
        for part in parts:
            name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            assert isinstance(name, str)
            assert isinstance(content, bytes)
            fields[name] = content
        return fields


@dataclass
class Stub:
    """looks: by the bytes of a photo who is on it, in order of size; nobody for an empty list. Faces are alike if they
    look the same. first: answers that are given before any other, by operation.
    """

    looks: dict[bytes, list[str]]
    first: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, Request]] = field(default_factory=list)
    enrolled: list[tuple[str, str]] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    url: str = ""

    def operation(self, request: Request) -> str:
        raise NotImplementedError

    def answer(self, operation: str, request: Request) -> Answer:
        raise NotImplementedError

    def handle(self, request: Request) -> Answer:
        operation = self.operation(request)
        self.requests.append((operation, request))
        waiting = self.first.get(operation)
        return waiting.pop(0) if waiting else self.answer(operation, request)

    def drop(self, collection: str) -> None:
        self.open.remove(collection)
        self.enrolled.clear()

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.requests]

    def seen(self, operation: str) -> list[Request]:
        return [request for name, request in self.requests if name == operation]


class RekognitionStub(Stub):
    """AWS JSON 1.1: the operation in X-Amz-Target, errors as {"__type", "Message"}."""

    def operation(self, request: Request) -> str:
        return request.headers["x-amz-target"].removeprefix("RekognitionService.")

    def answer(self, operation: str, request: Request) -> Answer:
        asked = request.json()
        collection = asked["CollectionId"]
        if operation == "CreateCollection":
            self.open.add(collection)
            return 200, {"StatusCode": 200, "CollectionArn": f"aws:rekognition:{collection}", "FaceModelVersion": "7.0"}
        if collection not in self.open:
            return 400, {"__type": "ResourceNotFoundException", "Message": "The collection id is not found"}
        if operation == "DeleteCollection":
            self.drop(collection)
            return 200, {"StatusCode": 200}
        faces = self.looks[base64.b64decode(asked["Image"]["Bytes"])]
        if operation == "IndexFaces":
            self.enrolled += [(asked["ExternalImageId"], face) for face in faces[:1]]
            records = [{"Face": {"FaceId": "1", "ExternalImageId": asked["ExternalImageId"]}} for _ in faces[:1]]
            return 200, {"FaceRecords": records, "UnindexedFaces": [], "FaceModelVersion": "7.0"}
        if not faces:
            message = "There are no faces in the image. Should be at least 1."
            return 400, {"__type": "InvalidParameterException", "Message": message}
        matches = [
            {"Similarity": 91.5, "Face": {"FaceId": "1", "ExternalImageId": label}}
            for label, face in self.enrolled
            if face == faces[0]
        ]
        return 200, {"SearchedFaceConfidence": 99.9, "FaceMatches": matches[:1], "FaceModelVersion": "7.0"}


class AzureStub(Stub):
    """Face v1.2: large person groups; errors as {"error": {"code", "message"}}."""

    trained = False

    def operation(self, request: Request) -> str:
        root, _, rest = request.path.partition("/face/v1.2/")
        assert root == ""
        parts = rest.split("/")
        if parts[0] != "largepersongroups":
            return parts[0]
        return {"PUT": "create", "DELETE": "delete"}.get(request.method, parts[-1])

    def answer(self, operation: str, request: Request) -> Answer:
        parts = request.path.split("/")
        if operation == "create":
            self.open.add(parts[4])
            return 200, None
        if operation == "detect":
            faces = self.looks[request.body]
            box = {"left": 3, "top": 4, "width": 50, "height": 60}
            return 200, [{"faceId": face, "faceRectangle": box} for face in faces]
        if operation == "identify":
            asked = request.json()
            if not self.trained:
                return 400, error("LargePersonGroupNotTrained", "Large person group not trained.")
            face = asked["faceIds"][0]
            alike = [{"personId": person, "confidence": 0.6} for person, known in self.enrolled if known == face]
            return 200, [{"faceId": face, "candidates": alike[: asked["maxNumOfCandidatesReturned"]]}]
        if parts[4] not in self.open:
            return 404, error("LargePersonGroupNotFound", "Large person group is not found.")
        if operation == "delete":
            self.drop(parts[4])
            self.trained = False
            return 200, None
        if operation == "persons":
            return 200, {"personId": f"person-{request.json()['name']}"}
        if operation == "persistedfaces":
            faces = self.looks[request.body]
            if not faces:
                return 400, error("InvalidImage", "No face detected in the image.")
            if len(faces) > 1 and "targetFace" not in request.query:
                return 400, error("InvalidImage", "There is more than 1 face in the image.")
            self.enrolled.append((parts[6], faces[0]))
            return 200, {"persistedFaceId": str(next(self.numbers))}
        if operation == "train":
            self.trained = True
            return 202, None
        assert operation == "training"
        return 200, {"status": "succeeded", "message": None}


def error(code: str, message: str, inner: dict[str, str] | None = None) -> dict[str, Any]:
    """Of Azure AI Face."""
    return {"error": {"code": code, "message": message, **({"innererror": inner} if inner else {})}}


class FacePlusPlusStub(Stub):
    """Face++ v3: forms in, JSON out, errors in `error_message`. `enrolled` has (token, look)."""

    tokens: dict[str, str]

    def operation(self, request: Request) -> str:
        root, _, rest = request.path.partition("/facepp/v3/")
        assert root == ""
        assert request.method == "POST"
        return rest

    def answer(self, operation: str, request: Request) -> Answer:
        form = request.form()
        if (form["api_key"], form["api_secret"]) != (b"key", b"secret"):
            return 401, {"error_message": "AUTHENTICATION_ERROR"}
        self.tokens = getattr(self, "tokens", {})
        outer = "" if operation == "detect" else form["outer_id"].decode()
        if operation == "faceset/create":
            self.open.add(outer)
            return 200, {"faceset_token": "f", "outer_id": outer, "face_added": 0, "face_count": 0}
        if operation != "detect" and outer not in self.open:
            return 400, {"error_message": "INVALID_OUTER_ID"}
        if operation == "faceset/delete":
            if form["check_empty"] != b"0":
                return 400, {"error_message": "FACESET_NOT_EMPTY"}
            self.drop(outer)
            return 200, {"faceset_token": "f", "outer_id": outer}
        if operation == "faceset/addface":
            new = form["face_tokens"].decode().split(",")
            assert len(new) <= 5
            self.enrolled += [(token, self.tokens[token]) for token in new]
            return 200, {"face_added": len(new), "face_count": len(self.enrolled)}
        faces = []
        # The order of Detect is not documented: the largest comes last here.
        for size, look in reversed(list(enumerate(self.looks[form["image_file"]]))):
            token = f"token{next(self.numbers)}"
            self.tokens[token] = look
            box = {"top": 1, "left": 1, "width": 100 - size, "height": 100 - size}
            faces.append({"face_token": token, "face_rectangle": box})
        if operation == "detect":
            return 200, {"faces": faces, "image_id": "i"}
        assert operation == "search"
        if not faces:
            return 200, {"faces": [], "image_id": "i"}
        look = self.looks[form["image_file"]][0]
        results = [{"face_token": token, "confidence": 81.2} for token, known in self.enrolled if known == look]
        thresholds = {"1e-3": 62.3, "1e-4": 69.1, "1e-5": 74.0}
        return 200, {"faces": faces, "results": results[:1], "thresholds": thresholds}


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub behind `stub.url` until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 20

        def reply(self) -> None:
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            request = Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body)
            status, answer = stub.handle(request)
            plain = isinstance(answer, str)
            data = b"" if answer is None else (answer if plain else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = reply

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


STUBS: dict[str, type[Stub]] = {
    "rekognition": RekognitionStub,
    "azure": AzureStub,
    "facepp": FacePlusPlusStub,
}
