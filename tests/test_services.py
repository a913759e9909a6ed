"""Each service against a stub that speaks its wire format: what is sent, what is understood, what is left behind."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import service_stubs as stubs
from PIL import Image

from engine.config import Recipe
from engine.evaluate.dataset import People, Person
from engine.evaluate.presets import services as preset
from engine.evaluate.protocol import NOBODY, measure
from engine.evaluate.services import (
    SERVICES,
    Load,
    NotAsked,
    Service,
    ServiceError,
    ServiceTracker,
    azure,
    check,
    facepp,
    rekognition,
    session,
    web,
)
from engine.evaluate.services.upload import Limits, upload
from engine.evaluate.study import Cloaks, Study

pytest.importorskip("boto3")
pytest.importorskip("requests")

KEYS = tuple(SERVICES)
ENROL = {"rekognition": "IndexFaces", "azure": "persistedfaces", "facepp": "detect"}
ASK = {"rekognition": "SearchFacesByImage", "azure": "identify", "facepp": "search"}
CREATE = {"rekognition": "CreateCollection", "azure": "create", "facepp": "faceset/create"}
DELETE = {"rekognition": "DeleteCollection", "azure": "delete", "facepp": "faceset/delete"}
SECRETS = {"rekognition": "aws-secret", "azure": "azure-secret", "facepp": "secret"}

THROTTLED = {
    "rekognition": (400, {"__type": "ProvisionedThroughputExceededException", "Message": "Slow down"}),
    "azure": (429, stubs.error("429", "Rate limit is exceeded.")),
    "facepp": (403, {"error_message": "CONCURRENCY_LIMIT_EXCEEDED"}),
}
DENIED = {
    "rekognition": (400, {"__type": "UnrecognizedClientException", "Message": "The security token is invalid."}),
    "azure": (401, stubs.error("401", "Access denied due to invalid subscription key or wrong API endpoint.")),
    "facepp": (401, {"error_message": "AUTHENTICATION_ERROR"}),
}
FULL = {
    "rekognition": (400, {"__type": "ServiceQuotaExceededException", "Message": "Too many faces"}),
    "azure": (403, stubs.error("QuotaExceeded", "Persisted face number reached limit.")),
    "facepp": (403, {"error_message": "AUTHORIZATION_ERROR: Insufficient Account Balance"}),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, no configuration, no metadata service, no waiting."""
    for name in (azure.ENDPOINT, azure.KEY, facepp.KEY, facepp.SECRET, facepp.ENDPOINT):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_REKOGNITION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    monkeypatch.setattr(facepp, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(web, "open_session", lambda: open_session(attempts=3, backoff=0))


open_session = web.open_session


@pytest.fixture
def looks() -> dict[bytes, list[str]]:
    return {}


@pytest.fixture
def draw(tmp_path: Path, looks: dict[bytes, list[str]]) -> Callable[..., Path]:
    """A photo on which the stub sees these faces, the largest first."""

    def new(name: str, *faces: str) -> Path:
        path = tmp_path / f"{name}.png"
        pixels = np.random.default_rng(len(looks)).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        looks[path.read_bytes()] = list(faces)
        return path

    return new


@pytest.fixture(params=KEYS)
def stub(request: pytest.FixtureRequest, looks: dict[bytes, list[str]]) -> Iterator[stubs.Stub]:
    with stubs.serving(stubs.STUBS[request.param](looks)) as running:
        yield running


def key_of(stub: stubs.Stub) -> str:
    return next(key for key, kind in stubs.STUBS.items() if isinstance(stub, kind))


def configure(monkeypatch: pytest.MonkeyPatch, stub: stubs.Stub) -> str:
    """The environment in which the stub is asked; the service's key."""
    key = key_of(stub)
    variables = {
        "rekognition": {
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "aws-secret",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL_REKOGNITION": stub.url,
        },
        "azure": {azure.ENDPOINT: stub.url + "/", azure.KEY: "azure-secret"},
        "facepp": {facepp.KEY: "key", facepp.SECRET: "secret", facepp.ENDPOINT: stub.url},
    }
    for name, value in variables[key].items():
        monkeypatch.setenv(name, value)
    return key


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch, stub: stubs.Stub) -> ServiceTracker:
    return ServiceTracker(SERVICES[configure(monkeypatch, stub)], consent=True)


