"""The ONNX files run in a browser and give what they give in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import CHROMIUM
from synctalk.bundle import open_bundle
from synctalk.cli import DEMO

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PACKAGE = SCRIPTS / "onnx_web" / "node_modules" / "onnxruntime-web"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.skipif(
    not PACKAGE.is_dir(), reason="needs npm ci --prefix scripts/onnx_web --ignore-scripts (130 MB)"
)
def test_browser_computes_what_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from onnx_web_check import LARGEST, compared

    rows = compared(open_bundle(DEMO / "demo.avatar"), PACKAGE)
    assert {"audio.onnx", "head.onnx", "colour.onnx"} <= {row["model"] for row in rows}
    for row in rows:
        differences = {key: value for key, value in row.items() if key not in ("model", "rows", "browser_ms")}
        assert differences and max(differences.values()) <= LARGEST, row
