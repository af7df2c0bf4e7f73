"""Do the ONNX files of a bundle run in a browser? onnx_web_check.py AVATAR [FOLDER].

Runs `audio.onnx`, `head.onnx` and `colour.onnx` (and `head.fp16.onnx`, `upsampler.onnx` where they are there) in onnxruntime-web (WebAssembly,
one thread) inside headless Chromium, and compares with ONNX Runtime for Python. FOLDER: where
`npm ci --prefix FOLDER --ignore-scripts` put the package, scripts/onnx_web unless given.
"""

from __future__ import annotations

import json
import mimetypes
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from synctalk.backends.sessions import open_session
from synctalk.bundle import TENSORS, Bundle, open_bundle

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from chromium import CHROMIUM, Chromium  # noqa: E402

ROWS = {"audio.onnx": 16, "head.onnx": 4096, "head.fp16.onnx": 4096, "colour.onnx": 4096, "upsampler.onnx": 2}
SIDES = {"H": 96, "W": 80}
"""Of pictures."""
REPEATS = 5
LARGEST = 1e-3
"""Allowed of the largest value, or of 1 where all are smaller; float16 is compared with itself."""


def inputs_of(session: Any, n_rows: int) -> dict[str, np.ndarray]:
    """Random inputs in the ranges that the models are made for."""
    generator = np.random.default_rng(0)
    return {
        one.name: generator.random((n_rows, *(SIDES.get(axis, axis) for axis in one.shape[1:])), np.float32)
        * (2 if "mel" in one.name else 1)
        for one in session.get_inputs()
    }


def served(bundle: Bundle, inputs: dict[str, dict[str, np.ndarray]], package: Path) -> ThreadingHTTPServer:
    """A server of the page, the package, the models and their inputs, on 127.0.0.1."""
    files = {"/": (HERE / "onnx_web" / "page.html").read_bytes(), f"/{TENSORS}": bundle.read(TENSORS)}
    for member, feed in inputs.items():
        files[f"/{member}"] = bundle.read(member)
        files |= {f"/{member}/{name}": values.tobytes() for name, values in feed.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            content = files.get(path)
            asset = package / "dist" / Path(path).name
            if content is None and path.startswith("/ort/") and asset.is_file():
                content = asset.read_bytes()
            self.send_response(404 if content is None else 200)
            kind = mimetypes.guess_type(path)[0] or (
                "text/html" if path == "/" else "application/octet-stream"
            )
            self.send_header("Content-Type", "text/javascript" if path.endswith(".mjs") else kind)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def compared(bundle: Bundle, package: Path) -> list[dict[str, Any]]:
    """A row for each model: the largest difference of each output, and milliseconds in the browser."""
    members = [member for member in ROWS if member in bundle.manifest.files]
    sessions = {member: open_session(bundle, member, ["CPUExecutionProvider"]) for member in members}
    inputs = {member: inputs_of(session, ROWS[member]) for member, session in sessions.items()}
    server, browser = served(bundle, inputs, package), Chromium()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rows = []
    try:
        tab = browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
        tab.wait("window.version !== undefined", 120.0)
        for member in members:
            shapes = json.dumps({name: list(values.shape) for name, values in inputs[member].items()})
            got = tab.eval(f"run('{member}', {shapes}, {REPEATS})")
            names = [one.name for one in sessions[member].get_outputs()]
            row = {"model": member, "rows": ROWS[member], "browser_ms": round(got["best"], 2)}
            for name, expected in zip(names, sessions[member].run(names, inputs[member]), strict=True):
                values = np.array(got["values"][name], np.float32).reshape(expected.shape)
                scale = max(1.0, float(np.abs(expected).max()))
                row[name] = float(np.abs(values - expected).max()) / scale
            rows.append(row)
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
    return rows


def main() -> None:
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "onnx_web"
    package = folder / "node_modules" / "onnxruntime-web"
    if CHROMIUM is None or not package.is_dir():
        raise SystemExit(f"onnx_web_check: needs Chromium, and: npm ci --prefix {folder} --ignore-scripts")
    worst = 0.0
    for row in compared(open_bundle(sys.argv[1]), package):
        named = {
            key: f"{value:.1e}" if isinstance(value, float) and value < 0.1 else value
            for key, value in row.items()
        }
        print("  ".join(f"{key} {value}" for key, value in named.items()))
        worst = max(
            [worst, *(value for key, value in row.items() if key not in ("model", "rows", "browser_ms"))]
        )
    if worst > LARGEST:
        raise SystemExit(f"onnx_web_check: {worst:.1e} of the largest value differs, allowed {LARGEST:.0e}")


if __name__ == "__main__":
    main()
