"""How the page of `birdsd ui` looks: the colours of birdsd's other pages, fonts that the system has."""

from __future__ import annotations

from typing import Any

import gradio as gr

from birdsd.pages.environment import palette, static

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
# Of gradio's theme: a colour of palette.css, or (light, dark).
_COLOURS = {
    "body_background_fill": "paper",
    "body_text_color": "ink",
    "body_text_color_subdued": "soft",
    "background_fill_primary": "card",
    "background_fill_secondary": "wash",
    "border_color_primary": "rule",
    "block_background_fill": "card",
    "block_border_color": "rule",
    "block_title_text_color": "ink",
    "block_label_text_color": "soft",
    "block_info_text_color": "soft",
    "button_secondary_background_fill": "accent-wash",
    "button_secondary_text_color": "accent",
    "button_secondary_text_color_hover": "accent",
    "slider_color": "accent",
    "table_even_background_fill": "card",
    "table_odd_background_fill": "wash",
    "table_border_color": "rule",
    "table_row_focus": "accent-wash",
    "table_text_color": "ink",
    # Shades that no other page has.
    "input_background_fill": ("#f7f5ef", "#20282c"),
    "input_border_color": ("#e2dfd6", "#36424a"),
    "button_primary_background_fill": ("#17606b", "#1d7683"),
    "button_primary_background_fill_hover": ("#1d7683", "#238a99"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill_hover": ("#d3e6e6", "#22404a"),
}


def look() -> dict[str, Any]:
    """What `launch` takes: theme, styles, and the script of the players."""
    shared = palette()
    colours: dict[str, str] = {}
    for name, colour in _COLOURS.items():
        light, dark = shared[colour] if isinstance(colour, str) else colour
        colours |= {name: light, f"{name}_dark": dark}
    hues = gr.themes.colors
    theme = gr.themes.Base(
        primary_hue=hues.teal,
        secondary_hue=hues.teal,
        neutral_hue=hues.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=_FONT,
        font_mono=_MONO,
    )
    theme.set(**colours, block_title_text_weight="500")
    script = f"<script>{static('player.js')}</script>"
    return {"theme": theme, "css": static("ui.css") + static("scene.css"), "head": script}