def test_names_by_the_faces_that_look_alike(stub, tracker, draw):
    photos = [draw("a0", "ada"), draw("a1", "ada"), draw("b0", "bob", "somebody small"), draw("c", "cy")]
    tests = [draw("t0", "bob"), draw("t1", "ada", "bob"), draw("t2"), draw("t3", "a stranger"), draw("t4", "cy")]
    names = tracker.names(photos, np.array([0, 0, 1, 2]), tests)
    assert names.tolist() == [1, 0, NOBODY, 3, 2]
    assert tracker.left == []
    assert stub.open == set()


def test_requests_of_rekognition(monkeypatch, draw, looks):
    with stubs.serving(stubs.RekognitionStub(looks)) as stub:
        configure(monkeypatch, stub)
        photo, test = draw("a", "ada"), draw("t", "ada")
        ServiceTracker(SERVICES["rekognition"], consent=True).names([photo], np.array([0]), [test])
    assert stub.operations() == ["CreateCollection", "IndexFaces", "SearchFacesByImage", "DeleteCollection"]
    create, index, search, delete = (request for _, request in stub.requests)
    collection = create.json()["CollectionId"]
    assert collection.startswith("fawkes-engine-")
    assert create.json() == delete.json() == {"CollectionId": collection}
    encoded = {"Bytes": base64.b64encode(photo.read_bytes()).decode()}
    assert index.json() == {
        "CollectionId": collection,
        "Image": encoded,
        "ExternalImageId": "0",
        "MaxFaces": 1,
        "QualityFilter": "NONE",
    }
    encoded = {"Bytes": base64.b64encode(test.read_bytes()).decode()}
    assert search.json() == {"CollectionId": collection, "Image": encoded, "MaxFaces": 1, "FaceMatchThreshold": 0}
    assert {(request.method, request.path) for _, request in stub.requests} == {("POST", "/")}
    assert "eu-west-1/rekognition/aws4_request" in index.headers["authorization"]
    assert index.headers["content-type"] == "application/x-amz-json-1.1"


def test_requests_of_azure(monkeypatch, draw, looks):
    with stubs.serving(stubs.AzureStub(looks)) as stub:
        configure(monkeypatch, stub)
        photos = [draw("a", "ada"), draw("b", "bob", "small")]
        ServiceTracker(SERVICES["azure"], consent=True).names(photos, np.array([0, 1]), [draw("t", "bob")])
    group = stub.requests[0][1].path.split("/")[4]
    root = f"/face/v1.2/largepersongroups/{group}"
    assert group.startswith("fawkes-engine-")
    assert len(group) <= 64
    face = {"detectionModel": "detection_03"}
    detect = {**face, "recognitionModel": "recognition_04", "returnFaceId": "true", "faceIdTimeToLive": "60"}
    assert [(request.method, request.path, request.query) for _, request in stub.requests] == [
        ("PUT", root, {}),
        ("POST", f"{root}/persons", {}),
        ("POST", f"{root}/persons/person-0/persistedfaces", face),
        ("POST", f"{root}/persons", {}),
        ("POST", f"{root}/persons/person-1/persistedfaces", face),
        ("POST", "/face/v1.2/detect", detect),
        ("POST", f"{root}/persons/person-1/persistedfaces", {**face, "targetFace": "3,4,50,60"}),
        ("POST", f"{root}/train", {}),
        ("GET", f"{root}/training", {}),
        ("POST", "/face/v1.2/detect", detect),
        ("POST", "/face/v1.2/identify", {}),
        ("DELETE", root, {}),
    ]
    assert stub.seen("create")[0].json() == {"name": group, "recognitionModel": "recognition_04"}
    assert [request.json() for request in stub.seen("persons")] == [{"name": "0"}, {"name": "1"}]
    assert stub.seen("persistedfaces")[0].body == photos[0].read_bytes()
    assert stub.seen("persistedfaces")[0].headers["content-type"] == "application/octet-stream"
    assert stub.seen("identify")[0].json() == {
        "faceIds": ["bob"],
        "largePersonGroupId": group,
        "maxNumOfCandidatesReturned": 1,
        "confidenceThreshold": 0,
    }
    assert {request.headers["ocp-apim-subscription-key"] for _, request in stub.requests} == {"azure-secret"}


