"""How the page of `birdsd ui` looks: the colours of birdsd's other pages, fonts that the system has."""

from __future__ import annotations

from typing import Any

import gradio as gr

_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace")
# Of gradio's theme: (light, dark).
_COLOURS = {
    "body_background_fill": ("#fbfaf6", "#12171a"),
    "body_text_color": ("#22282b", "#e3e7e6"),
    "body_text_color_subdued": ("#5b666b", "#9aa6a9"),
    "background_fill_primary": ("#ffffff", "#191f23"),
    "background_fill_secondary": ("#f2f0e9", "#20282c"),
    "border_color_primary": ("#e2dfd6", "#2c353a"),
    "block_background_fill": ("#ffffff", "#191f23"),
    "block_border_color": ("#e2dfd6", "#2c353a"),
    "block_title_text_color": ("#22282b", "#e3e7e6"),
    "block_label_text_color": ("#5b666b", "#9aa6a9"),
    "block_info_text_color": ("#5b666b", "#9aa6a9"),
    "input_background_fill": ("#f7f5ef", "#20282c"),
    "input_border_color": ("#e2dfd6", "#36424a"),
    "button_primary_background_fill": ("#17606b", "#1d7683"),
    "button_primary_background_fill_hover": ("#1d7683", "#238a99"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#e3f0f0", "#1b3236"),
    "button_secondary_background_fill_hover": ("#d3e6e6", "#22404a"),
    "button_secondary_text_color": ("#17606b", "#76c7cd"),
    "button_secondary_text_color_hover": ("#17606b", "#76c7cd"),
    "slider_color": ("#17606b", "#76c7cd"),
}

_CSS = """
.gradio-container{width:100%!important;max-width:80rem!important;margin:0 auto!important;padding:0!important}
.gradio-container>.main{width:100%!important;max-width:none!important;
padding:1rem clamp(.8rem,3vw,2rem) 3rem!important}
#generate,#again{white-space:nowrap}
footer{display:none!important}
.html-container{padding:0!important;overflow:visible}
.dark .birdsd,.dark audio{color-scheme:dark}
.birdsd{--soft:var(--body-text-color-subdued);--rule:var(--border-color-primary);color:var(--body-text-color)}
.birdsd h1{font:600 2rem/1.2 "Iowan Old Style","Palatino Linotype",Palatino,"Book Antiqua",Georgia,serif;
margin:1.2rem 0 .3rem;letter-spacing:-.01em;color:inherit}
.birdsd .model{font-size:.9rem;color:var(--soft);margin-bottom:.5rem;line-height:1.5}
.birdsd .model div{max-width:60rem;color:var(--soft)}
.birdsd .model b{color:var(--body-text-color);font-weight:600}
.birdsd figure{margin:0}
.birdsd .units{display:flex;justify-content:space-between;font-size:.78rem;margin:0 0 .2rem}
.birdsd .units span{color:var(--soft)}
.birdsd .plot{display:grid;grid-template:"y f" auto ". x" 1.35rem/2.4rem 1fr;font-size:.76rem;
font-variant-numeric:tabular-nums}
.birdsd .plot .y,.birdsd .plot .x{position:relative}
.birdsd .plot .y{grid-area:y}.birdsd .plot .x{grid-area:x}
.birdsd .plot .y>span{position:absolute;right:.45rem;transform:translateY(50%)}
.birdsd .plot .x>span{position:absolute;top:.3rem;transform:translateX(-50%)}
.birdsd .plot .y>span,.birdsd .plot .x>span{line-height:1;color:var(--soft)}
.birdsd .plot .x>span.first{transform:none}.birdsd .plot .x>span.last{transform:translateX(-100%)}
.birdsd .field{grid-area:f;position:relative;overflow:hidden;border-radius:.35rem;background:#000004;
cursor:pointer}
.birdsd .newest .field{height:clamp(13rem,30vw,22rem)!important}
.birdsd .field>img{position:absolute;inset:0;width:100%;height:100%;max-width:none;margin:0;border-radius:0}
.birdsd .head{position:absolute;inset-block:0;left:0;width:2px;margin-left:-1px;background:#fff;opacity:0;
box-shadow:0 0 4px #000;pointer-events:none}
.birdsd .playing .head,.birdsd .paused .head{opacity:.95}
.birdsd audio{width:100%;height:2.6rem;margin-top:.6rem;display:block}
.birdsd figcaption{color:var(--soft);font-size:.9rem;margin-top:.5rem;overflow-wrap:anywhere}
.birdsd .quiet{color:var(--soft);font-size:.88rem;margin:.6rem 0 0}
.birdsd .scroll{overflow-x:auto}
.birdsd table,.birdsd tr{border:0!important}
.birdsd table{border-collapse:collapse;font-size:.9rem;width:100%;margin:0;
font-variant-numeric:tabular-nums lining-nums}
.birdsd th,.birdsd td{text-align:left;padding:.4rem .9rem .4rem 0!important;border:0!important;
border-bottom:1px solid var(--rule)!important;color:inherit}
.birdsd thead th{color:var(--soft);font-weight:600;font-size:.82rem}.birdsd tbody th{font-weight:500}
.birdsd .number{text-align:right}
.birdsd .empty{display:grid;place-items:center;min-height:24rem;border:1px dashed var(--rule);
border-radius:.7rem;color:var(--soft);text-align:center;padding:2rem}
.birdsd .earlier{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr))}
.birdsd .earlier .units,.birdsd .earlier .x,.birdsd .earlier .y{display:none}
.birdsd .earlier .plot{display:block}.birdsd .earlier .field{height:6.5rem!important}
.birdsd .earlier audio{height:2rem}.birdsd .earlier figcaption{font-size:.82rem}
.birdsd h2{font-size:1rem;font-weight:600;margin:1rem 0 .6rem;color:inherit}
"""

# Figures come and go: the document listens, not each of them. Media events do not bubble, hence captured.
_SCRIPT = """
<script>
(function(){
function box(e){return e.target&&e.target.closest?e.target.closest('.birdsd .sound'):null}
function place(b){var a=b.querySelector('audio'),h=b.querySelector('.head');
if(a&&h&&a.duration)h.style.left=Math.min(100,100*a.currentTime/a.duration)+'%'}
document.addEventListener('play',function(e){var b=box(e);if(!b)return;
document.querySelectorAll('audio').forEach(function(o){if(o!==e.target)o.pause()});
b.classList.add('playing');b.classList.remove('paused');
(function run(){place(b);if(!e.target.paused)requestAnimationFrame(run)})()},true);
document.addEventListener('pause',function(e){var b=box(e);if(b){b.classList.remove('playing');
b.classList.add('paused')}},true);
document.addEventListener('ended',function(e){var b=box(e);if(b)b.classList.remove('playing','paused')},true);
document.addEventListener('click',function(e){
var f=e.target.closest&&e.target.closest('.birdsd .field');if(!f)return;
var a=f.closest('.sound').querySelector('audio'),r=f.getBoundingClientRect();
if(a.duration)a.currentTime=a.duration*(e.clientX-r.left)/r.width;a.play()});
})();
</script>
"""


def look() -> dict[str, Any]:
    """What `launch` takes: theme, styles, the little that the page does by itself."""
    colours = {
        f"{name}{suffix}": pair[number]
        for name, pair in _COLOURS.items()
        for number, suffix in enumerate(("", "_dark"))
    }
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
    return {"theme": theme, "css": _CSS, "head": _SCRIPT}
