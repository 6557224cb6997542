"""Curves as SVG text: no library, readable by every browser and by `git diff`, light or dark as the page around it."""

import math
from html import escape

_COLOURS = ("#2f7fc1", "#d0603f", "#3f9a5a", "#9a5fb5", "#b8860b", "#888888")
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 380, 56, 52, 34, 44

Line = list[tuple[float, float]]


def curves(
    title: str, lines: dict[str, Line], x_name: str, y_name: str, y_span: tuple[float, float] | None = None
) -> str:
    """An SVG picture of named lines of (x, y) points, all finite, from the least y to the greatest or over `y_span`.

    Empty lines are left out, one point is a dot, and a line without a name is not in the legend.
    """
    lines = {name: points for name, points in lines.items() if points}
    xs = [x for points in lines.values() for x, _ in points] or [0.0, 1.0]
    ys = list(y_span or [y for points in lines.values() for _, y in points] or (0.0, 1.0))
    low_x, low_y = min(xs), min(ys)
    span_x, span_y = (max(xs) - low_x) or 1.0, (max(ys) - low_y) or 1.0

    def across(x: float) -> float:
        return round(_LEFT + (x - low_x) / span_x * (_WIDTH - _LEFT - _RIGHT), 1)

    def down(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - low_y) / span_y * (_HEIGHT - _TOP - _BOTTOM), 1)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="currentColor">',
        f'<text x="12" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="{_TOP - 14}">{escape(y_name)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(x_name)}</text>',
    ]
    for y in ticks(low_y, low_y + span_y):
        drawn.append(f'<path d="M{_LEFT},{down(y)}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity="0.15"/>')
        drawn.append(f'<text x="{_LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(low_x, low_x + span_x):
        drawn.append(f'<path d="M{across(x)},{_HEIGHT - _BOTTOM}v4" stroke="currentColor"/>')
        drawn.append(f'<text x="{across(x)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:,.10g}</text>')
    drawn.append(f'<path d="M{_LEFT},{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}" stroke="currentColor"/>')
    for i, points in enumerate(lines.values()):
        drawn.append(_drawn([(across(x), down(y)) for x, y in points], _COLOURS[i % len(_COLOURS)]))
    return "\n".join([*drawn, *_legend(lines), "</svg>"]) + "\n"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high], four to ten of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) < 9)
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _drawn(points: Line, colour: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dot = f'<circle cx="{points[-1][0]}" cy="{points[-1][1]}" r="{3.5 if len(points) == 1 else 2}" fill="{colour}"/>'
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>{dot}'


def _legend(lines: dict[str, Line]) -> list[str]:
    """Names with their last values, a row each, in the upper right where curves of losses are not."""
    drawn = []
    for i, (name, points) in enumerate(lines.items()):
        if not name:
            continue
        y, colour = _TOP + 8 + 18 * i, _COLOURS[i % len(_COLOURS)]
        drawn.append(f'<rect x="{_WIDTH - _RIGHT - 12}" y="{y}" width="12" height="12" fill="{colour}"/>')
        drawn.append(f'<text x="{_WIDTH - _RIGHT - 18}" y="{y + 10}" text-anchor="end">'
                     f"{escape(name)} {points[-1][1]:.4g}</text>")  # fmt: skip
    return drawn
