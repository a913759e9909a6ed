"""engine.checkpoint: what is saved comes back, and what does not fit is refused in one message."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine import checkpoint


def tree() -> dict:
    return {
        "stem": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 8, "bias": np.ones(4, np.float32)},
        "blocks": {0: {"slope": np.full(2, 0.25, np.float32)}, 1: {"slope": np.full(2, -0.5, np.float32)}},
    }


def shapes(arrays: dict) -> dict:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), arrays)


def test_saved_arrays_come_back_as_float32(tmp_path):
    written = checkpoint.save(tmp_path / "weights", tree())
    restored, digest = checkpoint.restore(tmp_path / "weights", shapes(tree()), sha256=written)
    assert digest == written
    assert jax.tree.structure(restored) == jax.tree.structure(tree())
    for ours, original in zip(jax.tree.leaves(restored), jax.tree.leaves(tree()), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, original)


def test_the_disk_holds_float16(tmp_path):
    exact = np.float32(1 + 2**-14)
    checkpoint.save(tmp_path / "weights", {"w": np.array([exact])})
    restored, _ = checkpoint.restore(tmp_path / "weights", {"w": jax.ShapeDtypeStruct((1,), jnp.float32)})
    assert restored["w"][0] == 1.0 != exact


def test_named_leaves_stay_exact(tmp_path):
    exact = np.float32(1 + 2**-14)
    tree = {"a": {"w": np.array([exact])}, "b": np.array([exact])}
    written = checkpoint.save(tmp_path / "weights", tree, exact={"a/w"})
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree)
    restored, _ = checkpoint.restore(tmp_path / "weights", wanted, sha256=written)
    assert restored["a"]["w"][0] == exact
    assert restored["b"][0] == 1.0


def test_saving_again_replaces(tmp_path):
    checkpoint.save(tmp_path / "weights", {"w": np.zeros(3, np.float32)})
    checkpoint.save(tmp_path / "weights", {"w": np.ones(3, np.float32)})
    restored, _ = checkpoint.restore(tmp_path / "weights", {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
    np.testing.assert_array_equal(restored["w"], np.ones(3))


def test_the_files_name_no_path_of_this_machine(tmp_path):
    checkpoint.save(tmp_path / "weights", tree())
    for file in (tmp_path / "weights").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file.name


def test_everything_that_does_not_fit_is_in_one_message(tmp_path):
    checkpoint.save(tmp_path / "weights", tree())
    wanted = shapes(tree())
    wanted["stem"]["kernel"] = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    wanted["head"] = wanted.pop("blocks")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore(tmp_path / "weights", wanted)
    message = str(error.value)
    assert "shape of stem/kernel: expected (4, 3), got (3, 4)" in message
    assert all(f"missing: head/{n}/slope" in message and f"extra: blocks/{n}/slope" in message for n in (0, 1))


def test_other_weights_than_expected_are_refused(tmp_path):
    checkpoint.save(tmp_path / "weights", tree())
    with pytest.raises(checkpoint.CheckpointError, match="content SHA-256"):
        checkpoint.restore(tmp_path / "weights", shapes(tree()), sha256="0" * 64)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f4"), (-np.inf, "f4"), (1e39, "f8"), (np.nan, "f2")])
def test_weights_that_are_not_finite_are_refused(value, dtype, tmp_path):
    arrays = tree()
    arrays["stem"]["bias"] = np.array([1, 2, value, 4], dtype)
    checkpoint.save(tmp_path / "weights", arrays, dtype=np.float32, exact={"stem/bias"})
    with pytest.raises(checkpoint.CheckpointError, match=r"1 of the weights stem/bias in .* is not finite in float32"):
        checkpoint.restore(tmp_path / "weights", shapes(tree()))


def test_an_absent_checkpoint_says_how_to_get_it(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="convert_weights"):
        checkpoint.restore(tmp_path / "nothing", {})


def test_content_hash_depends_on_names_shapes_dtypes_and_values_only():
    base = checkpoint.content_sha256({"a": np.zeros((2, 3), np.float16), "b": np.ones(2, np.float16)})
    assert base == checkpoint.content_sha256(
        {"b": np.ones(2, np.float16), "a": np.asfortranarray(np.zeros((2, 3), "f2"))}
    )
    variants = [
        {"a": np.zeros((3, 2), np.float16), "b": np.ones(2, np.float16)},
        {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float16)},
        {"a": np.zeros((2, 3), np.float16), "c": np.ones(2, np.float16)},
        {"a": np.zeros((2, 3), np.float16), "b": np.full(2, 2, np.float16)},
    ]
    assert base not in [checkpoint.content_sha256(variant) for variant in variants]


def test_manifest_tells_source_licence_metric_and_command_of_every_checkpoint():
    manifest = checkpoint.manifest()
    for kind in ("extractors", "detectors"):
        for name, table in manifest[kind].items():
            assert {"path", "sha256", "source", "source_sha256", "licence", "metric", "command"} <= set(table), name
            assert (checkpoint.root() / table["path"]).exists(), name


@pytest.mark.parametrize("damage", ["cut", "zeroed", "gone"])
def test_another_detector_than_the_manifests_is_refused(damage, tmp_path, monkeypatch):
    data = checkpoint.detector().read_bytes()
    changed = {"cut": data[:1000], "zeroed": data[:50_000] + bytes(1000) + data[51_000:], "gone": None}[damage]
    monkeypatch.setattr(checkpoint, "root", lambda: tmp_path)
    (tmp_path / "yunet.onnx").write_bytes(data)
    assert checkpoint.detector() == tmp_path / "yunet.onnx"
    if changed is None:
        (tmp_path / "yunet.onnx").unlink()
    else:
        (tmp_path / "yunet.onnx").write_bytes(changed)
    with pytest.raises(checkpoint.CheckpointError, match=r"face detector .*yunet\.onnx.*reinstall"):
        checkpoint.detector()


def test_manifest_hash_of_the_detector_is_the_file():
    table = checkpoint.manifest()["detectors"]["yunet"]
    assert hashlib.sha256((checkpoint.root() / table["path"]).read_bytes()).hexdigest() == table["sha256"]