def test_requests_of_facepp(monkeypatch, draw, looks):
    with stubs.serving(stubs.FacePlusPlusStub(looks)) as stub:
        configure(monkeypatch, stub)
        photos = [draw(f"a{i}", "ada") for i in range(7)]
        ServiceTracker(SERVICES["facepp"], consent=True).names(photos, np.zeros(7, int), [test := draw("t", "ada")])
    assert stub.operations() == [
        "faceset/create",
        *["detect"] * 5,
        "faceset/addface",
        *["detect"] * 2,
        "faceset/addface",
        "search",
        "faceset/delete",
    ]
    forms = [request.form() for _, request in stub.requests]
    credentials = {"api_key": b"key", "api_secret": b"secret"}
    outer = forms[0]["outer_id"]
    assert outer.startswith(b"fawkes-engine-")
    assert forms[0] == credentials | {"outer_id": outer}
    assert forms[1] == credentials | {"image_file": photos[0].read_bytes()}
    assert forms[6] == credentials | {"outer_id": outer, "face_tokens": b"token0,token1,token2,token3,token4"}
    assert forms[9] == credentials | {"outer_id": outer, "face_tokens": b"token5,token6"}
    assert forms[10] == credentials | {"outer_id": outer, "return_result_count": b"1", "image_file": test.read_bytes()}
    assert forms[11] == credentials | {"outer_id": outer, "check_empty": b"0"}


def test_no_name_of_a_person_or_file_is_sent(stub, tracker, draw):
    tracker.names([draw("Margaret_Hamilton", "ada")], np.array([0]), [draw("Margaret_again", "ada")])
    for _, request in stub.requests:
        assert b"Margaret" not in request.body + request.path.encode() + str(request.headers).encode()


@pytest.mark.parametrize("step", [CREATE, ENROL, ASK, DELETE], ids=["create", "enrol", "ask", "delete"])
def test_throttled_once_is_tried_again(stub, tracker, draw, step):
    key = key_of(stub)
    stub.first[step[key]] = [THROTTLED[key]]
    assert tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")]).tolist() == [0]
    assert len(stub.seen(step[key])) == 2
    assert (stub.open, tracker.left) == (set(), [])


def test_throttled_for_ever_is_an_error(stub, tracker, draw):
    key = key_of(stub)
    stub.first[ASK[key]] = [THROTTLED[key]] * 20
    with pytest.raises(ServiceError, match=tracker.name.replace("+", r"\+")):
        tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")])
    assert stub.open == set()


@pytest.mark.parametrize(("answers", "step"), [(DENIED, CREATE), (FULL, ENROL), (FULL, ASK)])
def test_refusals_are_told_and_everything_is_deleted(stub, tracker, draw, answers, step):
    key = key_of(stub)
    status, body = answers[key]
    stub.first[step[key]] = [(status, body)]
    with pytest.raises(ServiceError) as caught:
        tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")])
    told = str(caught.value)
    assert tracker.name in told
    assert any(word in told for word in ("invalid", "AUTHENTICATION", "Too many", "reached limit", "Balance"))
    assert SECRETS[key] not in told
    assert stub.operations()[-1] == DELETE[key]
    assert (stub.open, tracker.left) == (set(), [])


