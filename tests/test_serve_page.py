"""The web page in a real browser: it talks, is interrupted, is steered, and leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from chromium import CHROMIUM, Chromium, Tab
from serving import Running, running
from synctalk.cli import DEMO
from synctalk.serve.settings import ServeSettings

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

RATE = 16_000
WATCH = """
window.watch = { rows: [], canvas: new OffscreenCanvas(64, 64), on: true };
watch.context = watch.canvas.getContext('2d', { willReadFrequently: true });
watch.audio = new AudioContext();
watch.analyser = watch.audio.createAnalyser();
watch.analyser.fftSize = 1024;
{
  const video = document.getElementById('video');
  const stream = video.srcObject ?? video.captureStream();
  watch.audio.createMediaStreamSource(new MediaStream(stream.getAudioTracks())).connect(watch.analyser);
  const wave = new Float32Array(1024);
  const look = (now) => {
    watch.context.drawImage(video, 0, 0, 64, 64);
    const d = watch.context.getImageData(0, 0, 64, 64).data;
    let mouth = 0, eyes = 0, column = 0;
    for (let i = 0; i < 4096; i++) {
      const r = d[4 * i], g = d[4 * i + 1], b = d[4 * i + 2], row = i >> 6;
      if (r > 75 && r - g > 45 && r - b > 30 && g < 75) mouth++;
      if (row < 40 && r < 90 && g < 100 && b < 120 && Math.abs(r - g) < 40) { eyes++; column += i & 63; }
    }
    watch.analyser.getFloatTimeDomainData(wave);
    const loud = Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length);
    watch.rows.push([now, mouth, eyes ? column / eyes : -1, loud, d.reduce((sum, x) => sum + x, 0)]);
    if (watch.on) video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}
"""
"""Notes of every picture that is shown: time (ms), pixels of the mouth, column of the eyes, loudness, a checksum."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    one = Chromium(microphone=DEMO / "sentence.wav")
    yield one
    one.close()


