"""The Python API: `Cloaker`, for bytes, arrays, Pillow images and paths; `cloak run` is built on the same object."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Never, Self, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from engine import sharding, yunet
from engine.bulk import budget, people, trouble
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Usage, loaded
from engine.bulk.calls import (
    Given,
    Item,
    Whose,
    Work,
    gathered,
    logged,
    results,
    several,
    weaker_warning,
    works,
)
from engine.bulk.claims import listed
from engine.bulk.crowd import Crowd, Seen
from engine.bulk.desk import Desk
from engine.bulk.fit import Fitted, fit
from engine.bulk.goals import Sample, Target, Targets, aims, bank_of, common, goal_of, grouped, samples
from engine.bulk.person import LENGTH, Person, named, of_faces, shown
from engine.bulk.prepare import Prepared, Source, digest, prepare, subset
from engine.bulk.results import Cloaked, CloakedFace, Encoded
from engine.bulk.sightings import Matrix, Sightings, network_key
from engine.config import CLOAKS, LEAD, Detection, Mode, Output, Recipe
from engine.detect import Detector
from engine.extractors import load
from engine.types import PhotoError

R = TypeVar("R", Cloaked, Encoded)


class _Look(NamedTuple):
    """A photo in that pass. place: among all. canvases: of the faces to be embedded. known: their embeddings, if they
    need not be.
    """

    place: int
    sha256: str
    canvases: list[Float32[np.ndarray, "c c 3"]]
    known: list[Matrix] | None = None


class Cloaker:
    """Cloaks faces. Holds the extractors and the compiled solver; make one and keep it.

    Any number of threads may call it: their faces share its slots, their photos its threads, and each caller gets its
    own results in order. Who else calls changes a photo's result by rounding alone. XLA may round differently with the
    face's slot, the number of slots (`batch`), and the number and kind of devices. The solver's steps enlarge that, so
    a face can get another cloak of the same strength.

    Example:
        >>> from engine import Cloaker
        >>> cloaker = Cloaker(mode="mid")  # doctest: +SKIP
        >>> results = cloaker.cloak(["me.jpg", "us.png"])  # doctest: +SKIP
        >>> Image.fromarray(results[0].image).save("me-cloaked.png")  # doctest: +SKIP
        >>> me = cloaker.person(["me.jpg", "me-2.jpg", "me-3.jpg"])  # doctest: +SKIP
        >>> upload = cloaker.encode(Path("me.jpg").read_bytes(), person=me).data  # doctest: +SKIP
    """

    def __init__(
        self,
        mode: Mode | None = None,
        *,
        recipe: Recipe | None = None,
        detection: Detection | None = None,
        detector: Detector | None = None,
        only: Given | Iterable[Given] | None = None,
        goal: Target | None = None,
        batch: int | None = None,
        devices: int | None = None,
        workers: int | None = None,
    ) -> None:
        """Load weights; compiling waits for the first photo.

        mode: "low", "mid" (the default) or "high", or a whole `recipe` instead. only: photos of the one person to
        cloak, three to miss fewer of their faces than with one. goal: under objective "target", an embedding of length
        one for each extractor to which all faces go, whoever they are, instead of a far centroid. batch: faces solved
        at once, by default as many as `sharding.slots` says. devices: how many to use, all by default. workers: threads
        that decode and write, by default `budget.cores`. Raises ValueError for settings that make no sense, for both
        mode and recipe, and for reference photos that do not show one person. Raises TypeError for what is no setting.
        """
        if isinstance(mode, Recipe):
            raise ValueError("mode must be low, mid or high; got a Recipe: pass it as recipe=")
        if mode is not None and recipe is not None:
            raise ValueError(
                f"a mode is a recipe, so give one of the two: mode={mode!r}, or recipe=Recipe.of({mode!r}, ...)"
            )
        if recipe is not None and not isinstance(recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, as Recipe.of('mid', steps=80); got {recipe!r}")
        if detection is not None and not isinstance(detection, Detection):
            raise TypeError(f"detection must be a Detection, as Detection(min_size=40); got {detection!r}")
        if detector is not None and not callable(getattr(detector, "detect", None)):
            raise TypeError(f"detector must have a method detect, as engine.detect.Detector has; got {detector!r}")
        batch, devices, workers = _count("batch", batch), _count("devices", devices), _count("workers", workers)
        sharding.configure()
        self.recipe = recipe or Recipe.of(mode or "mid")
        self.detection = detection or Detection()
        self.workers = workers or budget.cores()
        mesh = sharding.faces_mesh(devices)
        platform = mesh.devices.flat[0].platform
        self.detector = detector or yunet.detector(self.detection, platform=platform)
        size = batch or sharding.slots(platform, mesh.size)
        extractors = loaded(self.recipe, mesh.devices.flat[0])
        self.batcher = Batcher(self.recipe, extractors, size=size, mesh=mesh)
        self.desk = Desk(self.batcher, workers=self.workers)
        self._extractors = extractors
        self._goal = goal
        if goal is not None:
            _check_goal(goal, self.recipe, [extractor.dim for extractor in extractors])
        self.asks = goal is None
        """Whether it can matter who is in a photo."""
        self._bank = bank_of(self.recipe) if goal is None else ()
        self.only = None if only is None else self._reference(gathered(only))

    def cloak(self, images: Given | Iterable[Given]) -> list[Cloaked]:
        """The results of all images, in order. A bad image is a result with status "failed", not an exception.

        images: RGB uint8 arrays (h, w, 3), grey ones (h, w), Pillow images, encoded bytes or paths. Of what an iterator
        gives, arrays and Pillow images are copied as they come. Those of a sequence must not change during the call.
        Raises TypeError for what is none of these nor holds any.
        """
        return self._together(images, Cloaked, None)

    def encode_all(self, photos: Given | Iterable[Given], *, output: Output | None = None) -> list[Encoded]:
        """The cloaked files of all photos, in order, with the guarantees of `cloak run`. Memory holds all of them.

        The photos are grouped into people first, as `cloak` does it. photos: as `images` of `cloak`; what was not read
        from a file becomes a PNG. output: how they are written, by default as they came. Raises TypeError for another
        output, else as `cloak`.
        """
        return self._together(photos, Encoded, _output(output))

    def stream(self, images: Given | Iterable[Item]) -> Iterator[Cloaked]:
        """The results as they come, in order, for input of any length; memory stays flat.

        images: as in `cloak`, each alone or as a pair (image, person). A stream cannot group faces into people. So
        objective "person" acts as "away" for an image without a person, which is weaker, and a WeakerWarning says so.
        Raises ValueError for an image without a person under objective "target". Raises it too for a person whom other
        networks describe, and for one whom the objective does not use.
        """
        return results(self, works(self, several(images)), Cloaked, None)

    def encode_stream(self, photos: Given | Iterable[Item], *, output: Output | None = None) -> Iterator[Encoded]:
        """The cloaked files of photos as they come; all else as in `stream` and `encode_all`.

        Example:
            >>> pairs = ((upload.read(), persons[upload.user]) for upload in uploads)  # doctest: +SKIP
            >>> for result in cloaker.encode_stream(pairs):  # doctest: +SKIP
            ...     store(result.data, result.status, result.reason)
        """
        return results(self, works(self, several(photos)), Encoded, _output(output))

    def encode(self, data: Given, *, person: Whose = None, output: Output | None = None) -> Encoded:
        """The cloaked file of one photo; whatever is wrong with the photo is its result. Call it from many threads.

        data, output: as in `encode_all`. person: who is in it (`person`). Errors and warnings as in `stream`.
        """
        results = self.encode_stream([(data, person)], output=output)
        try:
            return next(results)
        finally:
            results.close()  # type: ignore[attr-defined]

    def person(self, photos: Given | Iterable[Given]) -> Person:
        """A person, by some photos of theirs, the more the better; the same whatever their order.

        At least one must show their face alone. In a photo with several faces those count that are like the person's.
        Three or more are best, since two of one person may differ as much as two people do. Warns of photos that do not
        count: no face in them is like the person's, or they were given before. Raises ValueError if a photo cannot be
        read or if it is not clear who is meant. photos: as `images` of `cloak`.
        """

        def failed(source: Source, error: Exception) -> None:
            which = next(name for name, own in zip(names, sources, strict=True) if own is source)
            raise ValueError(
                f"{which}, a photo of the person, cannot be used: {trouble.reason(error, logged)}"
            ) from error

        sources, sightings = gathered(photos), Sightings(self.detector)
        names = [str(source) if isinstance(source, Path) else f"photo {n}" for n, source in enumerate(sources, 1)]
        by_photo: dict[str, dict[int, Seen]] = {}
        photo_at: dict[int, str] = {}
        for face in self.look(sources, failed=failed, sightings=sightings):
            by_photo.setdefault(face.sha256, {})[face.index] = face
            photo_at[face.place] = face.sha256
        chosen = shown([tuple(faces.values()) for faces in by_photo.values()], names)
        person = of_faces(chosen, self._networks)
        counted = {face.sha256 for face in chosen}
        first = {sha256: place for place, sha256 in reversed(photo_at.items())}
        if again := {names[place]: None for place, sha256 in photo_at.items() if first[sha256] != place}:
            weaker_warning(f"given before and counted once: {listed(list(again))}; give other photos of the person")
        if apart := [name for place, name in enumerate(names) if photo_at.get(place) not in counted]:
            weaker_warning(f"no face like the person's in {listed(apart)}: they do not count, give clearer ones")
        probed = self.probe(sources, samples(self.recipe, chosen, person.own), sightings=sightings)
        return person.going(common(probed))

    @property
    def usage(self) -> Usage:
        """Use of the slots since it was made, for all callers together."""
        return self.desk.usage

    def close(self) -> None:
        """Begin nothing more: later calls raise RuntimeError, those at work finish what they have begun."""
        self.desk.close()

    def __reduce__(self) -> Never:
        raise TypeError("a Cloaker cannot be pickled or copied: make one in each process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _together(self, photos: Given | Iterable[Given], kind: type[R], output: Output | None) -> list[R]:
        sources, sightings = gathered(photos), Sightings(self.detector)
        targets = self.targets(sources, sightings=sightings)
        return list(results(self, map(Work, sources), kind, output, targets=targets, sightings=sightings))

    # What follows is shared with the runner of files.

    def selected(self, prepared: Prepared, sightings: Sightings | None = None) -> Prepared:
        """The photo with only the faces of the person of `only`, all of them if none was named.

        sightings: may know who they are.
        """
        if self.only is None or not prepared.cuts:
            return prepared
        known = None if sightings is None else sightings.embeddings(prepared.sha256, [self._networks[-1]])
        if known is not None and len(known[0]) == len(prepared.cuts):
            identities = list(known[0])
        else:
            identities = self.identify([cut.canvas for cut in prepared.cuts])
        return subset(prepared, [i for i, identity in enumerate(identities) if self._is_wanted(identity)])

    def nothing(self, prepared: Prepared) -> tuple[Literal["no_face", "skipped"], str]:
        """Status and reason of a photo in which there is nothing to cloak."""
        if self.only is not None and prepared.others:
            return "skipped", people.UNLIKE
        return "no_face", " ".join(prepared.unusable) or "No face was found: this photo is not protected."

    def jobs(self, prepared: Prepared, targets: Targets) -> list[FaceJob]:
        """The faces of a photo as work for the solver."""
        none = self._goal or self.batcher.no_target()
        return [
            FaceJob(cut, prepared.photo.grey, prepared.sha256, index, targets.get((prepared.sha256, index), none))
            for index, cut in enumerate(prepared.cuts)
        ]

    def goal_of(self, person: Person) -> Target:
        """Goal of this person's faces, to move from or to."""
        return goal_of(self.recipe, person.own, person.lead, self._bank)

    def fit(
        self,
        prepared: Prepared,
        cloaks: Sequence[FaceCloak],
        *,
        encode: Callable[[UInt8[np.ndarray, "h w 3"]], bytes],
        decode: Callable[[bytes], UInt8[np.ndarray, "h w 3"]],
    ) -> Fitted:
        """`fit.fit` with the recipe's budget. Raises PhotoError also if a cloak protects nothing, for whatever reason.

        Every file and every image of the API passes through here, so that none is called cloaked that is not.
        """
        names = self.recipe.names
        _refuse(cloak.fault(names) for cloak in cloaks)
        fitted = fit(prepared, [cloak.delta for cloak in cloaks], rho=self.recipe.rho, encode=encode, decode=decode)
        _refuse(cloak.fault(names, scale=scale) for cloak, scale in zip(cloaks, fitted.scale, strict=True))
        return fitted

    def describe(self, prepared: Prepared, cloaks: Sequence[FaceCloak], fitted: Fitted) -> tuple[CloakedFace, ...]:
        """Report on the faces of one photo."""
        rows = zip(prepared.faces, cloaks, fitted.dssim, fitted.scale, strict=True)
        return tuple(
            CloakedFace(
                box=tuple(round(float(value), 1) for value in face.box),  # type: ignore[arg-type]
                dssim=dssim,
                shift=dict(zip(self.recipe.names, cloak.shift, strict=True)),
                scale=scale,
            )
            for face, cloak, dssim, scale in rows
        )

    def targets(
        self,
        sources: Sequence[Source],
        *,
        wanted: Collection[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
        probing: Callable[[int, int], None] = lambda done, faces: None,
        sightings: Sightings | None = None,
    ) -> Targets:
        """Goal of each face, by photo hash and index, to move from or to. Other faces are moved from themselves.

        It is a pass of its own over all photos, if the objective needs one. Faces are grouped into people. Under
        objective "person" all faces of a person are moved from their mean and in one direction, which a few of them
        find (`probe`). Under "target" they are moved to one far centroid.

        wanted: hashes of the photos that will be cloaked, None for all; the others only tell who is who. progress: how
        many photos have been looked at. probing: how many of how many faces have been probed. sightings: as in `look`.
        """
        if not (self.asks and grouped(self.recipe, len(sources))):
            return {}
        cache = Sightings(self.detector) if sightings is None else sightings
        faces = self.look(sources, progress=progress, sightings=cache)
        probe = partial(self.probe, sources, sightings=cache, progress=probing)
        return aims(self.recipe, faces, self._bank, probe=probe, wanted=wanted)

    def probe(
        self,
        sources: Sequence[Source],
        wanted: Sequence[Sample],
        *,
        sightings: Sightings,
        progress: Callable[[int, int], None] = lambda done, faces: None,
    ) -> list[Target | None]:
        """How far each of these faces moves in each network in its first steps, away from the mean of its person.

        None for a face that cannot be cloaked. sources: those that `place` counts. progress: how many faces are done,
        of how many. sightings: as in `look`.
        """
        ways: dict[int, Target] = {}
        unprobed: list[int] = []
        for number, sample in enumerate(wanted):
            known = sightings.embeddings(sample.sha256, [self._probe_key(sample)])
            if known is not None and known[0].shape == (1, sum(map(len, sample.own))):
                ways[number] = tuple(
                    np.split(known[0][0], np.cumsum([len(embedding) for embedding in sample.own])[:-1])
                )
            else:
                unprobed.append(number)
        room = budget.Budget()

        def posed(number: int) -> FaceJob | None:
            sample = wanted[number]
            source = sources[sample.place]
            try:
                with room.hold(budget.footprint(source)):
                    prepared = prepare(source, self.detector, sha256=sample.sha256, sightings=sightings)
                    prepared = self.selected(prepared, sightings)
                return FaceJob(
                    prepared.cuts[sample.index], prepared.photo.grey, sample.sha256, sample.index, sample.mean, LEAD
                )
            except Exception:
                return None  # its turn comes, and then it is said

        with ThreadPoolExecutor(self.workers) as pool:
            step = 4 * self.batcher.size
            # A few at a time: canvases are in memory.
            for numbers in (unprobed[first : first + step] for first in range(0, len(unprobed), step)):
                jobs = [(number, job) for number, job in zip(numbers, pool.map(posed, numbers), strict=True) if job]
                cloaks = self.batcher.solve(job for _, job in jobs)
                moved = self.batcher.embed(
                    [job.cut.canvas + cloak.delta for (_, job), cloak in zip(jobs, cloaks, strict=True)]
                )
                for (number, _), after in zip(jobs, moved, strict=True):
                    sample = wanted[number]
                    way = tuple(np.subtract(there, here) for there, here in zip(after, sample.own, strict=True))
                    if all(np.isfinite(row).all() for row in way):
                        ways[number] = way
                        sightings.keep_embeddings(sample.sha256, {self._probe_key(sample): np.concatenate(way)[None]})
                progress(len(ways), len(wanted))
        return [ways.get(number) for number in range(len(wanted))]

    def _probe_key(self, sample: Sample) -> str:
        mean = b"".join(np.asarray(row, "<f4").tobytes() for row in sample.mean)
        return repr((CLOAKS, self.recipe, self.named, sample.index, hashlib.sha256(mean).hexdigest()))

    def look(
        self,
        sources: Sequence[Source],
        *,
        progress: Callable[[int], None] = lambda done: None,
        sightings: Sightings | None = None,
        failed: Callable[[Source, Exception], None] = lambda source, error: None,
    ) -> Crowd:
        """The faces of all photos, in order. progress: how many photos have been looked at.

        sightings: of this detector. What it knows is not looked at again, and it is told what is new. failed: is told
        of a photo that cannot be used; what it raises ends the pass.
        """
        faces = Crowd()
        remaining, done = enumerate(sources), 0
        room = budget.Budget()
        cache = Sightings(self.detector) if sightings is None else sightings
        self.desk.refuse_if_closed()

        def looked(numbered: tuple[int, Source]) -> _Look | None:
            """A photo without its pixels, as no more is wanted here. None if it fails, whatever the reason."""
            place, source = numbered
            try:
                sha256 = digest(source)
                known = cache.embeddings(sha256, self._networks)
                if known is not None:
                    return _Look(place, sha256, [], known)
                with room.hold(budget.footprint(source)):
                    prepared = prepare(source, self.detector, sha256=sha256, sightings=cache)
                return _Look(place, sha256, [cut.canvas for cut in prepared.cuts])
            except Exception as error:
                failed(source, error)
                return None  # its turn comes, and then it is said

        with ThreadPoolExecutor(self.workers) as pool:
            while batch := list(islice(remaining, 4 * self.workers)):  # a few at a time: photos are large
                looks = [look for look in pool.map(looked, batch) if look is not None]
                for look, (*matrices, identity) in zip(looks, self._embedded(looks, cache), strict=True):
                    mine = [i for i, embedding in enumerate(identity) if self._is_wanted(embedding)]
                    faces.extend(
                        Seen(look.sha256, index, tuple(rows[i] for rows in matrices), identity[i], look.place)
                        for index, i in enumerate(mine)
                    )
                done += len(batch)
                progress(done)
        return faces

    def _embedded(self, looks: Sequence[_Look], sightings: Sightings) -> list[list[Matrix]]:
        """The embeddings of each photo's faces by each of `_networks`."""
        canvases = [canvas for look in looks for canvas in look.canvases]
        embedded = self.batcher.embed(canvases)
        columns = [*zip(*embedded, strict=True), self.identify(canvases, embedded)] if canvases else []
        result, first = [], 0
        for look in looks:
            rows = look.known
            if rows is None:
                count = len(look.canvases)
                rows = [np.empty((0, 0), np.float32) for _ in self._networks]
                if count:
                    rows = [np.stack(column[first : first + count]).astype(np.float32) for column in columns]
                first += count
                sightings.keep_embeddings(look.sha256, dict(zip(self._networks, rows, strict=True)))
            result.append(rows)
        return result

    @cached_property
    def _networks(self) -> list[str]:
        """The `sightings.network_key` of every extractor, then of the network that tells people apart."""
        identity = load(people.EXTRACTOR)
        return [
            network_key(network.weights_sha256, network.precision, network.spec)
            for network in (*self._extractors, identity)
        ]

    @cached_property
    def named(self) -> str:
        """The SHA-256 that names the networks which describe a `Person` to this Cloaker."""
        return named(self._networks)

    def _is_wanted(self, identity: Float32[np.ndarray, "d"]) -> bool:
        return self.only is None or people.same_person(self.only, identity)

    def identify(
        self, canvases: Sequence[Float32[np.ndarray, "c c 3"]], embedded: Sequence[Target] | None = None
    ) -> list[Float32[np.ndarray, "d"]]:
        """Embeddings of faces that tell people apart.

        embedded: those by the recipe's extractors, if they are known.
        """
        known = [(extractor.name, extractor.precision) for extractor in self._extractors]
        if embedded is not None and (people.EXTRACTOR, "float32") in known:
            index = known.index((people.EXTRACTOR, "float32"))
            return [embeddings[index] for embeddings in embedded]
        return [embedding for (embedding,) in self._identifier.embed(canvases)]

    @cached_property
    def _identifier(self) -> Batcher:
        batcher = self.batcher
        return Batcher(self.recipe, (load(people.EXTRACTOR),), size=batcher.size, mesh=batcher.mesh)

    def _reference(self, sources: Sequence[Source]) -> Float32[np.ndarray, "d"]:
        """The mean of one person's faces, one of each photo. Raises ValueError if any shows none."""
        photos, names = [], []
        for place, source in enumerate(sources):
            which = f" {source}" if isinstance(source, Path) else f" {place + 1}" if len(sources) > 1 else ""
            names.append(f"the reference photo{which}")
            try:
                cuts = (prepared := prepare(source, self.detector)).cuts
            except PhotoError as error:
                raise ValueError(f"{names[-1]}: {error}") from None
            if not cuts or (len(cuts) > 1 and len(sources) == 1):
                raise ValueError(
                    f"{names[-1]} must show one face, the person's; {len(cuts)} were found: crop it, or name another"
                )
            identities = self.identify([cut.canvas for cut in cuts])
            photos.append([Seen(prepared.sha256, i, (), row, place) for i, row in enumerate(identities)])
        faces = shown(photos, names)
        counted = {face.sha256 for face in faces}
        if apart := [name for name, photo in zip(names, photos, strict=True) if photo[0].sha256 not in counted]:
            raise ValueError(f"no face like the person's in {listed(apart)}: leave that out, or name a clearer one")
        (identity,) = people.mean_embedding([(face.identity,) for face in faces])
        return identity


def _count(name: str, value: int | None) -> int | None:
    """A number of things as an int. Raises TypeError for no whole number, ValueError for one below 1."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if count < 1:
        raise ValueError(f"{name} must be at least 1; got {count}")
    return count


def _refuse(faults: Iterable[str | None]) -> None:
    for fault in faults:
        if fault is not None:
            raise PhotoError(fault)


def _check_goal(goal: Target, recipe: Recipe, dims: Sequence[int]) -> None:
    if recipe.objective != "target":
        raise ValueError('a goal is what objective "target" moves faces to; under "away" nothing reads it')
    shapes = [np.shape(embedding) for embedding in goal]
    if shapes != [(dim,) for dim in dims]:
        raise ValueError(f"a goal must have an embedding for each extractor, of {dims} numbers; got shapes {shapes}")
    lengths = [float(np.linalg.norm(np.asarray(embedding, np.float64))) for embedding in goal]
    if not all(abs(length - 1) <= LENGTH for length in lengths):  # NaN is refused too
        raise ValueError(f"a goal's embeddings must be of length 1, as the extractors give them; got lengths {lengths}")


def _output(output: Output | None) -> Output:
    if output is not None and not isinstance(output, Output):
        raise TypeError(f"output must be an Output, as Output(format='png'); got {output!r}")
    return output or Output()