def test_azure_without_approval_says_where_to_get_it(monkeypatch, draw, looks):
    inner = {"code": "UnsupportedFeature", "message": "Feature is not supported, missing approval: Identification."}
    with stubs.serving(stubs.AzureStub(looks)) as stub:
        configure(monkeypatch, stub)
        stub.first["detect"] = [(403, stubs.error("InvalidRequest", "Invalid request has been sent.", inner))]
        with pytest.raises(ServiceError, match=r"Identification.*approval: https://aka\.ms"):
            ServiceTracker(SERVICES["azure"], consent=True).names([draw("a", "x")], np.array([0]), [draw("t", "x")])
    assert stub.open == set()


def test_azure_waits_for_its_training(draw, looks):
    waited: list[float] = []
    with stubs.serving(stubs.AzureStub(looks)) as stub:
        stub.first["training"] = [(200, {"status": "notStarted"}), (200, {"status": "running"})]
        adapter = azure.AzureFace(stub.url, "k", http=open_session(), wait=waited.append)
        with session(adapter, on_leftover=pytest.fail):
            adapter.enrol(0, draw("a", "ada").read_bytes())
            adapter.ready()
        assert waited == [1, 1]
        stub.first["training"] = [(200, {"status": "failed", "message": "no luck"})]
        adapter = azure.AzureFace(stub.url, "k", http=open_session(), wait=waited.append)
        with pytest.raises(ServiceError, match="no luck"), session(adapter, on_leftover=pytest.fail):
            adapter.ready()
    assert stub.open == set()


def test_facepp_tells_a_face_that_was_not_added_and_answers_that_are_no_json(monkeypatch, draw, looks):
    with stubs.serving(stubs.FacePlusPlusStub(looks)) as stub:
        configure(monkeypatch, stub)
        refused = {"face_added": 0, "failure_detail": [{"face_token": "token0", "reason": "QUOTA_EXCEEDED"}]}
        stub.first["faceset/addface"] = [(200, refused)]
        tracker = ServiceTracker(SERVICES["facepp"], consent=True)
        with pytest.raises(ServiceError, match="QUOTA_EXCEEDED"):
            tracker.names([draw("a", "ada")], np.array([0]), [])
        stub.first["detect"] = [(413, "Request Entity Too Large")]
        with pytest.raises(ServiceError, match="413 to /detect: Request Entity Too Large"):
            tracker.names([draw("b", "ada")], np.array([0]), [])
    assert stub.open == set()


def test_an_answer_of_an_unknown_form_is_told(stub, tracker, draw):
    stub.first[ASK[key_of(stub)]] = [(200, {})]
    with pytest.raises(ServiceError, match="unknown form"):
        tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")])
    assert stub.open == set()


def test_ctrl_c_deletes_everything(monkeypatch, stub, tracker, draw):
    def interrupt(adapter: Service, photo: bytes) -> int:
        raise KeyboardInterrupt

    for kind in (rekognition.Rekognition, azure.AzureFace, facepp.FacePlusPlus):
        monkeypatch.setattr(kind, "identify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")])
    assert stub.operations()[-1] == DELETE[key_of(stub)]
    assert stub.open == set()


def test_what_could_not_be_deleted_is_named(stub, tracker, draw):
    key = key_of(stub)
    stub.first[DELETE[key]] = [FULL[key]]
    assert tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")]).tolist() == [0]
    (collection,) = stub.open
    (line,) = tracker.left
    assert collection in line
    assert tracker.name in line
    assert "by hand" in line


def test_what_could_not_be_deleted_is_a_note_of_the_error(stub, tracker, draw):
    key = key_of(stub)
    stub.first[ASK[key]] = [FULL[key]]
    stub.first[DELETE[key]] = [DENIED[key]]
    with pytest.raises(ServiceError) as caught:
        tracker.names([draw("a", "ada")], np.array([0]), [draw("t", "ada")])
    (collection,) = stub.open
    assert caught.value.__notes__ == tracker.left
    assert collection in tracker.left[0]