@pytest.fixture
def server() -> Iterator[Running]:
    with running(ServeSettings(port=0, requests_per_s=100.0)) as one:
        yield one


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bursts of noise of 600 ms with pauses of 600 ms."""
    path = tmp_path_factory.mktemp("sound") / "bursts.wav"
    burst = np.concatenate([np.random.default_rng(0).uniform(-0.5, 0.5, 9600), np.zeros(9600)])
    soundfile.write(path, np.tile(burst, 20), RATE)
    return path


def _start(browser: Chromium, server: Running, transport: str) -> Tab:
    tab = browser.open(server.url)
    tab.wait("document.getElementById('start')?.disabled === false")
    tab.eval(f"document.getElementById('transport').value = '{transport}'")
    tab.eval("document.getElementById('start').click()")
    tab.wait("document.getElementById('stage').classList.contains('live')")
    return tab


def _rows(tab: Tab, n: int, seconds: float = 0.0) -> Any:
    """The next pictures that are shown, ``n`` or more, for so many seconds or more: a busy machine shows few."""
    tab.eval("watch.rows.length = 0")
    span = "watch.rows.at(-1)[0] - watch.rows[0][0]"
    tab.wait(f"watch.rows.length >= {n} && {span} >= {1000 * seconds}")
    return np.array(tab.eval("watch.rows"), np.float64)


@pytest.mark.parametrize("transport", ["webrtc", "websocket"])
def test_a_wav_makes_the_face_talk_until_it_is_interrupted(
    browser: Chromium, server: Running, wav: Path, transport: str
) -> None:
    tab = _start(browser, server, transport)
    tab.eval(WATCH)
    idle = _rows(tab, 12)
    assert idle[:, 1].max() < 40 and idle[:, 3].max() < 1e-3
    tab.choose_file("#file", wav)
    tab.wait("watch.rows.at(-1)[3] > 0.02")
    tab.wait("document.getElementById('status').innerText.includes('Speaking')")
    talk = _rows(tab, 40, 3.6)
    assert len(np.unique(talk[:, 4])) > 20  # pictures change
    best = max(
        np.corrcoef(talk[max(0, -k) : len(talk) - max(0, k), 1], talk[max(0, k) : len(talk) + min(0, k), 3])[
            0, 1
        ]
        for k in (-3, -2, -1, 0, 1, 2, 3)
    )
    assert best > 0.6  # lips and loudness, as they are seen and heard
    tab.press("Escape", 27)
    tab.wait("watch.rows.slice(-3).every((row) => row[3] < 0.01 && row[1] < 40)", 5)
    after = _rows(tab, 12, 1.2)  # longer than a pause between bursts
    assert after[:, 3].max() < 0.01 and after[:, 1].max() < 40
    tab.wait("document.getElementById('server').textContent.endsWith('ms')")
    tab.wait("document.getElementById('buffer').textContent.endsWith('ms')")
    assert tab.complaints == []
    tab.close()
    server.wait_for_sessions(0)


def test_a_sound_that_the_browser_cannot_read_is_sent_to_the_server(
    browser: Chromium, server: Running, wav: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "bursts.aiff", soundfile.read(wav)[0], RATE)
    (tmp_path / "none.aiff").write_bytes(b"nothing")
    tab = _start(browser, server, "websocket")
    tab.eval(WATCH)
    _rows(tab, 4)
    tab.choose_file("#file", tmp_path / "bursts.aiff")
    tab.wait("document.getElementById('status').innerText.includes('Speaking')")
    tab.choose_file("#file", tmp_path / "none.aiff")
    tab.wait("document.getElementById('message').textContent.includes('none.aiff: this is no sound')")
    tab.close()
    server.wait_for_sessions(0)


def test_sliders_and_background_reach_the_picture(browser: Chromium, server: Running) -> None:
    tab = _start(browser, server, "websocket")
    tab.eval(WATCH)
    before = np.median(_rows(tab, 8)[:, 2])  # the eyes' column, of 64
    tab.eval("document.querySelector('#pose [name=turn]').focus()")
    for _ in range(20):
        tab.press("ArrowRight", 39)
    tab.wait(f"Math.abs(watch.rows.at(-1)[2] - {before}) > 1.5", 10)
    assert "10.0°" in tab.eval("document.querySelector('#pose').innerText")
    tab.eval("document.querySelector('[data-reset=pose]').click()")
    tab.wait(f"Math.abs(watch.rows.at(-1)[2] - {before}) < 1", 10)
    tab.eval("document.querySelector('[name=background][aria-label=Green]').click()")
    tab.wait("(() => { const d = watch.context.getImageData(2, 2, 1, 1).data; return d[1] - d[0] > 100; })()")
    assert tab.complaints == []
    tab.close()


def test_two_tabs_at_once_and_no_session_left_by_a_reload(browser: Chromium, server: Running) -> None:
    first, second = _start(browser, server, "websocket"), _start(browser, server, "webrtc")
    server.wait_for_sessions(2)
    began = [tab.eval("document.getElementById('video').currentTime") for tab in (first, second)]
    time.sleep(1.0)
    ended = [tab.eval("document.getElementById('video').currentTime") for tab in (first, second)]
    assert np.min(np.subtract(ended, began)) > 0.4
    first.call("Page.reload")
    server.wait_for_sessions(1)
    first.wait("document.getElementById('start')?.disabled === false")
    second.close()
    first.close()
    server.wait_for_sessions(0)


def test_the_microphone_is_heard(browser: Chromium, server: Running) -> None:
    """Chromium's microphone plays the demo sentence."""
    tab = _start(browser, server, "websocket")
    tab.eval(WATCH)
    tab.eval("document.getElementById('microphone').click()")
    tab.wait("document.getElementById('microphone').ariaPressed === 'true'")
    tab.wait("Math.max(...watch.rows.map((row) => row[1])) > 45", 20)
    assert tab.eval("document.getElementById('video').muted")  # nobody wants to hear himself late
    tab.eval("document.getElementById('microphone').click()")
    tab.wait("document.getElementById('microphone').ariaPressed === 'false'")
    assert tab.complaints == []
    tab.close()


def test_a_token_is_asked_for(browser: Chromium) -> None:
    token = "a-token-of-many-letters"
    with running(ServeSettings(port=0, token=token, requests_per_s=100.0)) as server:
        tab = browser.open(server.url)
        tab.wait("document.getElementById('door').open")
        tab.eval(f"document.getElementById('token').value = '{token}'")
        tab.eval("document.querySelector('#door button').click()")
        tab.wait("document.getElementById('start')?.disabled === false")
        tab.eval("sessionStorage.clear()")
        tab.go(f"{server.url}#token={token}")
        tab.call("Page.reload")
        tab.wait("document.querySelector('#start')?.disabled === false && location.hash === ''")
        tab.close()


def test_every_control_has_a_name(browser: Chromium, server: Running) -> None:
    """As the browser tells it to screen readers."""
    tab = browser.open(server.url)
    tab.wait("document.getElementById('start')?.disabled === false")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "checkbox", "radio", "textbox", "combobox"}
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(controls) > 15
    assert [node for node in controls if not node["name"]["value"].strip()] == []
    tab.close()
