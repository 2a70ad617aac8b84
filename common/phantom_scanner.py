"""The scanner: from drawn HU to a CT with a kernel's blur or overshoot, cupping, streaks and correlated noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from common.phantom_canvas import Canvas
from common.phantom_institutions import Institution
from common.phantom_patient import Patient
from common.phantom_shapes import Field

CUPPING_HU = 7.0
MOUTH = (0.0, -45.0, -35.0)
"""Where the streaks of dental fillings start, (x, y, z)."""


def scan(canvas: Canvas, institution: Institution, patient: Patient, body: Field, rng: np.random.Generator) -> Field:
    """Turns the canvas' HU, in place, into what the institution's scanner reconstructs; returns them.

    Slice by slice: kernel, gain and shift, cupping inside the body, streaks, and noise that grows with the width of
    body in the slice, with horizontal streaks at the shoulders.
    """
    streaks = _streak_angles(rng) if patient.metal else None
    z_mm, y_mm, x_mm = canvas.coordinates(canvas.everywhere)
    cup = np.float32(CUPPING_HU) * np.exp(-((x_mm[0] / 75) ** 2 + ((y_mm[0] - 15) / 80) ** 2))
    for k, hu in enumerate(canvas.hu):
        inside = body[k] > 0
        sharp = _kernel(hu, institution, canvas.geometry.spacing_mm[2])
        sharp *= np.float32(institution.gain)
        sharp += np.float32(institution.shift_hu) - cup * inside
        if streaks is not None:
            sharp += _streaks(streaks, float(z_mm[k, 0, 0]), y_mm[0], x_mm[0]) * inside
        sharp += _noise(inside, institution, canvas.geometry.spacing_mm[2], rng)
        canvas.hu[k] = sharp
    return canvas.hu


def _kernel(hu: Field, institution: Institution, pixel_mm: float) -> Field:
    sigma = institution.kernel_mm / pixel_mm
    smooth = cv2.GaussianBlur(hu, (0, 0), sigma) if sigma > 0.3 else hu.copy()
    if institution.overshoot == 0:
        return np.asarray(smooth, np.float32)
    wide = cv2.GaussianBlur(smooth, (0, 0), max(1.6 / pixel_mm, 0.4))
    return np.asarray(smooth + np.float32(institution.overshoot) * (smooth - wide), np.float32)


def _noise(inside: NDArray[np.bool_], institution: Institution, pixel_mm: float, rng: np.random.Generator) -> Field:
    """Returns noise of the institution's SD in the head, up to three times as much where the body is wide."""
    white: Field = _kernel(rng.standard_normal(inside.shape, dtype=np.float32), institution, pixel_mm)
    white *= np.float32(institution.noise_sd_hu / white.std())
    width_mm = float(inside.any(axis=0).sum()) * pixel_mm
    excess = min(max((width_mm - 170) / 240, 0.0), 1.0)
    if excess > 0:
        rows = cv2.GaussianBlur(rng.standard_normal(inside.shape, dtype=np.float32), (0, 0), 25 / pixel_mm, sigmaY=0.4)
        rows *= np.float32(1.3 * excess * institution.noise_sd_hu / rows.std()) * inside
        white *= np.float32(1 + excess)
        white += rows
    return white


def _streak_angles(rng: np.random.Generator) -> Field:
    """Returns 720 amplitudes over the full turn, smooth within about four degrees."""
    amplitudes = rng.standard_normal(720).astype(np.float32)
    around = np.concatenate([amplitudes[-8:], amplitudes, amplitudes[:8]])
    smooth = np.convolve(around, np.hanning(15), mode="same")[8:-8]
    return np.asarray(smooth / smooth.std(), np.float32)


def _streaks(amplitudes: Field, z_mm: float, y_mm: Field, x_mm: Field) -> Field | np.float32:
    """Returns bright and dark rays from the mouth in the slices that hold teeth."""
    reach = 1 - abs(z_mm - MOUTH[2]) / 16
    if reach <= 0:
        return np.float32(0)
    dx, dy = x_mm - MOUTH[0], y_mm - MOUTH[1]
    turn = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5 + z_mm / 97) * len(amplitudes)).astype(int) % len(amplitudes)
    fading = np.float32(110 * reach) * np.exp(-np.hypot(dx, dy) / np.float32(55))
    return np.asarray(amplitudes[turn] * fading)
