"""The node ``synctalk::PlaneLookup``: one file for every runtime, whose body is the function that kernels compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from synctalk.backends.sessions import open_session
from synctalk.bundle import Bundle, open_bundle
from synctalk.tensorrt.plugin import NAME, NAMESPACE, VERSION
from synctalk_export.export import export_bundle
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