def test_a_collection_that_was_never_made_is_no_complaint(stub, tracker, draw):
    key = key_of(stub)
    stub.first[CREATE[key]] = [DENIED[key]]
    with pytest.raises(ServiceError):
        tracker.names([draw("a", "ada")], np.array([0]), [])
    assert tracker.left == []


def test_photos_without_a_face_are_left_out_and_told(stub, tracker, draw):
    said: list[str] = []
    tracker.say = said.append
    photos = [draw("a", "ada"), draw("b")]
    assert tracker.names(photos, np.array([0, 1]), [draw("t", "ada")]).tolist() == [0]
    assert said[-1] == f"{tracker.name} found no face in 1 of 2 photos to learn from"
    with pytest.raises(ServiceError, match="no face in any of the 1 photos"):
        tracker.names([photos[1]], np.array([0]), [])
    assert stub.open == set()


def test_nothing_is_sent_without_consent(monkeypatch, stub, draw):
    key = configure(monkeypatch, stub)
    monkeypatch.setattr("boto3.Session", lambda: pytest.fail("credentials were looked for"))
    tracker = ServiceTracker(SERVICES[key], consent=False)
    with pytest.raises(NotAsked, match="not named in --services; nothing was sent"):
        tracker.names([draw("a", "ada")], np.array([0]), [])
    assert stub.requests == []


@pytest.mark.parametrize(
    ("key", "present", "reason"),
    [
        ("rekognition", {}, "no AWS credentials"),
        ("rekognition", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, "no AWS region"),
        ("rekognition", {"AWS_PROFILE": "none"}, "none.*could not be found"),
        ("azure", {}, "AZURE_FACE_ENDPOINT and AZURE_FACE_KEY are not set"),
        ("azure", {azure.ENDPOINT: "https://me.cognitiveservices.azure.com"}, "AZURE_FACE_KEY is not set"),
        ("azure", {azure.ENDPOINT: "http://me.cognitiveservices.azure.com", azure.KEY: "k"}, "must be https"),
        ("facepp", {facepp.KEY: "k"}, "FACEPP_SECRET is not set"),
        ("facepp", {facepp.KEY: "k", facepp.SECRET: "s", facepp.ENDPOINT: "api-cn.faceplusplus.com"}, "must be https"),
    ],
)
def test_nothing_is_sent_without_credentials(monkeypatch, key, present, reason, draw):
    for name, value in present.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was made"))
    with pytest.raises(NotAsked, match=f"{reason}.*nothing was sent"):
        ServiceTracker(SERVICES[key], consent=True).names([draw("a", "ada")], np.array([0]), [])


def test_a_missing_package_is_told(monkeypatch):
    provider = replace(SERVICES["azure"], package="no_such_package")
    assert "pip install 'fawkes-engine[services]'" in (provider.refusal(consent=True) or "")


