"""Live control as a function of time, and the turns it asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synctalk.control import MAX_POSE_DEG, Control
from synctalk.geometry import head_turn
from synctalk.render import replace_background

NAMES = ("browInnerUp", "eyeBlinkLeft", "eyeBlinkRight")
GAZING = tuple(f"eyeLook{way}{side}" for way in ("In", "Out", "Up", "Down") for side in ("Left", "Right"))
LEAST, MOST = np.float32([0.2, 0.0, 0.0]), np.float32([0.6, 0.8, 0.8])
OWN = np.float32([0.3, 0.1, 0.1])


class Now:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def _control(names: tuple[str, ...] = NAMES) -> tuple[Control, Now]:
    now = Now()
    return Control(names, (4, 2), now), now


def _expression(control: Control, now_s: float) -> list[float]:
    return [round(float(value), 4) for value in control.expression(NAMES, now_s, OWN, LEAST, MOST)]


def test_pose_is_led_there_smoothly() -> None:
    control, now = _control()
    now.s = 1.0
    control.set(pose=(0.0, 8.0, -2.0), lerp_s=1.0)
    yaws = [control.pose(t)[1] for t in np.linspace(0.5, 2.5, 101)]
    assert yaws[0] == 0.0
    assert control.pose(1.5) == pytest.approx((0.0, 4.0, -1.0))
    assert control.pose(2.0) == (0.0, 8.0, -2.0)
    assert all(b >= a for a, b in zip(yaws, yaws[1:]))  # noqa: B905, RUF007
    assert np.abs(np.diff(yaws)).max() < 0.25
    control.set(pose=None)
    assert control.pose(2.5) == (0.0, 0.0, 0.0)


def test_a_new_command_starts_where_the_old_one_is() -> None:
    control, _ = _control()
    control.set(pose=(0, 8, 0), lerp_s=1.0, at_s=0.0)
    control.set(pose=(0, 0, 0), lerp_s=1.0, at_s=0.5)
    assert control.pose(0.4999)[1] == pytest.approx(4.0, abs=0.01)
    assert control.pose(0.5001)[1] == pytest.approx(4.0, abs=0.01)
    assert control.pose(1.0)[1] == pytest.approx(2.0)
    assert control.pose(2.0)[1] == 0.0


def test_commands_may_come_in_any_order() -> None:
    control, _ = _control()
    control.set(pose=(3, 0, 0), at_s=3.0)
    control.set(pose=(1, 0, 0), at_s=1.0)
    control.set(pose=(2, 0, 0), at_s=2.0)
    assert [control.pose(t)[0] for t in (0.5, 1.5, 2.5, 3.5, 9.0)] == [0, 1, 2, 3, 3]
    assert control.pose(8.5)[0] == 3  # a little back, as after an interruption


def test_old_commands_are_forgotten() -> None:
    control, _ = _control()
    for i in range(1500):
        control.set(pose=(0, i % 5, 0), at_s=i * 0.1)
        control.set(background=(i % 9, 0, 0), at_s=i * 0.1)
        assert control.pose(i * 0.1 + 0.05)[1] == i % 5
        control.background(i * 0.1)
    assert len(control._pose._keys) < 50
    assert len(control._scenery) < 50


def test_poses_are_held_to_what_was_learned() -> None:
    control, _ = _control()
    control.set(pose=(90, -90, 90))
    assert control.pose(0.0) == (MAX_POSE_DEG[0], -MAX_POSE_DEG[1], MAX_POSE_DEG[2])


def test_expression_spans_what_the_subject_showed() -> None:
    control, now = _control()
    assert control.expression(NAMES, 0.0, OWN, LEAST, MOST) is OWN
    control.set(expression={"browInnerUp": 1.0})
    assert _expression(control, 0.0) == [0.6, 0.1, 0.1]
    control.set(expression={"browInnerUp": 0.0}, blink=1.0)
    assert _expression(control, 0.0) == [0.2, 0.8, 0.8]
    now.s = 1.0
    control.set(expression=None, lerp_s=1.0)
    halfway = control.expression(NAMES, 1.5, OWN, LEAST, MOST)
    assert 0.2 < halfway[0] < 0.3
    assert _expression(control, 2.0) == _expression(_control()[0], 0.0)
    assert OWN.tolist() == np.float32([0.3, 0.1, 0.1]).tolist()


def test_another_avatar_keeps_what_it_knows() -> None:
    control, _ = _control()
    control.set(expression={"browInnerUp": 1.0}, blink=1.0)
    control.retarget(("mouthSmile", "browInnerUp"), (4, 2))
    shown = control.expression(("mouthSmile", "browInnerUp"), 0.0, OWN[:2], LEAST[:2], MOST[:2])
    assert shown.tolist() == pytest.approx([0.3, 0.8])
    with pytest.raises(ValueError, match="eyeBlinkLeft"):
        control.set(blink=0.5)


def test_gaze_needs_a_model_that_has_it() -> None:
    with pytest.raises(ValueError, match="did not learn gaze"):
        _control()[0].set(gaze=(0.5, 0.0))
    control, _ = _control(GAZING)
    control.set(gaze=(0.5, -1.0))
    zero, one = np.zeros(8, np.float32), np.ones(8, np.float32)
    shown = dict(zip(GAZING, control.expression(GAZING, 0.0, zero, zero, one).tolist(), strict=True))
    assert {name for name, value in shown.items() if value == 0.5} == {"eyeLookOutLeft", "eyeLookInRight"}
    assert {name for name, value in shown.items() if value == 1.0} == {"eyeLookDownLeft", "eyeLookDownRight"}
    control.set(gaze=None)
    assert not control.expression(GAZING, 0.0, zero, zero, one).any()
    with pytest.raises(ValueError, match="left, up"):
        control.set(gaze=(2.0, 0.0))


def test_backgrounds_fade_into_each_other() -> None:
    control, _ = _control()
    assert control.background(0.0) == (None, 0.0)
    picture = np.full((2, 4, 3), 100, np.uint8)
    control.set(background=picture, lerp_s=1.0, at_s=1.0)
    shown, share = control.background(1.5)
    assert shown is not None
    assert share == 0.5
    control.set(background=(200, 200, 200), lerp_s=1.0, at_s=3.0)
    shown, share = control.background(3.5)
    assert shown is not None
    assert (share, shown.shape, int(shown[0, 0, 0])) == (1.0, (2, 4, 3), 150)
    control.set(background=None, lerp_s=1.0, at_s=5.0)
    assert control.background(5.5)[1] == 0.5
    assert control.background(6.0) == (None, 0.0)


def test_only_the_background_is_replaced() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    alpha = np.array([[0, 255, 51]], np.uint8)
    blue = np.array([0, 0, 200], np.uint8)
    assert replace_background(image, alpha, blue)[0].tolist() == [[0, 0, 200], [100, 100, 100], [20, 20, 180]]
    assert replace_background(image, alpha, blue, 0.5)[0, 0].tolist() == [50, 50, 150]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pose": (1.0, 2.0)}, "pitch"),
        ({"pose": (1.0, math.nan, 0.0)}, "pitch"),
        ({"expression": {"nose": 1.0}}, "choose from browInnerUp"),
        ({"expression": {"browInnerUp": 1.5}}, r"0\.\.1"),
        ({"blink": -0.1}, r"0\.\.1"),
        ({"blink": math.nan}, r"0\.\.1"),
        ({"background": np.zeros((5, 5, 3))}, r"\[2, 4, 3\]"),
        ({"background": (0, 0, 300)}, r"0\.\.255"),
        ({"pose": (0, 0, 0), "lerp_s": -1.0}, "lerp_s"),
        ({"pose": (0, 0, 0), "at_s": math.inf}, "at_s"),
    ],
)
def test_wrong_commands_change_nothing(wrong: dict[str, object], message: str) -> None:
    control, _ = _control()
    with pytest.raises(ValueError, match=message):
        control.set(**wrong)  # type: ignore[arg-type]
    assert control.pose(10.0) == (0.0, 0.0, 0.0)
    assert control.background(10.0) == (None, 0.0)
    assert control.expression(NAMES, 10.0, OWN, LEAST, MOST) is OWN


def test_too_many_commands_are_refused() -> None:
    control, _ = _control()
    with pytest.raises(ValueError, match="wait already"):
        for i in range(2000):
            control.set(pose=(0, 0, 0), at_s=100.0 + i)


def test_the_head_turns_as_named() -> None:
    face = np.float32([0, 0, 1])
    top = np.float32([0, 1, 0])
    assert (head_turn(10, 0, 0) @ face)[1] > 0.1  # up
    assert (head_turn(0, 10, 0) @ face)[0] > 0.1  # to the subject's left
    assert (head_turn(0, 0, 10) @ top)[0] > 0.1  # to the left shoulder
    together = head_turn(0, -7, 0) @ head_turn(5, 0, 0) @ head_turn(0, 0, 3)
    turn = head_turn(5, -7, 3)
    np.testing.assert_allclose(turn, together, atol=1e-6)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1.0)
