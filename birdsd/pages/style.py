"""How a page looks and the little that it does: CSS and a script, both inlined into every page."""

CSS = """
:root{color-scheme:light dark;
--paper:#fbfaf6;--card:#ffffff;--ink:#22282b;--soft:#5b666b;--rule:#e2dfd6;--wash:#f2f0e9;
--accent:#17606b;--accent-wash:#e3f0f0;--warn:#8a5a00;--warn-wash:#fbf1da;
--c1:#17606b;--c2:#c4621a;--c3:#6b4fa3;--c4:#4b7d2f;--c5:#b03a5b;--c6:#7a6a4f;--heat:23 96 107;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--serif:"Iowan Old Style","Palatino Linotype",Palatino,"Book Antiqua",Georgia,serif;
--mono:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
@media (prefers-color-scheme:dark){:root{
--paper:#12171a;--card:#191f23;--ink:#e3e7e6;--soft:#9aa6a9;--rule:#2c353a;--wash:#20282c;
--accent:#76c7cd;--accent-wash:#1b3236;--warn:#e8bd6a;--warn-wash:#332a17;
--c1:#76c7cd;--c2:#f0a062;--c3:#b9a2ea;--c4:#9ccb7c;--c5:#ee8fa9;--c6:#c9b893;--heat:118 199 205}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.6 var(--sans)}
main,header,footer{max-width:66rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:3.2rem}
h1,h2{font-family:var(--serif);font-weight:600;line-height:1.2;text-wrap:balance}
h1{font-size:clamp(1.8rem,4.5vw,2.7rem);margin:0 0 .6rem;letter-spacing:-.01em}
h2{font-size:1.55rem;margin:0 0 .5rem}
h3{font-size:1.05rem;margin:0 0 .35rem;line-height:1.35}
h4{font-size:.92rem;font-weight:600;margin:0 0 .15rem}
p{margin:0 0 .9rem;max-width:46rem}
.lead{font-size:1.12rem;color:var(--soft)}
.badge{display:inline-block;margin:0 .5rem .9rem 0;padding:.15rem .7rem;border-radius:99px;font-size:.82rem;
font-weight:600;background:var(--accent-wash);color:var(--accent)}
.badge.warn{background:var(--warn-wash);color:var(--warn)}
nav{margin:1.4rem 0 0;padding:.7rem 0;border-block:1px solid var(--rule);display:flex;flex-wrap:wrap;
gap:.2rem 1.4rem}
a{color:var(--accent);text-underline-offset:.2em}
nav a{text-decoration:none;font-size:.95rem}nav a:hover{text-decoration:underline}
section{margin:3.2rem 0 0;scroll-margin-top:1rem}
section>:last-child{margin-bottom:0}
footer{margin-top:4rem;padding-block:1.4rem 3rem;border-top:1px solid var(--rule);color:var(--soft);
font-size:.88rem}
.card{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:1.1rem 1.2rem;
margin:1rem 0}
.grid{display:grid;gap:1.1rem 1.6rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
.grid>*{min-width:0}
.tiles{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));margin:1.3rem 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.8rem 1rem}
.tile b{display:block;font:600 1.5rem/1.25 var(--serif);font-variant-numeric:lining-nums}
.tile span{color:var(--soft);font-size:.85rem;line-height:1.35;display:block}
.note{border-left:3px solid var(--accent);background:var(--accent-wash);padding:.7rem 1rem;
border-radius:0 .5rem .5rem 0;
margin:1rem 0;max-width:48rem}
.note.warn{border-color:var(--warn);background:var(--warn-wash)}
.note>:last-child{margin-bottom:0}
.quiet{color:var(--soft);font-size:.88rem}
.prompt{color:var(--soft);font-style:italic}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.93rem;font-variant-numeric:tabular-nums lining-nums;
min-width:min(100%,24rem)}
caption{caption-side:top;text-align:left;color:var(--soft);font-size:.88rem;padding-bottom:.4rem}
th,td{padding:.42rem .9rem .42rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
thead th{font-size:.83rem;color:var(--soft);font-weight:600;vertical-align:bottom}
tbody th{font-weight:500}
.number{text-align:right;white-space:nowrap}
tr.total>*{font-weight:650;border-top:2px solid var(--rule)}
dl.values{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.35rem 1.4rem;margin:1rem 0;
font-size:.95rem}
dl.values dt{color:var(--soft)}dl.values dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--wash);border-radius:.5rem;padding:.75rem 1rem;margin:.4rem 0 1rem;overflow-x:auto;
font:.88rem/1.55 var(--mono)}
code{font-family:var(--mono);font-size:.9em;overflow-wrap:anywhere}pre code{overflow-wrap:normal}
figure{margin:.6rem 0 1rem}
figcaption{color:var(--soft);font-size:.86rem;line-height:1.45;margin-top:.35rem;overflow-wrap:anywhere}
img{max-width:100%;height:auto;border-radius:.3rem;display:block}
audio{width:100%;height:2.4rem;margin-top:.5rem;display:block}
.plot{display:grid;grid-template:"y f" auto ". x" 1.35rem/2.9rem 1fr;font-size:.74rem;color:var(--soft);
font-variant-numeric:tabular-nums lining-nums}
.plot .y{grid-area:y;position:relative}.plot .x{grid-area:x;position:relative}
.plot .y>span{position:absolute;right:.45rem;transform:translateY(50%);line-height:1;white-space:nowrap}
.plot .x>span{position:absolute;top:.3rem;transform:translateX(-50%);line-height:1;white-space:nowrap}
.plot .x>span.first{transform:none}.plot .x>span.last{transform:translateX(-100%)}
.field{grid-area:f;position:relative;overflow:hidden;border-radius:.3rem}
.field svg,.field>img{position:absolute;inset:0;width:100%;height:100%;border-radius:0}
.sound .field{background:#000004;cursor:pointer}
.sound .field>img{image-rendering:auto}
.head{position:absolute;inset-block:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 4px #000;
left:0;opacity:0;pointer-events:none}
.playing .head,.paused .head{opacity:.95}
.units{display:flex;justify-content:space-between;font-size:.78rem;color:var(--soft);margin-bottom:.25rem;
gap:1rem}
.chart .field{background:var(--wash);overflow:visible}
.chart svg{overflow:visible}
.chart path,.chart line{vector-effect:non-scaling-stroke;fill:none}
.chart .gridline{stroke:var(--rule);stroke-width:1}
.chart .band{fill:var(--warn);opacity:.16}
.chart .marker{stroke:var(--warn);stroke-width:1.5;stroke-dasharray:5 4}
.chart .strip{fill:transparent}.chart .strip:hover{fill:var(--ink);opacity:.13}
.chart .flag{position:absolute;top:.3rem;padding:.1rem .45rem;font-size:.74rem;line-height:1.35;
color:var(--warn);
background:var(--warn-wash);border-radius:.25rem;max-width:min(15rem,45%);pointer-events:none}
.chart .flag.left{transform:translateX(calc(-100% - .35rem))}.chart .flag.right{transform:translateX(.35rem)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;font-size:.85rem;color:var(--soft);
margin:.1rem 0 .45rem;padding:0;list-style:none}
.legend i{display:inline-block;width:1.3em;height:.28em;border-radius:2px;margin-right:.45em;
vertical-align:.22em}
.legend i.dot{width:.6em;height:.6em;border-radius:50%;vertical-align:.04em}.legend i.pale{opacity:.4}
.s1{--s:var(--c1)}.s2{--s:var(--c2)}.s3{--s:var(--c3)}.s4{--s:var(--c4)}.s5{--s:var(--c5)}.s6{--s:var(--c6)}
.legend i,.bar span,.meter i{background:var(--s)}.chart path.series{stroke:var(--s)}
.bar{display:flex;height:1.7rem;border-radius:.4rem;overflow:hidden;gap:2px;margin:.8rem 0 .6rem}
.bar span{flex:0 1 0;min-width:2px}
.heat{font-size:.78rem;min-width:0}
.heat th,.heat td{border:0;padding:.22rem .1rem}
.heat td{text-align:center;min-width:1.75rem;border:2px solid var(--card);border-radius:.35rem;
vertical-align:middle;
background:rgb(var(--heat)/var(--h))}
.heat td.strong{color:var(--paper)}
.heat thead th{writing-mode:vertical-rl;transform:rotate(180deg);font-weight:500;max-height:9rem;
padding:.4rem .1rem;
white-space:nowrap;overflow:hidden;text-overflow:ellipsis;vertical-align:top;font-size:.78rem}
.heat thead th.corner{writing-mode:horizontal-tb;transform:none;vertical-align:bottom;padding-right:.5rem;
text-align:right}
.heat tbody th{white-space:nowrap;text-align:right;max-width:10rem;overflow:hidden;text-overflow:ellipsis;
padding-right:.5rem}
.meter{display:flex;align-items:center;gap:.7rem;min-width:11rem}
.meter span{position:relative;flex:1;height:.6rem;border-radius:.3rem;background:var(--wash);min-width:4rem}
.meter i{position:absolute;inset:0 auto 0 0;border-radius:.3rem;background:var(--s)}
.meter u{position:absolute;top:-.2rem;bottom:-.2rem;width:2px;margin-left:-1px;background:var(--soft)}
.meter s{position:absolute;top:50%;height:2px;margin-top:-1px;background:var(--ink);border-inline:0}
.meter b{font-weight:inherit;min-width:2.7rem;text-align:right}
.columns{grid-template-rows:auto 2.6rem}.columns .field{height:13rem;margin-top:1.2rem}
.columns .field i{position:absolute;bottom:0;background:var(--s);border-radius:.2rem .2rem 0 0}
.columns .field s{position:absolute;width:2px;margin-left:-1px;background:var(--ink);opacity:.55}
.columns .field u{position:absolute;left:0;right:0;height:1px;background:var(--rule)}
.columns .field b{position:absolute;text-align:center;font-weight:500;color:var(--ink);line-height:1.25}
.columns .y{margin-top:1.2rem}.columns .x>span{white-space:normal;text-align:center;line-height:1.2}
.heard.ok{color:var(--c1);font-weight:600}
table.wide{width:100%}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media (max-width:34rem){header{padding-top:2rem}section{margin-top:2.4rem}.card{padding:.9rem .85rem}
dl.values{grid-template-columns:1fr;gap:0}dl.values dd{margin-bottom:.5rem}
.plot{grid-template-columns:2.4rem 1fr}
.units span+span{white-space:nowrap}table.wide{font-size:.86rem}
.meter{min-width:3.3rem;flex-direction:column-reverse;align-items:stretch;gap:.3rem}.meter span{flex:none}
.meter b{text-align:left}th,td{padding-right:.45rem}}
@media print{nav,audio{display:none}.card,.tile{break-inside:avoid}}
"""

# A line runs over the picture while its sound plays; a click on the picture plays from there. Without
# the script the players still work.
SCRIPT = """
document.querySelectorAll('.sound').forEach(function(box){
var audio=box.querySelector('audio'),field=box.querySelector('.field'),head=box.querySelector('.head');
if(!audio||!field||!head)return;
function place(){var d=audio.duration;if(d)head.style.left=Math.min(100,100*audio.currentTime/d)+'%'}
function run(){place();if(!audio.paused)requestAnimationFrame(run)}
audio.addEventListener('play',function(){
document.querySelectorAll('audio').forEach(function(o){if(o!==audio)o.pause()});
box.classList.add('playing');box.classList.remove('paused');run()});
audio.addEventListener('pause',function(){box.classList.remove('playing');box.classList.add('paused');
place()});
audio.addEventListener('ended',function(){box.classList.remove('paused','playing')});
audio.addEventListener('seeked',place);
field.addEventListener('click',function(e){var r=field.getBoundingClientRect();
if(audio.duration)audio.currentTime=audio.duration*(e.clientX-r.left)/r.width;audio.play()})});
"""