def test_a_host_that_is_not_there_is_an_error_without_the_secret(monkeypatch, draw):
    monkeypatch.setenv(azure.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv(azure.KEY, "azure-secret")
    tracker = ServiceTracker(SERVICES["azure"], consent=True)
    with pytest.raises(ServiceError, match="could not be reached") as caught:
        tracker.names([draw("a", "ada")], np.array([0]), [])
    assert "azure-secret" not in str(caught.value)
    assert "by hand" in tracker.left[0]  # it may have been created: there was no answer


@pytest.mark.parametrize("stub", ["azure", "facepp"], indirect=True)
def test_redirections_are_not_followed(stub, tracker, draw):
    stub.first[ENROL[key_of(stub)]] = [(307, "elsewhere")]
    with pytest.raises(ServiceError, match="307"):
        tracker.names([draw("a", "ada")], np.array([0]), [])


@pytest.mark.parametrize(
    ("key", "calls", "usd"), [("rekognition", 702, 0.702), ("azure", 924, 0.924), ("facepp", 822, None)]
)
def test_the_price_is_said_before_the_first_call(key, calls, usd):
    cost = SERVICES[key].cost(Load(people=120, scraped=600, tests=100))
    assert cost.calls == calls
    assert cost.usd == (None if usd is None else pytest.approx(usd))
    assert f"{calls:,} calls" in str(cost)
    assert SERVICES[key].cost(Load(120, 600, 100), times=3).calls == 3 * calls


def test_the_estimate_is_what_is_called(stub, tracker, draw):
    said: list[str] = []
    tracker.say = lambda line: said.append(f"{len(stub.requests)} before: {line}")
    photos, tests = [draw(f"a{i}", "ada") for i in range(6)], [draw("t", "ada"), draw("u", "ada")]
    tracker.names(photos, np.array([0, 0, 0, 1, 1, 1]), tests)
    assert len(stub.requests) == tracker.provider.calls(Load(people=2, scraped=6, tests=2))
    assert said[0].startswith(f"0 before: {tracker.name}: sending 8 photos, about {len(stub.requests)} calls")


def test_unknown_services_are_refused():
    assert check(["azure", "azure"]) == ("azure",)
    with pytest.raises(ValueError, match=r"rekognition, azure, facepp; got 'clearview'"):
        check(["clearview"])


# Photos as services take them


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photo_that_fits_is_sent_byte_for_byte(tmp_path, kind):
    picture(40, 30).save(tmp_path / "a", kind)
    assert upload(tmp_path / "a", Limits(10_000, 40)) == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(("kind", "limits"), [("WEBP", Limits(99_999, 99)), ("BMP", Limits(99_999, 99))])
def test_another_format_is_sent_as_the_same_pixels(tmp_path, kind, limits):
    image = picture(40, 30)
    image.save(tmp_path / "a", kind, lossless=True)
    sent = Image.open(io.BytesIO(upload(tmp_path / "a", limits)))
    assert sent.format == "PNG"
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


def test_a_photo_that_is_not_upright_is_turned_and_bare(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture(40, 30).save(tmp_path / "a.jpg", exif=exif)
    data = upload(tmp_path / "a.jpg", Limits(99_999, 99))
    assert Image.open(io.BytesIO(data)).size == (40, 30)
    assert b"a camera" not in data


def test_a_photo_too_large_is_scaled_down(tmp_path):
    picture(400, 300).save(tmp_path / "a.png")
    assert max(Image.open(io.BytesIO(upload(tmp_path / "a.png", Limits(10**6, 100)))).size) == 100
    small = upload(tmp_path / "a.png", Limits(40_000, 1000))
    assert len(small) <= 40_000
    assert Image.open(io.BytesIO(small)).size == (150, 200)


# The protocol and the preset


@pytest.fixture
def people(draw: Callable[..., Path]) -> People:
    """Two users and two others, two scraped photos and two tests each; Bob's second test shows no face."""

    def person(name: str, *, last: tuple[str, ...] | None = None) -> Person:
        scraped = tuple(draw(f"{name}-{i}", name) for i in range(2))
        return Person(name, scraped, (draw(f"{name}-2", name), draw(f"{name}-3", *((name,) if last is None else last))))

    return People(
        (person("ada"), person("bob", last=())), (person("cy"), person("dee", last=("a stranger",))), public=()
    )


@pytest.fixture
def cloaked(people: People, draw: Callable[..., Path]) -> dict[Path, Path | None]:
    """Ada's cloaks make her look like nobody; one of Bob's fails and one photo of his is not published."""
    ada, bob = people.users
    return {
        ada.scraped[0]: draw("ca0", "nobody in particular"),
        ada.scraped[1]: draw("ca1", "nobody in particular"),
        bob.scraped[0]: draw("cb0", "bob"),
        bob.scraped[1]: None,
    }


def test_protection_by_the_protocol(tracker, people, cloaked):
    measured = measure(tracker, people.users, people.others, cloaked=cloaked, made_with=("web-incept",))
    assert measured.protection.value == 0.5
    assert measured.floor.value == 0
    assert (measured.others, measured.others_floor) == (0.75, 0.75)
    assert (measured.part, measured.faceless, measured.tests) == ("held-out", 1, 4)


@pytest.fixture
def study(tmp_path: Path, people: People, cloaked: dict[Path, Path | None], monkeypatch: pytest.MonkeyPatch) -> Study:
    """With finished cloaks."""
    files = dict(cloaked)
    dssim = {photo: 0.005 for photo, file in files.items() if file}
    monkeypatch.setattr(Study, "cloaks", lambda self, wanted: Cloaks(wanted.recipe, files, dssim))
    return Study(people, tmp_path / "out", Recipe())


def test_the_preset_without_consent_sends_nothing_and_says_so(monkeypatch, study, stub):
    configure(monkeypatch, stub)
    monkeypatch.setattr(Study, "cloaks", lambda self, wanted: pytest.fail("cloaks were made"))
    findings = preset.run(study)
    assert stub.requests == []
    assert findings.figure is None
    assert [row["service"] for row in findings.rows] == ["Amazon Rekognition", "Azure AI Face", "Face++"]
    assert {row["status"] for row in findings.rows} == {"not asked: nothing was sent"}
    assert {row["reason"] for row in findings.rows} == {"it was not named in --services"}
    for provider in SERVICES.values():
        (sentence,) = (text for text in findings.sentences if text.startswith(provider.name))
        assert "nothing was sent" in sentence
        assert "would send 16 photos of 4 people without their names" in sentence
        assert provider.terms in sentence
    assert preset.PRESET.cloaks(study) == ()
    assert (preset.PRESET.seconds(study), preset.PRESET.embeddings(study)) == (0, 0)
    assert not preset.PRESET.default


def test_the_preset_with_consent_measures(monkeypatch, study, stub):
    key = configure(monkeypatch, stub)
    monkeypatch.setattr(preset, "robust", lambda: ("web-incept",))
    study = replace(study, consent=(key,))
    findings = preset.run(study)
    rows = [row for row in findings.rows if row["service"] == SERVICES[key].name]
    assert [(row["status"], row["cloaks"]) for row in rows] == [("asked", "normal"), ("asked", "robust")]
    assert [(row["protection"], row["floor"], row["dssim_max"]) for row in rows] == [(0.5, 0, 0.005)] * 2
    assert len({frozenset(row) for row in findings.rows}) == 1
    assert [wanted.recipe.extractors for wanted in preset.PRESET.cloaks(study)] == [
        Recipe().extractors,
        ("web-incept",),
    ]
    sentence = next(text for text in findings.sentences if text.startswith(SERVICES[key].name))
    assert "did not name the user on 50% of their clean photos after learning from normal cloaks" in sentence
    assert len(stub.seen(CREATE[key])) == len(stub.seen(DELETE[key])) == 3  # one floor for both kinds of cloaks
    assert preset.PRESET.seconds(study) > 0


def test_the_preset_says_when_there_is_no_robust_extractor(monkeypatch, study):
    monkeypatch.setattr(preset, "tables", lambda: {"plain": {"robust": False}, "older": {}})
    assert "no column for robust cloaks" in preset.run(study).sentences[-1]
    monkeypatch.setattr(preset, "tables", lambda: {"plain": {"robust": False}, "hard": {"robust": True}})
    assert preset.robust() == ("hard",)


def test_the_preset_goes_on_past_a_service_that_fails(monkeypatch, study, stub):
    key = configure(monkeypatch, stub)
    stub.first[ASK[key]] = [FULL[key]]
    stub.first[DELETE[key]] = [DENIED[key]]
    findings = preset.run(replace(study, consent=(key,)))
    (row,) = (row for row in findings.rows if row["service"] == SERVICES[key].name)
    assert row["status"] == "asked, and failed"
    assert row["reason"]
    assert len(findings.rows) == 3
    (collection,) = stub.open
    assert any(collection in sentence for sentence in findings.sentences)
    assert any("not all deleted" in sentence for sentence in findings.sentences)


def test_the_preset_refuses_a_service_that_there_is_not(study):
    with pytest.raises(ValueError, match="clearview"):
        preset.run(replace(study, consent=("clearview",)))
