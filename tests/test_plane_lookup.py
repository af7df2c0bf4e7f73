"""The node ``synctalk::PlaneLookup``: one file for every runtime, whose body is the function that kernels compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
import tolerances
import torch
from synctalk import _native
from synctalk.backends.sessions import open_session
from synctalk.bundle import Bundle, open_bundle
from synctalk.tensorrt.plugin import NAME, NAMESPACE, VERSION
from synctalk_export.export import export_bundle
from synctalk_export.plane_lookup import look_up
from tiny_subject import tiny_subject


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny avatar, as a folder: other programs read its ONNX files in place."""
    path = tmp_path_factory.mktemp("lookup") / "tiny"
    export_bundle(tiny_subject(), path)
    return open_bundle(path)


def _feed(bundle: Bundle, n: int) -> dict[str, np.ndarray]:
    spec, generator = bundle.manifest.spec.field, np.random.default_rng(0)
    positions = generator.uniform(-0.05, 1.05, (n, 3)).astype(np.float32)
    positions[:8] = [[i & 1, i >> 1 & 1, i >> 2] for i in range(8)]
    return {
        "positions": positions,
        "condition": generator.normal(size=(n, spec.condition)).astype(np.float32),
        "expression": generator.uniform(size=(n, spec.expression)).astype(np.float32),
    }


def _node(bundle: Bundle) -> onnx.NodeProto:
    graph = onnx.load_from_string(bundle.read("head.onnx")).graph
    (node,) = [node for node in graph.node if node.domain]
    return node


def test_node_asks_for_the_plugin_and_carries_its_body(bundle: Bundle) -> None:
    model, node = onnx.load_from_string(bundle.read("head.onnx")), _node(bundle)
    assert (node.domain, node.op_type) == (NAMESPACE, NAME)
    said = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert said["plugin_version"] == VERSION.encode() and said["plugin_namespace"] == NAMESPACE.encode()
    grid = bundle.manifest.spec.field.grid
    np.testing.assert_allclose(said["scales"], [level.scale for level in grid.levels], rtol=1e-6)
    assert said["output_type"] == onnx.TensorProto.FLOAT
    (body,) = model.functions
    assert (body.domain, body.name) == (node.domain, node.op_type)
    assert len(body.input) == len(node.input) == 1 + 3 * grid.n_levels
    assert set(body.attribute) == set(said)
    assert not [inner.domain for inner in body.node if inner.domain]


@pytest.mark.parametrize("member", ["audio.onnx", "head.onnx", "colour.onnx"])
def test_models_in_a_folder_pass_the_full_check(bundle: Bundle, member: str) -> None:
    onnx.checker.check_model(str(bundle.path / member), full_check=True)


def test_reference_and_onnx_runtime_agree(bundle: Bundle) -> None:
    """From files, as any other program would."""
    feed = _feed(bundle, 40)
    expected = onnx.reference.ReferenceEvaluator(str(bundle.path / "head.onnx")).run(None, feed)
    got = open_session(bundle, "head.onnx", ["CPUExecutionProvider"]).run(None, feed)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def _native_lookup(bundle: Bundle, positions: np.ndarray) -> np.ndarray:
    grid = bundle.manifest.spec.field.grid
    planes = [bundle.tensors[name] for name in _node(bundle).input[1:]]
    out = np.empty((len(positions), grid.n_outputs), np.float32)
    _native.plane_lookup(positions, planes, [level.scale for level in grid.levels], out)
    return out


def test_kernel_computes_the_body(bundle: Bundle) -> None:
    """``csrc/plane_lookup.h``, which GPUs compile as well, against the function that the body is traced from."""
    positions = _feed(bundle, 5000)["positions"]
    planes = [torch.from_numpy(bundle.tensors[name].copy()) for name in _node(bundle).input[1:]]
    scales = [level.scale for level in bundle.manifest.spec.field.grid.levels]
    expected = look_up(torch.from_numpy(positions), planes, scales).numpy()
    np.testing.assert_allclose(_native_lookup(bundle, positions), expected, atol=tolerances.GRID_ENCODE)


def test_kernel_reads_every_half_precision_number() -> None:
    """Subnormal ones and negative zero, too; not-a-number positions read node 0."""
    bits = np.arange(65536, dtype=np.uint16)
    finite = bits[(bits & 0x7C00) != 0x7C00].view(np.float16)
    planes = [np.zeros((1, 2, 2), np.float16) for _ in range(3)]
    at, out = np.full((1, 3), np.nan, np.float32), np.empty((1, 3), np.float32)
    for value in finite[::7]:
        planes[0][...] = value
        _native.plane_lookup(at, planes, [0.0], out)
        assert out[0, 0] == np.float32(value)


@pytest.mark.parametrize(
    ("planes", "scales", "message"),
    [
        ([np.zeros((1, 2, 2), np.float16)] * 2, [0.0], "3 for each"),
        ([np.zeros((1, 2, 2), np.float16)] * 3, [], "3 for each"),
        ([np.zeros((1, 2, 2), np.float32)] * 3, [0.0], "float16"),
        ([np.zeros((1, 2, 2), np.float16)] * 3, [1.0], "3, 3"),
        ([np.zeros((1, 2, 2), np.float16)] * 3, [-1.0], "scales"),
    ],
)
def test_planes_that_do_not_fit_are_refused(
    planes: list[np.ndarray], scales: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.plane_lookup(np.zeros((1, 3), np.float32), planes, scales, np.zeros((1, 3), np.float32))
